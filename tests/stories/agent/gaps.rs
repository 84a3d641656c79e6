//! Events that can't be delivered: the agent ends, hands the gap over, or accepts it.

use serde_json::Value;

use super::product::{Product, status};
use super::{Agent, confirmed, program, publish, written};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    agent_ends_at_a_gap_and_confirms_nothing
    a_gap_is_accepted_or_handed_to_the_program
}

/// An agent's position in the log of one gateway, used for another one.
async fn connect_with_foreign_position(backend: &Backend) -> (Service, String, String, String) {
    let service = backend.start().await;
    let record = "echo \"$GATEWAY_EVENTS_TYPE $GATEWAY_EVENTS_SEQUENCE\" >>journal; cat >last";
    let record = program(&service, "record", record);
    let (other, key) = service.gateway("other").await;
    publish(&service, &other, &["d-1"]).await;
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    confirmed(&service, &other, 1).await;
    agent.stop().await;
    std::fs::remove_file(service.directory().join("journal")).expect("removed");
    // Like a position that was stored over long polling, which does not name the gateway.
    let file = service.directory().join("position");
    let stored = std::fs::read_to_string(&file).expect("a position");
    let mut stored: Value = serde_json::from_str(&stored).expect("JSON");
    assert_eq!(stored["gateway"].take(), other);
    std::fs::write(&file, stored.to_string()).expect("written");
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    (service, id, key, record)
}

#[tokio::test]
async fn a_position_that_names_another_gateway_is_refused_and_kept() {
    let service = Service::start().await;
    let (other, key) = service.gateway("other").await;
    publish(&service, &other, &["d-1"]).await;
    let agent = Agent::start(&service, &key, &["--exec", "true"]);
    confirmed(&service, &other, 1).await;
    agent.stop().await;
    let file = service.directory().join("position");
    let stored = std::fs::read_to_string(&file).expect("a position");
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    for gap in ["exit", "accept"] {
        let mut agent = Agent::start(&service, &key, &["--on-gap", gap, "--exec", "true"]);
        assert_eq!(agent.ended().await, Some(1), "{}", agent.log());
        agent.logged(&format!("the stored position is of gateway {other}")).await;
        agent.logged(&id).await;
    }
    assert_eq!(std::fs::read_to_string(&file).expect("a position"), stored);
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway["confirmed"], 0, "{gateway:#}");
}

async fn agent_ends_at_a_gap_and_confirms_nothing(backend: Backend) {
    let (service, id, key, record) = connect_with_foreign_position(&backend).await;
    for _ in 0..2 {
        let mut agent = Agent::start(&service, &key, &["--exec", &record]);
        assert_eq!(agent.ended().await, Some(4), "{}", agent.log());
        agent.logged("--on-gap accept").await;
        agent.logged("\"reason\":\"epoch\"").await;
    }
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway["confirmed"], 0, "{gateway:#}");
    assert!(!service.directory().join("journal").exists(), "nothing was handed over");
}

async fn a_gap_is_accepted_or_handed_to_the_program(backend: Backend) {
    let (service, id, key, record) = connect_with_foreign_position(&backend).await;
    // First it is not handled.
    let refuse = program(&service, "refuse", "echo 'no snapshot' >&2; exit 1");
    let agent = Agent::start(&service, &key, &["--on-gap", "handle", "--exec", &refuse]);
    agent.logged("no snapshot").await;
    agent.stop().await;
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway["confirmed"], 0, "{gateway:#}");

    let agent = Agent::start(&service, &key, &["--on-gap", "handle", "--exec", &record]);
    let journal = service.directory().join("journal");
    written(&journal, "delivery.gap").await;
    let gap = written(&service.directory().join("last"), "}").await;
    let gap: Value = serde_json::from_str(&gap).expect("JSON");
    assert_eq!(
        (&gap["type"], &gap["reason"]),
        (&"delivery.gap".into(), &"epoch".into()),
        "{gap:#}"
    );
    confirmed(&service, &id, 2).await;
    publish(&service, &id, &["d-3"]).await;
    confirmed(&service, &id, 3).await;
    agent.stop().await;
    let handed = std::fs::read_to_string(&journal).expect("a journal");
    assert!(
        handed.starts_with("delivery.gap ") && handed.ends_with("api.deployed 3\n"),
        "{handed}"
    );
}

#[tokio::test]
async fn operator_accepts_a_gap() {
    let (service, id, key, record) = connect_with_foreign_position(&Backend::Sqlite).await;
    let agent = Agent::start(&service, &key, &["--on-gap", "accept", "--exec", &record]);
    confirmed(&service, &id, 2).await;
    publish(&service, &id, &["d-3"]).await;
    confirmed(&service, &id, 3).await;
    agent.stop().await;
    let journal = std::fs::read_to_string(service.directory().join("journal")).expect("a journal");
    assert!(journal.ends_with("api.deployed 3\n") && !journal.contains("gap"), "{journal}");
}

#[tokio::test]
async fn a_gap_is_posted() {
    let (service, id, key, _) = connect_with_foreign_position(&Backend::Sqlite).await;
    let product = Product::start(|_| status(200, "", "")).await;
    let arguments = ["--on-gap", "handle", "--forward-to", &product.url];
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, 2).await;
    let gap = product.requests().remove(0);
    assert_eq!(gap.header("ce-type"), "delivery.gap");
    assert!(gap.header("ce-id").starts_with("gap-"), "{gap:#?}");
    let frame: Value = serde_json::from_str(&gap.body).expect("JSON");
    assert_eq!(frame["reason"], "epoch", "{frame:#}");
    agent.stop().await;
}

#[tokio::test]
async fn a_fatal_error_is_a_line_of_the_log() {
    let service = Service::start().await;
    for arguments in [["--exec", "/no/such/program"], ["--exec", "/bin/true"]] {
        let mut agent = Agent::start(&service, "gwk_nonsense_nonsense", &arguments);
        assert_eq!(agent.ended().await, Some(1), "{}", agent.log());
    }
    let log = std::fs::read_to_string(service.directory().join("agent.log")).expect("a log");
    let mut errors = 0;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        errors += usize::from(line["level"] == "ERROR");
    }
    assert_eq!(errors, 2, "{log}");
    assert!(log.contains("/no/such/program") && log.contains("the key is not valid"), "{log}");
}
