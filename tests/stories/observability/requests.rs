//! Each request has an id, a span that its log lines name, and metrics.

use reqwest::Method;
use serde_json::{Value, json};

use crate::edge::log::lines;
use crate::support::Service;
use crate::support::http::{Caller, Reply, reply};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The request id in a response, which must be there once.
#[track_caller]
fn request_id(reply: &Reply) -> String {
    let ids: Vec<_> = reply.headers.get_all("x-request-id").iter().collect();
    assert_eq!(ids.len(), 1, "{reply:?}");
    ids[0].to_str().expect("text").to_owned()
}

async fn get_with_ids(caller: &Caller, path: &str, ids: &[&str]) -> Reply {
    let request = caller.request(Method::GET, path);
    reply(ids.iter().fold(request, |it, id| it.header("x-request-id", *id))).await
}

#[tokio::test]
async fn a_valid_request_id_is_kept_and_otherwise_one_is_generated() {
    let service = Service::start().await;
    let admin = service.admin();
    let longest = "a".repeat(128);
    for good in ["7", "0198c0de-0000-7000-8000-000000000001", "a.b_c:d/e+f=g@h", &longest] {
        assert_eq!(request_id(&get_with_ids(&admin, "/gateways", &[good]).await), good);
    }
    let too_long = "a".repeat(129);
    let bad: [&[&str]; 7] =
        [&[], &[""], &["a b"], &["a\"b"], &["a,b"], &[&too_long], &["one", "other"]];
    for bad in bad {
        let made = request_id(&get_with_ids(&admin, "/gateways", bad).await);
        let made = uuid::Uuid::parse_str(&made).expect("a UUID");
        assert_eq!(made.get_version_num(), 7, "{bad:?}");
    }
}

#[tokio::test]
async fn every_response_and_problem_contains_its_request_id() {
    let service = Service::start().await;
    let admin = service.admin();
    for (path, status) in [
        ("/nowhere", 404),
        ("/gateways/0198c0de-0000-7000-8000-000000000001", 404),
        ("/gateways?limit=0", 422),
        ("/ws/gateways/connect", 401),
        ("/stats", 200),
    ] {
        let answer = get_with_ids(&admin, path, &["mine"]).await;
        assert_eq!((answer.status, request_id(&answer).as_str()), (status, "mine"), "{path}");
        if status > 401 {
            assert_eq!(answer.json()["requestId"], "mine", "{path}");
        }
    }
    let answer = admin.delete("/stats").await;
    let problem = answer.refusal(405, "method_not_allowed");
    assert_eq!(problem["requestId"], request_id(&answer));
    assert!(!request_id(&admin.root("/livez").await).is_empty());
    // The same for every reason, so that it reveals nothing about a key.
    let refused = service.caller(None).get("/stats").await;
    let problem = refused.refusal(401, "unauthorized");
    assert!(problem.get("requestId").is_none() && !request_id(&refused).is_empty());
}

#[tokio::test]
async fn latencies_are_counted_by_method_route_template_and_status() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    admin.get(&format!("/gateways/{id}")).await.success();
    for nth in 0..3 {
        let unknown = format!("/gateways/0198c0de-0000-7000-8000-00000000000{nth}");
        admin.get(&unknown).await.refusal(404, "not_found");
        admin.get(&format!("/nowhere/{nth}")).await.refusal(404, "not_found");
        admin.root(&format!("/{nth}")).await.refusal(404, "not_found");
        let method = Method::from_bytes(format!("METHOD{nth}").as_bytes()).expect("a method");
        reply(admin.request(method, "/stats")).await.refusal(405, "method_not_allowed");
    }
    let metrics = service.metrics().await;
    let has = |line: &str| assert!(metrics.lines().any(|it| it == line), "{line}\n{metrics}");
    let gateway = "route=\"/api/internal/v1/gateways/{id}\"";
    let count = "gateway_events_http_request_duration_seconds_count";
    has(&format!("{count}{{method=\"GET\",{gateway},status=\"200\"}} 1"));
    has(&format!("{count}{{method=\"GET\",{gateway},status=\"404\"}} 3"));
    has(&format!("{count}{{method=\"GET\",route=\"unmatched\",status=\"404\"}} 6"));
    let stats = "route=\"/api/internal/v1/stats\"";
    has(&format!("{count}{{method=\"_OTHER\",{stats},status=\"405\"}} 3"));
    let bucket = "gateway_events_http_request_duration_seconds_bucket";
    has(&format!("{bucket}{{method=\"GET\",{gateway},status=\"404\",le=\"30\"}} 3"));
    // The scrape itself is in progress.
    has("gateway_events_http_requests_in_flight 1");
    has("# TYPE gateway_events_http_request_duration_seconds histogram");
    let sent = "gateway_events_http_request_body_bytes_total{route=\"/api/internal/v1/gateways\"} ";
    assert!(metrics.lines().any(|it| it.starts_with(sent)), "{metrics}");
}

#[tokio::test]
async fn the_access_log_contains_the_requests_span_and_no_secret() {
    let filter = ("LOG__FILTER", "info,gateway_events::access=debug");
    let service = Service::start_with(&[filter]).await;
    let admin = service.admin();
    let request = admin.request(Method::GET, "/gateways/secret-in-the-path?q=secret-in-the-query");
    let request = request.header("x-request-id", "mine").header("traceparent", TRACEPARENT);
    reply(request).await;
    let of = |line: &Value| line["span"]["request_id"] == "mine";
    let line = lines(&service, 1, of).await.remove(0);
    assert_eq!(line["message"], "request completed", "{line:#}");
    assert!(line["duration_ms"].is_f64(), "{line:#}");
    let status = line["http.response.status_code"].as_u64();
    assert!(status.is_some_and(|status| (400..500).contains(&status)), "{line:#}");
    let span = json!({
        "name": "http_request",
        "http.request.method": "GET",
        "http.route": "/api/internal/v1/gateways/{id}",
        "client.address": "127.0.0.1",
        "request_id": "mine",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    assert_eq!(line["span"], span);
    assert!(!service.log().contains("secret-in"), "{}", service.log());
}

#[tokio::test]
async fn log_lines_of_a_connection_identify_it() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    drop(service.connected(&key).await);
    let connected = lines(&service, 1, |line| line["message"] == "connected").await.remove(0);
    let ended = lines(&service, 1, |line| line["message"] == "disconnected").await.remove(0);
    for line in [connected, ended] {
        let span = &line["span"];
        assert_eq!(
            (&span["name"], &span["gateway_id"]),
            (&json!("gateway_connection"), &json!(id))
        );
        assert_eq!(
            (&span["connection_id"], &span["transport"]),
            (&line["connection"], &json!("websocket"))
        );
        assert!(span["request_id"].is_string(), "{line:#}");
    }
}

#[tokio::test]
async fn log_lines_of_a_request_identify_it_with_any_filter() {
    let service = Service::start_with(&[("LOG__FILTER", "warn")]).await;
    let unauthenticated = service.caller(None);
    get_with_ids(&unauthenticated, "/ws/gateways/connect", &["refused"])
        .await
        .refusal(401, "unauthorized");
    let line = lines(&service, 1, |line| line["message"] == "refused a connection").await.remove(0);
    assert_eq!(line["span"]["request_id"], "refused", "{line:#}");
    assert_eq!(line["span"]["http.route"], "/api/internal/v1/ws/gateways/connect", "{line:#}");
    assert!(!service.log().contains("request completed"), "it is for the access log only");
}
