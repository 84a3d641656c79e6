//! Publishers that retry until they know the outcome: by HTTP at any node, and by transactions of
//! another program.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gateway_events::client::CancellationToken;
use gateway_events::client::api::ApiError;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::inbox_program::{InboxProgram, Row};
use super::{Address, Cluster, Sequences, string};
use crate::support::{JsonApi, deployed};

/// What one publisher published, in order.
#[derive(Default)]
pub(super) struct Published {
    pub(super) accepted: Vec<Accepted>,
    pub(super) stats: RequestStats,
}

impl Published {
    /// The number of events that all of them published.
    pub(super) fn count(all: &[Self]) -> usize {
        all.iter().map(|publisher| publisher.accepted.len()).sum()
    }

    /// The answers that all of them received.
    pub(super) fn stats(all: &[Self]) -> RequestStats {
        let mut stats = RequestStats::default();
        for publisher in all {
            stats.add(&publisher.stats);
        }
        stats
    }

    /// What an inbox program committed.
    pub(super) fn committed(rows: Vec<Row>) -> Self {
        let accepted = rows.into_iter().map(accepted_row).collect();
        Self { accepted, stats: RequestStats::default() }
    }

    /// Adds the results in a 202.
    pub(super) fn add(&mut self, results: &[Value]) {
        self.accepted.extend(results.iter().map(accepted_result));
    }
}

/// An event that was accepted.
pub(super) struct Accepted {
    pub(super) id: String,
    gateways: BTreeSet<String>,
    /// Its sequences, if the publisher knows them.
    pub(super) sequences: Option<Sequences>,
}

impl Accepted {
    pub(super) fn targets(&self, gateway: &str) -> bool {
        self.gateways.contains(gateway)
    }
}

/// All publishers of a test.
pub(super) struct Publishers {
    stop: CancellationToken,
    running: JoinSet<Vec<Published>>,
}

/// The state of a publisher.
struct Publisher {
    name: String,
    gateways: Arc<[String]>,
    random: fastrand::Rng,
    /// The interval of its requests. It generates load; no test waits for time to pass.
    pace: Interval,
    stop: CancellationToken,
}

impl Publishers {
    pub(super) fn none() -> Self {
        Self { stop: CancellationToken::new(), running: JoinSet::new() }
    }

    fn publisher(
        &self,
        name: String,
        gateways: &Arc<[String]>,
        random: &mut fastrand::Rng,
        pace: Duration,
    ) -> Publisher {
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (gateways, random) = (Arc::clone(gateways), random.fork());
        Publisher { name, gateways, random, pace, stop: self.stop.clone() }
    }

    /// Publishers by HTTP.
    pub(super) fn by_http(
        &mut self,
        count: usize,
        cluster: &Cluster,
        gateways: &Arc<[String]>,
        random: &mut fastrand::Rng,
        pace: Duration,
    ) {
        for number in 0..count {
            let publisher = self.publisher(format!("http-{number}"), gateways, random, pace);
            let client = RetryingClient::new(&cluster.addresses, number);
            self.running.spawn(publisher.by_http(client));
        }
    }

    /// Programs that insert into the inbox.
    pub(super) fn by_inbox(
        &mut self,
        count: usize,
        cluster: &Cluster,
        gateways: &Arc<[String]>,
        random: &mut fastrand::Rng,
        pace: Duration,
    ) {
        for number in 0..count {
            let publisher = self.publisher(format!("inbox-{number}"), gateways, random, pace);
            self.running.spawn(publisher.by_inbox(InboxProgram::new(cluster)));
        }
    }

    /// Stops all publishers after their current event, and returns what they published.
    pub(super) async fn finish(mut self) -> Vec<Published> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(published) = self.running.join_next().await {
            all.extend(published.expect("no publisher panicked"));
        }
        all
    }
}

/// Sends a request to one node after another until one answers with 202.
pub(super) struct RetryingClient {
    addresses: Arc<[Address]>,
    node: usize,
    pub(super) stats: RequestStats,
}

/// Counts of requests that were not answered with 202.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestStats {
    /// Answered with 503 and a Retry-After.
    pub(super) refused: usize,
    /// Unreachable, or disconnected before an answer.
    pub(super) unanswered: usize,
    /// Unanswered requests that had been stored.
    pub(super) stored: usize,
    /// The longest time to an answer.
    pub(super) slowest: Duration,
}

