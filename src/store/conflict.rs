//! Conflicts with what is stored.

use crate::event::GatewayId;

use super::StoreError;

/// What an operation conflicts with. The texts name nothing of the database, because API clients
/// receive them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A gateway with this id exists or existed.
    #[error("the gateway id {0} is or was in use; omit it to have one generated")]
    GatewayId(GatewayId),
    /// The name is that of another gateway.
    #[error(
        "the name {name:?} belongs to gateway {by}; choose another name, or delete that gateway first"
    )]
    GatewayName {
        /// The name.
        name: String,
        /// The gateway that has it.
        by: GatewayId,
    },
    /// The gateway has the maximum number of live tokens.
    #[error(
        "gateway {gateway} has {live} live tokens, the maximum; revoke one that is no longer used, then create the new one"
    )]
    GatewayTokens {
        /// The gateway.
        gateway: GatewayId,
        /// The number of its live tokens.
        live: i64,
    },
    /// With the change the gateway would have too many labels.
    #[error("a gateway has at most {most} labels, and with this change it would have {labels}")]
    Labels {
        /// The number that it would have.
        labels: usize,
        /// The maximum.
        most: usize,
    },
    /// The rejected row was put back before.
    #[error("The rejected row {0} has been put back into the inbox already.")]
    PutBack(i64),
    /// A concurrent request, on this node or another one, took the same name, id or key. A retry
    /// finds what it stored.
    #[error("another request took this name or id at the same time; check, and retry")]
    Concurrent,
}

impl From<Conflict> for StoreError {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}
