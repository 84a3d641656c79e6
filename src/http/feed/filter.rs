//! Which messages a feed shows, and how.

use super::{
    Content, FeedKind, FeedMessage, FeedQuery, HandlerResult, OrganisationKey, Problem, Timestamp,
};
use crate::api::{
    BASE_PATH, ConnectionChange, FeedAttempt, FeedConnection, FeedPublished, Outcome,
};
use crate::store;

/// A filter of one client.
pub(in crate::http) struct Filter {
    organisation: OrganisationKey,
    asked: FeedQuery,
}

/// Refuses filters that no message can match.
pub(super) fn check(asked: &FeedQuery) -> HandlerResult<()> {
    let has = |kind| asked.types.is_empty() || asked.types.contains(&kind);
    if !asked.outcome.is_empty() && !has(FeedKind::Attempt) {
        return Err(Problem::invalid("outcome", "applies to attempts, which `types` excludes"));
    }
    if !asked.event_type.is_empty() && !has(FeedKind::Attempt) && !has(FeedKind::Published) {
        return Err(Problem::invalid(
            "type",
            "applies to published events and attempts, which `types` excludes",
        ));
    }
    Ok(())
}

impl Filter {
    pub(in crate::http) const fn new(organisation: OrganisationKey, asked: FeedQuery) -> Self {
        Self { organisation, asked }
    }

    /// The message, if it matches.
    pub(super) fn shown(&self, content: &Content) -> Option<FeedMessage> {
        self.matches(content).then(|| match content {
            Content::Published(event) => published(event),
            Content::Attempt(attempt) => shown_attempt(attempt),
            Content::Connection(change) => connection(change),
        })
    }

    /// Whether a message matches.
    pub(in crate::http) fn matches(&self, content: &Content) -> bool {
        content.organisation() == self.organisation
            && match content {
                Content::Published(event) => self.published(event),
                Content::Attempt(attempt) => self.attempt(attempt),
                Content::Connection(change) => self.connection(change),
            }
    }

    /// Whether messages of this kind can match.
    fn has(&self, kind: FeedKind) -> bool {
        (self.asked.types.is_empty() || self.asked.types.contains(&kind))
            && (self.asked.outcome.is_empty() || kind == FeedKind::Attempt)
            && (self.asked.event_type.is_empty() || kind != FeedKind::Connection)
    }

    fn published(&self, event: &store::FeedEvent) -> bool {
        let asked = &self.asked;
        self.has(FeedKind::Published)
            && (asked.event_type.is_empty() || asked.event_type.contains(&event.event_type))
            && (asked.gateway_id.is_empty()
                || event.gateways.iter().any(|id| asked.gateway_id.contains(id)))
    }

    fn attempt(&self, attempt: &store::FeedAttempt) -> bool {
        let asked = &self.asked;
        self.has(FeedKind::Attempt)
            && (asked.outcome.is_empty() || asked.outcome.contains(&Outcome::from(attempt.outcome)))
            && (asked.gateway_id.is_empty() || asked.gateway_id.contains(&attempt.gateway_id))
            // Types are unknown once retention has removed the events.
            && (asked.event_type.is_empty()
                || attempt.types.is_empty()
                || attempt.types.iter().any(|one| asked.event_type.contains(one)))
    }

    fn connection(&self, change: &store::FeedConnection) -> bool {
        let ids = &self.asked.gateway_id;
        self.has(FeedKind::Connection) && (ids.is_empty() || ids.contains(&change.gateway_id))
    }

    /// The lists that contain what happened in a window.
    pub(super) fn lists(&self, from: Option<Timestamp>, to: Timestamp) -> Vec<String> {
        let window = match from {
            Some(from) => format!("from={from}&to={to}"),
            None => format!("to={to}"),
        };
        let gateway = match self.asked.gateway_id[..] {
            [id] => format!("&gatewayId={id}"),
            _ => String::new(),
        };
        let of_type = match &self.asked.event_type[..] {
            [one] => format!("&type={one}"),
            _ => String::new(),
        };
        let mut lists = Vec::new();
        if self.has(FeedKind::Published) {
            lists.push(format!("{BASE_PATH}/events?{window}{gateway}{of_type}"));
        }
        if self.has(FeedKind::Attempt) {
            let is_of_failures = !self.asked.outcome.is_empty()
                && self.asked.outcome.iter().all(|it| *it == Outcome::Failed);
            // Failures are listed by the failed attempt, and everything by the newest one.
            let status = if is_of_failures { "" } else { "status=all&windowOf=outcome&" };
            lists.push(format!("{BASE_PATH}/deliveries?{status}{window}{gateway}{of_type}"));
        }
        if self.has(FeedKind::Connection) {
            lists.push(match self.asked.gateway_id[..] {
                [id] => format!("{BASE_PATH}/gateways/{id}/connections?status=all"),
                _ => format!("{BASE_PATH}/connections?status=all"),
            });
        }
        lists
    }
}

fn published(event: &store::FeedEvent) -> FeedMessage {
    FeedMessage::Published(FeedPublished {
        at: event.at,
        event_id: event.id.clone(),
        event_type: event.event_type.clone(),
        correlation_id: event.correlation_id.clone(),
        user_id: event.user_id.clone(),
        gateway_count: event.matched.unwrap_or_default(),
    })
}

fn shown_attempt(attempt: &store::FeedAttempt) -> FeedMessage {
    let is_single = attempt.first == attempt.last;
    FeedMessage::Attempt(FeedAttempt {
        at: attempt.at,
        started_at: attempt.started_at,
        gateway_id: attempt.gateway_id,
        gateway_name: attempt.gateway_name.clone(),
        first_sequence: attempt.first,
        last_sequence: attempt.last,
        outcome: attempt.outcome.into(),
        reason: attempt.reason,
        detail: attempt.detail.clone(),
        connection_id: attempt.connection,
        event_id: attempt.event_id.clone(),
        event_type: attempt.types.first().filter(|_| is_single).cloned(),
    })
}

fn connection(change: &store::FeedConnection) -> FeedMessage {
    FeedMessage::Connection(FeedConnection {
        at: change.at,
        change: if change.closed { ConnectionChange::Closed } else { ConnectionChange::Opened },
        gateway_id: change.gateway_id,
        gateway_name: change.gateway_name.clone(),
        connection_id: change.connection,
        transport: change.transport.clone(),
        remote_address: change.remote_address.clone(),
        node: change.node,
        reason: change.reason,
    })
}
