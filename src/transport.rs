//! The contract between a lane, which decides what is delivered, and a transport, which sends it.
//! They are connected by a pair of bounded channels ([`link`]). A lane does not depend on the
//! wire format: it passes events by reference, with their sequences. A transport does not depend on
//! the store: it owns the encoding, the framing, its pings, and the meaning of its peer's answers.
//!
//! There are two modes. In *plain* mode a transport obtains receipts from gateways that don't know of
//! this service. In *reliable* mode the gateway acknowledges events itself. Its hello
//! decides where delivery starts, so the transport sends the [`ReliableGreeting`], reads the
//! [`DeliveryRequest`], and is linked to a lane only then. [`reliable`] translates between
//! [`frames`] and the messages of a link.
//!
//! A transport guarantees:
//! - Its first message to the peer names the gateway and the connection ([`Greeting`]).
//! - Messages are sent in the order in which they were passed, each completely or not at all.
//! - [`Control`] messages overtake waiting events.
//! - It reports a receipt only for a sequence that the peer confirmed. In plain mode it obtains
//!   receipts itself: some time after an event was written, the lane gets [`Incoming::Receipt`] for
//!   it or for a later event, unless the peer does not handle it. Two events may share a receipt
//!   unless the later one requires a [receipt of its own](OutgoingEvent::own_receipt). Which events
//!   did is reported at the end ([`Ended::shared`]).
//! - In reliable mode it translates each frame of the peer, and ends the connection with
//!   [`Reason::ProtocolError`] at a frame that it can't read. What the values mean is for the lane,
//!   which answers a contradiction with [`Control::Violation`].
//! - Every write has a timeout. A peer that does not read ends with [`Reason::WriteTimeout`].
//! - If it sends on request only, it reports which events it has not sent ([`Incoming::Unsent`]): before
//!   its end, and before a request if they have waited for it, because they may have expired, or an
//!   admin may have acted since.
//! - [`Incoming::Ended`] is its last message, sent exactly once. After it, the transport holds no
//!   resources of the connection.
//!
//! A lane guarantees:
//! - It passes sequences in ascending order, and no more at once than its window allows. In reliable
//!   mode it starts again at an event that the peer could not apply.
//! - In plain mode it passes events only.
//! - It receives messages without waiting for the database.
//! - It sends nothing after [`Control::Close`], and drops its end after [`Incoming::Ended`]. If it
//!   drops its end earlier, the node is shutting down ([`Reason::Shutdown`]).
//!
//! [`websocket`] is the transport of deployed gateways, and has a reliable mode, too. [`sse`],
//! [`long_poll`] and [`grpc`] have reliable mode only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::event::{Event, Reason, Sequence};

mod cloud_event;
mod event_position;
pub mod frame;
pub mod frames;
mod greeting;
pub mod grpc;
pub mod long_poll;
mod message;
pub mod push;
pub mod reliable;
pub mod report;
pub mod sse;
pub mod websocket;
mod write_timeout;

pub use greeting::{Greeting, ReliableGreeting};
pub use message::{
    Confirmation, Credit, DeliveryRequest, DeploymentAction, DeploymentReport, DeploymentStatus,
    Drain, Gap, GapReason, Mark, Nack, Resumed, Start, Violation,
};

/// The names of all transports, in the database, the API and the metrics.
pub const NAMES: [&str; 5] =
    [websocket::NAME, websocket::reliable::NAME, sse::NAME, long_poll::NAME, grpc::NAME];

/// Messages that may wait in a link, per direction. The window limits their bytes.
pub const LINK_MESSAGES: usize = 64;
/// Control messages that may wait in a link.
const LINK_CONTROLS: usize = 4;

/// A message to send, in order.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// An event.
    Event(OutgoingEvent),
    /// Where delivery starts. Precedes the first event, and the first one after [`Incoming::Unsent`].
    Resumed(Resumed),
    /// The peer has been sent everything up to here that is meant for it.
    Mark(Mark),
    /// Sequences that can't be delivered.
    Gap(Box<Gap>),
}

/// An event that a lane hands to a transport.
#[derive(Clone, Debug)]
pub struct OutgoingEvent {
    /// Its sequence in the gateway's log.
    pub sequence: Sequence,
    /// The sequence that this peer should have seen last. Used in reliable mode only.
    pub previous: Sequence,
    /// How many times it has been sent, this time included. Used in reliable mode only.
    pub attempt: u32,
    /// The event, shared with all connections that it is delivered on.
    pub event: Arc<Event>,
    /// Whether the events before it must be confirmed by a receipt that does not include it,
    /// because one of them may have made a connection fail.
    pub own_receipt: bool,
}

