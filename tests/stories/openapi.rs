//! The OpenAPI document and the reference page, which need no token.

use gateway_events::http::openapi;
use serde_json::Value;

use crate::support::Service;

const COMMITTED: &str = include_str!("../../docs/openapi.json");

#[test]
fn the_committed_document_is_up_to_date() {
    assert!(
        openapi::json() == COMMITTED,
        "docs/openapi.json is outdated; refresh it: cargo run -- openapi > docs/openapi.json"
    );
}

#[tokio::test]
async fn the_document_is_served_to_anyone() {
    let service = Service::start().await;
    let reply = service.caller(None).root("/openapi.json").await;
    assert_eq!((reply.status, reply.content_type()), (200, "application/json"));
    assert_eq!(reply.body, COMMITTED);
    assert_eq!(reply.headers["connection"], "close", "{reply:?}");
    let document: Value = reply.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
}

#[tokio::test]
async fn the_reference_page_loads_nothing_from_another_host() {
    let service = Service::start().await;
    let anyone = service.caller(None);
    let page = anyone.root("/docs").await;
    assert_eq!((page.status, page.content_type()), (200, "text/html; charset=utf-8"));
    let policy = page.headers["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.body.split(attribute).skip(1) {
            let link = rest.split('"').next().expect("a closed attribute");
            if link == "data:," {
                continue;
            }
            assert!(link.starts_with('/') && !link.starts_with("//"), "{link}");
            let reply = anyone.root_bytes(link).await;
            assert_eq!(reply.status, 200, "{link}");
            files += 1;
        }
    }
    assert_eq!(files, 4);
    anyone.root("/docs/../Cargo.toml").await.refusal(404, "not_found");
    anyone.root("/docs/no-such-file").await.refusal(404, "not_found");
}
