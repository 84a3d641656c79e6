//! The driver over a transport that does what the test says.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::fixture::{acknowledged, at, event, gap, resumed};
use super::super::{MemoryPosition, Options, PositionStore, SnapshotError, Transport};
use super::*;
use crate::event::Sequence;
use crate::transport::frames::{Ack, EventFrame, Hello, NackCode, Position, Resume};

/// The timeout of every wait.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// What a connection of the script does, in order. At the end it stays open.
enum Play {
    Frame(ServerFrame),
    /// Waits until the client has sent something.
    Reply,
    Close(u16),
    Refuse(ConnectError),
}

/// What the client did.
#[derive(Debug)]
enum Did {
    Hello(Hello),
    Sent(GatewayFrame),
    Handled(i64),
    Snapshot(i64),
    Closed,
}

struct Script {
    connections: Mutex<VecDeque<Vec<Play>>>,
    did: mpsc::UnboundedSender<Did>,
}

struct ScriptLink {
    plays: VecDeque<Play>,
    did: mpsc::UnboundedSender<Did>,
    replies: usize,
}

#[async_trait]
impl Transport for Script {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let _ = self.did.send(Did::Hello(hello.clone()));
        let next = self.connections.lock().expect("no test fails in here").pop_front();
        let mut plays: VecDeque<Play> = next.unwrap_or_default().into();
        if let Some(Play::Refuse(_)) = plays.front()
            && let Some(Play::Refuse(error)) = plays.pop_front()
        {
            return Err(error);
        }
        Ok(Box::new(ScriptLink { plays, did: self.did.clone(), replies: 0 }))
    }
}

#[async_trait]
impl Link for ScriptLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        let is_waiting = match self.plays.front() {
            Some(Play::Reply) => self.replies == 0,
            front => front.is_none(),
        };
        if is_waiting {
            return std::future::pending().await;
        }
        match self.plays.pop_front() {
            Some(Play::Frame(frame)) => Ok(Received::Frame(frame)),
            Some(Play::Close(code)) => Err(Closed { code: Some(code), why: code.to_string() }),
            _ => {
                self.replies -= 1;
                Ok(Received::Alive)
            }
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        for frame in frames {
            self.replies += 1;
            let _ = self.did.send(Did::Sent(frame.clone()));
        }
        Ok(())
    }

    async fn close(&mut self) {
        let _ = self.did.send(Did::Closed);
    }
}

/// Applies everything; refuses event 3 once.
struct Applies(mpsc::UnboundedSender<Did>);

#[async_trait]
impl Handler for Applies {
    async fn handle(&self, event: EventFrame) -> Outcome {
        let _ = self.0.send(Did::Handled(event.sequence.0));
        if event.sequence == Sequence(3) && event.attempt == 1 {
            let after = Duration::from_millis(5);
            return Outcome::RetryAfter { after, code: NackCode::Conflict, detail: None };
        }
        Outcome::Applied
    }

    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError> {
        let _ = self.0.send(Did::Snapshot(gap.resume_at.0));
        Ok(())
    }
}

struct Running {
    did: mpsc::UnboundedReceiver<Did>,
    stop: CancellationToken,
    client: tokio::task::JoinHandle<Result<(), ClientError>>,
}

impl Running {
    async fn start(connections: Vec<Vec<Play>>, position: Option<Position>) -> Self {
        let (sender, did) = mpsc::unbounded_channel();
        let script = Script { connections: Mutex::new(connections.into()), did: sender.clone() };
        let options = Options {
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(1)),
            ..Options::default()
        };
        let store = MemoryPosition::default();
        if let Some(position) = position {
            store.save(&position.into()).await.expect("stored");
        }
        let client = Client::new(script, store, Applies(sender), options);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let client = tokio::spawn(async move { client.run(stopped).await });
        Self { did, stop, client }
    }

    /// The next thing that the client does and that this selects.
    async fn next<T>(&mut self, select: impl Fn(Did) -> Option<T>) -> T {
        let next = async {
            loop {
                let did = self.did.recv().await.expect("the client runs");
                if let Some(selected) = select(did) {
                    return selected;
                }
            }
        };
        timeout(TEST_TIMEOUT, next).await.expect("the client does it in time")
    }

    async fn hello(&mut self) -> Resume {
        self.next(|did| match did {
            Did::Hello(hello) => Some(hello.resume),
            _ => None,
        })
        .await
    }

    async fn acked(&mut self, sequence: i64) {
        let ack = Ack { received: None, applied: Some(Sequence(sequence)) };
        self.next(|did| matches!(did, Did::Sent(GatewayFrame::Ack(it)) if it == ack).then_some(()))
            .await;
    }

    async fn end(self) -> Result<(), ClientError> {
        let ended = timeout(TEST_TIMEOUT, self.client).await.expect("it ends in time");
        ended.expect("no panic")
    }
}

