//! The transport contract. A lane and a transport meet at a pair of bounded
//! channels ([`link`]); the transport knows no store, and the lane knows no
//! wire. Two transports exist: [`websocket`] and, for tests, [`memory`].
//!
//! What a transport promises:
//! - event frames go out in the order in which they came, each whole or not at all;
//! - pings and the close pass event frames that still wait; a ping carries the
//!   sequence of the last event frame *written*, and a receipt is reported only
//!   for a number that the peer echoed;
//! - every write has a deadline, and a peer that does not read ends as
//!   [`Reason::WriteTimeout`];
//! - the last thing it says is [`Incoming::Ended`], exactly once, after which
//!   it holds nothing of the connection.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::event::{Reason, Sequence};

pub mod frame;
pub mod memory;
mod patience;
pub mod websocket;

/// Frames that may wait in a link, each way. The window bounds the bytes.
pub const LINK_FRAMES: usize = 64;

/// An event frame, encoded.
#[derive(Clone, Debug)]
pub struct EventFrame {
    /// Its number.
    pub sequence: Sequence,
    /// The whole text frame.
    pub text: Bytes,
    /// Which ping precedes it. One always follows the last event that is
    /// written for now.
    pub ping_before: PingBefore,
}

/// The ping that an event needs before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingBefore {
    /// None.
    Unneeded,
    /// One between it and the event before it.
    Between,
    /// One right before it, even if no event was written since the last one.
    Always,
}

/// What passes waiting events.
#[derive(Clone, Debug)]
pub enum Control {
    /// Ask for a sign of life.
    Ping,
    /// Say goodbye for this reason and end.
    Close(Reason),
}

/// What comes from the peer.
#[derive(Debug)]
pub enum Incoming {
    /// Everything up to this number has been handled.
    Receipt(Sequence),
    /// A text message.
    Message(Box<[u8]>),
    /// Some other sign of life, such as a pong that confirms nothing.
    Alive,
    /// Something that no peer should send; counted and logged, no reason to part.
    Malformed(&'static str),
    /// The connection is over; the last word.
    Ended {
        /// Why.
        reason: Reason,
        /// What more is known.
        detail: Box<str>,
        /// Whether the peer's host ended it without a close frame.
        by_peer: bool,
    },
}

/// The lane's end.
#[derive(Debug)]
pub struct LaneEnd {
    /// Events, in order.
    pub events: mpsc::Sender<Box<EventFrame>>,
    /// Pings and the close.
    pub control: mpsc::Sender<Control>,
    /// What the peer says.
    pub incoming: mpsc::Receiver<Incoming>,
}

/// The transport's end. The lane's dropping its end means: close, the node is
/// going down ([`Reason::Shutdown`]).
#[derive(Debug)]
pub struct TransportEnd {
    /// Events, in order.
    pub events: mpsc::Receiver<Box<EventFrame>>,
    /// Pings and the close.
    pub control: mpsc::Receiver<Control>,
    /// What the peer says.
    pub incoming: mpsc::Sender<Incoming>,
}

/// Makes a link. Its places are there whether or not anything lies in them, and
/// of most connections they are empty: so what lies in them is small, or boxed.
pub fn link() -> (LaneEnd, TransportEnd) {
    let (events_in, events_out) = mpsc::channel(LINK_FRAMES);
    let (control_in, control_out) = mpsc::channel(4);
    let (incoming_in, incoming_out) = mpsc::channel(LINK_FRAMES);
    (
        LaneEnd { events: events_in, control: control_in, incoming: incoming_out },
        TransportEnd { events: events_out, control: control_out, incoming: incoming_in },
    )
}
