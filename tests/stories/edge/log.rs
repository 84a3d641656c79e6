//! What an operator finds in the log: who missed what, whose connection a crash
//! cut, and who was refused.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{PATIENCE, Service, deployed};

/// Waits for so many lines of the log, which is JSON, that satisfy.
pub(crate) async fn lines(
    service: &Service,
    count: usize,
    satisfies: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let mut found = Vec::new();
    let enough = tokio::time::timeout(PATIENCE, async {
        while found.len() < count {
            looks.tick().await;
            let log = service.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            found = lines.filter(|line| satisfies(line)).collect();
        }
    })
    .await;
    assert!(enough.is_ok(), "{} of {count} lines\n{}", found.len(), service.log());
    found
}

#[tokio::test]
async fn what_a_gateway_missed_is_logged_with_its_name_and_numbers() {
    let service = Service::start().await;
    let (one, _) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    let batch: Vec<Value> =
        (0..3).map(|number| deployed(&[&one], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    service.api().post("/events", &deployed(&[&other], "d")).await.expect("accepted");
    for (gateway, last) in [(&one, "3"), (&other, "1")] {
        let of = |line: &Value| line["reason"] == "not_connected" && line["gateway"] == **gateway;
        let line = lines(&service, 1, of).await.remove(0);
        assert_eq!((&line["first"], &line["last"]), (&json!("1"), &json!(last)), "{line:#}");
        assert_eq!(line["outcome"], "failed", "{line:#}");
    }
}

#[tokio::test]
async fn each_connection_that_a_crash_cut_is_logged_once() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let (_first, _second) = (service.connected(&key).await, service.connected(&key).await);
    let path = format!("/gateways/{id}/connections");
    let before = service.eventually(&path, |page| page["count"] == 2).await;
    service.kill().await;
    service.restart().await;
    let lost = |line: &Value| line["reason"] == "node_lost";
    let found = lines(&service, 2, lost).await;
    assert_eq!(found.len(), 2);
    for connection in before["list"].as_array().expect("a list") {
        let of = |line: &&Value| line["connection"] == connection["connectionId"];
        let line = found.iter().find(of).expect("a line for each");
        assert_eq!((&line["gateway"], &line["message"]), (&json!(id), &json!("disconnected")));
    }
}
