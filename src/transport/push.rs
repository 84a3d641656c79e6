//! What the transports have in common whose server sends one stream of items, as SSE and gRPC do:
//! a task takes what the lane sends, encodes it and puts it into a short queue, from which the HTTP
//! connection takes it. What waits in the lane at the same time becomes one item, so that under load
//! not every event is a write of its own. What the peer sends arrives elsewhere ([`Inbound`]).
//!
//! An item that the HTTP connection does not take within the write timeout ends the connection. Such
//! a peer can answer no ping, so it counts as alive while the connection takes what it is sent: the
//! host's TCP detects peers that are gone.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frames::{ConnectionDrain, FrameError, GatewayFrame};
use super::reliable::{self, Closing};
use super::websocket::BURST_BYTES;
use super::write_timeout::within;
use super::{
    Control, Drain, Ended, Incoming, InvalidMessage, LINK_MESSAGES, Outgoing, TransportEnd,
};
use crate::event::Reason;

/// Items that wait for the HTTP connection.
const QUEUED: usize = 4;
/// Timeout of the items that end a stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Ends that wait. Only the first has an effect.
const FAULTS: usize = 1;

/// Encodes what a connection sends.
pub trait Encoder: Send {
    /// The unit of the stream.
    type Item: Send;

    /// Messages of the lane, in order.
    fn messages(&mut self, outgoing: Vec<Outgoing>) -> Self::Item;
    /// The request to reconnect.
    fn drain(&mut self, drain: ConnectionDrain) -> Self::Item;
    /// A sign of life; `None` if the transport has others.
    fn heartbeat(&mut self) -> Option<Self::Item>;
    /// The last items of the stream.
    fn end(&mut self, closing: Closing) -> Vec<Self::Item>;
}

/// The items that the HTTP connection takes.
pub type Items<T> = mpsc::Receiver<T>;

/// Where the frames of a peer go.
#[derive(Clone, Debug)]
pub struct Inbound {
    incoming: mpsc::Sender<Incoming>,
    faults: mpsc::Sender<Fault>,
}

/// Why the peer's side ends a connection.
#[derive(Debug)]
pub(super) enum Fault {
    /// A frame can't be read.
    Frame(FrameError),
    /// The peer has said that it will send nothing more.
    Closed,
}

/// The error of an operation on a connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Gone;

/// Why a frame does not count.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// The connection has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The frame may not be sent now, which ends the connection.
    #[error(transparent)]
    Invalid(FrameError),
}

impl Inbound {
    /// Where frames go, and where errors of frames arrive, which end the connection.
    pub(super) fn new(end: &TransportEnd) -> (Self, mpsc::Receiver<Fault>) {
        let (faults, found) = mpsc::channel(FAULTS);
        (Self { incoming: end.incoming.clone(), faults }, found)
    }

    /// As [`new`](Self::new), for a transport that passes the messages on to the lane itself.
    pub(super) fn relayed() -> (Self, mpsc::Receiver<Incoming>, mpsc::Receiver<Fault>) {
        let (incoming, messages) = mpsc::channel(LINK_MESSAGES);
        let (faults, found) = mpsc::channel(FAULTS);
        (Self { incoming, faults }, messages, found)
    }

    /// Passes frames to the lane, all or none. `None` stands for a frame of an unknown type, which is
    /// ignored.
    pub async fn accept(
        &self,
        frames: impl IntoIterator<Item = Option<GatewayFrame>>,
    ) -> Result<(), NotAccepted> {
        let mut all = Vec::new();
        for frame in frames {
            match frame.map(reliable::incoming).transpose() {
                Ok(Some(messages)) => all.extend(messages),
                Ok(None) => all.push(Incoming::Invalid(InvalidMessage::UnknownType)),
                Err(error) => {
                    self.fail(error.clone())?;
                    return Err(NotAccepted::Invalid(error));
                }
            }
        }
        for message in all {
            self.pass(message).await?;
        }
        Ok(())
    }

