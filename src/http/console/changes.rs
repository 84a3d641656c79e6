//! `GET /console/changes`: tells an open page when it is out of date, as server-sent events. The
//! stream has a message `changed` after something happened that the [`feed`](crate::feed) reports, at
//! most one per second and without any content: the page then reads itself again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::super::auth::Auth;
use super::super::feed::{Filter, HEADERS};
use super::super::problem::{HandlerResult, Problem};
use super::super::state::AppState;
use super::visit::Visit;
use crate::api::{Code, FeedQuery};
use crate::dispatch::Dispatcher;
use crate::feed::{Feed, Listener, Purpose};
use crate::store::{ConsoleSessions, FeedDetails};

/// The shortest time between two messages.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the stream checks whether the node is shutting down.
const CHECK_DRAIN: Duration = Duration::from_millis(500);
/// How often it checks the session. A comment shows then that the stream is alive.
const CHECK_SESSION: Duration = Duration::from_secs(5);

const CHANGED: Bytes = Bytes::from_static(b"event: changed\ndata:\n\n");
const ALIVE: Bytes = Bytes::from_static(b": alive\n\n");
/// Also tells the browser after how many milliseconds it should reconnect.
const BEGIN: Bytes = Bytes::from_static(b"retry: 5000\n\n");

/// Streams are only for connections that they share with other requests: over HTTP/1.1 a browser
/// opens at most six connections, and six open pages would leave none for the next one. Without a
/// stream, a page polls.
pub(super) async fn stream(visit: Visit, version: Version) -> Response {
    if version < Version::HTTP_2 {
        // Tells the browser not to reconnect (HTML Living Standard, section 9.2.3).
        return StatusCode::NO_CONTENT.into_response();
    }
    match follow(&visit).await {
        Ok(body) => (HEADERS, body).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn follow(visit: &Visit) -> HandlerResult<Body> {
    let (dispatcher, feed): (Arc<Dispatcher>, Feed) = (visit.state.get(), visit.state.get());
    if dispatcher.is_draining() {
        return Err(Problem::unavailable(Code::Draining, "This node is shutting down."));
    }
    let organisation = visit.session.reader()?.0;
    let gateway_id = match visit.query.get("gateway") {
        "" => Vec::new(),
        id => vec![id.parse().map_err(|_| Problem::invalid("gateway", "must be a UUID"))?],
    };
    let details = FeedDetails { gateways: gateway_id.clone(), types: false };
    let listener = feed.listen(Purpose::Page, organisation, visit.session.token(), details).await?;
    let filter = Filter::new(organisation, FeedQuery { gateway_id, ..FeedQuery::default() });
    let session = (visit.session.id.digest(), visit.session.token().to_owned());
    let (check_drain, check_session) = (ticks(CHECK_DRAIN), ticks(CHECK_SESSION));
    let changes = Changes {
        state: visit.state.clone(),
        dispatcher,
        listener,
        filter,
        session,
        check_drain,
        check_session,
    };
    let chunks =
        futures_util::stream::unfold((Some(BEGIN), changes), async |(first, mut changes)| {
            let chunk = match first {
                Some(first) => first,
                None => changes.next().await?,
            };
            Some((Ok::<_, Infallible>(chunk), (None, changes)))
        });
    Ok(Body::from_stream(chunks))
}

struct Changes {
    state: AppState,
    dispatcher: Arc<Dispatcher>,
    listener: Listener,
    filter: Filter,
    /// The digest of the session's id, and its token.
    session: ([u8; 32], String),
    check_drain: Interval,
    check_session: Interval,
}

impl Changes {
    /// What is sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                message = self.listener.messages.recv() => {
                    let is_relevant = match message {
                        Ok(message) => self.filter.matches(&message.content),
                        Err(RecvError::Lagged(_)) => true,
                        Err(RecvError::Closed) => return None,
                    };
                    if is_relevant {
                        // What follows within this time is part of the same message.
                        sleep(PAUSE).await;
                        self.listener.messages = self.listener.messages.resubscribe();
                        return Some(CHANGED);
                    }
                }
                _ = self.check_drain.tick() => {
                    if self.dispatcher.is_draining() {
                        return None;
                    }
                }
                _ = self.check_session.tick() => {
                    return self.has_session().await.then_some(ALIVE);
                }
            }
        }
    }

    /// Whether the session goes on. If the database can't be read, the page will say so.
    async fn has_session(&self) -> bool {
        let (digest, token) = &self.session;
        let found = self.state.part::<dyn ConsoleSessions>().console_session(digest).await;
        matches!(found, Ok(Some(_)))
            && matches!(self.state.get::<Arc<Auth>>().of_session(token).await, Ok(Some(_)))
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}
