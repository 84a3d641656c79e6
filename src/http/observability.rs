//! What requests say about the trace that they belong to.

use axum::http::HeaderMap;

use crate::trace_context::TraceParent;

/// The caller's trace context. A header that is missing, repeated or invalid
/// counts as none, as the specification demands.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()?.parse().ok()
}
