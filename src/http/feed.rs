//! `GET /feed`: what happens on all nodes, as a stream of server-sent events. A task per feed
//! filters the messages of the node's [`feed`](crate::feed) and writes them to a short queue. If
//! the client does not read, the task waits, and the feed loses messages and says so.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::auth::{Auth, Watcher};
use super::openapi::{Problems, Scoped, Watching};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{Code, FeedEndReason, FeedGapReason, FeedKind, FeedMessage, FeedQuery, Outcome};
use crate::clock::Timestamp;
use crate::dispatch::Dispatcher;
use crate::event::{EventType, OrganisationKey};
use crate::feed::{Content, ListenError, Listener, Message, Position, Purpose, Table};
use crate::names::closest;
use crate::store::{Diagnosis, EventTypes, Feed, FeedDetails, Gateways};
use crate::token::Presented;

mod filter;
mod text;

pub(super) use filter::Filter;
use text::Gap;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The headers of a stream of server-sent events, which must not be buffered on its way.
pub(super) const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
    (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
];
/// The interval of keep-alive comments.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often the token is checked.
const CHECK_TOKEN: Duration = Duration::from_secs(5);
/// How often a feed checks whether the node is shutting down.
const CHECK_DRAIN: Duration = Duration::from_millis(250);
/// A client that takes nothing for this long is disconnected.
const STALLED: Duration = Duration::from_secs(30);
/// Chunks that wait to be sent.
const QUEUED: usize = 16;
/// Messages in one chunk.
const CHUNK: usize = 64;
/// How old a position may be.
const MAX_POSITION_AGE: Duration = Duration::from_hours(1);
/// How many rows behind the end of a table a position may be.
const MAX_ROWS_BEHIND: i64 = 10_000;

impl FromQuery for FeedQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let kind = |word: &str| {
            [FeedKind::Published, FeedKind::Attempt, FeedKind::Connection]
                .into_iter()
                .find(|kind| kind.as_str() == word)
                .ok_or("must be published, attempt or connection")
        };
        let outcome = |word: &str| {
            Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == word).ok_or(
                "must be received, applied, failed, filtered, snapshot, superseded or unknown",
            )
        };
        let asked = Self {
            types: listed(parameters, "types", kind)?,
            gateway_id: listed(parameters, "gatewayId", |text| {
                text.parse().map_err(|_| "must be a gateway's id, a UUID")
            })?,
            event_type: listed(parameters, "type", |text| {
                text.parse().map_err(|_| "must be the name of an event type")
            })?,
            outcome: listed(parameters, "outcome", outcome)?,
        };
        filter::check(&asked)?;
        Ok(asked)
    }
}

/// The values of a parameter, which are separated by commas.
fn listed<T>(
    parameters: &Parameters,
    name: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> HandlerResult<Vec<T>> {
    let Some(text) = parameters.text(name) else { return Ok(Vec::new()) };
    let values: Vec<&str> = text.split(',').collect();
    if values.len() > FeedQuery::MAX_VALUES {
        let most = FeedQuery::MAX_VALUES;
        return Err(Problem::invalid(name, format!("must have at most {most} values")));
    }
    let values = values.into_iter().map(|value| parse(value.trim()));
    values.collect::<Result<_, _>>().map_err(|why| Problem::invalid(name, why))
}

/// Follow what happens.
///
/// A stream of server-sent events (`text/event-stream`): events published, attempts to deliver with
/// their outcomes, connections opened and closed, on all nodes. `event` is the kind of message,
/// `data` one line of JSON, and `id` the position after it. To continue after a lost connection,
/// on any node, send the last `id` as `Last-Event-ID`. Nothing is lost that way: if too much has
/// happened meanwhile, or the client reads too slowly, a message `gap` names the lists to read
/// instead. A message may be repeated after a reconnect. The service sends a comment with the
/// current `id` every 10 s as a keep-alive. An empty `Last-Event-ID` is ignored. Gateways must exist or be
/// deleted ones, and a new stream is only opened for registered event types. A message `end` says why the service ends the stream.
#[utoipa::path(
    get, path = "/feed", tag = "overview", operation_id = "followFeed",
    params(
        FeedQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last message that was received."),
    ),
    responses(
        (status = 200, description = "The stream; the schema is that of the JSON in `data`.", content_type = "text/event-stream", body = FeedMessage),
        Problems<(Scoped, Watching)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn follow(
    State(sources): State<Arc<Sources>>,
    Part(gateways): Part<dyn Gateways>,
    Part(diagnosis): Part<dyn Diagnosis>,
    Part(event_types): Part<dyn EventTypes>,
    Watcher { organisation, token }: Watcher,
    Query(asked): Query<FeedQuery>,
    headers: HeaderMap,
) -> HandlerResult<Response> {
    let ids = headers.get_all(LAST_EVENT_ID);
    let begin = match ids.iter().collect::<Vec<_>>()[..] {
        [] => Begin::Now,
        // What a client without an id may send.
        [id] if id.is_empty() => Begin::Now,
        [id] => id.to_str().ok().and_then(Position::decode).map_or(Begin::Unreadable, Begin::After),
        _ => return Err(Problem::bad_request("Last-Event-ID must not be repeated.")),
    };
    if sources.dispatcher.is_draining() {
        return Err(Problem::unavailable(Code::Draining, "This node is shutting down."));
    }
    check_gateways(gateways.as_ref(), diagnosis.as_ref(), organisation, &asked).await?;
    // A type may have been deleted since a stream began that is continued.
    if matches!(begin, Begin::Now) {
        check_types(event_types.as_ref(), organisation, &asked).await?;
    }
    let details =
        FeedDetails { gateways: asked.gateway_id.clone(), types: !asked.event_type.is_empty() };
    let listener = sources.feed.listen(Purpose::Feed, organisation, token.id(), details).await?;
    let (chunks, queued) = mpsc::channel(QUEUED);
    let filter = Filter::new(organisation, asked);
    let feed = FeedTask {
        sent: listener.begin.encode(),
        sent_at: listener.begin.at,
        sources,
        token,
        listener,
        filter,
        chunks,
        resumed: Position::default(),
        early: HashSet::new(),
    };
    tokio::spawn(feed.run(begin));
    let body = Body::from_stream(futures_util::stream::unfold(queued, async |mut queued| {
        let chunk: Bytes = queued.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), queued))
    }));
    Ok((HEADERS, body).into_response())
}

