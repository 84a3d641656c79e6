//! Where an event is in a gateway's log and on a connection, which its frame and its CloudEvent contain.

use crate::event::{Epoch, Sequence};

/// The members of an event's frame that differ between the connections on which it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPosition {
    /// The event's sequence.
    pub sequence: Sequence,
    /// The sequence that the client should have seen last.
    pub previous: Sequence,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// How many times this connection has sent the event, this time included.
    pub attempt: u32,
}
