//! Connecting, publishing and receiving.

use gateway_events::api::ConnectionsQuery;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::support::{deployed, get};

on_both! {
    only_registered_keys_are_admitted_and_acknowledged
    an_event_reaches_every_connection_of_its_gateway_and_no_other
    live_and_past_connections_are_listed
    a_wrong_secret_is_not_recorded_as_a_use_of_the_token
    a_type_is_registered_while_running
    connections_and_attempts_are_limited
    an_event_too_large_is_refused_and_one_that_fits_is_not
    invalid_bytes_from_a_gateway_do_not_affect_others
    a_shutdown_is_graceful
}

async fn only_registered_keys_are_admitted_and_acknowledged(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connect(&key).await.expect("admitted");
    let ack = socket.next().await.expect("a frame");
    assert_eq!(ack["type"], "connection.ack");
    assert_eq!(ack["gatewayId"], id);
    let mut forged = key.clone();
    forged.pop();
    let (status, unknown) = service.connect(&forged).await.err().expect("refused");
    assert_eq!(status, 401);
    let (status, malformed) = service.connect("nonsense").await.err().expect("refused");
    assert_eq!((status, malformed), (401, unknown));
    assert!(!service.log().contains(&key), "a key stands in the log");
}

async fn an_event_reaches_every_connection_of_its_gateway_and_no_other(backend: Backend) {
    let service = backend.start().await;
    let (one, key) = service.gateway("one").await;
    let (_, other_key) = service.gateway("other").await;
    let (mut first, mut second) = (service.connected(&key).await, service.connected(&key).await);
    let other = service.connected(&other_key).await.serve();
    let answer = service.api().post("/events", &deployed(&[&one], "d-1")).await.expect("accepted");
    assert_eq!(answer["deliveries"], json!([{"gatewayId": one, "sequence": 1}]));
    for socket in [&mut first, &mut second] {
        let event = socket.expect(1..=1).await.remove(0);
        assert_eq!(event["eventId"], answer["id"]);
        assert_eq!(event["payload"]["deploymentId"], "d-1");
    }
    let (first, second) = (first.serve(), second.serve());
    service.eventually(&format!("/gateways/{one}"), |gateway| gateway["confirmed"] == 1).await;
    service.api().delete(&format!("/gateways/{one}")).await.expect("deleted");
    first.await.expect("closed");
    second.await.expect("closed");
    other.abort();
}

async fn live_and_past_connections_are_listed(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let socket = service.connected(&key).await.serve();
    let stats =
        service.eventually("/stats", |stats| stats["gatewayConnections"]["totalActive"] == 1).await;
    assert_eq!(stats["gatewayConnections"]["connections"][0]["gatewayId"], id);
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id").to_owned();
    service.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.expect("revoked");
    socket.await.expect("the socket was closed");
    service.eventually("/stats", |stats| stats["gatewayConnections"]["totalActive"] == 0).await;
    let past = service.api().get(&format!("/gateways/{id}/connections")).await.expect("history");
    assert_eq!(past["list"][0]["closeReason"], "token_revoked", "{past:#}");
    let path = format!("/gateways/{id}/connections");
    let of = id.parse().ok();
    let pages = service.api().connections(of, &ConnectionsQuery { status: None }, 1).await;
    let cursor = pages.expect("a page").pagination.next.expect("a cursor");
    let next = format!("{path}?limit=1&cursor={cursor}");
    assert_eq!(get(&service.api(), &next).await.expect("the next page")["count"], 0);
    let other = next.replace('?', "?status=connected&");
    let refused = get(&service.api(), &other).await.expect_err("another question");
    assert_eq!(refused.status(), Some(422));
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 401);
}

/// Bytes of a key's secret; its checksum follows.
const SECRET: usize = 32;

/// A key with the same public part, another secret, and a correct checksum, which anyone can
/// compute.
fn forged(key: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let parts: Vec<&str> = key.split('_').collect();
    let [prefix, id, body] = parts[..] else { panic!("a key has three parts") };
    let base32 = data_encoding::BASE32_NOPAD;
    let bytes = base32.decode(body.to_ascii_uppercase().as_bytes()).expect("base32");
    let mut secret = bytes[..SECRET].to_vec();
    secret[0] ^= 1;
    let sum = Sha256::new().chain_update(prefix).chain_update(id).chain_update(&secret).finalize();
    secret.extend(&sum[..bytes.len() - SECRET]);
    format!("{prefix}_{id}_{}", base32.encode(&secret).to_ascii_lowercase())
}

