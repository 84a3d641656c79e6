//! Local addresses that refuse, hang, break off or flood.

use super::product::{Answer, Product, status};
use super::{Agent, confirmed, failures, publish, why};
use crate::support::Service;

#[tokio::test]
async fn a_product_that_is_away_is_awaited_without_a_failed_attempt() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let (id, key) = service.gateway("one").await;
    let product = Product::start(|_| status(200, "", "")).await;
    let url = product.url.clone();
    let address = url.trim_start_matches("http://").trim_end_matches("/events");
    let agent = Agent::start(&service, &key, &["--forward-to", &url]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    drop(product);
    publish(&service, &id, &["d-2", "d-3"]).await;
    agent.logged("the product is not available").await;
    let product = Product::start_at(address, |_| status(200, "", "")).await;
    let received = product.requested(2).await;
    let received: Vec<_> = received.iter().map(|it| (it.sequence(), it.times)).collect();
    assert_eq!(received, [(2, 1), (3, 1)]);
    confirmed(&service, &id, 3).await;
    failures(&service, &id, 0).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_response_that_does_not_come_or_breaks_off_is_retried() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "3")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2", "d-3", "d-4"]).await;
    let product = Product::start(|request| match (request.sequence(), request.times) {
        (1, 1) | (4, _) => Answer::Never,
        (2, 1) => Answer::Close,
        (3, 1) => Answer::Text("HTTP/1.1 banana\r\n\r\n".to_owned()),
        _ => status(200, "", ""),
    })
    .await;
    let arguments = ["--timeout", "2s", "--forward-to", &product.url];
    let agent = Agent::start(&service, &key, &arguments);
    let failed = failures(&service, &id, 1).await;
    assert_eq!(failed[0]["sequence"], 4);
    assert_eq!(why(&failed[0]), ("timeout", "no response within 2 s"));
    let received: Vec<_> = product.requests().iter().map(|it| (it.sequence(), it.times)).collect();
    assert_eq!(received, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3)]);
    agent.stop().await;
}

#[tokio::test]
async fn the_beginning_of_an_endless_body_is_the_detail() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let product = Product::start(|request| match request.sequence() {
        1 => Answer::Endless(500),
        _ => Answer::Endless(200),
    })
    .await;
    let agent = Agent::start(&service, &key, &["--forward-to", &product.url]);
    confirmed(&service, &id, 2).await;
    let failed = failures(&service, &id, 1).await;
    let (reason, detail) = why(&failed[0]);
    assert_eq!(reason, "apply_failed");
    assert!(detail.starts_with("status 500: wrong wrong"), "{detail}");
    assert!(detail.len() > 1024 && detail.len() <= 2048, "{}", detail.len());
    agent.stop().await;
}
