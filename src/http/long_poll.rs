//! `GET /gateways/events`: a gateway's events by long polling. The connection of an instance lives
//! between its requests, in the memory of one node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dashmap::DashMap;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::Instrument as _;

use super::acceptor::{Acceptor, Refused};
use super::auth;
use super::extract::{Bytes, Path};
use super::fallbacks;
use super::gateway_frames::{accept, gone};
use super::gateway_stream::{self, checked};
use super::listener::Peer;
use super::observability;
use super::openapi::{Frames, Keyed, Problems, Streaming};
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented, not_allowed};
use crate::api::{EventEnvelope, PollQuery, PolledEvents};
use crate::event::{ConnectionId, GatewayId, Reason};
use crate::transport::frames::{Confirm, Envelope, Hello, Position, Resume};
use crate::transport::long_poll::{self, Poller, Reply, Request};
use crate::transport::reliable::{self, Closing};
use crate::transport::{self, DeliveryRequest, ReliableGreeting, Start, sse};

/// The wait of a request that names none.
const DEFAULT_WAIT: Duration = Duration::from_secs(25);
const MAX_WAIT: Duration = Duration::from_mins(1);
/// What is left of `server.request_timeout` for the response, after the wait.
const MARGIN: Duration = Duration::from_secs(5);
/// The most events in a response.
const MAX_EVENTS: usize = 256;
/// The most connections that are opened for one request. An additional one replaces one that can't serve
/// it.
const TRIES: usize = 4;
/// How long the response to a request is delayed whose place a later one has taken, so that gateways
/// that use the same name don't take turns as fast as they can.
const SUPERSEDED: Duration = Duration::from_secs(1);

/// The connections of this node, by gateway and instance. All requests of a gateway without a name
/// share one.
#[derive(Clone, Debug, Default)]
pub(super) struct Pollers(Arc<DashMap<Instance, Arc<Slot>>>);

type Instance = (GatewayId, String);

/// An instance's connection. Locked while one is opened, so that concurrent requests open only one.
type Slot = Mutex<Option<Held>>;

/// A connection, and the public part of the key that it was opened with.
#[derive(Debug)]
struct Held {
    poller: Poller,
    token: String,
    envelope: Envelope,
}

/// A slot that is in use. The fields are dropped in this order.
struct InUse {
    slot: Arc<Slot>,
    tidy: Tidy,
}

/// Removes a slot that is not in use and has no connection, when this is dropped.
#[derive(Clone)]
struct Tidy {
    pollers: Pollers,
    instance: Instance,
}

impl Pollers {
    /// The slot of an instance, which is created if there is none.
    fn slot(&self, instance: Instance) -> InUse {
        let tidy = self.tidy(instance.clone());
        InUse { slot: Arc::clone(&self.0.entry(instance).or_default()), tidy }
    }

    /// The slot of an instance, if there is one.
    fn find(&self, instance: Instance) -> Option<InUse> {
        let slot = Arc::clone(self.0.get(&instance)?.value());
        Some(InUse { slot, tidy: self.tidy(instance) })
    }

    fn tidy(&self, instance: Instance) -> Tidy {
        Tidy { pollers: self.clone(), instance }
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        self.pollers.0.remove_if(&self.instance, |_, slot| {
            let is_unused = Arc::strong_count(slot) == 1;
            is_unused
                && slot
                    .try_lock()
                    .is_ok_and(|held| held.as_ref().is_none_or(|held| held.poller.is_closed()))
        });
    }
}

impl FromQuery for PollQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let text = |name| parameters.text(name).map(str::to_owned);
        Ok(Self {
            instance: text("instance"),
            after: text("after"),
            max: parameters.whole("max", 1..=MAX_EVENTS)?,
            wait: text("wait"),
            ack: text("ack"),
            snapshot: text("snapshot"),
            envelope: parameters.one_of("envelope", &EventEnvelope::NAMED)?,
        })
    }
}

