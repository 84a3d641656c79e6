//! Long polling.

use std::time::Duration;

use gateway_events::client::BASE_PATH;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ended;
use crate::both_databases::{Backend, on_both};
use crate::reliable::publish;
use crate::support::Service;
use crate::support::http::{Reply, reply};

/// A gateway that polls.
#[derive(Clone)]
pub(crate) struct Peer {
    client: Client,
    base: String,
    key: String,
}

impl Peer {
    pub(crate) fn new(service: &Service, key: &str) -> Self {
        Self::through(service, service.port, key)
    }

    /// Likewise, through a port, which may be a fault proxy's.
    pub(crate) fn through(service: &Service, port: u16, key: &str) -> Self {
        let config = service.trust().client_config().expect("a TLS client");
        let client =
            Client::builder().tls_backend_preconfigured(config.as_ref().clone()).no_proxy();
        Self {
            client: client.build().expect("a client"),
            base: format!("https://localhost:{port}{BASE_PATH}/gateways/events"),
            key: key.to_owned(),
        }
    }

    pub(crate) async fn poll(&self, query: &str) -> Reply {
        let request = self.client.get(format!("{}?{query}", self.base));
        reply(request.header("api-key", &self.key)).await
    }

    /// Polls; the sequences of the events, and the position after them.
    pub(crate) async fn events(&self, query: &str) -> (Vec<i64>, String) {
        let answer = self.poll(query).await.success();
        let list = answer["events"].as_array().expect("events");
        let sequences: Vec<i64> =
            list.iter().map(|event| event["sequence"].as_i64().expect("a sequence")).collect();
        let epoch = answer["epoch"].as_str().expect("an epoch");
        let newest = sequences.last().copied().unwrap_or_default();
        (sequences, format!("{epoch}.{newest}"))
    }

    /// Polls until there were as many events.
    pub(crate) async fn until(&self, query: &str, count: usize) -> (Vec<i64>, String) {
        let (mut all, mut position) = self.events(query).await;
        while all.len() < count {
            let (more, after) = self.events(&format!("{query}&after={position}")).await;
            all.extend(more);
            position = after;
        }
        (all, position)
    }

    pub(crate) async fn post(&self, instance: &str, frames: &Value) -> Reply {
        self.post_text(instance, frames.to_string()).await
    }

    /// Sends frames to a connection.
    pub(crate) async fn post_to(&self, connection: &str, frames: &Value) -> Reply {
        let base = self.base.trim_end_matches("events");
        let request = self.client.post(format!("{base}connections/{connection}/frames"));
        reply(request.header("api-key", &self.key).body(frames.to_string())).await
    }

    pub(crate) async fn post_text(&self, instance: &str, body: String) -> Reply {
        let request = self.client.post(format!("{}/instances/{instance}/frames", self.base));
        reply(request.header("api-key", &self.key).body(body)).await
    }
}

on_both! {
    events_come_at_once_and_count_when_they_are_confirmed
    poll_resumes_from_after_or_stored_position
    frames_reject_events_and_violations_end_the_connection
    an_instance_that_polls_no_more_is_disconnected
    bad_parameters_are_refused_and_name_what_is_wrong
    a_head_request_has_no_effect
}

async fn events_come_at_once_and_count_when_they_are_confirmed(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 3).await;
    let (sequences, position) = peer.until("instance=a", 3).await;
    assert_eq!(sequences, [1, 2, 3]);
    let shown = service.api().get(&format!("/gateways/{id}")).await.expect("shown");
    assert_eq!(shown["confirmed"], 0, "events that were answered are not confirmed");
    let empty = peer.poll(&format!("instance=a&after={position}&ack={position}&wait=100ms")).await;
    assert_eq!((empty.status, empty.body.as_str()), (204, ""));
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
    // An event that is published while a request waits.
    let waiting = tokio::spawn({
        let (peer, query) = (peer.clone(), format!("instance=a&after={position}&wait=20s"));
        async move { peer.events(&query).await }
    });
    publish(&service, &id, 4, 4).await;
    assert_eq!(waiting.await.expect("answered").0, [4]);
    let shown = service.admin().get("/connections?status=connected").await.success();
    assert_eq!((&shown["count"], &shown["list"][0]["transport"]), (&json!(1), &json!("long_poll")));
}

async fn poll_resumes_from_after_or_stored_position(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 6).await;
    let (first, second) = peer.until("instance=a&max=2", 2).await;
    assert_eq!(first, [1, 2]);
    assert_eq!(peer.events(&format!("instance=a&max=2&after={second}")).await.0[0], 3);
    // That answer was lost.
    let lost = format!("instance=a&max=1&after={second}&ack={second}");
    assert_eq!(peer.events(&lost).await.0, [3]);
    // Without a position, what was not confirmed comes again. Events on which a connection has ended
    // come alone until they are confirmed.
    let ack = format!("instance=a&after={second}&ack={second}");
    assert_eq!(peer.events(&ack).await.0[0], 3);
    let (mut stored, mut position) = peer.events("instance=a").await;
    while stored.len() < 4 {
        let next = format!("instance=a&after={position}&ack={position}");
        let (more, after) = peer.events(&next).await;
        stored.extend(more);
        position = after;
    }
    assert_eq!(stored, [3, 4, 5, 6]);
}

