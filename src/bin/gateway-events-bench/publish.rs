//! Publishers. Each has a connection of its own and sends one request at a time, either
//! when the previous one is answered or when the next one is due.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use gateway_events::client::CancellationToken;
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::check::Numbers;
use crate::figures::float;
use crate::http_connection::HttpConnection;
use crate::latency::Latencies;
use crate::testbed::{Target, Testbed};
use crate::{payload, schedule};

/// The pause after a request that the service had no capacity for.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// When to stop.
#[derive(Clone, Debug)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many events, rounded up to whole requests.
    Sent(u64),
    /// When this is cancelled.
    Stopped(CancellationToken),
}

/// The targets of each event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// One gateway; all have their turn.
    Each,
    /// All gateways.
    All,
}

/// What to publish.
pub(crate) struct Load {
    pub(crate) gateways: Arc<[String]>,
    pub(crate) spread: Spread,
    pub(crate) publishers: usize,
    pub(crate) batch: usize,
    pub(crate) payload: usize,
    /// Events per second; `None` publishes as fast as requests are answered.
    pub(crate) rate: Option<f64>,
    pub(crate) until: Until,
    /// The start of the measurement, to which the payloads refer.
    pub(crate) origin: Instant,
}

/// The result of [`publish`].
pub(crate) struct Published {
    /// The sequence numbers assigned, by gateway.
    pub(crate) numbers: Vec<Numbers>,
    /// Accepted events.
    pub(crate) events: u64,
    /// Requests refused with 429 or 503; they were repeated.
    pub(crate) refused: u64,
    /// From the first request to the last response.
    pub(crate) elapsed: Duration,
    /// From when a request was due (or sent, without a rate) to its response.
    pub(crate) requests: Latencies,
    /// How late the load generator itself was.
    pub(crate) lateness: Latencies,
}

struct Shared {
    load: Load,
    accepted: AtomicU64,
    claimed: AtomicU64,
    requests: Latencies,
    lateness: Latencies,
}

struct Publisher {
    index: usize,
    shared: Arc<Shared>,
    connection: HttpConnection,
    due: Option<UnboundedReceiver<Instant>>,
    sent: u64,
    numbers: Vec<Numbers>,
    refused: u64,
}

/// Publishes. An error if a request failed, or if the sequence numbers of a gateway have
/// gaps or repeats.
pub(crate) async fn publish(
    testbed: &Testbed<'_>,
    target: &Target,
    load: Load,
) -> anyhow::Result<Published> {
    let publishers = load.publishers;
    let mut connections = Vec::new();
    for index in 0..publishers {
        let connection = HttpConnection::connect(&target.endpoint(index), &target.token).await;
        connections.push(connection.context("a publisher could not connect")?);
    }
    let started = Instant::now();
    let time = match load.until {
        Until::Elapsed(time) => Some(time),
        Until::Stopped(_) => Some(Duration::MAX),
        Until::Sent(_) => None,
    };
    let due = load.rate.zip(time).map(|(rate, time)| {
        schedule::start(started, rate / float(load.batch as u64), time, publishers)
    });
    let mut due = due.into_iter().flatten();
    let shared = Arc::new(Shared {
        load,
        accepted: AtomicU64::new(0),
        claimed: AtomicU64::new(0),
        requests: Latencies::new(),
        lateness: Latencies::new(),
    });
    let mut tasks = JoinSet::new();
    for (index, connection) in connections.into_iter().enumerate() {
        let numbers = vec![Numbers::default(); shared.load.gateways.len()];
        let shared = Arc::clone(&shared);
        let due = due.next();
        let publisher = Publisher { index, shared, connection, due, sent: 0, numbers, refused: 0 };
        tasks.spawn(publisher.run(started));
    }
    let (mut numbers, mut refused) = (vec![Numbers::default(); shared.load.gateways.len()], 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            ended = tasks.join_next() => {
                let Some(ended) = ended else { break };
                let publisher = ended??;
                refused += publisher.refused;
                for (all, its) in numbers.iter_mut().zip(&publisher.numbers) {
                    all.merge(its).map_err(anyhow::Error::msg)?;
                }
            }
            _ = ticks.tick() => testbed.progress.at(shared.accepted.load(Ordering::Relaxed)),
        }
    }
    let elapsed = started.elapsed();
    for (gateway, numbers) in shared.load.gateways.iter().zip(&numbers) {
        numbers.gapless().map_err(|fault| anyhow::anyhow!("gateway {gateway}: {fault}"))?;
    }
    let events = shared.accepted.load(Ordering::Relaxed);
    let shared = Arc::into_inner(shared).context("a publisher still runs")?;
    let (requests, lateness) = (shared.requests, shared.lateness);
    Ok(Published { numbers, events, refused, elapsed, requests, lateness })
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    results: Vec<Accepted<'a>>,
}