/// A request, checked.
struct PollRequest {
    instance: Option<String>,
    after: Option<Position>,
    ack: Option<Position>,
    snapshot: Option<ConnectionId>,
    max: usize,
    wait: Duration,
    envelope: Option<Envelope>,
}

impl PollRequest {
    fn new(query: PollQuery, longest: Duration) -> HandlerResult<Self> {
        let PollQuery { instance, after, max, wait, ack, snapshot, envelope } = query;
        let position = |name: &str, text: Option<String>| {
            text.map(|text| {
                let allowed = "a position, EPOCH.SEQUENCE";
                sse::position(&text).ok_or_else(|| not_allowed(name, &text, allowed))
            })
            .transpose()
        };
        let (after, ack) = (position("after", after)?, position("ack", ack)?);
        if let (Some(after), Some(ack)) = (&after, &ack)
            && after.epoch == ack.epoch
            && ack.sequence > after.sequence
        {
            return Err(Problem::invalid("ack", "must not be above `after`"));
        }
        let snapshot = snapshot
            .map(|text| {
                let allowed = "the `connectionId` of the response with the gap";
                text.parse().map_err(|_| not_allowed("snapshot", &text, allowed))
            })
            .transpose()?;
        if snapshot.is_some() && ack.is_none() {
            return Err(Problem::invalid("snapshot", "needs `ack`, the `resumeAt` of the gap"));
        }
        let max = max.unwrap_or(MAX_EVENTS);
        let wait = match wait {
            None => DEFAULT_WAIT,
            Some(text) => humantime_serde::re::humantime::parse_duration(&text)
                .ok()
                .filter(|wait| *wait <= MAX_WAIT)
                .ok_or_else(|| {
                    not_allowed("wait", &text, "a duration of at most 1m, such as 25s")
                })?,
        };
        let wait = wait.min(longest);
        let envelope = envelope.map(gateway_stream::envelope);
        let poll = Self { instance, after, ack, snapshot, max, wait, envelope };
        checked(poll.hello())?;
        Ok(poll)
    }

    /// Where a connection starts that is opened for this request. A position to resume after counts as
    /// confirmed, which only `ack` is. A connection that `rewinds` starts at a position that was
    /// confirmed before.
    fn start(&self, log: &ReliableGreeting, rewinds: bool) -> Start {
        let is_of_log = |position: &Position| {
            position.epoch == log.greeting.epoch && position.sequence <= log.head
        };
        // A position of another log is answered with a gap.
        let elsewhere = self.after.iter().chain(&self.ack).find(|position| !is_of_log(position));
        let exact = if rewinds { &self.after } else { &self.ack };
        match (elsewhere.or(exact.as_ref()), &self.ack) {
            (None, _) => Start::Stored,
            // The gateway may have confirmed more since, which must not hold back what follows.
            (Some(_), Some(ack)) if elsewhere.is_none() && !rewinds && self.after != self.ack => {
                Start::Confirmed { epoch: ack.epoch, sequence: ack.sequence }
            }
            (Some(Position { epoch, sequence, event_id }), _) => {
                let (epoch, sequence, event_id) = (*epoch, *sequence, event_id.clone());
                Start::After { epoch, sequence, event_id }
            }
        }
    }

    /// The hello of a connection that is opened for this request, apart from where it starts.
    fn hello(&self) -> Hello {
        Hello {
            instance: self.instance.clone(),
            resume: Resume::Server,
            window: None,
            window_bytes: None,
            types: None,
            confirm: Confirm::Applied,
            envelope: self.envelope,
        }
    }

    fn request(&self) -> Request {
        let (after, ack) = (self.after.clone(), self.ack.clone());
        Request { ack, after, snapshot: self.snapshot, max: self.max, wait: self.wait }
    }
}

