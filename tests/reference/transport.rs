//! A transport in memory, whose peer is the test itself.

use gateway_events::event::{Reason, Sequence};
use gateway_events::transport::{Control, Ended, Incoming, Outgoing, OutgoingEvent, TransportEnd};

/// The gateway at the other end of a link.
#[derive(Debug)]
pub(crate) struct Peer {
    end: TransportEnd,
}

/// What the lane did.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It sent an event.
    Event(OutgoingEvent),
    /// It sent a probe.
    Probe,
    /// It closed the connection, or was dropped.
    Close(Reason),
}

impl Peer {
    pub(crate) fn new(end: TransportEnd) -> Self {
        Self { end }
    }

    /// Waits for the next action of the lane. Control messages overtake events.
    pub(crate) async fn next(&mut self) -> Seen {
        tokio::select! {
            biased;
            control = self.end.control.recv() => match control {
                Some(Control::Probe) => Seen::Probe,
                Some(Control::Close(reason)) => Seen::Close(reason),
                Some(other) => panic!("sent in plain mode: {other:?}"),
                None => Seen::Close(Reason::Shutdown),
            },
            Some(outgoing) = self.end.events.recv() => match *outgoing {
                Outgoing::Event(event) => Seen::Event(event),
                other => panic!("sent in plain mode: {other:?}"),
            },
        }
    }

    /// Waits for an event, answering probes meanwhile. `None` if the lane closes the connection.
    pub(crate) async fn event(&mut self) -> Option<OutgoingEvent> {
        loop {
            match self.next().await {
                Seen::Event(outgoing) => return Some(outgoing),
                Seen::Probe => self.send(Incoming::Alive).await,
                Seen::Close(_) => return None,
            }
        }
    }

    /// Waits for the lane to close the connection. Ignores everything else.
    pub(crate) async fn closed(&mut self) -> Reason {
        loop {
            if let Seen::Close(reason) = self.next().await {
                return reason;
            }
        }
    }

    /// Confirms everything up to a sequence.
    pub(crate) async fn confirm(&self, sequence: Sequence) {
        self.send(Incoming::Receipt(sequence)).await;
    }

    /// Ends the connection.
    pub(crate) async fn end(self, reason: Reason) {
        self.end_sharing(reason, Vec::new()).await;
    }

    /// Ends the connection. These events were to share a receipt with the next one.
    pub(crate) async fn end_sharing(self, reason: Reason, shared: Vec<Sequence>) {
        let detail = "ended by the test".to_owned();
        let ended = Ended { reason, detail, by_peer: true, shared };
        self.send(Incoming::Ended(Box::new(ended))).await;
    }

    /// Sends a message. It is lost if the lane has ended.
    pub(crate) async fn send(&self, incoming: Incoming) {
        let _ = self.end.incoming.send(incoming).await;
    }
}
