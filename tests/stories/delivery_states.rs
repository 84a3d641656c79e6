//! `GET /deliveries` by state and by the time of outcomes: what the feed shows can be listed.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer;
use crate::support::Service;
use crate::support::http::Caller;

on_both! {
    filtered_and_superseded_deliveries_are_listed
    all_deliveries_of_a_gateway_are_listed_while_more_arrive
    deliveries_are_listed_by_the_time_of_their_outcome
    a_window_of_outcomes_is_checked
}

/// An event of a type that stories register, with this collapse key.
fn event(gateways: &[&str], id: &str, key: &str) -> Value {
    json!({"type": "cache.flushed", "id": id, "gatewayIds": gateways, "payload": {}, "collapseKey": key})
}

async fn started(backend: &Backend) -> (Service, Caller) {
    let service = backend.start().await;
    let admin = service.admin();
    admin.put("/event-types/cache.flushed", &json!({})).await.success();
    (service, admin)
}

/// The gateways and sequences of a list.
fn keys(page: &Value) -> Vec<(String, i64)> {
    let list = page["list"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    list.map(|it| (text(&it["gatewayName"]), it["sequence"].as_i64().expect("a number"))).collect()
}

/// All pages of a list, a few deliveries at a time.
async fn pages(admin: &Caller, path: &str) -> Vec<(String, i64)> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}&limit=2{cursor}")).await.success();
        all.extend(keys(&page));
        match page["pagination"]["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn confirmed(service: &Service, gateway: &str, position: i64) {
    service.eventually(&format!("/gateways/{gateway}"), |it| it["confirmed"] == position).await;
}

async fn filtered_and_superseded_deliveries_are_listed(backend: Backend) {
    let (service, admin) = started(&backend).await;
    let (berlin, berlin_key) = service.gateway("berlin").await;
    let (tokyo, tokyo_key) = service.gateway("tokyo").await;
    for (id, key) in [("e1", "k"), ("e2", "other"), ("e3", "k"), ("e4", "k")] {
        admin.post("/events", &event(&[&berlin, &tokyo], id, key)).await.success();
    }
    // Tokyo does not want the type.
    let _berlin = service.connected(&berlin_key).await.serve();
    let wants = json!({"instance": "t-1", "types": ["api.deployed"]});
    let _tokyo = Peer::connect(&service, &tokyo_key, wants).await;
    confirmed(&service, &berlin, 4).await;
    confirmed(&service, &tokyo, 4).await;
    let superseded = pages(&admin, "/deliveries?status=superseded").await;
    // Both were away. What is superseded is not offered to tokyo, so it can't filter that.
    let expected = [("tokyo", 3), ("tokyo", 1), ("berlin", 3), ("berlin", 1)];
    assert_eq!(superseded, expected.map(|(name, sequence)| (name.to_owned(), sequence)));
    let filtered = pages(&admin, &format!("/deliveries?status=filtered&gatewayId={tokyo}")).await;
    assert_eq!(filtered, [4, 2].map(|sequence| ("tokyo".to_owned(), sequence)));
    let none = pages(&admin, &format!("/deliveries?status=filtered&gatewayId={berlin}")).await;
    assert!(none.is_empty(), "{none:?}");
    let one = admin.get("/deliveries?status=superseded&eventId=e1").await.success();
    assert_eq!(keys(&one), [("tokyo".to_owned(), 1), ("berlin".to_owned(), 1)]);
    let said = service.run("delivery list --status superseded --gateway berlin").await;
    assert!(said.well().contains("e1") && said.out.contains("e3"), "{said:?}");
    assert!(!said.out.contains("e4"), "{said:?}");
    admin.get("/deliveries?status=lost").await.invalid("status", &["superseded"]);
}