/// Receive events as a gateway, by long polling.
///
/// The response comes at once if there are events, or as soon as there is one; after `wait` it is 204.
/// `ack` confirms everything up to a position as applied, before the request reads; `after` confirms
/// nothing. A request without `after` continues at the position that the service stores for the
/// instance. `gap` says that events can't be delivered: read the snapshot, and confirm `resumeAt` with
/// `ack`, and the response's `connectionId` with `snapshot`. An instance counts as connected for twice the `wait` of its last request. Its requests
/// should reach the same node; another node opens a new connection. A request that is replaced by
/// another request or connection of the instance gets 204 after a second.
#[utoipa::path(
    get, path = "/gateways/events", tag = "for gateways", operation_id = "pollEvents",
    params(PollQuery),
    responses(
        (status = 200, description = "Events, or a gap.", body = PolledEvents),
        (status = 204, description = "There was no event in time."),
        Problems<(Streaming,)>,
    ),
    security(("gateway_key" = [])),
)]
pub(super) async fn poll(
    State(acceptor): State<Arc<Acceptor>>,
    State(pollers): State<Pollers>,
    method: Method,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    credential: Result<auth::Gateway, Problem>,
    query: Result<Query<PollQuery>, Problem>,
) -> HandlerResult<Response> {
    if method == Method::HEAD {
        return Ok(fallbacks::get_only());
    }
    acceptor.check_origin(&headers)?;
    let address = acceptor.address(&peer, &headers);
    // First, so that an invalid key is refused as such, whatever else is wrong.
    let credential = match credential {
        Ok(auth::Gateway(credential)) => credential,
        Err(problem) => {
            // It counts as an attempt to connect.
            let candidate = auth::candidate(&headers, address);
            return match acceptor.admissions.authenticate(candidate).await {
                Ok(_) => Err(problem),
                Err(refused) => Ok(acceptor.refuse(refused.into(), address, long_poll::NAME)),
            };
        }
    };
    let Query(query) = query?;
    if peer.slot.is_reserve() {
        return Err(Problem::http_connection_limit());
    }
    peer.slot.authenticated();
    peer.keep();
    let _streaming = peer.slot.stream();
    let timeout = acceptor.config.server.request_timeout;
    let longest = timeout.saturating_sub(MARGIN).max(timeout / 2);
    let poll = PollRequest::new(query, longest)?;
    let in_use = pollers.slot((credential.gateway_id, poll.instance.clone().unwrap_or_default()));
    Ok(match respond(&acceptor, &in_use, &poll, address, &headers).await {
        Ok(response) => response,
        Err(refused) => acceptor.refuse(refused, address, long_poll::NAME),
    })
}

