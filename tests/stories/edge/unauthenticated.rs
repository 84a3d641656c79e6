//! Requests without a valid key, or with one for another purpose: nothing of them is read or
//! stored, and the status shows what helps.

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Service, TEST_TIMEOUT};

/// Sends a manifest; returns the status.
pub(crate) async fn manifest(service: &Service, gateway: &str, key: Option<&str>) -> u16 {
    let path = format!("/api/internal/v1/gateways/{gateway}/manifest");
    let mut request = service.api().at_root(Method::POST, &path).body("{\"version\": \"1\"}");
    if let Some(key) = key {
        request = request.header("api-key", key);
    }
    request.send().await.expect("an answer").status().as_u16()
}

/// The head of the response to a request whose body does not arrive.
async fn head_of_answer(service: &Service, path: &str, headers: &str) -> String {
    let mut stream = service.tls(service.port).await;
    let request = format!(
        "POST /api/internal/v1{path} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Length: 15000000\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("it is open");
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, reading).await.expect("it comes without the body");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn the_body_of_an_unauthenticated_request_is_not_awaited() {
    let service = Service::start_with(&[("SERVER__REQUEST_TIMEOUT", "10m")]).await;
    let (id, key) = service.gateway("one").await;
    let path = format!("/gateways/{id}/manifest");
    for headers in ["", "api-key: nonsense\r\n"] {
        let answer = head_of_answer(&service, &path, headers).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    let answer = head_of_answer(&service, "/events", "").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    // With a valid key, a body is read up to the maximum size of a manifest.
    let request = service.api().at_root(Method::POST, &format!("/api/internal/v1{path}"));
    let large = vec![b' '; 1024 * 1024 + 1];
    let answer = request.header("api-key", &key).body(large).send().await.expect("an answer");
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.text().await.expect("text").contains("manifest_too_large"));
    assert_eq!(manifest(&service, &id, Some(&key)).await, 204);
}

#[tokio::test]
async fn only_permanent_errors_have_a_status_after_which_gateways_stop() {
    let service = Service::start().await;
    let (one, key) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    assert_eq!(manifest(&service, &one, Some(&key)).await, 204);
    assert_eq!(manifest(&service, &other, Some(&key)).await, 400);
    assert_eq!(manifest(&service, "unknown", Some(&key)).await, 400);
    assert_eq!(manifest(&service, &one, None).await, 401);
    let path = "/api/internal/v1/ws/gateways/connect";
    let request = service.api().at_root(Method::GET, path);
    let request = request.header("api-key", &key).header("origin", "https://proxy.example");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 400);
    let body = answer.text().await.expect("text");
    assert!(body.contains("origin_refused"), "{body}");
}