fn frames(frames: Vec<ServerFrame>) -> Vec<Play> {
    frames.into_iter().map(Play::Frame).collect()
}

fn an_event(sequence: i64, previous: i64) -> ServerFrame {
    ServerFrame::Event(event(1, sequence, previous, 1))
}

#[tokio::test]
async fn a_lost_event_makes_the_client_resume_after_the_last_one() {
    let mut lossy = frames(vec![acknowledged(1), resumed(1, 0), an_event(1, 0)]);
    lossy.push(Play::Reply);
    lossy.push(Play::Frame(an_event(4, 2)));
    let whole = vec![acknowledged(1), resumed(1, 1), an_event(2, 1)];
    let mut running = Running::start(vec![lossy, frames(whole)], at(1, 0)).await;
    assert_eq!(running.hello().await, Resume::After(at(1, 0).expect("a position")));
    let handled = running.next(|did| match did {
        Did::Handled(sequence) => Some(sequence),
        _ => None,
    });
    assert_eq!(handled.await, 1);
    running.next(|did| matches!(did, Did::Closed).then_some(())).await;
    assert_eq!(running.hello().await, Resume::After(at(1, 1).expect("a position")));
    running.acked(2).await;
    running.stop.cancel();
    running.end().await.expect("stopped");
}

#[tokio::test]
async fn a_refused_event_is_handled_again_when_it_comes_again() {
    let mut plays = frames(vec![acknowledged(1), resumed(1, 2), an_event(3, 2), an_event(4, 3)]);
    plays.push(Play::Reply);
    plays.push(Play::Frame(ServerFrame::Event(event(1, 3, 2, 2))));
    plays.push(Play::Frame(ServerFrame::Event(event(1, 4, 3, 2))));
    let mut running = Running::start(vec![plays], at(1, 2)).await;
    running.next(|did| matches!(did, Did::Sent(GatewayFrame::Nack(_))).then_some(())).await;
    for expected in [3, 4] {
        let handled = running.next(|did| match did {
            Did::Handled(sequence) => Some(sequence),
            _ => None,
        });
        assert_eq!(handled.await, expected);
    }
    running.acked(4).await;
}

#[tokio::test]
async fn a_snapshot_is_read_and_confirmed() {
    let plays = frames(vec![acknowledged(1), gap(1, 20)]);
    let mut running = Running::start(vec![plays], at(1, 4)).await;
    let read = running.next(|did| match did {
        Did::Snapshot(sequence) => Some(sequence),
        _ => None,
    });
    assert_eq!(read.await, 20);
    running.acked(20).await;
}

#[tokio::test]
async fn the_client_reconnects_after_some_codes_and_stops_after_others() {
    let close = |code| vec![Play::Frame(acknowledged(1)), Play::Close(code)];
    let busy = ConnectError::Refused { status: 503, retry_after: Some(Duration::ZERO) };
    let connections =
        vec![close(4001), close(4009), close(1006), vec![Play::Refuse(busy)], close(4503)];
    let mut running = Running::start(connections, None).await;
    for _ in 0..5 {
        assert_eq!(running.hello().await, Resume::Server);
    }
    let Err(ClientError::Closed { code, .. }) = running.end().await else { panic!("not final") };
    assert_eq!(code, 4503);

    let unknown = ConnectError::Refused { status: 401, retry_after: None };
    let running = Running::start(vec![vec![Play::Refuse(unknown)]], None).await;
    assert!(matches!(running.end().await, Err(ClientError::Refused(401))));
}

#[tokio::test]
async fn a_stop_confirms_what_was_handled() {
    let plays = frames(vec![acknowledged(1), resumed(1, 0), an_event(1, 0)]);
    let mut running = Running::start(vec![plays], at(1, 0)).await;
    running.next(|did| matches!(did, Did::Handled(1)).then_some(())).await;
    running.stop.cancel();
    running.acked(1).await;
    running.next(|did| matches!(did, Did::Closed).then_some(())).await;
    running.end().await.expect("stopped");
}
