//! SIGKILL of the service and the client together: a client that ignores repeats has applied each
//! event exactly once, in order. `CLIENT_KILL_ROUNDS=50` repeats it more often.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Child;

use super::recorder::publish;
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, TEST_TIMEOUT};

on_both! {
    over_websocket
    over_server_sent_events
    over_long_polling
    over_grpc
}

async fn over_websocket(backend: Backend) {
    each_event_is_applied_once_although_service_and_client_are_killed(backend, "websocket").await;
}

async fn over_server_sent_events(backend: Backend) {
    each_event_is_applied_once_although_service_and_client_are_killed(backend, "sse").await;
}

async fn over_long_polling(backend: Backend) {
    each_event_is_applied_once_although_service_and_client_are_killed(backend, "long-poll").await;
}

async fn over_grpc(backend: Backend) {
    each_event_is_applied_once_although_service_and_client_are_killed(backend, "grpc").await;
}

const ROUNDS: i64 = 5;
const PER_ROUND: i64 = 150;
/// More than the window is never repeated.
const WINDOW: i64 = 64;

async fn each_event_is_applied_once_although_service_and_client_are_killed(
    backend: Backend,
    transport: &str,
) {
    let rounds = std::env::var("CLIENT_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let mut service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let (id, key) = service.gateway("one").await;
    let journal = service.directory().join("journal.jsonl");
    let mut repeats = 0;
    for round in 0..rounds {
        let mut client = start(&service, &key, &journal, transport);
        publish(&service, &id, PER_ROUND).await;
        // Somewhere in the middle of the round.
        let until = round * PER_ROUND + fastrand::i64(1..PER_ROUND);
        journal_reaches(&journal, until).await;
        if fastrand::bool() {
            client.kill().await.expect("it ran");
            service.kill().await;
        } else {
            service.kill().await;
            client.kill().await.expect("it ran");
        }
        service.restart().await;
    }
    let total = rounds * PER_ROUND;
    let mut client = start(&service, &key, &journal, transport);
    journal_reaches(&journal, total).await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == total).await;
    client.kill().await.expect("it ran");
    let mut applied = 0;
    for sequence in sequences(&journal) {
        if sequence <= applied {
            repeats += 1;
            assert!(sequence > applied - WINDOW, "{sequence} was repeated after {applied}");
        } else {
            assert_eq!(sequence, applied + 1, "each event in order");
            applied = sequence;
        }
    }
    assert_eq!(applied, total);
    assert!(repeats <= rounds * WINDOW, "{repeats} repeats");
}

/// A client that appends each event to a file, and stores its position beside it.
fn start(service: &Service, key: &str, journal: &Path, transport: &str) -> Child {
    let file = File::options().create(true).append(true).open(journal).expect("a journal");
    let mut command =
        service.command("listen --as-gateway --yes --reliable --instance a --json --transport");
    command
        .args([transport, "--position"])
        .arg(journal.with_file_name("position"))
        .env("GATEWAY_EVENTS_KEY", key)
        .stdout(file)
        .stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// The sequences in the journal. A line that a kill has cut is ignored.
fn sequences(journal: &Path) -> Vec<i64> {
    let text = std::fs::read_to_string(journal).expect("a journal");
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| event["sequence"].as_i64().expect("a sequence"))
        .collect()
}

async fn journal_reaches(journal: &Path, sequence: i64) {
    let mut polls = tokio::time::interval(std::time::Duration::from_millis(10));
    let reached = tokio::time::timeout(2 * TEST_TIMEOUT, async {
        while sequences(journal).last().is_none_or(|last| *last < sequence) {
            polls.tick().await;
        }
    });
    let last = sequences(journal).last().copied();
    assert!(reached.await.is_ok(), "{sequence} was not applied; at last {last:?}");
}
