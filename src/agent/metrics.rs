//! The agent's metrics, and their listener.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::outcome::{Answer, Reply};
use crate::event::Sequence;
use crate::metric::{self, Kind, Metric};

const EVENTS: &str = "gateway_events_agent_events_total";
const RETRIES: &str = "gateway_events_agent_retries_total";
const DURATION: &str = "gateway_events_agent_duration_seconds";
const LAST_APPLIED: &str = "gateway_events_agent_last_applied_sequence";
const CONNECTED: &str = "gateway_events_agent_connected";

/// All metrics of the agent.
pub const CATALOGUE: &[Metric] = &[
    Metric {
        name: metric::BUILD_INFO,
        kind: Kind::Gauge,
        help: "Always 1; its label says which version runs.",
    },
    Metric {
        name: metric::LOG_LINES_DROPPED,
        kind: Kind::Counter,
        help: "Log lines that were dropped because they could not be written.",
    },
    Metric {
        name: EVENTS,
        kind: Kind::Counters,
        help: "Times that an event was handed over, by outcome: `applied`, `rejected`, `retry`, `unavailable`.",
    },
    Metric {
        name: RETRIES,
        kind: Kind::Counter,
        help: "Times that an event was not applied and is tried again: outcomes `retry` and `unavailable`.",
    },
    Metric {
        name: DURATION,
        kind: Kind::Histogram,
        help: "Time from handing an event over to its outcome, by outcome.",
    },
    Metric {
        name: LAST_APPLIED,
        kind: Kind::Gauge,
        help: "The sequence of the event that was applied last, since the start.",
    },
    Metric {
        name: CONNECTED,
        kind: Kind::Gauge,
        help: "1 if the agent is connected to the service, otherwise 0.",
    },
];

/// The most connections to the listener. Others wait.
const CONNECTIONS: usize = 16;
/// How long a request may take to arrive.
const HEAD: Duration = Duration::from_secs(10);
/// The interval at which histograms are compacted.
const UPKEEP: Duration = Duration::from_secs(5);

/// Creates the metrics that are known at the start.
pub fn create() {
    metrics::gauge!(metric::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metric::create(EVENTS, "outcome", ["applied", "rejected", "retry", "unavailable"]);
    connected(false);
}

/// An event was handed over, and this is the outcome.
pub(super) fn handed_over(reply: &Reply, took: Duration) {
    metrics::counter!(EVENTS, "outcome" => reply.name()).increment(1);
    metrics::histogram!(DURATION, "outcome" => reply.name()).record(took);
    if matches!(reply, Reply::Answered(Answer::Retry { .. }) | Reply::Unavailable(_)) {
        metrics::counter!(RETRIES).increment(1);
    }
}

#[expect(clippy::cast_precision_loss, reason = "sequences have at most 53 bits")]
pub(super) fn applied(sequence: Sequence) {
    metrics::gauge!(LAST_APPLIED).set(sequence.0 as f64);
}

pub(super) fn connected(is_connected: bool) {
    metrics::gauge!(CONNECTED).set(if is_connected { 1.0 } else { 0.0 });
}

/// Serves `GET /metrics`, without TLS and authentication, until it is dropped. `upkeep` is called every
/// few seconds.
pub async fn serve(
    listener: TcpListener,
    render: impl Fn() -> String + Send + Sync + 'static,
    upkeep: impl Fn(),
) {
    let render = Arc::new(render);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Beyond the limit, connections are closed at once. Those that send nothing
                    // soon make room.
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    let render = Arc::clone(&render);
                    tokio::spawn(async move {
                        connection(stream, render).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection for metrics");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    let upkeep = async {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep();
        }
    };
    tokio::join!(accepting, upkeep);
}

/// Answers one request.
async fn connection(stream: TcpStream, render: Arc<impl Fn() -> String + Send + Sync + 'static>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, render.as_ref());
        async move { answer }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::time::timeout(2 * HEAD, connection).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection for metrics ended with an error");
    }
}

fn answer<B>(
    request: &Request<B>,
    render: &impl Fn() -> String,
) -> hyper::http::Result<Response<String>> {
    let response = Response::builder();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            response.header(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8").body(render())
        }
        (_, "/metrics") => response.status(StatusCode::METHOD_NOT_ALLOWED).body(String::new()),
        _ => response.status(StatusCode::NOT_FOUND).body(String::new()),
    }
}