async fn a_wrong_secret_is_not_recorded_as_a_use_of_the_token(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    // Another secret with the same public part and a correct checksum.
    let forged = forged(&key);
    assert_eq!(service.connect(&forged).await.err().expect("refused").0, 401);
    let path = format!("/gateways/{id}/tokens");
    // A write after any that the refused request could have queued.
    service.api().patch(&format!("/gateways/{id}"), &json!({})).await.expect("changed");
    let tokens = service.api().get(&path).await.expect("tokens");
    assert_eq!(tokens["list"][0]["lastUsedAt"], json!(null), "{tokens:#}");
    let socket = service.connected(&key).await;
    service.eventually(&path, |tokens| tokens["list"][0]["lastUsedAt"].is_string()).await;
    drop(socket);
}

async fn a_type_is_registered_while_running(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let event = json!({"type": "cache.purged", "gatewayIds": [id], "payload": {"path": "/"}});
    let refused = service.api().post("/events", &event).await.expect_err("unknown");
    assert_eq!(refused.status(), Some(422));
    assert!(refused.to_string().contains("PUT"), "{refused}");
    let schema = json!({"description": "A cache was purged", "schema": {"type": "object", "required": ["path"]}});
    service.api().put("/event-types/cache.purged", &schema).await.expect("registered");
    service.api().post("/events", &event).await.expect("accepted");
    assert_eq!(socket.expect(1..=1).await[0]["type"], "cache.purged");
    let bad = json!({"type": "cache.purged", "gatewayIds": [id], "payload": {}});
    assert_eq!(service.api().post("/events", &bad).await.expect_err("invalid").status(), Some(422));
}

async fn connections_and_attempts_are_limited(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__MAX_CONNECTIONS", "1")]).await;
    let (_, key) = service.gateway("one").await;
    let held = service.connected(&key).await;
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 503);
    drop(held);
    let mut statuses = Vec::new();
    for _ in 0..11 {
        statuses.push(service.connect("nonsense").await.err().expect("refused").0);
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10], 429);
    // From the same address, a valid key is still admitted.
    service.eventually("/stats", |stats| stats["gatewayConnections"]["totalActive"] == 0).await;
    service.connected(&key).await;
}

async fn an_event_too_large_is_refused_and_one_that_fits_is_not(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let sized = |length: usize| {
        json!({"id": "e", "correlationId": "c", "type": "gateway.config.updated", "gatewayIds": [id],
               "payload": {"configType": "x".repeat(length), "action": "update"}})
    };
    // The size of the frame without `configType`, at the largest sequence.
    let api = service.api();
    let (mut fits, mut too_large) = (1 << 19, 1 << 20);
    while too_large - fits > 1 {
        let middle = usize::midpoint(fits, too_large);
        let mut event = sized(middle);
        event["gatewayIds"] = json!(["00000000-0000-0000-0000-000000000000"]);
        match api.post("/events", &event).await.expect_err("the id is unknown").status() {
            Some(413) => too_large = middle,
            Some(404) => fits = middle,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(
        api.post("/events", &sized(too_large)).await.expect_err("too large").status(),
        Some(413)
    );
    api.post("/events", &sized(fits)).await.expect("it fits");
    let event = socket.next().await.expect("the event");
    let frame = event.to_string().len();
    // The sequence has one digit here, and sixteen at its largest.
    assert_eq!(frame + 15, 1 << 20);
}

async fn invalid_bytes_from_a_gateway_do_not_affect_others(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    socket.send(Message::text("{ no JSON")).await;
    socket.send(Message::binary(vec![0, 1, 2])).await;
    socket.send(Message::Pong("999".into())).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    socket.expect(1..=1).await;
    let socket = socket.serve();
    let gateway =
        service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    assert_eq!(gateway["connected"], true);
    socket.abort();
    let mut hostile = service.connected(&key).await;
    hostile.send(Message::text("x".repeat(20_000))).await;
    hostile.until_closed().await;
}

async fn a_shutdown_is_graceful(backend: Backend) {
    let mut service = backend.start_with(&[("SHUTDOWN__DRAIN", "100ms")]).await;
    let (_, key) = service.gateway("one").await;
    let socket = service.connected(&key).await.serve();
    assert_eq!(service.terminate().await, Some(0), "{}", service.log());
    socket.await.expect("closed");
}