    /// Ends the connection because of a frame that can't be read.
    pub fn fail(&self, error: FrameError) -> Result<(), Gone> {
        match self.faults.try_send(Fault::Frame(error)) {
            // Another one ends it already.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
        }
    }

    /// Ends the connection because the peer has ended its side.
    pub fn close(&self) {
        let _ = self.faults.try_send(Fault::Closed);
    }

    async fn pass(&self, message: Incoming) -> Result<(), Gone> {
        self.incoming.send(message).await.map_err(|_| Gone)
    }
}

/// A connection that has not started yet.
#[derive(Debug)]
pub struct Push<E: Encoder> {
    encoder: E,
    end: TransportEnd,
    items: mpsc::Sender<E::Item>,
    faults: mpsc::Receiver<Fault>,
    write_timeout: Duration,
}

/// The queue of a connection.
pub fn queue<T>() -> (mpsc::Sender<T>, Items<T>) {
    mpsc::channel(QUEUED)
}

/// Prepares a connection over a link.
pub fn prepare<E: Encoder>(
    encoder: E,
    end: TransportEnd,
    write_timeout: Duration,
) -> (Push<E>, Inbound, Items<E::Item>) {
    let (items, taken) = queue();
    let (connection, inbound) = over(encoder, end, items, write_timeout);
    (connection, inbound, taken)
}

/// Prepares a connection over a link, with a [`queue`] that may have items already.
pub fn over<E: Encoder>(
    encoder: E,
    end: TransportEnd,
    items: mpsc::Sender<E::Item>,
    write_timeout: Duration,
) -> (Push<E>, Inbound) {
    let (inbound, faults) = Inbound::new(&end);
    (Push { encoder, end, items, faults, write_timeout }, inbound)
}

/// Why a connection ends.
enum End {
    /// The lane or the peer's frames end it.
    Closed(Closing),
    /// The peer has gone.
    Lost,
    /// The peer does not read.
    Stuck,
}

impl<E: Encoder> Push<E> {
    /// Runs the connection to its end. `first` are items to send before those of the lane.
    pub async fn run(mut self, first: Vec<E::Item>) {
        let ended = match self.serve(first).await {
            End::Closed(closing) => {
                let reason = closing.reason;
                let last = self.encoder.end(closing);
                let sending = async {
                    for item in last {
                        if self.items.send(item).await.is_err() {
                            return;
                        }
                    }
                };
                if timeout(CLOSE_TIMEOUT, sending).await.is_err() {
                    tracing::debug!("the peer did not read the end of the stream");
                }
                Ended::new(reason, String::new(), false)
            }
            End::Lost => {
                Ended::new(Reason::ConnectionLost, "the peer ended the stream".to_owned(), true)
            }
            End::Stuck => Ended::not_read(self.write_timeout),
        };
        let Self { items, end, .. } = self;
        // Ends the stream before the lane learns that nothing of it is left.
        drop(items);
        // Fails if the lane has ended, so that no one needs the report.
        let _ = end.incoming.send(Incoming::Ended(Box::new(ended))).await;
    }

    async fn serve(&mut self, first: Vec<E::Item>) -> End {
        let mut waiting = Waiting::default();
        for item in first {
            if let Some(end) = self.send(item, &mut waiting).await {
                return end;
            }
        }
        loop {
            let item = match self.next(&mut waiting).await {
                Ok(item) => item,
                Err(end) => return end,
            };
            if let Some(item) = item
                && let Some(end) = self.send(item, &mut waiting).await
            {
                return end;
            }
        }
    }

