//! The text of the stream (HTML Living Standard, section 9.2).

use std::fmt::Write as _;

use crate::api::{FeedEnd, FeedEndReason, FeedGap, FeedGapReason, FeedMessage};
use crate::clock::Timestamp;

/// Milliseconds after which a browser reconnects; programs use a backoff of their own.
const RETRY_MS: u32 = 2000;

/// Messages that are missing.
pub(super) struct Gap {
    pub(super) reason: FeedGapReason,
    pub(super) from: Option<Timestamp>,
    pub(super) to: Timestamp,
}

/// The beginning of the stream. It makes proxies pass the response's headers on.
pub(super) fn begin() -> String {
    format!("retry: {RETRY_MS}\n: connected\n\n")
}

/// A comment, and the current position for the next `Last-Event-ID`. Without `data`, clients
/// dispatch no event.
pub(super) fn heartbeat(id: &str) -> String {
    format!(": alive\nid: {id}\n\n")
}

/// A message. JSON has no line breaks outside of its strings, where they are escaped.
pub(super) fn message(to: &mut String, id: &str, message: &FeedMessage) {
    let data = serde_json::to_string(message).unwrap_or_default();
    _ = write!(to, "event: {}\nid: {id}\ndata: {data}\n\n", message.event());
}

pub(super) fn gap(id: &str, gap: &Gap, lists: Vec<String>) -> String {
    let mut text = String::new();
    let Gap { reason, from, to } = *gap;
    message(&mut text, id, &FeedMessage::Gap(FeedGap { reason, from, to, lists }));
    text
}

pub(super) fn end(id: &str, reason: FeedEndReason) -> String {
    let mut text = String::new();
    message(&mut text, id, &FeedMessage::End(FeedEnd { reason }));
    text
}