/// Messages that overtake waiting events.
#[derive(Clone, Debug)]
pub enum Control {
    /// Probe the peer: make it show activity.
    Probe,
    /// Ask the peer to reconnect. The connection is closed later. Reliable mode only.
    Drain(Box<Drain>),
    /// Close the connection, with this reason for the peer.
    Close(Reason),
    /// Close the connection with [`Reason::ProtocolError`], and tell the peer why. Reliable mode only.
    Violation(Violation),
}

/// A message from the peer, decoded by the transport.
#[derive(Debug)]
pub enum Incoming {
    /// The peer has handled everything up to this sequence. In reliable mode, it has received it.
    Receipt(Sequence),
    /// The peer has applied everything up to this sequence. Reliable mode only, like the next three.
    Applied(Sequence),
    /// The peer could not apply an event.
    Nack(Box<Nack>),
    /// The peer is still busy with an event.
    Progress(Sequence),
    /// The time in which the peer must confirm an event begins now: it has only been answered now, or
    /// waits for a request. The peer itself has said nothing about it.
    Postponed(Sequence),
    /// The peer changes the limits of its window.
    Credit(Box<Credit>),
    /// The peer reports the result of a deployment.
    Report(Box<DeploymentReport>),
    /// The peer showed other activity.
    Alive,
    /// A message that is ignored. It is counted.
    Invalid(InvalidMessage),
    /// Events from this sequence on were passed and not sent, by a transport that sends on request. The
    /// lane reads them from the log again, and passes [`Outgoing::Resumed`] before them, unless the
    /// transport ends. Reliable mode only.
    Unsent(Sequence),
    /// The connection has ended. This is the last message.
    Ended(Box<Ended>),
}

/// A message that a gateway should not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidMessage {
    /// A binary message instead of text.
    Binary,
    /// Not an object with a type, or a report without a required member.
    Malformed,
    /// An object of an unknown type.
    UnknownType,
}

impl InvalidMessage {
    /// Its name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary_message",
            Self::Malformed => "malformed_message",
            Self::UnknownType => "unknown_message_type",
        }
    }
}

/// The end of a connection, as its transport reports it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why it ended.
    pub reason: Reason,
    /// Details for admins.
    pub detail: String,
    /// Whether the peer's host ended it without a closing handshake.
    pub by_peer: bool,
    /// Events without a receipt that were to share one with the next event, in order.
    pub shared: Vec<Sequence>,
}

impl Ended {
    /// An end after which no event shares a receipt with a later one.
    pub const fn new(reason: Reason, detail: String, by_peer: bool) -> Self {
        Self { reason, detail, by_peer, shared: Vec::new() }
    }

    /// The end of a connection whose peer has not read for as long as the write timeout.
    fn not_read(write_timeout: Duration) -> Self {
        let detail = format!("nothing was read for {} s", write_timeout.as_secs());
        Self::new(Reason::WriteTimeout, detail, false)
    }
}

/// The lane's end of a link.
#[derive(Debug)]
pub struct LaneEnd {
    /// Events and other messages, in order.
    pub events: mpsc::Sender<Box<Outgoing>>,
    /// Messages that overtake them.
    pub control: mpsc::Sender<Control>,
    /// Messages from the peer.
    pub incoming: mpsc::Receiver<Incoming>,
}

/// The transport's end of a link.
#[derive(Debug)]
pub struct TransportEnd {
    /// Events and other messages, in order.
    pub events: mpsc::Receiver<Box<Outgoing>>,
    /// Messages that overtake them.
    pub control: mpsc::Receiver<Control>,
    /// Messages from the peer.
    pub incoming: mpsc::Sender<Incoming>,
}

/// Creates a link. Its channels reserve memory for their messages even while they are empty, as on
/// most connections, so messages are small or boxed.
pub fn link() -> (LaneEnd, TransportEnd) {
    let (events_in, events_out) = mpsc::channel(LINK_MESSAGES);
    let (control_in, control_out) = mpsc::channel(LINK_CONTROLS);
    let (incoming_in, incoming_out) = mpsc::channel(LINK_MESSAGES);
    (
        LaneEnd { events: events_in, control: control_in, incoming: incoming_out },
        TransportEnd { events: events_out, control: control_out, incoming: incoming_in },
    )
}
