//! `GET /gateways/stream`: a gateway's connection over server-sent events. Every refusal comes
//! before the stream begins.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, FromRequestParts as _, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;

use super::acceptor::{Acceptor, Refused};
use super::auth;
use super::fallbacks;
use super::listener::{Peer, StreamSlot};
use super::observability;
use super::openapi::{Problems, Streaming};
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::admission::Attempt;
use crate::api::{EventEnvelope, StreamConfirm, StreamQuery, StreamResume};
use crate::clock::Timestamp;
use crate::dispatch::Session;
use crate::event::quoted;
use crate::transport::frames::{Confirm, Envelope, GatewayFrame, Hello, Position, Resume};
use crate::transport::reliable::{self, Encoding};
use crate::transport::sse::{self, Text};
use crate::transport::{self, DeliveryRequest, ReliableGreeting, Start, push};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

impl FromQuery for StreamQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let confirm = [("received", StreamConfirm::Received), ("applied", StreamConfirm::Applied)];
        let types = parameters.parse("types", |text| {
            text.split(',').map(|name| name.trim().parse()).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Self {
            instance: parameters.text("instance").map(str::to_owned),
            resume: parameters.parse("resume", resume)?.unwrap_or_default(),
            window: parameters.whole("window", 0..=u32::MAX)?,
            types: types.unwrap_or_default(),
            confirm: parameters.one_of("confirm", &confirm)?.unwrap_or_default(),
            envelope: parameters.one_of("envelope", &EventEnvelope::NAMED)?,
        })
    }
}

/// Where a stream begins.
fn resume(text: &str) -> Result<StreamResume, String> {
    match text {
        "server" => Ok(StreamResume::Server),
        "latest" => Ok(StreamResume::Latest),
        "earliest" => Ok(StreamResume::Earliest),
        _ => {
            let Position { epoch, sequence, .. } = sse::position(text).ok_or_else(|| {
                let allowed = "server, latest, earliest, or a position, EPOCH.SEQUENCE";
                format!("must be {allowed}, not {}", quoted(text))
            })?;
            Ok(StreamResume::After { epoch, sequence })
        }
    }
}

/// Receive events as a gateway, over server-sent events.
///
/// The stream has the frames of the protocol `gateway-events.v1`, one in the `data` of each message.
/// `event` is the frame's type, or `message` for events. `id`, on events and `delivery.mark`, is the
/// position `EPOCH.SEQUENCE` after them; to continue after a lost connection, send the last `id` as
/// `Last-Event-ID`, as `EventSource` does. With `confirm=received`, delivery continues after it. With
/// `confirm=applied` it continues after the stored position, or after `Last-Event-ID` if that is
/// lower, so that what was received and not applied comes again. Confirm events with
/// `POST /gateways/connections/{connectionId}/frames`, at the node that the stream comes from. The
/// service sends a comment at least every `heartbeatMs` as a keep-alive.
#[utoipa::path(
    get, path = "/gateways/stream", tag = "for gateways", operation_id = "streamEvents",
    params(
        StreamQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last message that was received. It takes precedence over `resume`, and confirms everything up to it only with `confirm=received`."),
    ),
    responses(
        (status = 200, description = "The stream.", content_type = "text/event-stream", body = String),
        Problems<(Streaming,)>,
    ),
    security(("gateway_key" = [])),
)]
pub(super) async fn follow(
    State(acceptor): State<Arc<Acceptor>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    if *request.method() == Method::HEAD {
        return fallbacks::get_only();
    }
    let (mut parts, _) = request.into_parts();
    let address = acceptor.address(&peer, &parts.headers);
    match open(&acceptor, &peer, address, &mut parts).await {
        Ok(opened) => start(&acceptor, opened, &parts.headers),
        Err(refused) => acceptor.refuse(refused, address, sse::NAME),
    }
}

/// An open connection.
struct Opened {
    greeting: ReliableGreeting,
    envelope: Option<Envelope>,
    session: Session,
    attempt: Attempt,
    slot: StreamSlot,
}

async fn open(
    acceptor: &Acceptor,
    peer: &Peer,
    address: IpAddr,
    parts: &mut Parts,
) -> Result<Opened, Refused> {
    acceptor.check_origin(&parts.headers)?;
    if peer.slot.is_reserve() {
        return Err(Problem::http_connection_limit().into());
    }
    let candidate = auth::candidate(&parts.headers, address);
    let StreamRequest { request, envelope } = match read_request(parts).await {
        Ok(request) => request,
        Err(problem) => return Err(acceptor.invalid_request(candidate, problem).await),
    };
    let greeted = acceptor.admissions.greet(candidate, sse::NAME).await?;
    peer.slot.authenticated();
    peer.keep();
    let greeting = greeted.greeting();
    let (session, attempt) = greeted.open(request).await?;
    Ok(Opened { greeting, envelope, session, attempt, slot: peer.slot.stream() })
}