async fn respond(
    acceptor: &Acceptor,
    in_use: &InUse,
    poll: &PollRequest,
    address: IpAddr,
    headers: &HeaderMap,
) -> Result<Response, Refused> {
    let token = auth::gateway_key(headers).map(|key| key.id().to_owned()).unwrap_or_default();
    let envelope = poll.envelope.unwrap_or_default();
    let mut rewinds = false;
    for _ in 0..TRIES {
        let poller = {
            let mut slot = in_use.slot.lock().await;
            // A connection ends with its key, and its requests with the connection. The form of its
            // events stays the same.
            let is_other = |held: &mut Held| held.token != token || held.envelope != envelope;
            if let Some(Held { poller, .. }) = slot.take_if(is_other) {
                poller.replace().await;
            }
            if let Some(held) = slot.as_ref().filter(|held| !held.poller.is_closed()) {
                held.poller.clone()
            } else {
                let poller = open(acceptor, &in_use.tidy, poll, rewinds, address, headers).await?;
                slot.insert(Held { poller, token: token.clone(), envelope }).poller.clone()
            }
        };
        match poller.request(poll.request()).await {
            Reply::Events(events) => {
                let json = HeaderValue::from_static("application/json");
                let headers = [
                    (header::CONTENT_TYPE, json),
                    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                ];
                return Ok((headers, events.to_json()).into_response());
            }
            Reply::Nothing => return Ok(StatusCode::NO_CONTENT.into_response()),
            Reply::Superseded => {
                sleep(SUPERSEDED).await;
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            Reply::Reopen => poller.closed().await,
            Reply::Rewind => {
                rewinds = true;
                poller.closed().await;
            }
            Reply::Closed(closing) if long_poll::is_final(closing.reason) => {
                return Err(closing.into());
            }
            Reply::Closed(_) => {}
        }
    }
    Err(Closing::from(Reason::ConnectionLost).into())
}

/// Opens a connection for a request.
async fn open(
    acceptor: &Acceptor,
    tidy: &Tidy,
    poll: &PollRequest,
    rewinds: bool,
    address: IpAddr,
    headers: &HeaderMap,
) -> Result<Poller, Refused> {
    let candidate = auth::candidate(headers, address);
    let greeted = acceptor.admissions.greet(candidate, long_poll::NAME).await?;
    let log = greeted.greeting();
    let start = poll.start(&log, rewinds);
    let request = DeliveryRequest { start, ..reliable::request(poll.hello()) };
    let greeting = log.greeting;
    let (session, attempt) = greeted.open(request).await?;
    let span =
        observability::connection_span(greeting.gateway_id, session.id(), long_poll::NAME, headers);
    let (lane_end, transport_end) = transport::link();
    let (poller, connection) = long_poll::start(greeting, poll.envelope, transport_end, poll.wait);
    let listed = acceptor.streams.list(greeting.gateway_id, session.id(), poller.inbound.clone());
    span.in_scope(|| session.start(lane_end));
    let tidy = tidy.clone();
    let run = async move {
        connection.run().await;
        drop((listed, attempt, tidy));
    };
    tokio::spawn(run.instrument(span));
    Ok(poller)
}

/// Reject events of long polling, or show progress with them.
///
/// Like `POST /gateways/connections/{connectionId}/frames`, for the current connection of an instance.
#[utoipa::path(
    post, path = "/gateways/events/instances/{instance}/frames", tag = "for gateways",
    operation_id = "sendInstanceFrames",
    params(("instance" = String, Path, description = "The name of the instance.")),
    request_body(content = Object, description = "A frame, or an array of frames; at most 256 KiB.",
        example = json!({"type": "delivery.nack", "sequence": 42, "code": "apply_failed", "retryable": true})),
    responses(
        (status = 204, description = "The frames count."),
        Problems<(Keyed, Frames)>,
    ),
    security(("gateway_key" = [])),
)]
pub(super) async fn frames(
    State(pollers): State<Pollers>,
    Extension(peer): Extension<Peer>,
    // First, so that the body of an unauthenticated request is not read.
    auth::Gateway(credential): auth::Gateway,
    Query(()): Query<()>,
    Path(instance): Path<String>,
    body: Result<Bytes, Problem>,
) -> HandlerResult<StatusCode> {
    peer.slot.authenticated();
    peer.keep();
    let in_use = pollers.find((credential.gateway_id, instance)).ok_or_else(gone)?;
    let inbound = in_use.slot.lock().await.as_ref().map(|held| held.poller.inbound.clone());
    drop(in_use);
    let Bytes(body) = body?;
    accept(&inbound.ok_or_else(gone)?, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_of_requests_that_were_cancelled_are_removed() {
        let pollers = Pollers::default();
        let gateway = GatewayId::new();
        for name in ["one", "two"] {
            let (pollers, instance) = (pollers.clone(), (gateway, name.to_owned()));
            let request = tokio::spawn(async move {
                let in_use = pollers.slot(instance);
                let _locked = in_use.slot.lock().await;
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
            request.abort();
            assert!(request.await.is_err_and(|error| error.is_cancelled()));
        }
        assert!(pollers.0.is_empty());
        assert!(pollers.find((gateway, "one".to_owned())).is_none());
    }

    #[test]
    fn a_slot_stays_while_another_request_uses_it() {
        let pollers = Pollers::default();
        let instance = (GatewayId::new(), "one".to_owned());
        let first = pollers.slot(instance.clone());
        drop(pollers.slot(instance.clone()));
        assert!(pollers.find(instance).is_some_and(|found| Arc::ptr_eq(&found.slot, &first.slot)));
        drop(first);
        assert!(pollers.0.is_empty());
    }
}