impl RequestStats {
    fn add(&mut self, other: &Self) {
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.stored += other.stored;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl RetryingClient {
    pub(super) fn new(addresses: &Arc<[Address]>, node: usize) -> Self {
        Self { addresses: Arc::clone(addresses), node, stats: RequestStats::default() }
    }

    fn api(&self) -> &JsonApi {
        &self.addresses[self.node % self.addresses.len()].api
    }

    /// Publishes a request that can safely be repeated: its events have ids, or it has an
    /// idempotency key.
    pub(super) async fn publish(
        &mut self,
        body: &Value,
        key: Option<&str>,
        pace: &mut Interval,
    ) -> Value {
        loop {
            let mut request = self.api().request(Method::POST, "/events").json(body);
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            let started = Instant::now();
            let answer = self.api().send(request).await;
            self.stats.slowest = self.stats.slowest.max(started.elapsed());
            self.node += 1;
            match answer {
                Ok(answer) => {
                    self.node -= 1;
                    return answer;
                }
                Err(ApiError::Refused(problem)) => {
                    assert_eq!(problem.status, 503, "{problem:?}");
                    assert!(problem.retry_after_secs.is_some(), "{problem:?}");
                    self.stats.refused += 1;
                }
                Err(ApiError::Unreachable { .. }) => {
                    self.stats.unanswered += 1;
                    let first = body.get(0).unwrap_or(body);
                    self.stats.stored += usize::from(self.is_stored(&first["id"]).await);
                }
                Err(other) => panic!("{other}"),
            }
            pace.tick().await;
        }
    }

    /// Whether another node has stored the event of an unanswered request.
    async fn is_stored(&self, id: &Value) -> bool {
        match id.as_str() {
            Some(id) => self.api().get(&format!("/events/{id}")).await.is_ok(),
            None => false,
        }
    }
}

impl Publisher {
    /// Chooses one gateway, sometimes several, and rarely all.
    fn choose_gateways(&mut self) -> Vec<String> {
        let count = match self.random.u8(0..60) {
            0 => self.gateways.len(),
            1..20 => self.random.usize(2..4),
            _ => 1,
        };
        self.random.choose_multiple(self.gateways.iter(), count).into_iter().cloned().collect()
    }

    async fn by_http(mut self, mut client: RetryingClient) -> Vec<Published> {
        let mut published = Published::default();
        for number in 0.. {
            self.pace.tick().await;
            if self.stop.is_cancelled() {
                break;
            }
            let is_batch = self.random.bool();
            let batch: Vec<_> = (0..if is_batch { self.random.usize(1..5) } else { 1 })
                .map(|part| self.event(number, part, is_batch))
                .collect();
            let key = format!("{}-{number}", self.name);
            let (body, key) = if is_batch {
                (json!(batch), Some(key.as_str()))
            } else {
                (batch[0].clone(), None)
            };
            let answer = client.publish(&body, key, &mut self.pace).await;
            let single = [answer.clone()];
            let results =
                if is_batch { answer["results"].as_array().expect("results") } else { &single[..] };
            assert_eq!(results.len(), batch.len(), "{answer}");
            published.add(results);
        }
        published.stats = client.stats;
        vec![published]
    }

    /// An event with an id, or in a batch that has an idempotency key, or with both.
    fn event(&mut self, number: usize, part: usize, is_batch: bool) -> Value {
        let to = self.choose_gateways();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        let mut event = deployed(&to, &format!("{}-{number}-{part}", self.name));
        if to.len() == self.gateways.len() {
            event.as_object_mut().expect("an object").remove("gatewayIds");
            event["target"] = json!({"all": true});
        }
        if !is_batch || number.is_multiple_of(2) {
            event["id"] = json!(format!("{}-{number}-{part}", self.name));
        }
        event
    }

    async fn by_inbox(mut self, mut program: InboxProgram) -> Vec<Published> {
        let mut published = Published::default();
        let mut long_transactions = JoinSet::new();
        for number in 0.. {
            self.pace.tick().await;
            if self.stop.is_cancelled() {
                break;
            }
            let rows: Vec<_> = (0..self.random.usize(1..6))
                .map(|part| (format!("{}-{number}-{part}", self.name), self.choose_gateways()))
                .collect();
            match self.random.u8(0..10) {
                0 => program.roll_back(&rows).await,
                1 => {
                    // Held open in parallel with later transactions, for some seconds.
                    let mut other = program.another();
                    let ticks = self.random.u32(5..25);
                    let mut pace = tokio::time::interval(self.pace.period());
                    long_transactions.spawn(async move {
                        other.commit(&rows, ticks, &mut pace).await;
                        Published::committed(rows)
                    });
                }
                _ => {
                    program.commit(&rows, 0, &mut self.pace).await;
                    published.accepted.extend(rows.into_iter().map(accepted_row));
                }
            }
        }
        let mut all = long_transactions.join_all().await;
        all.push(published);
        all
    }
}

/// One event of an answer with 202.
fn accepted_result(result: &Value) -> Accepted {
    let deliveries = result["deliveries"].as_array().expect("deliveries");
    let sequences: Sequences = deliveries
        .iter()
        .map(|delivery| {
            (string(delivery, "gatewayId"), delivery["sequence"].as_i64().expect("a number"))
        })
        .collect();
    let gateways = sequences.keys().cloned().collect();
    Accepted { id: string(result, "id"), gateways, sequences: Some(sequences) }
}

fn accepted_row((id, gateways): (String, Vec<String>)) -> Accepted {
    Accepted { id, gateways: gateways.into_iter().collect(), sequences: None }
}
