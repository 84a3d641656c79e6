//! What a connection of reliable mode begins with.

use crate::store::{EarlierNacks, Gap};
use crate::transport::DeliveryRequest;

/// How a connection of reliable mode begins.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) request: DeliveryRequest,
    /// Events that earlier connections could not apply.
    pub(super) nacked: Vec<EarlierNacks>,
    pub(super) gap: Option<Gap>,
}
