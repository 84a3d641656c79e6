//! A transport without a wire: the other end of a link, held by whoever plays
//! the gateway.

use super::{Control, EventFrame, Incoming, TransportEnd};
use crate::event::{Reason, Sequence};

/// A peer in memory. It keeps the transport's promises: what it has not
/// received it can't confirm.
#[derive(Debug)]
pub struct Peer {
    end: TransportEnd,
}

/// What a peer sees next.
#[derive(Debug)]
pub enum Seen {
    /// An event.
    Event(EventFrame),
    /// A ping.
    Ping,
    /// The end.
    Closed(Reason),
}

impl Peer {
    /// Plays the gateway at this end.
    pub fn new(end: TransportEnd) -> Self {
        Self { end }
    }

    /// Waits for what comes next; pings and the close come before events.
    pub async fn next(&mut self) -> Seen {
        tokio::select! {
            biased;
            control = self.end.control.recv() => match control {
                Some(Control::Ping) => Seen::Ping,
                Some(Control::Close(reason)) => Seen::Closed(reason),
                None => Seen::Closed(Reason::Shutdown),
            },
            Some(event) = self.end.events.recv() => Seen::Event(event),
        }
    }

    /// Confirms everything up to a number.
    pub async fn confirm(&self, sequence: Sequence) {
        self.say(Incoming::Receipt(sequence)).await;
    }

    /// Says anything; a lane that is gone hears nothing.
    pub async fn say(&self, incoming: Incoming) {
        let _ = self.end.incoming.send(incoming).await;
    }

    /// Ends the connection.
    pub async fn end(self, reason: Reason) {
        self.say(Incoming::Ended { reason, detail: String::new() }).await;
    }
}
