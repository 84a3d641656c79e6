//! Nodes that are killed at random moments: a notification of each change of an alert is sent to each
//! destination, a webhook and a mail server, at least once, in order. Nodes that are not killed send it
//! exactly once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::mail_server::{Kind, MailServer};
use super::receiver::{Answer, Receiver};
use super::{Key, destination, notifications, set_away, settings, watch, watched};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    killed_nodes_send_each_change_in_order_at_least_once
}

const REGIONS: usize = 5;
const DESTINATIONS: [&str; 2] = ["hook", "mail"];
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
        let (hooks, mails) = (story.receiver.all().len(), story.mail.until(0).await.len());
        story.turn(round % 2 == 0).await;
        // While some of the changes have been sent and others have not.
        let more = random.usize(0..REGIONS);
        if random.bool() {
            story.receiver.until(|all| all.len() >= hooks + more).await;
        } else {
            story.mail.until(mails + more).await;
        }
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
    mail: MailServer,
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
        let mail = MailServer::start(Kind::Accepting).await;
        let definition = json!({"kind": "email", "url": format!("smtp://127.0.0.1:{}", mail.port),
            "tls": "none", "from": "alerts@gateways.example", "to": ["ops@example.com"]});
        service.admin().put("/alerts/destinations/mail", &definition).await.success();
        let mut gateways = Vec::new();
        for region in 0..REGIONS {
            let name = format!("g-{region}");
            let id = watched(&service, &name, "away", &format!("r{region}")).await;
            set_away(&service, &id, false).await;
            gateways.push(id);
        }
        watch(&service, "away", &DESTINATIONS).await;
        let mut nodes = vec![service];
        if matches!(backend, Backend::Postgres(_)) {
            let other = nodes[0].another().await;
            nodes.push(other);
        }
        Self { nodes, receiver, mail, gateways, _key: key }
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
            (0..REGIONS).flat_map(|region| DESTINATIONS.map(|to| (region, to))).all(
                |(region, to)| {
                    let of_alert = sent_to(overview, to, &format!("away/r{region}"));
                    of_alert.len() == round + 1
                        && of_alert.iter().all(|it| it["state"] == "delivered")
                },
            )
        };
        self.nodes[0].eventually("/alerts", is_settled).await;
    }

    /// What a destination has accepted: the alert and the notification's id, in this order.
    async fn accepted(&self, destination: &str) -> Vec<(String, String)> {
        if destination == "hook" {
            let accepted = self.receiver.accepted("away");
            let of = |it: &super::receiver::Received| {
                let key = it.json()["data"]["key"].as_str().expect("a key").to_owned();
                (key, it.headers["webhook-id"].clone())
            };
            return accepted.iter().map(of).collect();
        }
        let emails = self.mail.until(0).await;
        let of = |email: &String| {
            let header = |name: &str| {
                let line = email.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name}: {email}")).trim().to_owned()
            };
            let subject = header("Subject: ");
            let key = subject.split_whitespace().find(|word| word.starts_with("away/"));
            let id = header("Message-ID: ");
            let id = id.trim_matches(['<', '>']).split('@').next().unwrap_or_default();
            (key.expect("an alert").trim_end_matches(':').to_owned(), id.to_owned())
        };
        emails.iter().map(of).collect()
    }

    /// Checks what was received against what is on record.
    async fn counts(&self) -> Counts {
        let overview = self.nodes[0].admin().get("/alerts").await.success();
        let mut attempts = BTreeMap::new();
        let mut accepted: BTreeMap<String, i64> = BTreeMap::new();
        for to in DESTINATIONS {
            let received = self.accepted(to).await;
            for (_, id) in &received {
                *accepted.entry(id.clone()).or_default() += 1;
            }
            for region in 0..REGIONS {
                let key = format!("away/r{region}");
                let sent = sent_to(&overview, to, &key);
                let on_record: Vec<String> = sent
                    .iter()
                    .map(|it| {
                        let id = it["id"].as_str().expect("an id").to_owned();
                        attempts.insert(id.clone(), it["attemptCount"].as_i64().expect("a number"));
                        id
                    })
                    .collect();
                let mut seen = BTreeSet::new();
                let of_alert = received.iter().filter(|(other, _)| *other == key);
                let in_order: Vec<String> = of_alert
                    .map(|(_, id)| id.clone())
                    .filter(|id| seen.insert(id.clone()))
                    .collect();
                assert_eq!(in_order, on_record, "{key} to {to}");
                let kinds: Vec<&str> =
                    sent.iter().map(|it| it["event"].as_str().expect("a text")).collect();
                let expected: Vec<&str> =
                    (0..ROUNDS).map(|n| if n % 2 == 0 { "firing" } else { "resolved" }).collect();
                assert_eq!(kinds, expected, "{key} to {to}");
            }
        }
        Counts { accepted, attempts }
    }
}

/// Notifications to a destination about an alert, the oldest first.
fn sent_to(overview: &Value, destination: &str, key: &str) -> Vec<Value> {
    let mut sent = notifications(overview, key);
    sent.retain(|it| it["destination"] == destination);
    sent
}
