//! Named instances.

use serde_json::json;

use super::peer::Peer;
use super::resume::with_events;
use crate::both_databases::{On, on_both};
use crate::server::Database;
use crate::support::Service;

on_both! {
    each_instance_has_its_own_position
    a_later_connection_of_an_instance_replaces_the_earlier_one
}

async fn each_instance_has_its_own_position(on: On) {
    let (service, id, key) = with_events(&on, 3).await;
    // A new instance starts at the gateway's position.
    let mut one = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let mut two = Peer::connect(&service, &key, json!({"instance": "two"})).await;
    for sequence in 1..=3 {
        one.event(sequence).await;
        two.event(sequence).await;
    }
    one.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
    drop((one, two));
    let mut one = Peer::greet(&service, &key).await;
    one.hello(json!({"instance": "one"})).await;
    assert_eq!(one.frame().await["from"], 3);
    let mut two = Peer::connect(&service, &key, json!({"instance": "two"})).await;
    two.event(1).await;
}

async fn a_later_connection_of_an_instance_replaces_the_earlier_one(on: On) {
    let (service, _, key) = with_events(&on, 1).await;
    let mut earlier = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let mut other = Peer::connect(&service, &key, json!({"instance": "other"})).await;
    let mut later = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let (code, error) = earlier.closed().await;
    assert_eq!((code, &error["code"]), (4009, &json!("replaced")));
    later.event(1).await;
    other.event(1).await;
    other.settled().await;
}

#[tokio::test]
async fn an_instance_that_connects_to_another_node_is_closed_here() {
    let database = Database::new();
    let service = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let second = service.another().await;
    let (_, key) = service.gateway("one").await;
    let mut earlier = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let _later = Peer::connect(&second, &key, json!({"instance": "one"})).await;
    assert_eq!(earlier.closed().await.0, 4009);
}
