//! What a connection of reliable mode begins with.

use crate::store::{EarlierNacks, Gap, Level};
use crate::transport::{Confirmation, DeliveryRequest};

/// How a connection of reliable mode begins.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) request: DeliveryRequest,
    /// Events that earlier connections could not apply.
    pub(super) nacked: Vec<EarlierNacks>,
    pub(super) gap: Option<Gap>,
}

/// The level of a confirmation.
pub(super) const fn level(confirmation: Confirmation) -> Level {
    match confirmation {
        Confirmation::Received => Level::Received,
        Confirmation::Applied => Level::Applied,
    }
}
