//! A gateway that records what it has applied.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::client::CancellationToken;
use gateway_events::client::reliable::{
    Client, ClientError, DeliveryGap, EventFrame, FilePosition, Handler, Notice, Options, Outcome,
    SnapshotError,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Service, TEST_TIMEOUT, deployed};
use crate::transports::{Kind, transport};

/// What the gateway did.
#[derive(Debug)]
pub(crate) enum Observation {
    /// Applied the event with this sequence, on its nth attempt.
    Applied(i64, u32),
    Snapshot(DeliveryGap),
    Notice(Notice),
}

/// How long some events take and with which outcome, by sequence, when they come first. Others are
/// applied at once.
pub(crate) type Outcomes = HashMap<i64, (Duration, Outcome)>;

struct Recorder {
    observations: mpsc::UnboundedSender<Observation>,
    outcomes: Mutex<Outcomes>,
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, event: EventFrame) -> Outcome {
        let outcome = self.outcomes.lock().expect("no panic").remove(&event.sequence.0);
        if let Some((takes, outcome)) = outcome {
            crate::support::pause(takes).await;
            if outcome != Outcome::Applied {
                return outcome;
            }
        }
        let _ = self.observations.send(Observation::Applied(event.sequence.0, event.attempt));
        Outcome::Applied
    }

    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError> {
        let _ = self.observations.send(Observation::Snapshot(gap.clone()));
        Ok(())
    }

    async fn notice(&self, notice: Notice) {
        let _ = self.observations.send(Observation::Notice(notice));
    }
}

/// A running client.
pub(crate) struct Gateway {
    observations: mpsc::UnboundedReceiver<Observation>,
    stop: CancellationToken,
    client: tokio::task::JoinHandle<Result<(), ClientError>>,
}

impl Gateway {
    pub(crate) fn start(service: &Service, key: &str, position: PathBuf) -> Self {
        Self::start_with(service, key, position, Outcomes::new(), Options::default())
    }

    pub(crate) fn start_with(
        service: &Service,
        key: &str,
        position: PathBuf,
        outcomes: Outcomes,
        options: Options,
    ) -> Self {
        Self::start_over(Kind::WebSocket, service, key, position, outcomes, options)
    }

    /// Likewise, over this transport.
    pub(crate) fn start_over(
        kind: Kind,
        service: &Service,
        key: &str,
        position: PathBuf,
        outcomes: Outcomes,
        options: Options,
    ) -> Self {
        let (sender, observations) = mpsc::unbounded_channel();
        let recorder = Recorder { observations: sender, outcomes: Mutex::new(outcomes) };
        let options = Options { instance: Some("a".to_owned()), ..options };
        let transport = transport(service, kind, key);
        let client = Client::new(transport, FilePosition::new(position), recorder, options);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let client = tokio::spawn(async move { client.run(stopped).await });
        Self { observations, stop, client }
    }

    /// The next thing that it does.
    pub(crate) async fn next(&mut self) -> Observation {
        let next = tokio::time::timeout(TEST_TIMEOUT, self.observations.recv()).await;
        next.expect("in time").expect("the client runs")
    }

    /// The sequence and the attempt of the next event that it applies.
    pub(crate) async fn applied(&mut self) -> (i64, u32) {
        loop {
            if let Observation::Applied(sequence, attempt) = self.next().await {
                return (sequence, attempt);
            }
        }
    }

    /// Stops it, and waits for its end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.end().await.expect("it was stopped");
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> Result<(), ClientError> {
        let ended = tokio::time::timeout(TEST_TIMEOUT, self.client).await;
        ended.expect("it ends in time").expect("no panic")
    }
}

/// Publishes events for a gateway: as many as this.
pub(crate) async fn publish(service: &Service, gateway: &str, count: i64) {
    let events: Vec<Value> = (0..count).map(|nth| deployed(&[gateway], &nth.to_string())).collect();
    for events in events.chunks(100) {
        service.api().post("/events", &json!({"events": events})).await.expect("accepted");
    }
}