    /// Waits for something to send. Control messages overtake events.
    async fn next(&mut self, waiting: &mut Waiting) -> Result<Option<E::Item>, End> {
        if let Some(drain) = waiting.drain.take() {
            return Ok(Some(self.encoder.drain((*drain).into())));
        }
        if std::mem::take(&mut waiting.probe) {
            return Ok(self.show_life());
        }
        tokio::select! {
            biased;
            control = self.end.control.recv() => match waiting.note(control) {
                Some(end) => Err(end),
                None => Ok(None),
            },
            Some(fault) = self.faults.recv() => Err(fault.into()),
            () = self.items.closed() => Err(End::Lost),
            outgoing = self.end.events.recv() => match outgoing {
                Some(first) => {
                    let messages = waiting_messages(*first, &mut self.end.events);
                    Ok(Some(self.encoder.messages(messages)))
                }
                None => Err(End::Closed(Reason::Shutdown.into())),
            },
        }
    }

    /// Reports the peer as alive if the HTTP connection has taken everything so far.
    fn show_life(&mut self) -> Option<E::Item> {
        if self.items.capacity() == self.items.max_capacity() {
            // A full queue has other signs of life.
            let _ = self.end.incoming.try_send(Incoming::Alive);
        }
        self.encoder.heartbeat()
    }

    /// Sends an item. A close does not wait for it.
    async fn send(&mut self, item: E::Item, waiting: &mut Waiting) -> Option<End> {
        let mut sending = std::pin::pin!(within(self.write_timeout, self.items.send(item)));
        loop {
            tokio::select! {
                biased;
                sent = sending.as_mut() => return match sent {
                    Ok(Ok(())) => None,
                    Ok(Err(_)) => Some(End::Lost),
                    Err(_) => Some(End::Stuck),
                },
                control = self.end.control.recv() => if let Some(end) = waiting.note(control) {
                    return Some(end);
                },
                Some(fault) = self.faults.recv() => return Some(fault.into()),
            }
        }
    }
}

/// A message and those that wait behind it, up to a limit.
fn waiting_messages(first: Outgoing, events: &mut mpsc::Receiver<Box<Outgoing>>) -> Vec<Outgoing> {
    let mut bytes = payload_bytes(&first);
    let mut messages = vec![first];
    while bytes < BURST_BYTES
        && let Ok(next) = events.try_recv()
    {
        bytes += payload_bytes(&next);
        messages.push(*next);
    }
    messages
}

/// The size of an event's payload and attributes; other messages are short.
fn payload_bytes(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Event(outgoing) => {
            let attributes = outgoing.event.attributes.as_ref();
            outgoing.event.payload.get().len() + attributes.map_or(0, |it| it.bytes())
        }
        Outgoing::Resumed(_) | Outgoing::Mark(_) | Outgoing::Gap(_) => 0,
    }
}

/// Control messages that wait for the current write.
#[derive(Default)]
struct Waiting {
    probe: bool,
    drain: Option<Box<Drain>>,
}

impl Waiting {
    /// Notes a control message; returns the end if it is one.
    fn note(&mut self, control: Option<Control>) -> Option<End> {
        match control {
            Some(Control::Probe) => self.probe = true,
            Some(Control::Drain(drain)) => self.drain = Some(drain),
            Some(Control::Close(reason)) => return Some(End::Closed(reason.into())),
            Some(Control::Violation(violation)) => return Some(End::Closed(violation.into())),
            None => return Some(End::Closed(Reason::Shutdown.into())),
        }
        None
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Closed(match fault {
            Fault::Frame(error) => (&error).into(),
            Fault::Closed => Reason::ClosedByGateway.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LaneEnd, Mark, link};
    use super::*;
    use crate::event::Sequence;

    struct Names;

    impl Encoder for Names {
        type Item = &'static str;

        fn messages(&mut self, outgoing: Vec<Outgoing>) -> &'static str {
            if outgoing.len() == 1 { "message" } else { "messages" }
        }

        fn drain(&mut self, _: ConnectionDrain) -> &'static str {
            "drain"
        }

        fn heartbeat(&mut self) -> Option<&'static str> {
            Some("heartbeat")
        }

