//! The contract between a lane, which decides what is delivered, and a
//! transport, which carries it. They meet at a pair of bounded channels
//! ([`link`]). A lane knows no wire: it hands over events by reference, with
//! their sequences. A transport knows no store: it owns the encoding, the
//! framing, its pings, and what an answer of its peer means.
//!
//! A transport promises:
//! - Its first message to the peer names the gateway and the connection
//!   ([`Greeting`]).
//! - Events go out in the order in which they came, each whole or not at all.
//! - [`Control`] messages overtake events that still wait.
//! - It obtains receipts by itself: some time after an event was written, the
//!   lane gets [`Incoming::Receipt`] for it or for a later event, unless the
//!   peer leaves it unhandled. A receipt is only reported for a sequence that
//!   the peer confirmed.
//! - Two events may share a receipt unless the later one is to have a
//!   [receipt of its own](Outgoing::own_receipt). Which of them did is told at
//!   the end ([`Ended::shared`]).
//! - Every write has a deadline. A peer that does not read ends as
//!   [`Reason::WriteTimeout`].
//! - [`Incoming::Ended`] is its last message, sent exactly once. After it, the
//!   transport holds nothing of the connection.
//!
//! A lane promises:
//! - It offers sequences in rising order, and no more at once than its window
//!   allows.
//! - It takes what comes without waiting for the database.
//! - It sends nothing after [`Control::Close`], and drops its end after
//!   [`Incoming::Ended`]. If it drops its end earlier, the node is going down
//!   ([`Reason::Shutdown`]).
//!
//! [`websocket`] is the transport of gateways in the field.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::event::{ConnectionId, Epoch, Event, GatewayId, Reason, Sequence};

mod deadline;
pub mod frame;
mod report;
pub mod websocket;

pub use report::{DeploymentAction, DeploymentReport, DeploymentStatus};

/// Messages that may wait in a link, each way. The window bounds their bytes.
pub const LINK_MESSAGES: usize = 64;
/// Control messages that may wait in a link.
const LINK_CONTROLS: usize = 4;

/// What the peer is told first, and what its events are labelled with.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// The gateway that connected.
    pub gateway_id: GatewayId,
    /// Its connection.
    pub connection_id: ConnectionId,
    /// The identity of the gateway's log.
    pub epoch: Epoch,
}

/// An event to be delivered.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its place in the gateway's log.
    pub sequence: Sequence,
    /// The event, shared with all connections that it is delivered on.
    pub event: Arc<Event>,
    /// Whether what precedes it must be confirmed by a receipt that does not
    /// include it, because one of the two may have made a connection fail.
    pub own_receipt: bool,
}

/// What overtakes waiting events.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// Ask the peer for a sign of life.
    Probe,
    /// Tell the peer this reason, and end.
    Close(Reason),
}

/// What comes from the peer.
#[derive(Debug)]
pub enum Incoming {
    /// The peer has handled everything up to this sequence.
    Receipt(Sequence),
    /// The peer reports how a deployment went.
    Report(Box<DeploymentReport>),
    /// Some other sign of life.
    Alive,
    /// A message that the protocol does not know. It is counted and otherwise ignored.
    Invalid(InvalidMessage),
    /// The connection is over. This is the last message.
    Ended(Box<Ended>),
}

/// A message that a gateway should not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidMessage {
    /// Binary, where text is expected.
    Binary,
    /// Not an object with a type, or a report that lacks a member.
    Malformed,
    /// An object of an unknown type.
    UnknownType,
}

impl InvalidMessage {
    /// A short description for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary message",
            Self::Malformed => "malformed message",
            Self::UnknownType => "unknown message type",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// What else is known, for admins.
    pub detail: String,
    /// Whether the peer's host ended it without closing it properly.
    pub by_peer: bool,
    /// Events without a receipt that were to share one with the event after
    /// them, in order.
    pub shared: Vec<Sequence>,
}

/// The lane's end of a link.
#[derive(Debug)]
pub struct LaneEnd {
    /// Events, in order.
    pub events: mpsc::Sender<Box<Outgoing>>,
    /// What overtakes them.
    pub control: mpsc::Sender<Control>,
    /// What comes from the peer.
    pub incoming: mpsc::Receiver<Incoming>,
}

/// The transport's end of a link.
#[derive(Debug)]
pub struct TransportEnd {
    /// Events, in order.
    pub events: mpsc::Receiver<Box<Outgoing>>,
    /// What overtakes them.
    pub control: mpsc::Receiver<Control>,
    /// What comes from the peer.
    pub incoming: mpsc::Sender<Incoming>,
}

/// Creates a link. Its channels reserve memory for their messages even while
/// they are empty, which they are on most connections. So the messages are small,
/// or boxed.
pub fn link() -> (LaneEnd, TransportEnd) {
    let (events_in, events_out) = mpsc::channel(LINK_MESSAGES);
    let (control_in, control_out) = mpsc::channel(LINK_CONTROLS);
    let (incoming_in, incoming_out) = mpsc::channel(LINK_MESSAGES);
    (
        LaneEnd { events: events_in, control: control_in, incoming: incoming_out },
        TransportEnd { events: events_out, control: control_out, incoming: incoming_in },
    )
}
