//! What every store must do, whatever it keeps its rows in. Each story makes
//! gateways of its own and asks only through [`Store`].

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{
    ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey, Reason,
    Sequence,
};
use gateway_events::store::{
    Appended, Attempt, Gateway, Judged, Labels, NewConnection, NewEvent, Publish, Published, Range,
    Record, Refusal, RetentionLimits, Store, Target, Unfit,
};
use serde_json::value::RawValue;

mod append;
mod housekeeping;
mod inbox;
mod outcomes;
mod positions;

pub(crate) use append::*;
pub(crate) use housekeeping::*;
pub(crate) use inbox::*;
pub(crate) use outcomes::*;
pub(crate) use positions::*;

/// A story's own corner of a store.
pub(crate) struct Corner<'a> {
    store: &'a dyn Store,
    organisation: OrganisationKey,
}

impl<'a> Corner<'a> {
    async fn of(store: &'a dyn Store) -> Self {
        let organisation = store.organisation("default").await.unwrap();
        Self { store, organisation }
    }

    async fn gateway(&self, labels: &[(&str, &str)]) -> Gateway {
        let id = GatewayId::new();
        let labels: Labels =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let name = id.to_string();
        self.store.create_gateway(self.organisation, id, &name, &labels).await.unwrap()
    }

    async fn again(&self, gateway: &Gateway) -> Gateway {
        self.store.gateway(self.organisation, gateway.id).await.unwrap().unwrap()
    }

    async fn publish(&self, events: Vec<NewEvent>) -> Vec<Result<Appended, Refusal>> {
        self.publish_with(events, None).await.unwrap()
    }

    async fn publish_with(
        &self,
        events: Vec<NewEvent>,
        idempotency: Option<(&str, [u8; 32])>,
    ) -> Option<Vec<Result<Appended, Refusal>>> {
        self.publish_judged(events.into_iter().map(Ok).collect(), idempotency).await
    }

    async fn publish_judged(
        &self,
        events: Vec<Judged>,
        idempotency: Option<(&str, [u8; 32])>,
    ) -> Option<Vec<Result<Appended, Refusal>>> {
        let idempotency = idempotency.map(|(key, digest)| (key.to_owned(), digest));
        let publish = Publish { organisation: self.organisation, events, idempotency };
        match self.store.append(publish).await.unwrap() {
            Published::Done(answers) => Some(answers),
            Published::KeyReused => None,
        }
    }

    async fn fill(&self, gateway: &Gateway, count: usize) {
        let events = (0..count).map(|_| event(Target::Gateways(vec![gateway.id]))).collect();
        assert!(self.publish(events).await.iter().all(Result::is_ok));
    }

    async fn open(&self, gateway: &Gateway) -> (ConnectionId, Sequence, u32) {
        let connection = connection(gateway);
        let id = connection.id;
        let opened = self.store.open_connection(connection).await.unwrap();
        (id, opened.position, opened.failed_attempts)
    }

    async fn record(&self, records: Vec<Record>) {
        self.store.record(records).await.unwrap();
    }

    async fn attempts(&self, id: &EventId) -> Vec<Attempt> {
        let history = self.store.event_history(self.organisation, id).await.unwrap().unwrap();
        history.deliveries.into_iter().flat_map(|delivery| delivery.attempts).collect()
    }
}

fn event(target: Target) -> NewEvent {
    event_with(EventId::new(uuid::Uuid::now_v7().to_string()).unwrap(), target, "{}")
}

fn event_with(id: EventId, target: Target, payload: &str) -> NewEvent {
    let correlation_id = CorrelationId::new(id.as_str()).unwrap();
    NewEvent {
        event: Arc::new(Event {
            id,
            event_type: EventType::new("api.deployed").unwrap(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
            correlation_id,
            user_id: None,
            occurred_at: Timestamp::now(),
            expires_at: None,
        }),
        target,
        digest: [1; 32],
        artifact_id: None,
        deployment_id: None,
    }
}

/// An event that the edge finds unfit, for the reason given.
fn unfit(id: Option<&EventId>, why: &str) -> Judged {
    Err(Unfit {
        identity: id.map(|id| (id.clone(), [1; 32])),
        problem: serde_json::json!({"detail": why}),
    })
}

fn connection(gateway: &Gateway) -> NewConnection {
    NewConnection {
        id: ConnectionId::new(),
        gateway: gateway.key,
        token: "token".to_owned(),
        instance: String::new(),
        transport: "websocket",
        remote_address: "192.0.2.1:4711".to_owned(),
    }
}

fn range(first: i64, last: i64) -> Range {
    Range { first: Sequence(first), last: Sequence(last) }
}

fn confirmed(gateway: &Gateway, connection: ConnectionId, first: i64, last: i64) -> Record {
    Record::Confirmed {
        gateway: gateway.key,
        connection,
        range: range(first, last),
        started_at: Timestamp::now(),
        finished_at: Timestamp::now(),
    }
}

fn closed(
    gateway: &Gateway,
    connection: ConnectionId,
    reason: Reason,
    unconfirmed: Option<Range>,
    give_up: bool,
) -> Record {
    Record::Closed {
        gateway: gateway.key,
        connection,
        reason,
        detail: "as the story wants it".to_owned(),
        unconfirmed: unconfirmed.map(|range| (range, Timestamp::now())),
        give_up,
        at: Timestamp::now(),
    }
}

/// Keeps everything, until a story says otherwise.
fn keep_all() -> RetentionLimits {
    const LONG: Duration = Duration::from_hours(1000);
    RetentionLimits {
        max_age: LONG,
        max_events: i64::MAX / 2,
        hard_max_age: LONG,
        hard_max_events: i64::MAX / 2,
        left_behind: LONG,
        batch: 10_000,
    }
}

fn ids(answers: &[Result<Appended, Refusal>]) -> Vec<EventId> {
    answers.iter().map(|answer| answer.as_ref().unwrap().id.clone()).collect()
}
