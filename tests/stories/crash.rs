//! SIGKILL under load: every accepted event arrives, in order, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    every_accepted_event_arrives_in_order_after_a_kill
}

const ROUNDS: u64 = 20;
const PUBLISHERS: u64 = 4;
const LARGE: usize = 100_000;

/// What one gateway received, and what it should receive: event ids by sequence.
#[derive(Default)]
struct Log {
    accepted: BTreeMap<i64, String>,
    received: BTreeMap<i64, String>,
}

struct Gateway {
    id: String,
    key: String,
    log: Log,
}

/// What a publisher knows at the kill.
#[derive(Default)]
struct Published {
    /// Ids of published events, answered or not.
    tried: BTreeSet<String>,
    /// Gateway, sequence and id of accepted events.
    accepted: Vec<(String, i64, String)>,
}

#[expect(clippy::print_stdout, reason = "the seeds are shown when the test fails")]
async fn every_accepted_event_arrives_in_order_after_a_kill(backend: Backend) {
    let first = std::env::var("STORY_SEED").ok().and_then(|seed| seed.parse().ok());
    // Gateways reconnect in every round, which must not be rate-limited.
    let mut service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let mut fleet = Vec::new();
    for name in ["one", "cluster", "rare"] {
        let (id, key) = service.gateway(name).await;
        fleet.push(Gateway { id, key, log: Log::default() });
    }
    let mut tried = BTreeSet::new();
    for round in 0..ROUNDS {
        let seed = first.unwrap_or_else(|| fastrand::u64(..));
        // Printed if the test fails.
        println!("round {round}: STORY_SEED={seed}");
        one_round(&mut service, &mut fleet, &mut tried, round, seed).await;
        service.restart().await;
    }
    for gateway in &mut fleet {
        let path = format!("/gateways/{}", gateway.id);
        let shown = service.api().get(&path).await.expect("the gateway");
        let head = shown["head"].as_i64().expect("a head");
        let mut last = service.connected(&gateway.key).await;
        let log = &mut gateway.log;
        while log.received.last_key_value().is_none_or(|(sequence, _)| *sequence < head) {
            log.keep(&[last.next().await.expect("the rest")]);
        }
        let last = last.serve();
        service.eventually(&path, |gateway| gateway["confirmed"] == head).await;
        last.abort();
        log.check(head, &tried);
    }
    service.kill().await;
    let report = backend.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

/// Publishes to connected gateways, and kills the service meanwhile.
async fn one_round(
    service: &mut Service,
    fleet: &mut [Gateway],
    tried: &mut BTreeSet<String>,
    round: u64,
    seed: u64,
) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut listeners = Vec::new();
    for (place, sockets) in [1, 2, usize::from(random.bool())].into_iter().enumerate() {
        for _ in 0..sockets {
            let socket = service.connected(&fleet[place].key).await;
            listeners.push((place, socket.serve()));
        }
    }
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let name = format!("{round}-{publisher}");
            let ids = fleet.iter().map(|gateway| gateway.id.clone()).collect();
            let random = random.fork();
            tokio::spawn(publish(service.api(), name, ids, random, answers.clone()))
        })
        .collect();
    // The moment of the kill is random.
    for _ in 0..random.u64(1..100) {
        answered.recv().await.expect("publishers publish");
    }
    service.kill().await;
    for publisher in publishers {
        let published = publisher.await.expect("a publisher");
        tried.extend(published.tried);
        for (gateway, sequence, event) in published.accepted {
            let to = fleet.iter_mut().find(|one| one.id == gateway).expect("one of the fleet");
            to.log.accepted.insert(sequence, event);
        }
    }
    for (place, listener) in listeners {
        fleet[place].log.keep(&listener.await.expect("the listener"));
    }
}

/// Publishes one event or a batch at a time, some of them large, until the kill.
async fn publish(
    api: crate::support::JsonApi,
    name: String,
    gateways: Vec<String>,
    mut random: fastrand::Rng,
    answers: UnboundedSender<()>,
) -> Published {
    let mut published = Published::default();
    for number in 0.. {
        let mut batch = Vec::new();
        for part in 0..random.usize(1..4) {
            let id = format!("{name}-{number}-{part}");
            let to = match random.usize(0..4) {
                3 => gateways.iter().map(String::as_str).collect(),
                one => vec![gateways[one % gateways.len()].as_str()],
            };
            let mut event = deployed(&to, &id);
            event["id"] = json!(id);
            if random.u8(0..20) == 0 {
                event["payload"]["note"] = json!("x".repeat(LARGE));
            }
            published.tried.insert(id);
            batch.push(event);
        }
        // The kill ends this publisher.
        let Ok(answer) = api.post("/events", &json!(batch)).await else {
            return published;
        };
        for appended in answer["results"].as_array().expect("results") {
            let id = appended["id"].as_str().expect("an id");
            for delivery in appended["deliveries"].as_array().expect("deliveries") {
                let gateway = delivery["gatewayId"].as_str().expect("a gateway").to_owned();
                let sequence = delivery["sequence"].as_i64().expect("a number");
                published.accepted.push((gateway, sequence, id.to_owned()));
            }
        }
        // After the kill the receiver is gone.
        let _ = answers.send(());
    }
    published
}

impl Log {
    /// Adds what one connection received: in order, without a gap, and each sequence with the same
    /// event as before.
    fn keep(&mut self, events: &[Value]) {
        let numbers: Vec<i64> =
            events.iter().map(|event| event["sequence"].as_i64().expect("a number")).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        for (number, event) in numbers.iter().zip(events) {
            let id = event["eventId"].as_str().expect("an id").to_owned();
            let known = self.received.entry(*number).or_insert_with(|| id.clone());
            assert_eq!(*known, id, "one number, two events");
        }
    }

    /// Checks that the whole log has arrived: what was accepted, what was committed although the kill
    /// came before the answer, and nothing that was not published.
    fn check(&self, head: i64, tried: &BTreeSet<String>) {
        let numbers: Vec<i64> = self.received.keys().copied().collect();
        assert_eq!(numbers, (1..=head).collect::<Vec<_>>());
        for (sequence, event) in &self.accepted {
            assert_eq!(self.received.get(sequence), Some(event), "accepted as {sequence}");
        }
        let mut once = BTreeSet::new();
        for event in self.received.values() {
            assert!(tried.contains(event), "{event} was never published");
            assert!(once.insert(event), "{event} has two numbers");
        }
    }
}
