//! Spans of requests reach an OpenTelemetry collector, and a collector that is unreachable or slow
//! affects nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as Code};
use prost::Message as _;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

use crate::edge::log::lines;
use crate::support::http::reply;
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// A batch waits for 5 s, and sending it may take 10 s.
const LONG: Duration = Duration::from_secs(90);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// An OTLP/HTTP receiver on a port of its own.
struct Collector {
    endpoint: String,
    batches: Mutex<mpsc::UnboundedReceiver<ExportTraceServiceRequest>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, batches) = mpsc::unbounded_channel();
        let receive = move |body: Bytes| {
            let batch = ExportTraceServiceRequest::decode(body).expect("a batch of spans");
            sender.send(batch).expect("the story listens");
            async { StatusCode::OK }
        };
        let router = Router::new().route("/v1/traces", post(receive));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, batches: Mutex::new(batches) }
    }

    /// Waits for a span; returns it and the attributes of its resource.
    async fn span(&self, is_wanted: impl Fn(&Span) -> bool) -> (Span, Vec<KeyValue>) {
        let mut batches = self.batches.lock().await;
        let waiting = async {
            loop {
                let batch = batches.recv().await.expect("a batch");
                for of_resource in batch.resource_spans {
                    let mut spans = of_resource.scope_spans.into_iter().flat_map(|it| it.spans);
                    if let Some(span) = spans.find(&is_wanted) {
                        let resource = of_resource.resource.expect("a resource");
                        return (span, resource.attributes);
                    }
                }
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, waiting).await.expect("the span arrives")
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Value {
    let found = attributes.iter().find(|it| it.key == key);
    match found.and_then(|it| it.value.clone()).and_then(|it| it.value) {
        Some(any_value::Value::StringValue(text)) => text.into(),
        Some(any_value::Value::IntValue(number)) => number.into(),
        other => panic!("{key}: {other:?} of {attributes:#?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[tokio::test]
async fn a_publish_is_exported_as_a_child_of_its_callers_span() {
    let collector = Collector::start().await;
    let service = Service::start_with(&[("OTLP__ENDPOINT", &collector.endpoint)]).await;
    let (id, _) = service.gateway("one").await;
    let publish = |traceparent: String, request_id: &str| {
        let request = service.admin().request(Method::POST, "/events");
        let request = request.header("traceparent", traceparent);
        reply(request.header("x-request-id", request_id).json(&deployed(&[&id], "d-1")))
    };
    // The caller decides whether it is recorded.
    publish(format!("00-{TRACE}-{PARENT}-00"), "unsampled").await.success();
    publish(format!("00-{TRACE}-{PARENT}-01"), "mine").await.success();
    let of_trace = |span: &Span| hex(&span.trace_id) == TRACE;
    let (span, resource) = collector.span(of_trace).await;
    assert_eq!(hex(&span.parent_span_id), PARENT);
    assert_eq!(
        (span.name.as_str(), span.kind()),
        ("POST /api/internal/v1/events", SpanKind::Server)
    );
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/internal/v1/events"),
        ("client.address", "127.0.0.1"),
        ("request_id", "mine"),
    ] {
        assert_eq!(attribute(&span.attributes, key), value);
    }
    assert_eq!(attribute(&span.attributes, "http.response.status_code"), 202);
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    let nodes = service.admin().get("/nodes").await.success();
    for (key, value) in [
        ("service.name", "gateway-events"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", nodes["list"][0]["id"].as_str().expect("an id")),
    ] {
        assert_eq!(attribute(&resource, key), value);
    }
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_end_and_the_log_names_their_traces() {
    let collector = Collector::start().await;
    let settings = [
        ("OTLP__ENDPOINT", collector.endpoint.as_str()),
        ("LOG__FILTER", "info,gateway_events::access=debug"),
    ];
    let mut service = Service::start_with(&settings).await;
    let request = service.caller(None).request(Method::GET, "/stats");
    reply(request.header("x-request-id", "mine")).await.refusal(401, "unauthorized");
    let of = |line: &Value| {
        line["span"]["request_id"] == "mine" && line["message"] == "request completed"
    };
    let line = lines(&service, 1, of).await.remove(0);
    let trace = line["span"]["trace_id"].as_str().expect("a trace").to_owned();
    assert_eq!(service.terminate().await, Some(0));
    let (span, _) = collector.span(|span| hex(&span.trace_id) == trace).await;
    assert!(span.parent_span_id.is_empty(), "{span:#?}");
    assert_eq!(attribute(&span.attributes, "http.response.status_code"), 401);
    // A refusal is not a failure of the server.
    assert!(span.status.is_none_or(|status| status.code() == Code::Unset));
}

#[tokio::test]
async fn a_ratio_of_zero_only_records_what_callers_sample() {
    let collector = Collector::start().await;
    let settings = [("OTLP__ENDPOINT", collector.endpoint.as_str()), ("OTLP__SAMPLING_RATIO", "0")];
    let mut service = Service::start_with(&settings).await;
    let (id, _) = service.gateway("one").await;
    let request = service.admin().request(Method::POST, "/events");
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    reply(request.json(&deployed(&[&id], "d-1"))).await.success();
    assert_eq!(service.terminate().await, Some(0));
    // Of all requests, only this one is recorded.
    let (span, _) = collector.span(|_| true).await;
    assert_eq!(hex(&span.trace_id), TRACE);
}

/// Checks that publishing works, that the failure is counted and logged once, and that the shutdown
/// is not delayed.
async fn is_harmless(endpoint: &str) {
    let mut service = Service::start_with(&[("OTLP__ENDPOINT", endpoint)]).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    for nth in 1..=20 {
        let event = deployed(&[&id], &format!("d-{nth}"));
        service.admin().post("/events", &event).await.success();
        socket.expect(nth..=nth).await;
    }
    let failures = "gateway_events_otlp_export_failures_total ";
    let count = async || {
        let metrics = service.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(failures)).unwrap_or("0");
        value.parse::<u64>().expect("a count")
    };
    let mut polls = tokio::time::interval(Duration::from_millis(200));
    let counted = tokio::time::timeout(LONG, async {
        // Each poll is a request, too, and so a span of the next batch.
        while count().await < 2 {
            polls.tick().await;
        }
    });
    assert!(counted.await.is_ok(), "{}", service.log());
    let message = "failed to export spans";
    assert_eq!(service.log().matches(message).count(), 1, "{}", service.log());
    assert_eq!(service.terminate().await, Some(0));
}

#[tokio::test]
async fn unreachable_collector_does_not_affect_the_service() {
    // Bound and closed again, so nothing listens there.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    is_harmless(&format!("http://{address}")).await;
}

#[tokio::test]
async fn unresponsive_collector_does_not_affect_the_service() {
    let listener = Arc::new(TcpListener::bind(("127.0.0.1", 0)).await.expect("a port"));
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    is_harmless(&format!("http://{address}")).await;
}
