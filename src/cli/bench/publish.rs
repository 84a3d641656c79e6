//! Publishers: each has a connection of its own and sends one request after
//! the other, as fast as answers come or when each is due.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use gateway_events::client::kept::Kept;
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::check::Numbers;
use super::ground::{Ground, Target};
use super::latency::Latencies;
use super::pace;

/// How long to leave a service alone that has no room.
const BREATHER: Duration = Duration::from_millis(20);

/// When enough was published.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Time is over.
    Elapsed(Duration),
    /// So many events were sent, or a few less than a batch more.
    Sent(u64),
}

/// Whom each event is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    /// One gateway, in turn.
    Each,
    /// All of them.
    All,
}

/// What is published.
pub(super) struct Load {
    pub(super) gateways: Arc<[String]>,
    pub(super) spread: Spread,
    pub(super) publishers: usize,
    pub(super) batch: usize,
    pub(super) payload: usize,
    /// Events per second; as many as are accepted if there is none.
    pub(super) rate: Option<f64>,
    pub(super) until: Until,
    /// When time began, as the payloads count it.
    pub(super) origin: Instant,
}

/// What came of it.
pub(super) struct Published {
    /// Numbers given, by gateway.
    pub(super) numbers: Vec<Numbers>,
    /// Events accepted.
    pub(super) events: u64,
    /// Requests that found no room (503 and the like).
    pub(super) refused: u64,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
    /// From when a request was due (or sent, if none was) to its answer.
    pub(super) requests: Latencies,
    /// By how much the generator itself was late.
    pub(super) lateness: Latencies,
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
    kept: Kept,
    due: Option<UnboundedReceiver<Instant>>,
    sent: u64,
    numbers: Vec<Numbers>,
    refused: u64,
}

/// Publishes; `Ok` if every request was accepted in the end, and the numbers
/// that were given are good.
pub(super) async fn publish(
    ground: &Ground<'_>,
    target: &Target,
    load: Load,
) -> anyhow::Result<Published> {
    let publishers = load.publishers;
    let mut connections = Vec::new();
    for index in 0..publishers {
        let kept = Kept::connect(&target.endpoint(index), &target.token).await;
        connections.push(kept.context("a publisher could not connect")?);
    }
    let started = Instant::now();
    let mut due = match (load.rate, load.until) {
        (Some(rate), Until::Elapsed(time)) => {
            pace::start(started, rate / super::report::float(load.batch as u64), time, publishers)
        }
        _ => Vec::new(),
    }
    .into_iter();
    let shared = Arc::new(Shared {
        load,
        accepted: AtomicU64::new(0),
        claimed: AtomicU64::new(0),
        requests: Latencies::new(),
        lateness: Latencies::new(),
    });
    let mut tasks = JoinSet::new();
    for (index, kept) in connections.into_iter().enumerate() {
        let numbers = vec![Numbers::default(); shared.load.gateways.len()];
        let shared = Arc::clone(&shared);
        let due = due.next();
        let publisher = Publisher { index, shared, kept, due, sent: 0, numbers, refused: 0 };
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
            _ = ticks.tick() => ground.progress.at(shared.accepted.load(Ordering::Relaxed)),
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
struct Answer<'a> {
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
                let (status, answer) = self.kept.post("/events", body.clone()).await?;
                match status {
                    202 => break answer,
                    429 | 503 => {
                        self.refused += 1;
                        tokio::time::sleep(BREATHER).await;
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

    /// When the next request is due; `None` at the end.
    async fn next(&mut self, started: Instant) -> Option<Instant> {
        if let Some(due) = &mut self.due {
            return due.recv().await;
        }
        let batch = self.shared.load.batch as u64;
        let goes_on = match self.shared.load.until {
            Until::Elapsed(time) => started.elapsed() < time,
            Until::Sent(events) => self.shared.claimed.fetch_add(batch, Ordering::Relaxed) < events,
        };
        goes_on.then(Instant::now)
    }

    /// Every event of the request has a number at each of its gateways.
    fn account(&mut self, answer: &Bytes) -> anyhow::Result<()> {
        let unreadable = "an answer to publishing can't be read";
        let answer: Answer<'_> = serde_json::from_slice(answer).context(unreadable)?;
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
                    .with_context(|| format!("stored for {}, unasked", delivery.gateway_id))?;
                self.numbers[place].take(delivery.sequence).map_err(anyhow::Error::msg)?;
            }
        }
        self.shared.accepted.fetch_add(load.batch as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The places of those whom a publisher's event is for.
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

/// A request. Events are numbered from 1 within their publisher.
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
            // Into memory: nothing that can fail.
            let _ = write!(text, "{comma}\"{}\"", load.gateways[place]);
        }
        text.extend_from_slice(b"],\"payload\":");
        payload(&mut text, load.payload, publisher, number + 1, at);
        text.push(b'}');
    }
    text.extend_from_slice(b"]}");
    text.into()
}

/// A payload of about the wanted length.
fn payload(text: &mut Vec<u8>, bytes: usize, publisher: usize, number: u64, at: Duration) {
    let start = text.len();
    let _ = write!(
        text,
        "{{\"configType\":\"bench\",\"action\":\"update\",\"publisher\":{publisher},\"number\":{number},\"at\":{},\"filler\":\"",
        at.as_nanos()
    );
    let filled = (start + bytes).saturating_sub(2);
    if text.len() < filled {
        text.resize(filled, b'x');
    }
    text.extend_from_slice(b"\"}");
}

/// One payload, for who needs no other.
pub(super) fn payload_text(bytes: usize) -> String {
    let mut text = Vec::new();
    payload(&mut text, bytes, 0, 1, Duration::ZERO);
    String::from_utf8_lossy(&text).into_owned()
}
