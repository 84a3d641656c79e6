//! Exports the spans of requests to an OpenTelemetry collector, by OTLP over HTTP. Finished spans
//! wait in a bounded queue for a separate thread, which sends them in batches. Spans that don't fit
//! into the queue or can't be sent are dropped: a collector that is slow or unreachable never
//! delays a request.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

use super::{Otlp, TelemetryError};
use crate::event::NodeId;
use crate::log_limit::{Bounds, LogLimit};
use crate::metric;
use crate::trace_context::{TraceId, TraceParent};

/// Capacity of the queue in spans; additional ones are dropped.
const QUEUE: usize = 2048;
/// The maximum number of spans in a batch.
const BATCH: usize = 512;
/// How long a batch waits for more spans.
const DELAY: Duration = Duration::from_secs(5);
/// The timeout of sending a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the process waits at its end for the last spans to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// At most one log line per minute about failures.
const BOUNDS: Bounds = Bounds { per_key: 1, in_all: 1, keys: 1 };

/// A layer that records spans.
pub(super) type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The running export. Dropping it sends the last spans, within a time limit.
#[derive(Debug)]
pub(super) struct Export(SdkTracerProvider);

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::debug!(%error, "failed to export the last spans");
        }
    }
}

static IS_ON: OnceLock<()> = OnceLock::new();

/// Starts the export and its thread. Only spans of the given name are exported. Call it inside the
/// runtime that sends them.
pub(super) fn start(
    settings: &Otlp,
    node: NodeId,
    span_name: &'static str,
) -> Result<(SpanLayer, Export), TelemetryError> {
    let failed = |error: &dyn std::fmt::Display| TelemetryError(format!("no OTLP: {error}"));
    let client = Client::new().map_err(|error| failed(&error))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{}/v1/traces", settings.endpoint.trim_end_matches('/')))
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|error| failed(&error))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(
            BatchSpanProcessor::builder(exporter).with_batch_config(batches).build(),
        )
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            settings.sampling_ratio,
        ))))
        .with_resource(resource(node))
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("gateway-events"))
        // The time of each poll is not recorded, because that would cost more than the rest.
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_filter(filter_fn(move |metadata| metadata.is_span() && metadata.name() == span_name));
    let _ = IS_ON.set(());
    Ok((Box::new(layer), Export(provider)))
}

/// Attributes of all spans. `OTEL_RESOURCE_ATTRIBUTES` adds to them.
fn resource(node: NodeId) -> Resource {
    Resource::builder()
        .with_service_name("gateway-events")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", node.to_string()),
        ])
        .build()
}

/// Whether spans are exported.
pub(super) fn is_on() -> bool {
    IS_ON.get().is_some()
}

/// Makes a new span a child of the caller's span; returns its trace id.
pub(super) fn begin(span: &Span, parent: Option<&TraceParent>) -> Option<TraceId> {
    if let Some(parent) = parent {
        let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let remote = SpanContext::new(
            opentelemetry::trace::TraceId::from_bytes(parent.trace_id().0),
            SpanId::from_bytes(parent.parent_id()),
            flags,
            true,
            TraceState::default(),
        );
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
    }
    let context = span.context();
    let own = context.span().span_context().trace_id();
    (own != opentelemetry::trace::TraceId::INVALID).then(|| TraceId(own.to_bytes()))
}

/// Records the status of the response. A server's span has failed at 500 and above.
pub(super) fn end(span: &Span, status: u16) {
    span.set_attribute("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}

/// Sends requests from the runtime, because the SDK's thread has none, and logs failures.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    failures: LogLimit<()>,
}

impl Client {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls_platform_verifier::Verifier::new(std::sync::Arc::clone(&provider))?;
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(std::sync::Arc::new(verifier))
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, runtime: Handle::try_current()?, failures: LogLimit::new(BOUNDS) })
    }

    fn failed(&self, why: &str) {
        metrics::counter!(metric::OTLP_EXPORT_FAILURES).increment(1);
        if let Some(suppressed) = self.failures.admit(&()) {
            tracing::warn!(why, suppressed, "failed to export spans; dropped them");
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move { send(&http, request).await }).await;
        let sent = sent.map_err(HttpError::from).and_then(|sent| sent);
        match &sent {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.failed(response.status().as_str()),
            Err(error) => self.failed(&error.to_string()),
        }
        sent
    }
}

async fn send(
    client: &reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let response = client.execute(request.try_into()?).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut answer = Response::builder().status(status).body(response.bytes().await?)?;
    *answer.headers_mut() = headers;
    Ok(answer)
}