async fn all_deliveries_of_a_gateway_are_listed_while_more_arrive(backend: Backend) {
    let (service, admin) = started(&backend).await;
    let (berlin, key) = service.gateway("berlin").await;
    for id in ["e1", "e2", "e3"] {
        admin.post("/events", &event(&[&berlin], id, id)).await.success();
    }
    let berlin_serves = service.connected(&key).await.serve();
    confirmed(&service, &berlin, 3).await;
    berlin_serves.abort();
    service.eventually("/connections?status=connected", |page| page["count"] == 0).await;
    for id in ["e4", "e5"] {
        admin.post("/events", &event(&[&berlin], id, id)).await.success();
    }
    let skip = json!({"sequence": 4, "reason": "a test"});
    admin.post(&format!("/gateways/{berlin}/skip"), &skip).await.success();
    let path = format!("/deliveries?status=all&gatewayId={berlin}");
    let first = admin.get(&format!("{path}&limit=2")).await.success();
    let states: Vec<_> = first["list"].as_array().expect("a list").iter().collect();
    let states: Vec<_> = states.iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, ["pending", "failed"]);
    admin.post("/events", &event(&[&berlin], "e6", "e6")).await.success();
    let next = first["pagination"]["next"].as_str().expect("a cursor").to_owned();
    let second = admin.get(&format!("{path}&limit=9&cursor={next}")).await.success();
    let expected = [3, 2, 1].map(|sequence| ("berlin".to_owned(), sequence));
    assert_eq!(keys(&second), expected, "{second:#}");
    assert!(second["list"].as_array().expect("a list").iter().all(|it| it["state"] == "delivered"));
    assert_eq!(pages(&admin, &path).await.len(), 6);
    // A cursor belongs to one state.
    let other = format!("/deliveries?status=delivered&gatewayId={berlin}&cursor={next}");
    admin.get(&other).await.invalid("cursor", &["different filters"]);
}

async fn deliveries_are_listed_by_the_time_of_their_outcome(backend: Backend) {
    let (service, admin) = started(&backend).await;
    let (berlin, berlin_key) = service.gateway("berlin").await;
    let (tokyo, tokyo_key) = service.gateway("tokyo").await;
    for id in ["e1", "e2", "e3"] {
        admin.post("/events", &event(&[&berlin, &tokyo], id, id)).await.success();
    }
    let appended = admin.get("/events/e3").await.success();
    let appended = appended["appendedAt"].as_str().expect("a time").to_owned();
    // `from` is later than the append of the newest event, and earlier than what follows.
    let later = admin.post("/events", &event(&[&tokyo], "e4", "e4")).await.success();
    assert_eq!(later["deliveries"][0]["sequence"], 4);
    let from = admin.get("/events/e4").await.success();
    let from = from["appendedAt"].as_str().expect("a time").to_owned();
    assert!(from > appended);
    let mut peer = Peer::connect(&service, &berlin_key, json!({"instance": "a"})).await;
    for sequence in 1..=3 {
        peer.event(sequence).await;
        peer.send(&json!({"type": "delivery.ack", "received": sequence})).await;
        peer.applied(sequence).await;
    }
    confirmed(&service, &berlin, 3).await;
    let tokyo_serves = service.connected(&tokyo_key).await.serve();
    confirmed(&service, &tokyo, 4).await;
    let window = format!("from={from}&windowOf=outcome");
    // Nothing of berlin was appended since.
    let by_append = format!("/deliveries?status=delivered&gatewayId={berlin}&from={from}");
    assert!(pages(&admin, &by_append).await.is_empty());
    let of_berlin = format!("/deliveries?status=delivered&gatewayId={berlin}&{window}");
    service.eventually(&of_berlin, |page| page["count"] == 3).await;
    let mut found = pages(&admin, &of_berlin).await;
    found.sort();
    let expected = [1, 2, 3].map(|sequence| ("berlin".to_owned(), sequence));
    assert_eq!(found, expected, "each is listed once, though it was received and applied");
    let all = format!("/deliveries?status=all&{window}");
    service.eventually(&all, |page| page["count"] == 7).await;
    let found = pages(&admin, &all).await;
    assert_eq!(found.len(), 7, "{found:?}");
    assert!(found[..4].iter().all(|(gateway, _)| gateway == "tokyo"), "newest first: {found:?}");
    let past =
        format!("/deliveries?status=all&from=2020-01-01T00:00:00Z&to={appended}&windowOf=outcome");
    assert!(pages(&admin, &past).await.is_empty());
    let of_type = format!("{all}&type=api.deployed");
    assert!(pages(&admin, &of_type).await.is_empty());
    let said = service.run("delivery list --status all --window-of outcome --from 1h").await;
    assert!(said.well().contains("tokyo") && said.out.contains("berlin"), "{said:?}");
    tokyo_serves.abort();
}

async fn a_window_of_outcomes_is_checked(backend: Backend) {
    let (_service, admin) = started(&backend).await;
    for status in ["failed", "pending"] {
        let path = format!("/deliveries?status={status}&windowOf=outcome");
        admin.get(&path).await.invalid("windowOf", &["`all`"]);
    }
    admin.get("/deliveries?windowOf=outcome").await.invalid("windowOf", &["`all`"]);
    let named = "/deliveries?status=all&windowOf=outcome&eventId=e1";
    admin.get(named).await.invalid("eventId", &["windowOf"]);
    admin.get("/deliveries?status=all&windowOf=x").await.invalid("windowOf", &["outcome"]);
}
