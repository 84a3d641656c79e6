//! Several unnamed connections of one gateway: a cluster whose replicas can't
//! be told apart, each of which must get everything.

use serde_json::{Value, json};

use crate::line::{Fault, Line};
use crate::raw::Raw;
use crate::support::{Service, deployed};

/// The numbers of the events that a replica takes, and confirms with one receipt.
async fn handles(replica: &mut Raw, sequences: std::ops::RangeInclusive<i64>) {
    let last = *sequences.end();
    for sequence in sequences {
        let event = replica.event().await;
        assert_eq!(event["sequence"], sequence);
        assert_eq!(event["payload"]["deploymentId"], format!("d-{sequence}"));
    }
    replica.pong(&last.to_string()).await;
}

async fn publish(service: &Service, id: &str, numbers: std::ops::RangeInclusive<i64>) {
    let batch: Vec<Value> = numbers.map(|number| deployed(&[id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
}

/// Waits until the gateway's connections stand so on record, lowest first.
async fn stand(service: &Service, id: &str, status: &str, confirmed: &[i64]) {
    let standing = |page: &Value| {
        let list = page["list"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<i64> = list
            .iter()
            .filter(|one| one["status"] == status)
            .filter_map(|one| one["confirmed"].as_i64())
            .collect();
        found.sort_unstable();
        found == confirmed
    };
    service.eventually(&format!("/gateways/{id}/connections"), standing).await;
}

#[tokio::test]
async fn each_replica_gets_every_event_and_one_that_was_away_gets_what_it_missed() {
    let service = Service::start().await;
    let line = Line::to(service.port).await;
    let (id, key) = service.gateway("cluster").await;
    let mut first = Raw::connect(&service, service.port, &key).await;
    let mut second = Raw::connect(&service, service.port, &key).await;
    let mut third = Raw::connect(&service, line.port, &key).await;
    publish(&service, &id, 1..=3).await;
    for replica in [&mut first, &mut second, &mut third] {
        handles(replica, 1..=3).await;
    }
    stand(&service, &id, "connected", &[3, 3, 3]).await;
    line.fails(Fault::Reset);
    while third.next().await.is_some() {}
    stand(&service, &id, "connected", &[3, 3]).await;
    publish(&service, &id, 4..=6).await;
    handles(&mut first, 4..=6).await;
    handles(&mut second, 4..=6).await;
    stand(&service, &id, "connected", &[6, 6]).await;
    let mut third = Raw::connect(&service, service.port, &key).await;
    publish(&service, &id, 7..=7).await;
    handles(&mut third, 4..=7).await;
    handles(&mut first, 7..=7).await;
    handles(&mut second, 7..=7).await;
    stand(&service, &id, "connected", &[7, 7, 7]).await;
    let past = service.api().get(&format!("/gateways/{id}/connections")).await.expect("a page");
    let lost =
        past["list"].as_array().expect("a list").iter().find(|one| one["status"] == "closed");
    assert_eq!(lost.expect("the third one")["closeReason"], "connection_lost", "{past:#}");
}

#[tokio::test]
async fn a_replica_that_was_behind_is_not_forgotten_by_a_kill() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("cluster").await;
    let mut ahead = Raw::connect(&service, service.port, &key).await;
    let mut behind = Raw::connect(&service, service.port, &key).await;
    publish(&service, &id, 1..=6).await;
    handles(&mut ahead, 1..=6).await;
    handles(&mut behind, 1..=3).await;
    stand(&service, &id, "connected", &[3, 6]).await;
    service.kill().await;
    service.restart().await;
    // Nobody knows which one comes first, so each starts where the last one was.
    let mut one = Raw::connect(&service, service.port, &key).await;
    let mut other = Raw::connect(&service, service.port, &key).await;
    publish(&service, &id, 7..=7).await;
    handles(&mut one, 4..=7).await;
    handles(&mut other, 4..=7).await;
    stand(&service, &id, "connected", &[7, 7]).await;
    let past = service.api().get(&format!("/gateways/{id}/connections")).await.expect("a page");
    let lost = |one: &&Value| one["closeReason"] == "node_lost";
    assert_eq!(past["list"].as_array().expect("a list").iter().filter(lost).count(), 2);
}