/// Refuses gateways that never existed. Deleted ones are followed to their end.
async fn check_gateways(
    gateways: &dyn Gateways,
    diagnosis: &dyn Diagnosis,
    organisation: OrganisationKey,
    asked: &FeedQuery,
) -> HandlerResult<()> {
    for id in &asked.gateway_id {
        if gateways.gateway(organisation, *id).await?.is_none()
            && diagnosis.gateway_evidence(organisation, *id).await?.is_none()
        {
            return Err(Problem::invalid("gatewayId", format!("no gateway has the id {id}")));
        }
    }
    Ok(())
}

/// Refuses event types that are not registered: no event of such a type can be published, so it is
/// probably mistyped.
async fn check_types(
    event_types: &dyn EventTypes,
    organisation: OrganisationKey,
    asked: &FeedQuery,
) -> HandlerResult<()> {
    if asked.event_type.is_empty() {
        return Ok(());
    }
    let known = event_types.event_types(organisation).await?;
    let is_known = |name: &EventType| known.iter().any(|info| info.name == name.as_str());
    let Some(unknown) = asked.event_type.iter().find(|name| !is_known(name)) else {
        return Ok(());
    };
    let similar = closest(unknown.as_str(), known.iter().map(|info| info.name.as_str()));
    let advice = match similar {
        Some(similar) => format!("did you mean {similar}?"),
        None => "GET /event-types lists all".to_owned(),
    };
    let why = format!("{unknown} is not a registered event type; {advice}");
    Err(Problem::invalid("type", why))
}

impl From<ListenError> for Problem {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::TooMany { .. } => {
                let detail = format!("Not opened: {error}. Close one, or try again later.");
                Self::new(Code::TooManyFeeds, detail).retry_after(fastrand::u32(5..=15))
            }
            ListenError::Store(error) => error.into(),
        }
    }
}

/// Where a feed begins.
enum Begin {
    /// At what happens next.
    Now,
    /// After a message.
    After(Position),
    /// After a message whose id can't be read.
    Unreadable,
}

/// Why a feed ends.
enum Ended {
    /// The client has disconnected or does not read.
    Disconnected,
    /// The service ends it for this reason, which it sends to the client.
    For(FeedEndReason),
}

type Step = Result<(), Ended>;

/// What feeds are made of.
pub(super) struct Sources {
    pub(super) feed: crate::feed::Feed,
    pub(super) store: Arc<dyn Feed>,
    pub(super) auth: Arc<Auth>,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) retention: Duration,
}

/// A feed of one client.
struct FeedTask {
    sources: Arc<Sources>,
    token: Presented,
    listener: Listener,
    filter: Filter,
    chunks: mpsc::Sender<Bytes>,
    /// The position of the last message that was sent, or that did not match.
    sent: String,
    sent_at: Timestamp,
    /// The position that the client had: what it includes is not sent again.
    resumed: Position,
    /// Rows that were sent before the job read them.
    early: HashSet<(Table, i64)>,
}

impl FeedTask {
    async fn run(mut self, begin: Begin) {
        let ended = self.serve(begin).await;
        if let Err(Ended::For(reason)) = ended {
            let _ = self.send(text::end(&self.sent, reason)).await;
        }
    }

    async fn serve(&mut self, begin: Begin) -> Step {
        self.send(text::begin()).await?;
        self.catch_up(begin).await?;
        self.send(text::heartbeat(&self.sent)).await?;
        self.follow().await
    }

