//! A request with a parameter that it does not have is refused: a misspelt filter must not select
//! everything.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Service;
use crate::support::http::reply;

/// Routes that never answer with 422, because deployed gateways exit on it, and those that need a
/// gateway's key.
const NEVER_422: [&str; 6] = [
    "/ws/gateways/connect",
    "/gateways/{id}/manifest",
    "/gateways/stream",
    "/gateways/connections/{connectionId}/frames",
    "/gateways/events",
    "/gateways/events/instances/{instance}/frames",
];
const BASE: &str = "/api/internal/v1";

#[tokio::test]
async fn every_route_refuses_unknown_parameters() {
    let service = Service::start().await;
    let admin = service.admin();
    let document: Value = admin.root("/openapi.json").await.json();
    let mut count = 0;
    for (path, item) in document["paths"].as_object().expect("an object") {
        let Some(path) = path.strip_prefix(BASE).filter(|path| !NEVER_422.contains(path)) else {
            continue;
        };
        let id =
            if path.starts_with("/inbox") { "1" } else { "0198c0de-0000-7000-8000-000000000001" };
        let path = path.replace("{id}", id).replace("{name}", "a.b").replace("{token}", "abc");
        for (method, operation) in item.as_object().expect("an object") {
            let has_body = operation["requestBody"].is_object();
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).expect("one");
            let mut request = admin.request(method, &format!("{path}?nonsense=1"));
            if has_body {
                request = request.json(&json!({}));
            }
            reply(request).await.invalid("nonsense", &["is not a parameter of this request"]);
            count += 1;
        }
    }
    assert!(count > 25, "{count}");
}

#[tokio::test]
async fn the_parameter_that_was_meant_is_suggested() {
    let service = Service::start().await;
    let admin = service.admin();
    for (path, field, says) in [
        ("/deliveries?gateway=x", "gateway", "did you mean `gatewayId`?"),
        ("/connections?Limit=1", "Limit", "did you mean `limit`?"),
        ("/nodes?status=live", "status", "which has `limit`"),
        ("/stats?from=now", "from", "which has none"),
        ("/gateways?limit=1&limit=2", "limit", "more than once"),
    ] {
        admin.get(path).await.invalid(field, &[says]);
    }
}
