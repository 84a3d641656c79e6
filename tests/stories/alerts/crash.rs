//! Nodes that are killed at random moments: a notification of each change of an alert is sent at least
//! once, in order. Nodes that are not killed send it exactly once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::receiver::{Answer, Receiver};
use super::{Key, destination, notifications, set_away, settings, watch, watched};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    killed_nodes_send_each_change_in_order_at_least_once
}

const REGIONS: usize = 5;
const ROUNDS: usize = 4;

#[tokio::test]
async fn two_nodes_send_each_change_exactly_once() {
    let backend = Backend::postgres();
    let story = Story::begin(&backend).await;
    for round in 0..ROUNDS {
        story.turn(round % 2 == 0).await;
        story.settled(round).await;
    }
    let counts = story.counts().await;
    for (id, times) in &counts.accepted {
        assert_eq!(*times, 1, "{id} was sent more than once");
    }
}

async fn killed_nodes_send_each_change_in_order_at_least_once(backend: Backend) {
    let mut story = Story::begin(&backend).await;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let before = story.receiver.all().len();
        story.turn(round % 2 == 0).await;
        // While some of the changes have been sent and others have not.
        let wanted = before + random.usize(0..REGIONS);
        story.receiver.until(|all| all.len() >= wanted).await;
        let victim = random.usize(0..story.nodes.len());
        story.nodes[victim].kill().await;
        story.nodes[victim].restart().await;
        story.settled(round).await;
    }
    let counts = story.counts().await;
    for (id, times) in &counts.accepted {
        let attempts = counts.attempts[id];
        assert!(
            *times <= attempts,
            "seed {seed}: {id} was sent {times} times in {attempts} attempts"
        );
    }
}

struct Story {
    nodes: Vec<Service>,
    receiver: Receiver,
    gateways: Vec<String>,
    _key: Key,
}

/// How often notifications were accepted and attempted, by id.
struct Counts {
    accepted: BTreeMap<String, i64>,
    attempts: BTreeMap<String, i64>,
}

impl Story {
    async fn begin(backend: &Backend) -> Self {
        let key = Key::new();
        let path = key.path();
        let all = [settings(&path).as_slice(), &[("ALERTS__TIMEOUT", "1s")]].concat();
        let service = backend.start_with(&all).await;
        let receiver = Receiver::start(Answer::Status(200, "")).await;
        destination(&service, "hook", "webhook", &receiver.url("/")).await;
        let mut gateways = Vec::new();
        for region in 0..REGIONS {
            let name = format!("g-{region}");
            let id = watched(&service, &name, "away", &format!("r{region}")).await;
            set_away(&service, &id, false).await;
            gateways.push(id);
        }
        watch(&service, "away", &["hook"]).await;
        let mut nodes = vec![service];
        if matches!(backend, Backend::Postgres(_)) {
            let other = nodes[0].another().await;
            nodes.push(other);
        }
        Self { nodes, receiver, gateways, _key: key }
    }

    /// Makes all gateways away, or none.
    async fn turn(&self, is_away: bool) {
        for id in &self.gateways {
            set_away(&self.nodes[0], id, is_away).await;
        }
    }

    /// Waits until all changes of this round and those before have been delivered.
    async fn settled(&self, round: usize) {
        let is_settled = |overview: &Value| {
            (0..REGIONS).all(|region| {
                let of_alert = notifications(overview, &format!("away/r{region}"));
                of_alert.len() == round + 1 && of_alert.iter().all(|it| it["state"] == "delivered")
            })
        };
        self.nodes[0].eventually("/alerts", is_settled).await;
    }

    /// Checks what was received against what is on record.
    async fn counts(&self) -> Counts {
        let overview = self.nodes[0].admin().get("/alerts").await.success();
        let received = self.receiver.accepted("away");
        let mut attempts = BTreeMap::new();
        let mut accepted: BTreeMap<String, i64> = BTreeMap::new();
        for message in &received {
            *accepted.entry(message.headers["webhook-id"].clone()).or_default() += 1;
        }
        for region in 0..REGIONS {
            let key = format!("away/r{region}");
            let on_record: Vec<String> = notifications(&overview, &key)
                .iter()
                .map(|it| {
                    let id = it["id"].as_str().expect("an id").to_owned();
                    attempts.insert(id.clone(), it["attemptCount"].as_i64().expect("a number"));
                    id
                })
                .collect();
            let mut seen = BTreeSet::new();
            let in_order: Vec<String> = received
                .iter()
                .filter(|it| it.json()["data"]["key"] == key.as_str())
                .map(|it| it.headers["webhook-id"].clone())
                .filter(|id| seen.insert(id.clone()))
                .collect();
            assert_eq!(in_order, on_record, "{key}");
            let kinds: Vec<String> = notifications(&overview, &key)
                .iter()
                .map(|it| it["event"].as_str().expect("a text").to_owned())
                .collect();
            let expected: Vec<&str> =
                (0..ROUNDS).map(|n| if n % 2 == 0 { "firing" } else { "resolved" }).collect();
            assert_eq!(kinds, expected, "{key}");
        }
        Counts { accepted, attempts }
    }
}
