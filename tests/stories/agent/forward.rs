//! Events are posted as CloudEvents, and the status decides.

use serde_json::Value;

use super::product::{Product, status};
use super::{Agent, confirmed, failures, publish, why};
use crate::both_databases::{Backend, on_both};
use crate::cloud_events::post_binary;
use crate::support::Service;

on_both! {
    each_status_has_its_outcome
}

async fn each_status_has_its_outcome(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let elsewhere = Product::start(|_| status(200, "", "")).await;
    let location = format!("location: {}\r\n", elsewhere.url);
    let product = Product::start(move |request| {
        let deployment: Value = serde_json::from_str(&request.body).expect("JSON");
        let kind = deployment["deploymentId"].as_str().expect("an id").to_owned();
        match (kind.as_str(), request.times) {
            ("created", _) => status(201, "", "{}"),
            ("empty", _) => status(204, "", ""),
            ("broken", _) => status(500, "", "{\"error\":\n\"no \u{1b}disk\"}"),
            ("invalid", _) => status(400, "", ""),
            ("conflict", _) => status(409, "", "another one"),
            ("moved", _) => status(307, &location, ""),
            ("unmodified", _) => status(304, "", ""),
            ("busy", 1) => status(429, "retry-after: 0\r\n", ""),
            ("starting", 1) => status(503, "retry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\n", ""),
            ("odd", 1) => status(503, "retry-after: soon\r\n", ""),
            _ => status(200, "", ""),
        }
    })
    .await;
    let kinds = [
        "created",
        "empty",
        "broken",
        "invalid",
        "busy",
        "conflict",
        "moved",
        "starting",
        "odd",
        "unmodified",
    ];
    publish(&service, &id, &kinds).await;
    let agent = Agent::start(&service, &key, &["--forward-to", &product.url]);
    confirmed(&service, &id, 10).await;
    let failed = failures(&service, &id, 5).await;
    let reasons: Vec<_> = failed.iter().map(why).collect();
    assert_eq!(
        reasons,
        [
            ("apply_failed", "status 500: {\"error\": \"no disk\"}"),
            ("invalid", "status 400"),
            ("conflict", "status 409: another one"),
            ("apply_failed", "status 307: redirects are not followed"),
            ("apply_failed", "status 304"),
        ]
    );
    let received: Vec<_> = product.requests().iter().map(|it| (it.sequence(), it.times)).collect();
    let expected = [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (5, 2),
        (6, 1),
        (7, 1),
        (8, 1),
        (8, 2),
        (9, 1),
        (9, 2),
        (10, 1),
    ];
    assert_eq!(received, expected);
    assert!(elsewhere.requests().is_empty(), "redirects are not followed");
    agent.stop().await;
}

/// However many digits the number has.
#[tokio::test]
async fn a_product_can_not_ask_for_a_pause_of_more_than_an_hour() {
    for seconds in ["3601", "18446744073709551615", "99999999999999999999"] {
        let service = Service::start().await;
        let (id, key) = service.gateway("one").await;
        let header = format!("retry-after: {seconds}\r\n");
        let product = Product::start(move |_| status(503, &header, "")).await;
        publish(&service, &id, &["d-1"]).await;
        let agent = Agent::start(&service, &key, &["--forward-to", &product.url]);
        agent.logged("\"retry_in_ms\":3600000").await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_event_is_a_cloud_event_in_binary_mode() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let product = Product::start(|_| status(200, "", "")).await;
    let payload = r#"{"configType": "cache",  "action":"update", "n": 1.50}"#;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let event = format!(
        r#"{{"id":"e%1","correlationId":"c\"1","userId":"Zoë € 1","traceparent":"{trace}","type":"gateway.config.updated","gatewayIds":["{id}"],"payload":{payload}}}"#
    );
    let event: Box<serde_json::value::RawValue> = serde_json::from_str(&event).expect("JSON");
    service.api().post("/events", &event).await.expect("accepted");
    let agent = Agent::start(&service, &key, &["--forward-to", &product.url]);
    confirmed(&service, &id, 1).await;
    let request = product.requests().remove(0);
    assert_eq!(request.head, "POST /events HTTP/1.1");
    assert_eq!(request.body, payload, "byte for byte");
    for (name, value) in [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "e%251"),
        ("ce-type", "gateway.config.updated"),
        ("ce-sequence", "0000000000000001"),
        ("ce-correlationid", "c%221"),
        ("ce-attempt", "1"),
        ("ce-userid", "Zo%C3%AB%20%E2%82%AC%201"),
        ("ce-traceparent", trace),
        ("traceparent", trace),
    ] {
        assert_eq!(request.header(name), value, "{name}: {request:#?}");
    }
    let source = format!("https://localhost:{}/", service.port);
    assert_eq!(request.header("ce-source"), source);
    let published = gateway_events::clock::Timestamp::parse(request.header("ce-time"));
    assert!(published.is_ok(), "{request:#?}");
    assert_eq!(request.header("ce-datacontenttype"), "", "not in binary mode");
    let secret = format!("{request:?}");
    assert!(!secret.contains(&key), "{secret}");
    agent.stop().await;
    assert_eq!(product.requests().len(), 1, "once");
}

#[tokio::test]
async fn the_attributes_of_a_cloud_event_reach_the_product_over_every_transport() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let product = Product::start(|_| status(200, "", "")).await;
    for (sequence, transport) in (1..).zip(["websocket", "sse", "long-poll", "grpc"]) {
        let headers = [
            ("content-type", "application/vnd.cache+json"),
            ("ce-specversion", "1.0"),
            ("ce-id", transport),
            ("ce-source", "/platform/config"),
            ("ce-type", "gateway.config.updated"),
            ("ce-subject", "Z%C3%BCrich"),
            ("ce-tenant7", "7"),
            ("ce-ttlseconds", "3600"),
            ("ce-gatewayids", &id),
        ];
        let payload = r#"{"configType": "cache",  "action":"update", "n": 1.50}"#;
        post_binary(&service.admin(), &headers, payload).await.success();
        let agent =
            Agent::start(&service, &key, &["--transport", transport, "--forward-to", &product.url]);
        confirmed(&service, &id, sequence).await;
        agent.stop().await;
        let request = product.requests().pop().expect("a request");
        assert_eq!(request.body, payload, "byte for byte");
        for (name, value) in headers {
            match name {
                "ce-ttlseconds" => assert_ne!(request.header("ce-expirytime"), "", "{request:#?}"),
                "ce-gatewayids" => {}
                _ => assert_eq!(request.header(name), value, "{transport}, {name}: {request:#?}"),
            }
        }
    }
}
