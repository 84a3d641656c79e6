//! The metrics that a lane updates for each event.

use metrics::{Counter, Histogram};

use crate::metric;

/// Handles of a connection. Looking a metric up by its name and labels for each event would cost
/// more than updating it.
pub(in super::super) struct Metrics {
    pub(in super::super) written: Counter,
    pub(in super::super) receipts: Counter,
    /// From the commit to the transport.
    pub(in super::super) dispatch_delay: Histogram,
    /// From the transport to the receipt.
    pub(in super::super) receipt_delay: Histogram,
}

impl Metrics {
    /// The metrics of a connection over this transport.
    pub(in super::super) fn new(transport: &'static str) -> Self {
        Self {
            written: metrics::counter!(metric::EVENTS_WRITTEN),
            receipts: metrics::counter!(metric::RECEIPTS),
            dispatch_delay: metrics::histogram!(metric::DISPATCH_DELAY),
            receipt_delay: metrics::histogram!(metric::RECEIPT_DELAY, "transport" => transport),
        }
    }
}