        fn end(&mut self, closing: Closing) -> Vec<&'static str> {
            closing.error.map(|_| "error").into_iter().collect()
        }
    }

    const TIMEOUT: Duration = Duration::from_millis(200);

    fn mark() -> Outgoing {
        let sequence = Sequence(1);
        Outgoing::Mark(Mark { sequence, head: sequence })
    }

    /// Fills the queue. The connection takes each message before the next one is sent, so that none
    /// waits with another.
    async fn fill(lane: &LaneEnd) {
        for _ in 0..=QUEUED {
            lane.events.send(Box::new(mark())).await.unwrap();
            while lane.events.capacity() < lane.events.max_capacity() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn messages_that_wait_together_become_one_item() {
        let (lane, end) = link();
        let (connection, _inbound, mut items) = prepare(Names, end, TIMEOUT);
        for _ in 0..3 {
            lane.events.send(Box::new(mark())).await.unwrap();
        }
        tokio::spawn(connection.run(Vec::new()));
        assert_eq!(items.recv().await, Some("messages"));
        lane.events.send(Box::new(mark())).await.unwrap();
        assert_eq!(items.recv().await, Some("message"));
    }

    #[tokio::test]
    async fn a_close_does_not_wait_for_a_peer_that_does_not_read() {
        let (mut lane, end) = link();
        let (connection, _inbound, items) = prepare(Names, end, Duration::from_mins(1));
        let running = tokio::spawn(connection.run(Vec::new()));
        fill(&lane).await;
        lane.control.send(Control::Close(Reason::TokenRevoked)).await.unwrap();
        let Some(Incoming::Ended(ended)) = lane.incoming.recv().await else {
            panic!("no end");
        };
        assert_eq!(ended.reason, Reason::TokenRevoked);
        running.await.unwrap();
        drop(items);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_not_alive_and_ends_by_the_write_timeout() {
        let (mut lane, end) = link();
        let (connection, _inbound, mut items) = prepare(Names, end, TIMEOUT);
        tokio::spawn(connection.run(vec!["first"]));
        assert_eq!(items.recv().await, Some("first"));
        lane.control.send(Control::Probe).await.unwrap();
        assert!(matches!(lane.incoming.recv().await, Some(Incoming::Alive)));
        assert_eq!(items.recv().await, Some("heartbeat"));
        fill(&lane).await;
        let _ = lane.control.send(Control::Probe).await;
        // The transport may have written the heartbeat before the queue was full.
        let ended = loop {
            match lane.incoming.recv().await {
                Some(Incoming::Alive) => {}
                Some(Incoming::Ended(ended)) => break ended,
                other => panic!("no end: {other:?}"),
            }
        };
        assert_eq!(ended.reason, Reason::WriteTimeout);
    }

    #[tokio::test]
    async fn a_peer_that_goes_and_a_bad_frame_end_the_connection() {
        let (mut lane, end) = link();
        let (connection, _inbound, items) = prepare(Names, end, TIMEOUT);
        tokio::spawn(connection.run(Vec::new()));
        drop(items);
        let Some(Incoming::Ended(ended)) = lane.incoming.recv().await else {
            panic!("no end");
        };
        assert_eq!((ended.reason, ended.by_peer), (Reason::ConnectionLost, true));

        let (mut lane, end) = link();
        let (connection, inbound, mut items) = prepare(Names, end, TIMEOUT);
        tokio::spawn(connection.run(Vec::new()));
        let error = GatewayFrame::parse(b"[]").unwrap_err();
        inbound.fail(error).unwrap();
        assert_eq!(items.recv().await, Some("error"));
        assert_eq!(items.recv().await, None);
        let Some(Incoming::Ended(ended)) = lane.incoming.recv().await else {
            panic!("no end");
        };
        assert_eq!(ended.reason, Reason::ProtocolError);
        assert_eq!(inbound.accept([None]).await.map_err(|error| error.to_string()), Ok(()));
        drop(lane);
        assert!(inbound.accept([None]).await.is_err());
    }
}