/// What a request asks for.
struct StreamRequest {
    request: DeliveryRequest,
    envelope: Option<Envelope>,
}

async fn read_request(parts: &mut Parts) -> HandlerResult<StreamRequest> {
    let Query(query) = Query::<StreamQuery>::from_request_parts(parts, &()).await?;
    let last = last_event_id(&parts.headers)?;
    let (resume, start) = match (last, query.confirm, query.resume) {
        (Some(last), StreamConfirm::Received, _) => (Resume::After(last), None),
        // `EventSource` sends the position by itself, whatever was applied.
        (Some(Position { epoch, sequence, .. }), StreamConfirm::Applied, _) => {
            (Resume::Server, Some(Start::Received { epoch, sequence }))
        }
        (None, _, StreamResume::Server) => (Resume::Server, None),
        (None, _, StreamResume::Latest) => (Resume::Latest, None),
        (None, _, StreamResume::Earliest) => (Resume::Earliest, None),
        (None, _, StreamResume::After { epoch, sequence }) => {
            (Resume::After(Position { epoch, sequence, event_id: None }), None)
        }
    };
    let envelope = query.envelope.map(envelope);
    let hello = Hello {
        instance: query.instance,
        resume,
        window: query.window,
        window_bytes: None,
        types: Some(query.types).filter(|types| !types.is_empty()),
        confirm: match query.confirm {
            StreamConfirm::Received => Confirm::Received,
            StreamConfirm::Applied => Confirm::Applied,
        },
        envelope,
    };
    let mut request = reliable::request(checked(hello)?);
    if let Some(start) = start {
        request.start = start;
    }
    Ok(StreamRequest { request, envelope })
}

/// The member of a hello.
pub(super) const fn envelope(envelope: EventEnvelope) -> Envelope {
    match envelope {
        EventEnvelope::Native => Envelope::Native,
        EventEnvelope::CloudEvents => Envelope::CloudEvents,
    }
}

/// Checks a hello whose members are parameters of a request.
pub(super) fn checked(hello: Hello) -> HandlerResult<Hello> {
    match GatewayFrame::Hello(hello).checked() {
        Ok(GatewayFrame::Hello(hello)) => Ok(hello),
        Ok(_) => Err(Problem::internal()),
        Err(error) => Err(match error.member {
            Some(member) => Problem::invalid(&member.path, member.why),
            None => Problem::invalid("query", error.message),
        }),
    }
}

fn last_event_id(headers: &HeaderMap) -> HandlerResult<Option<Position>> {
    let mut ids = headers.get_all(LAST_EVENT_ID).iter();
    let Some(id) = ids.next() else { return Ok(None) };
    let position = id.to_str().ok().and_then(sse::position).filter(|_| ids.next().is_none());
    let position = position.ok_or_else(|| {
        Problem::bad_request(
            "Last-Event-ID must be the id of a message of this stream, EPOCH.SEQUENCE, given once.",
        )
    })?;
    Ok(Some(position))
}

fn start(acceptor: &Acceptor, opened: Opened, headers: &HeaderMap) -> Response {
    let Opened { greeting, envelope, session, attempt, slot } = opened;
    let greeted = greeting.greeting;
    let span = observability::connection_span(greeted.gateway_id, session.id(), sse::NAME, headers);
    let (lane_end, transport_end) = transport::link();
    let text = Text::new(Encoding { epoch: greeted.epoch, envelope });
    let (connection, inbound, items) =
        push::prepare(text, transport_end, acceptor.config.delivery.write_timeout);
    let listed = acceptor.streams.list(greeted.gateway_id, session.id(), inbound);
    span.in_scope(|| session.start(lane_end));
    let first =
        Text::first(reliable::connection_ack(&greeting, acceptor.frame_bytes(), Timestamp::now()));
    let run = async move {
        connection.run(vec![first]).await;
        drop((listed, attempt, slot));
    };
    tokio::spawn(run.instrument(span));
    let body = Body::from_stream(futures_util::stream::unfold(items, async |mut items| {
        let item = items.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(item), items))
    }));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}
