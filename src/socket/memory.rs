//! A peer in memory: the transport for tests that need a lane and no socket.
//! It keeps the contract's promises as long as it is told to.

use super::{Control, EventFrame, Incoming, TransportEnd};
use crate::event::{Reason, Sequence};

/// The gateway at the other end of a link.
#[derive(Debug)]
pub struct Peer {
    end: TransportEnd,
}

/// What the lane did.
#[derive(Debug)]
pub enum Seen {
    /// Sent an event.
    Event(Box<EventFrame>),
    /// Asked for a sign of life.
    Ping,
    /// Said goodbye, or was dropped.
    Close(Reason),
}

impl Peer {
    /// At this end of a link.
    pub fn new(end: TransportEnd) -> Self {
        Self { end }
    }

    /// Waits for the lane to do something; control passes events.
    pub async fn next(&mut self) -> Seen {
        tokio::select! {
            biased;
            control = self.end.control.recv() => match control {
                Some(Control::Ping) => Seen::Ping,
                Some(Control::Close(reason)) => Seen::Close(reason),
                None => Seen::Close(Reason::Shutdown),
            },
            Some(frame) = self.end.events.recv() => Seen::Event(frame),
        }
    }

    /// Waits for an event, answering pings meanwhile; `None` once the lane
    /// says goodbye.
    pub async fn event(&mut self) -> Option<Box<EventFrame>> {
        loop {
            match self.next().await {
                Seen::Event(frame) => return Some(frame),
                Seen::Ping => self.say(Incoming::Alive).await,
                Seen::Close(_) => return None,
            }
        }
    }

    /// Waits for the lane's goodbye, passing over everything else in silence.
    pub async fn closed(&mut self) -> Reason {
        loop {
            if let Seen::Close(reason) = self.next().await {
                return reason;
            }
        }
    }

    /// Echoes a ping that carried this number.
    pub async fn pong(&self, sequence: Sequence) {
        self.say(Incoming::Receipt(sequence)).await;
    }

    /// Sends a text message.
    pub async fn send(&self, text: &str) {
        self.say(Incoming::Message(text.as_bytes().into())).await;
    }

    /// Ends the connection.
    pub async fn end(self, reason: Reason) {
        let detail = "the peer in memory ended it".into();
        self.say(Incoming::Ended { reason, detail, by_peer: true }).await;
    }

    /// Says anything; a lane that is gone hears nothing.
    pub async fn say(&self, incoming: Incoming) {
        let _ = self.end.incoming.send(incoming).await;
    }
}
