//! SIGKILL of the service and the agent at random: each event is handed over at least once, in order,
//! and none is skipped; only what has succeeded is confirmed, and what was rejected is on record as failed.
//! `AGENT_KILL_ROUNDS=50` repeats it more often.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;

use super::product::{Product, status};
use super::{Agent, program, publish, until};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    with_a_program
    with_an_address
}

const ROUNDS: i64 = 4;
const PER_ROUND: i64 = 30;
/// Every tenth event is refused at first, which is no success. Another tenth is rejected.
const RECORD: &str = r#"
case $GATEWAY_EVENTS_SEQUENCE in
*0) [ -e "$GATEWAY_EVENTS_SEQUENCE.refused" ] || { touch "$GATEWAY_EVENTS_SEQUENCE.refused"; exit 75; } ;;
esac
echo "$GATEWAY_EVENTS_SEQUENCE" >>journal
case $GATEWAY_EVENTS_SEQUENCE in
*5) echo "event $GATEWAY_EVENTS_SEQUENCE is refused" >&2; exit 65 ;;
esac"#;

/// The successes and rejections, as the product has recorded them.
trait Successes {
    fn list(&self) -> Vec<i64>;
}

impl Successes for PathBuf {
    fn list(&self) -> Vec<i64> {
        let text = std::fs::read_to_string(self).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Successes for Product {
    fn list(&self) -> Vec<i64> {
        self.map(|it| (!is_refused(it.sequence(), it.times)).then(|| it.sequence()))
    }
}

fn is_refused(sequence: i64, times: usize) -> bool {
    sequence % 10 == 0 && times == 1
}

fn is_rejected(sequence: i64) -> bool {
    sequence % 10 == 5
}

async fn with_a_program(backend: Backend) {
    let service = started(&backend).await;
    let record = program(&service, "record", RECORD);
    let journal = service.directory().join("journal");
    killed_at_random(service, &["--exec", &record], &journal).await;
}

async fn with_an_address(backend: Backend) {
    let service = started(&backend).await;
    let product = Product::start(|request| {
        let sequence = request.sequence();
        if is_refused(sequence, request.times) {
            status(503, "", "")
        } else if is_rejected(sequence) {
            status(422, "", &format!("event {sequence} is refused"))
        } else {
            status(200, "", "")
        }
    })
    .await;
    let url = product.url.clone();
    killed_at_random(service, &["--forward-to", &url], &product).await;
}

async fn started(backend: &Backend) -> Service {
    let settings = [("LIMITS__ATTEMPTS_PER_MINUTE", "1000"), ("DELIVERY__MAX_ATTEMPTS", "1000")];
    backend.start_with(&settings).await
}

async fn killed_at_random(mut service: Service, arguments: &[&str], successes: &impl Successes) {
    let rounds = std::env::var("AGENT_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let (id, key) = service.gateway("one").await;
    let deployments: Vec<String> = (0..PER_ROUND).map(|number| number.to_string()).collect();
    let deployments: Vec<&str> = deployments.iter().map(String::as_str).collect();
    for round in 0..rounds {
        let agent = Agent::start(&service, &key, arguments);
        publish(&service, &id, &deployments).await;
        reached(&agent, successes, round * PER_ROUND + fastrand::i64(1..PER_ROUND)).await;
        match fastrand::u8(..3) {
            0 => agent.kill().await,
            1 => {
                service.kill().await;
                agent.kill().await;
                service.restart().await;
            }
            _ => {
                agent.kill().await;
                service.kill().await;
                service.restart().await;
            }
        }
        // A program that outlived its agent may still succeed, so this comes first.
        let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
        let confirmed = gateway["confirmed"].as_i64().expect("a sequence");
        let succeeded = successes.list().into_iter().max().unwrap_or(0);
        assert!(confirmed <= succeeded, "{confirmed} is confirmed, and {succeeded} has succeeded");
    }
    let total = rounds * PER_ROUND;
    let agent = Agent::start(&service, &key, arguments);
    reached(&agent, successes, total).await;
    super::confirmed(&service, &id, total).await;
    agent.stop().await;
    let mut last = 0;
    for sequence in successes.list() {
        assert!(sequence <= last + 1, "{sequence} came after {last}");
        last = last.max(sequence);
    }
    assert_eq!(last, total);
    let rejected: Vec<i64> = (1..=total).filter(|it| is_rejected(*it)).collect();
    let failed = format!("/deliveries?gatewayId={id}&status=failed&reason=invalid&limit=1000");
    let page = service.eventually(&failed, |page| page["count"] == rejected.len()).await;
    for row in page["list"].as_array().expect("rows") {
        let sequence = row["sequence"].as_i64().expect("a sequence");
        assert!(is_rejected(sequence) && row["state"] == "failed", "{row:#}");
        let attempts = row["attempts"].as_array().expect("attempts");
        let detail = format!("event {sequence} is refused");
        let has_detail = |it: &Value| it["detail"].as_str().is_some_and(|it| it.contains(&detail));
        assert!(attempts.iter().any(has_detail), "{row:#}");
    }
    let found = service.admin().get(&format!("/gateways/{id}/diagnosis")).await.success();
    assert_eq!(found["deadLetters"], rejected.len(), "nothing else has failed");
}

async fn reached(agent: &Agent, successes: &impl Successes, sequence: i64) {
    let last = AtomicI64::new(0);
    let enough = || {
        last.store(successes.list().into_iter().max().unwrap_or(0), Ordering::Relaxed);
        last.load(Ordering::Relaxed) >= sequence
    };
    let what = || {
        let (last, log) = (last.load(Ordering::Relaxed), agent.log());
        let recent = log.floor_char_boundary(log.len().saturating_sub(10_000));
        format!("{sequence} succeeds; at last {last}; the agent says: {}", &log[recent..])
    };
    until(enough, what).await;
}