#[derive(Deserialize)]
struct Accepted<'a> {
    #[serde(borrow)]
    deliveries: Vec<Numbered<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbered<'a> {
    gateway_id: &'a str,
    sequence: i64,
}

impl Publisher {
    async fn run(mut self, started: Instant) -> anyhow::Result<Self> {
        while let Some(due) = self.next(started).await {
            let load = &self.shared.load;
            let body = body(load, self.index, self.sent, due.duration_since(load.origin));
            self.shared.lateness.record(self.index, due.elapsed());
            let answer = loop {
                let (status, answer) = self.connection.post("/events", body.clone()).await?;
                match status {
                    202 => break answer,
                    429 | 503 => {
                        self.refused += 1;
                        tokio::time::sleep(RETRY_INTERVAL).await;
                    }
                    _ => anyhow::bail!(
                        "publishing was answered {status}: {}",
                        String::from_utf8_lossy(&answer)
                    ),
                }
            };
            self.shared.requests.record(self.index, due.elapsed());
            self.account(&answer)?;
        }
        Ok(self)
    }

    /// Waits until the next request is due and returns that instant; `None` at the end.
    async fn next(&mut self, started: Instant) -> Option<Instant> {
        let until = &self.shared.load.until;
        match (&mut self.due, until) {
            (Some(due), Until::Stopped(stop)) => {
                return stop.run_until_cancelled(due.recv()).await.flatten();
            }
            (Some(due), _) => return due.recv().await,
            (None, _) => {}
        }
        let batch = self.shared.load.batch as u64;
        let goes_on = match until {
            Until::Elapsed(time) => started.elapsed() < *time,
            Until::Sent(events) => {
                self.shared.claimed.fetch_add(batch, Ordering::Relaxed) < *events
            }
            Until::Stopped(stop) => !stop.is_cancelled(),
        };
        goes_on.then(Instant::now)
    }

    /// Verifies that every event of the request has a number for each of its gateways.
    fn account(&mut self, answer: &Bytes) -> anyhow::Result<()> {
        let unreadable = "the response to publishing can't be parsed";
        let answer: Response<'_> = serde_json::from_slice(answer).context(unreadable)?;
        let load = &self.shared.load;
        anyhow::ensure!(
            answer.results.len() == load.batch,
            "{} events were sent in a request, and {} answered",
            load.batch,
            answer.results.len()
        );
        for accepted in &answer.results {
            let expected = targets(load, self.index, self.sent);
            self.sent += 1;
            anyhow::ensure!(
                accepted.deliveries.len() == expected.len(),
                "an event for {} gateways was stored for {}",
                expected.len(),
                accepted.deliveries.len()
            );
            for delivery in &accepted.deliveries {
                let place = expected
                    .clone()
                    .find(|place| load.gateways[*place] == delivery.gateway_id)
                    .with_context(|| {
                        format!("stored for {}, which is not a target", delivery.gateway_id)
                    })?;
                self.numbers[place].insert(delivery.sequence).map_err(anyhow::Error::msg)?;
            }
        }
        self.shared.accepted.fetch_add(load.batch as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The indices of the gateways that a publisher's event is for.
fn targets(load: &Load, publisher: usize, number: u64) -> std::ops::Range<usize> {
    match load.spread {
        Spread::All => 0..load.gateways.len(),
        Spread::Each => {
            let turn = usize::try_from(number).unwrap_or(0).wrapping_add(publisher);
            let place = turn % load.gateways.len();
            place..place + 1
        }
    }
}

/// The body of a request. Events are numbered from 1 within their publisher.
fn body(load: &Load, publisher: usize, sent: u64, at: Duration) -> Bytes {
    let mut text = Vec::with_capacity(load.batch * (load.payload + 160) + 16);
    text.extend_from_slice(b"{\"events\":[");
    for number in (sent..).take(load.batch) {
        if number > sent {
            text.push(b',');
        }
        text.extend_from_slice(b"{\"type\":\"gateway.config.updated\",\"gatewayIds\":[");
        for (nth, place) in targets(load, publisher, number).enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            // Writing to memory can't fail.
            let _ = write!(text, "{comma}\"{}\"", load.gateways[place]);
        }
        text.extend_from_slice(b"],\"payload\":");
        payload::write(&mut text, load.payload, publisher, number + 1, at);
        text.push(b'}');
    }
    text.extend_from_slice(b"]}");
    text.into()
}