async fn frames_reject_events_and_violations_end_the_connection(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    peer.post("a", &json!([])).await.refusal(409, "connection_gone");
    publish(&service, &id, 1, 1).await;
    let (_, position) = peer.events("instance=a").await;
    let nack = |retryable: bool| json!({"type": "delivery.nack", "sequence": 1, "code": "invalid", "retryable": retryable});
    assert_eq!(peer.post("a", &nack(true)).await.status, 204);
    assert_eq!(peer.events(&format!("instance=a&after={position}")).await.0, [1]);
    assert_eq!(peer.post("a", &nack(false)).await.status, 204);
    let failed = "/deliveries?status=failed&reason=invalid";
    service.eventually(failed, |shown| shown["count"] == 1).await;
    peer.post("a", &json!({"type": "delivery.ack"})).await.refusal(422, "invalid_frame");
    service.eventually("/connections?status=connected", |shown| shown["count"] == 0).await;
    assert_eq!(peer.poll(&format!("instance=a&after={position}&wait=0s")).await.status, 204);
}

async fn an_instance_that_polls_no_more_is_disconnected(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let began = Instant::now();
    assert_eq!(peer.poll("instance=a&wait=500ms").await.status, 204);
    let past = format!("/gateways/{id}/connections?status=all");
    let shown = service.eventually(&past, ended).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(shown["list"][0]["closeReason"], "heartbeat_timeout");
    // What is published meanwhile waits.
    publish(&service, &id, 1, 1).await;
    assert_eq!(peer.events("instance=a").await.0, [1]);
}

#[tokio::test]
async fn waiting_requests_end_with_their_key_their_gateway_and_their_node() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "100ms")]).await;
    let waits = |key: &str| {
        let peer = Peer::new(&service, key);
        tokio::spawn(async move { peer.poll("instance=a&wait=25s").await })
    };
    let live = |count: i64| move |shown: &Value| shown["count"] == count;
    let (id, key) = service.gateway("one").await;
    let waiting = waits(&key);
    service.eventually("/connections?status=connected", live(1)).await;
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id");
    service.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.expect("revoked");
    waiting.await.expect("answered").refusal(401, "unauthorized");

    let (id, key) = service.gateway("two").await;
    let waiting = waits(&key);
    service.eventually("/connections?status=connected", live(1)).await;
    let disabled = json!({"disabled": true});
    service.api().patch(&format!("/gateways/{id}"), &disabled).await.expect("disabled");
    waiting.await.expect("answered").refusal(403, "gateway_disabled");

    let (_, key) = service.gateway("three").await;
    let waiting = waits(&key);
    service.eventually("/connections?status=connected", live(1)).await;
    service.ask_to_end();
    waiting.await.expect("answered").refusal(503, "draining");
    service.ended().await;
}

async fn bad_parameters_are_refused_and_name_what_is_wrong(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (_, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let epoch = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (query, field) in [
        ("max=0", "max"),
        ("max=257", "max"),
        ("max=x", "max"),
        ("wait=2m", "wait"),
        ("wait=-1s", "wait"),
        ("wait=5", "wait"),
        ("after=5", "after"),
        (&format!("after={epoch}.-1"), "after"),
        (&format!("ack={epoch}.9223372036854775808"), "ack"),
        (&format!("after={epoch}.1&ack={epoch}.2"), "ack"),
        ("instance=", "instance"),
        ("instance=a%00", "instance"),
        ("instance=a%ff", "instance"),
        ("since=1", "since"),
    ] {
        peer.poll(query).await.invalid(field, &[]);
        Peer::new(&service, "gwk_nonsense").poll(query).await.refusal(401, "unauthorized");
    }
    let shown = service.api().get("/connections").await.expect("connections");
    assert_eq!(shown["count"], 0);
}

/// A method without effects (RFC 9110, section 9.2.1).
async fn a_head_request_has_no_effect(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    let peer = Peer::new(&service, &key);
    for url in [&peer.base, &peer.base.replace("/events", "/stream")] {
        let head = peer.client.head(format!("{url}?instance=a&confirm=applied"));
        let refused = reply(head.header("api-key", &key)).await;
        assert_eq!(refused.status, 405, "{refused:?}");
        assert_eq!(refused.headers["allow"], "GET");
    }
    let shown = service.admin().get("/connections").await.success();
    assert_eq!(shown["count"], 0, "{shown:#}");
    let (sequences, _) = peer.events("instance=a").await;
    assert_eq!(sequences, [1]);
}