    /// Sends what happened since a position, or what is missing.
    async fn catch_up(&mut self, begin: Begin) -> Step {
        let end = self.listener.begin.clone();
        let gap = |reason, from| Gap { reason, from, to: end.at };
        let mut position = match begin {
            Begin::Now => return Ok(()),
            Begin::After(position) => position,
            Begin::Unreadable => {
                return self.send_gap(&gap(FeedGapReason::UnknownId, None)).await;
            }
        };
        if position.is_of_another_epoch(&end) {
            let gap = gap(FeedGapReason::UnknownId, Some(position.at));
            return self.send_gap(&gap).await;
        }
        let (least, most) = position.behind(&end);
        // Another node may have read further; the database can't end earlier.
        if least < 0 {
            let ends = self.sources.store.feed_ends().await;
            let ends = ends.map_err(|_| Ended::For(FeedEndReason::Unavailable))?;
            if position.behind(&Position::ends(end.at, ends)).0 < 0 {
                return self.send_gap(&gap(FeedGapReason::UnknownId, None)).await;
            }
        }
        self.resumed = position.clone();
        let oldest = MAX_POSITION_AGE.min(self.sources.retention);
        if most > MAX_ROWS_BEHIND || end.at.since(position.at) > oldest {
            return self.send_gap(&gap(FeedGapReason::TooFarBehind, Some(position.at))).await;
        }
        let details = self.listener.details().clone();
        loop {
            let page = self.sources.feed.between(&mut position, &end, &details).await;
            let (messages, is_last) = page.map_err(|_| Ended::For(FeedEndReason::Unavailable))?;
            self.send_messages(messages.iter()).await?;
            let rows = messages.iter().map(|message| message.content.row());
            self.early.extend(rows.filter(|(table, key)| !end.includes(*table, *key)));
            if is_last {
                self.sent = end.encode();
                return Ok(());
            }
        }
    }

    /// Sends messages as they arrive.
    async fn follow(&mut self) -> Step {
        let mut heartbeat = ticks(HEARTBEAT);
        let mut check_token = ticks(CHECK_TOKEN);
        let mut check_drain = ticks(CHECK_DRAIN);
        loop {
            tokio::select! {
                message = self.listener.messages.recv() => self.received(message).await?,
                _ = heartbeat.tick() => self.send(text::heartbeat(&self.sent)).await?,
                _ = check_token.tick() => {
                    // While the database can't be read, nothing is sent either.
                    if self.sources.auth.is_revoked(&self.token).await {
                        return Err(Ended::For(FeedEndReason::TokenInvalid));
                    }
                }
                _ = check_drain.tick() => {
                    if self.sources.dispatcher.is_draining() {
                        return Err(Ended::For(FeedEndReason::Shutdown));
                    }
                }
                () = self.chunks.closed() => return Err(Ended::Disconnected),
            }
        }
    }

    async fn received(&mut self, first: Result<Arc<Message>, RecvError>) -> Step {
        let mut messages = Vec::new();
        let mut next = Some(first);
        while let Some(received) = next.take() {
            match received {
                Ok(message) => messages.push(message),
                Err(RecvError::Lagged(_)) => {
                    let to = Timestamp::now();
                    let gap = Gap { reason: FeedGapReason::Lagged, from: Some(self.sent_at), to };
                    self.send_gap(&gap).await?;
                }
                // The node's feed lives as long as the listener.
                Err(RecvError::Closed) => return Err(Ended::For(FeedEndReason::Shutdown)),
            }
            if messages.len() < CHUNK {
                next = match self.listener.messages.try_recv() {
                    Ok(message) => Some(Ok(message)),
                    // Lost messages are reported by the next call.
                    Err(_) => None,
                };
            }
        }
        self.send_messages(messages.iter().map(AsRef::as_ref)).await
    }

    /// Sends those messages that match, in one chunk.
    async fn send_messages(&mut self, messages: impl Iterator<Item = &Message>) -> Step {
        let mut chunk = String::new();
        let (mut sent, mut sent_at) = (None, self.sent_at);
        for message in messages {
            sent = Some(&message.id);
            sent_at = sent_at.max(message.content.at());
            let (table, key) = message.content.row();
            let is_repeated =
                self.resumed.includes(table, key) || self.early.contains(&(table, key));
            if !is_repeated && let Some(shown) = self.filter.shown(&message.content) {
                text::message(&mut chunk, &message.id, &shown);
            }
        }
        if let Some(id) = sent {
            id.clone_into(&mut self.sent);
            self.sent_at = sent_at;
        }
        if chunk.is_empty() { Ok(()) } else { self.send(chunk).await }
    }

    async fn send_gap(&mut self, gap: &Gap) -> Step {
        let lists = self.filter.lists(gap.from, gap.to);
        self.send(text::gap(&self.sent, gap, lists)).await
    }

    async fn send(&self, chunk: String) -> Step {
        match timeout(STALLED, self.chunks.send(chunk.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::Disconnected),
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset_at(Instant::now() + every);
    ticks
}
