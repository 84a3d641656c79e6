//! Steps as calls, which are the same for both stores: ids and instants are generated once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{
    CollapseKey, ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, GatewayKey,
    NodeId, OrganisationKey, Reason, Sequence,
};
use gateway_events::store::supersession::{Collapse, Supersession};
use gateway_events::store::{
    DeliveryFilter, DeploymentKey, EditedRow, ExpiryMark, GatewayChange, Idempotency, InboxRow,
    InvalidEvent, Labels, Level, NewConnection, NewEvent, Opened, Publish, Range, Record,
    RedriveSelection, RejectedEdit, RejectedFilter, Rejection, RejectionReason, ReportedFailure,
    RetentionLimits, RetrySelection, Store, Target, Unconfirmed, Validated, ValidatedRow,
    ValidationError,
};
use serde_json::value::RawValue;

use super::Side;
use super::instances::outcome;
use super::reports::Reports;
use super::snapshot::{gateway as alike, shown};
use super::steps::{GATEWAYS, Item, Limits, RecordKind, RecordStep, Step, To};
use crate::conformance::{Row, actor, keep_all};

/// The calls that both stores received.
pub(crate) struct World {
    pub(crate) organisation: OrganisationKey,
    /// The first instant of any step.
    pub(crate) begun: Timestamp,
    pub(super) since: Timestamp,
    ticks: u64,
    pub(super) gateways: Vec<(GatewayId, GatewayKey)>,
    heads: Vec<i64>,
    pub(super) connections: Vec<(ConnectionId, usize, Arc<str>)>,
    /// The levels that connections in reliable mode confirm by.
    pub(super) levels: BTreeMap<ConnectionId, Level>,
    reports: Reports,
}

/// The results of both stores, as text.
pub(super) type Answers = [String; 2];

/// Makes the same call on both stores.
macro_rules! both {
    ($world:expr, $sides:expr, $side:ident => $call:expr) => {{
        let mut answers = Vec::new();
        for $side in $sides.iter_mut() {
            answers.push(shown($call, $world.since));
        }
        [answers.remove(0), answers.remove(0)]
    }};
}
pub(super) use both;

impl World {
    pub(crate) fn new(begun: Timestamp, since: Timestamp) -> Self {
        Self {
            organisation: OrganisationKey(0),
            begun,
            since,
            ticks: 0,
            gateways: Vec::new(),
            heads: Vec::new(),
            connections: Vec::new(),
            levels: BTreeMap::new(),
            reports: Reports::default(),
        }
    }

    pub(crate) async fn check_reports(&self, store: &dyn Store) {
        self.reports.check(store, self.organisation, &self.gateways).await;
    }

    /// Registers the gateways. The first two have a label.
    pub(crate) async fn begin(&mut self, sides: &mut [Side; 2]) {
        self.organisation = sides[0].store.organisation("default").await.unwrap();
        for nth in 0..GATEWAYS {
            let id = GatewayId::new();
            let mut labels = Labels::new();
            if nth < 2 {
                labels.insert("some".to_owned(), "yes".to_owned());
            }
            let name = format!("g{nth}");
            let mut key = None;
            for side in sides.iter() {
                let made = side
                    .store
                    .create_gateway(&actor(self.organisation), id, &name, &labels, 1)
                    .await;
                let made = made.unwrap();
                assert!(key.is_none_or(|key| key == made.key), "keys are given alike");
                key = Some(made.key);
            }
            self.gateways.extend(key.map(|key| (id, key)));
            self.heads.push(0);
        }
    }

    /// A new instant.
    fn tick(&mut self) -> Timestamp {
        self.ticks += 1;
        self.begun.plus(Duration::from_micros(self.ticks))
    }

    pub(crate) async fn perform(&mut self, sides: &mut [Side; 2], step: &Step) -> Answers {
        let answers = self.apply(sides, step).await;
        for (nth, (_, key)) in self.gateways.iter().enumerate() {
            let page = sides[0].store.read(*key, Sequence::ZERO, 0, 0).await.unwrap();
            self.heads[nth] = page.head.0;
        }
        answers
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of step")]
    async fn apply(&mut self, sides: &mut [Side; 2], step: &Step) -> Answers {
        let of = self.organisation;
        match step {
            Step::Publish { items, key } => {
                let events = items.iter().map(|item| self.validated(item)).collect();
                let idempotency =
                    key.map(|key| Idempotency { key: format!("k{key}"), digest: [key / 2; 32] });
                let publish = Publish { organisation: of, events, idempotency };
                both!(self, sides, side => side.store.append(publish.clone()).await)
            }
            Step::Inbox(rows) => self.inbox(sides, rows).await,
            Step::Open { gateway, replica } => self.open(sides, *gateway, *replica).await,
            Step::OpenInstance { .. } | Step::ConfirmBy { .. } | Step::Forget { .. } => {
                self.instances(sides, step).await
            }
            Step::Record(steps) => {
                let records: Vec<Record> =
                    steps.iter().filter_map(|step| self.record(step)).collect();
                let answers = both!(self, sides, side => side.store.record(records.clone()).await);
                if answers[0] == "()" {
                    self.reports.add(&records);
                }
                answers
            }
            Step::Sweep => both!(self, sides, side => {
                side.store.sweep_not_connected(None, Duration::ZERO).await.map(|mut swept| {
                    swept.recorded.sort_by_key(|failed| (failed.gateway_id, failed.range.first));
                    swept
                })
            }),
            Step::Expire => both!(self, sides, side => {
                let (mut mark, mut expired) = (ExpiryMark::default(), Vec::new());
                let mut confirmed = BTreeMap::new();
                for (id, _) in &self.gateways {
                    let gateway = side.store.gateway(of, *id).await.unwrap();
                    confirmed.insert(*id, gateway.map_or(Sequence::MAX, |it| it.confirmed));
                }
                loop {
                    match side.store.expire(&mut mark).await {
                        Ok(found) => {
                            for given_up in &found.expired {
                                let position = confirmed[&given_up.gateway_id];
                                assert!(given_up.range.first > position, "{position}: {given_up:?}");
                            }
                            expired.extend(found.expired);
                            if !found.more {
                                break Ok(expired);
                            }
                        }
                        Err(error) => break Err(error),
                    }
                }
            }),
            Step::Trim(limits) => {
                let limits = retention(*limits);
                if limits.max_age.is_zero() {
                    // Nor of one whose ended connection was deleted.
                    let page = sides[0].store.connections(of, None, true, None, 100).await.unwrap();
                    let is_live = |id| page.rows.iter().any(|row| row.connection_id == id);
                    self.connections.retain(|(id, ..)| is_live(*id));
                    self.reports.forget();
                }
                both!(self, sides, side => side.store.trim(&limits, &mut side.mark).await)
            }
            Step::Redrive { gateway, reason, id, dry_run } => {
                let filter = DeliveryFilter {
                    gateway_id: gateway.map(|nth| self.gateways[nth].0),
                    reason: *reason,
                    event_id: id.map(event_id),
                    ..DeliveryFilter::default()
                };
                let selection = RedriveSelection::Filter(filter, None);
                both!(self, sides, side => side.store.redrive(&actor(of), selection.clone(), *dry_run).await)
            }
            Step::RedriveOne { gateway, sequence } => {
                let sequence = Sequence(i64::from(*sequence));
                let one = RedriveSelection::One(self.gateways[*gateway].0, sequence);
                both!(self, sides, side => side.store.redrive(&actor(of), one.clone(), false).await)
            }
            Step::Replay { .. }
            | Step::Resend { .. }
            | Step::StartRedrive { .. }
            | Step::Work
            | Step::Abort => self.bulk(sides, step).await,
            Step::RetryRejected => both!(self, sides, side => {
                let all = RetrySelection::Filter(RejectedFilter::default());
                side.store.retry_rejected(&actor(of), all).await
            }),
            Step::EditRejected { valid, dry_run } => self.edit(sides, *valid, *dry_run).await,
            Step::Pause { gateway, paused, dry_run } => {
                let (id, actor) = (self.gateways[*gateway].0, actor(of));
                both!(self, sides, side => {
                    let done = if *paused {
                        side.store.pause_gateway(&actor, id, Some("a story"), *dry_run).await
                    } else {
                        side.store.resume_gateway(&actor, id, *dry_run).await
                    };
                    done.map(|it| (it.changed, it.control, alike(it.gateway)))
                })
            }
            Step::Skip { gateway, sequence, dry_run } => {
                let id = self.gateways[*gateway].0;
                let sequence = Sequence(i64::from(*sequence));
                both!(self, sides, side => {
                    let actor = actor(of);
                    side.store.skip_delivery(&actor, id, sequence, "a story", *dry_run).await
                })
            }
            Step::Purge { id, dry_run } => {
                let id = event_id(*id);
                both!(self, sides, side => {
                    side.store.purge_event(&actor(of), &id, "a story", *dry_run).await
                })
            }
            Step::Enable { gateway, enabled } => {
                let id = self.gateways[*gateway].0;
                let change = GatewayChange { disabled: Some(!enabled), ..GatewayChange::default() };
                both!(self, sides, side => {
                    side.store.update_gateway(&actor(of), id, change.clone()).await.map(alike)
                })
            }
            Step::Delete { gateway } => {
                let id = self.gateways[*gateway].0;
                both!(self, sides, side => side.store.delete_gateway(&actor(of), id).await)
            }
            Step::Restart => {
                let node = NodeId::new();
                for side in sides.iter_mut() {
                    side.restart(node).await;
                }
                both!(self, sides, side => side.store.reap_dead_nodes().await.map(|mut reaped| {
                    reaped.connections.sort_by_key(|reaped| reaped.connection_id);
                    reaped
                }))
            }
        }
    }

    pub(super) fn target(&self, to: &To) -> Target {
        match to {
            To::These(nth) => {
                Target::Gateways(nth.iter().map(|nth| self.gateways[*nth].0).collect())
            }
            To::Labelled => Target::Labels(Labels::from([("some".to_owned(), "yes".to_owned())])),
            To::All => Target::All,
            To::UnknownGateway => Target::Gateways(vec![GatewayId(uuid::Uuid::nil())]),
        }
    }

    /// Edits the oldest rejected row, if there is one.
    async fn edit(&mut self, sides: &mut [Side; 2], valid: bool, dry_run: bool) -> Answers {
        let (of, at) = (self.organisation, self.tick());
        let mut answers = Vec::new();
        for side in sides.iter() {
            let rows = side.store.rejected(of, &RejectedFilter::default(), None, 100).await;
            let Some(row) = rows.unwrap().pop() else {
                answers.push("none".to_owned());
                continue;
            };
            let found = side.store.rejected_content(of, row.id, 1 << 20).await.unwrap().unwrap();
            let mut content = found.content;
            let why = if valid { "a.deployed" } else { "bad.type" };
            why.clone_into(&mut content.event_type);
            content.user_id = Some("u".to_owned());
            let inbox = InboxRow { id: row.id, inserted_at: at, content: Ok(content.clone()) };
            let result = self.validated_row(&inbox, at).result.map(|(_, new)| new);
            let edit = RejectedEdit {
                id: row.id,
                version: found.version,
                content,
                has_payload: false,
                result,
            };
            let edited = side.store.edit_rejected(&actor(of), edit, dry_run).await;
            let edited = edited.map(|edited| match edited {
                EditedRow::Published(appended) => format!("{appended:?}"),
                EditedRow::WouldPublish(id, gateways) => format!("{id} {gateways:?}"),
                // The rows are compared with everything else.
                EditedRow::Rejected(why, row) => format!("{why:?} {}", row.version),
            });
            answers.push(shown(edited, self.since));
        }
        [answers.remove(0), answers.remove(0)]
    }

    async fn open(&mut self, sides: &mut [Side; 2], gateway: usize, replica: u8) -> Answers {
        let new = NewConnection {
            id: ConnectionId::new(),
            gateway: self.gateways[gateway].1,
            token: "token".to_owned(),
            instance: if replica == 0 { String::new() } else { format!("r{replica}") },
            transport: "websocket",
            remote_address: "192.0.2.1:4711".to_owned(),
        };
        let answers = both!(self, sides, side => {
            // Everything except the epoch, which each store generates.
            match side.store.open_connection(new.clone()).await {
                Ok(it) => {
                    let sent = (it.sent, it.suspect, it.is_unsure, it.repeats);
                    let superseded = superseded(&side.store, &new, &it).await;
                    Ok((it.position, it.head, sent, it.control, superseded))
                }
                Err(error) => Err(error),
            }
        });
        // A refused connection is never used.
        if !answers[0].starts_with("error") {
            self.connections.push((new.id, gateway, new.instance.into()));
        }
        answers
    }

    /// Another program inserts rows; then the whole inbox is drained.
    async fn inbox(&mut self, sides: &mut [Side; 2], items: &[(Item, bool)]) -> Answers {
        let rows: Vec<Row> = items
            .iter()
            .map(|(item, is_bad)| Row {
                event_type: if *is_bad { "bad.type" } else { "a.deployed" }.to_owned(),
                payload: format!("{{\"n\":{}}}", item.content),
                gateway_id: Some(self.gateways[item.id as usize % GATEWAYS].0.to_string()),
                event_id: Some(event_id(item.id).to_string()),
                ..Row::default()
            })
            .collect();
        let at = self.tick();
        let mut answers = Vec::new();
        for side in sides.iter() {
            side.program.insert(&rows).await;
            let page = side.store.inbox_page(100, 1 << 20).await.unwrap();
            let contents: Vec<_> = page.iter().map(|row| (row.id, row.content.clone())).collect();
            let validated = page.iter().map(|row| self.validated_row(row, at)).collect();
            let drained = side.store.drain_inbox(validated).await;
            answers.push(format!("{contents:?} {}", shown(drained, self.since)));
        }
        [answers.remove(0), answers.remove(0)]
    }

    fn validated_row(&self, row: &InboxRow, at: Timestamp) -> ValidatedRow {
        let content = row.content.as_ref().unwrap();
        let result = if content.event_type == "bad.type" {
            let reason = RejectionReason::UnknownEventType;
            Err(Rejection { reason, detail: "as the test says".to_owned() })
        } else {
            let id = EventId::new(content.event_id.clone().unwrap()).unwrap();
            let gateway = content.gateway_id.as_ref().unwrap().parse().unwrap();
            let digest = u8::from(content.payload.contains('1'));
            let target = Target::Gateways(vec![gateway]);
            Ok((self.organisation, event(id, "a.deployed", digest, target, at, None)))
        };
        ValidatedRow { id: row.id, result }
    }

    fn validated(&mut self, item: &Item) -> Validated {
        let (id, at) = (event_id(item.id), self.tick());
        if !item.fit {
            let error = ValidationError::invalid("event", "as the test says");
            return Err(InvalidEvent { identity: Some((id, [item.content; 32])), error });
        }
        let target = self.target(&item.target);
        let event_type = if item.kind.is_multiple_of(2) { "a.deployed" } else { "b.deployed" };
        let expires_at = (item.kind == 4).then_some(self.begun);
        Ok(event(id, event_type, item.content, target, at, expires_at))
    }

    /// `None` if nothing was opened, or the log is empty.
    fn record(&mut self, step: &RecordStep) -> Option<Record> {
        // The newest first, because these are alive.
        let at = self.connections.len().checked_sub(1 + step.connection)?;
        let (connection, nth, instance) = self.connections[at].clone();
        let (gateway, head) = (self.gateways[nth].1, self.heads[nth]);
        if head == 0 {
            return None;
        }
        let first = 1 + step.first % head;
        let last = (first + step.length).min(head);
        let range = Range { first: Sequence(first), last: Sequence(last) };
        let (started_at, at) = (self.tick(), self.tick());
        if let Some(outcome) = outcome(step, self.levels.get(&connection), range, started_at) {
            let outcome = outcome?;
            return Some(Record::Instance { gateway, connection, instance, outcome, at });
        }
        let (sequence, confirms) = (range.first, (last % 2 == 0).then_some(range.first));
        let of = Arc::clone(&instance);
        let reported = |result| Record::Reported {
            gateway,
            connection,
            instance: of,
            sequence,
            result,
            confirms,
            at,
        };
        Some(match &step.kind {
            RecordKind::Confirmed => {
                // Cumulative: everything up to its end.
                let range = Range { first: Sequence(1), ..range };
                Record::Confirmed {
                    gateway,
                    connection,
                    instance,
                    range,
                    started_at,
                    finished_at: at,
                }
            }
            // By the clock of the store, so that connections are alive at the same time.
            RecordKind::Heartbeat => Record::Heartbeat { connection, at: Timestamp::now() },
            RecordKind::Applied => reported(Ok(())),
            RecordKind::Failed => reported(Err(apply_failed("no"))),
            RecordKind::Unmatched { applied } => Record::Unmatched {
                gateway,
                connection,
                instance,
                key: deployment(first),
                result: if *applied { Ok(()) } else { Err(apply_failed("")) },
                sent_here: range.last,
                at,
            },
            RecordKind::ConfirmedElsewhere => {
                Record::ConfirmedElsewhere { gateway, to: range.last, at }
            }
            RecordKind::Acknowledged { .. }
            | RecordKind::Retried
            | RecordKind::Rejected { .. }
            | RecordKind::Filtered { .. }
            | RecordKind::Covered => return None,
            RecordKind::Skipped { advance } => Record::Skipped {
                gateway,
                connection,
                instance,
                range,
                reason: Reason::Expired,
                advance_to: advance.then_some(range.last),
                at,
            },
            RecordKind::Closed { reason, sent, give_up } => Record::Closed {
                gateway,
                connection,
                reason: *reason,
                detail: "as the test says".to_owned(),
                unconfirmed: Vec::from_iter(sent.then_some(Unconfirmed { range, started_at })),
                is_in_progress: first % 3 == 0,
                give_up_after: give_up.then_some(u32::from(last % 2 == 0) + 1),
                alive_at: (first % 2 == 0).then(Timestamp::now),
                at,
            },
        })
    }
}

fn apply_failed(detail: &str) -> ReportedFailure {
    ReportedFailure::new(Reason::ApplyFailed, detail.to_owned())
}

pub(super) fn event_id(nth: u8) -> EventId {
    EventId::new(format!("e{nth}")).unwrap()
}

/// The ids in a report, which fit some of the events.
fn deployment(sent: i64) -> DeploymentKey {
    DeploymentKey {
        artifact_id: "a".to_owned(),
        deployment_id: "d0".to_owned(),
        suffix: "deployed",
        performed_at: None,
        sent: Sequence(sent),
    }
}

/// Lets the newest events of a connection's backlog supersede the others. `None` if none can.
pub(super) async fn superseded(
    store: &Arc<dyn Store>,
    new: &NewConnection,
    opened: &Opened,
) -> Option<u64> {
    let mut backlog = Supersession::new(new.gateway, new.id, opened.head);
    while opened.is_collapsible && !backlog.is_done {
        backlog = store.supersede(backlog).await.unwrap();
    }
    opened.is_collapsible.then_some(backlog.superseded)
}

fn event(
    id: EventId,
    event_type: &str,
    content: u8,
    target: Target,
    occurred_at: Timestamp,
    expires_at: Option<Timestamp>,
) -> NewEvent {
    let collapse = match id.as_str().bytes().last().unwrap() % 6 {
        0 => None,
        1 => Some(Collapse::Barrier),
        _ => Some(Collapse::Key(CollapseKey::new("k").unwrap())),
    };
    let event = Event {
        correlation_id: CorrelationId::new(id.as_str()).unwrap(),
        id,
        event_type: EventType::new(event_type).unwrap(),
        payload: RawValue::from_string("{}".to_owned()).unwrap(),
        user_id: None,
        occurred_at,
        expires_at,
        traceparent: None,
        attributes: None,
    };
    NewEvent {
        event: Arc::new(event),
        is_named: true,
        target,
        digest: [content; 32],
        collapse,
        artifact_id: Some("a".to_owned()),
        deployment_id: Some(format!("d{content}")),
    }
}

fn retention(limits: Limits) -> RetentionLimits {
    let (few, zero) = (2, Duration::ZERO);
    match limits {
        Limits::All => RetentionLimits { batch: 2, ..keep_all() },
        Limits::Few => RetentionLimits { max_events: few, batch: 3, ..keep_all() },
        Limits::HardFew => RetentionLimits { hard_max_events: few, ..keep_all() },
        Limits::Young => {
            RetentionLimits { max_age: zero, orphaned_cursor_max_age: zero, batch: 4, ..keep_all() }
        }
        Limits::Instances => RetentionLimits { instance_max_age: zero, batch: 2, ..keep_all() },
        Limits::HardYoung => RetentionLimits {
            max_age: zero,
            hard_max_age: zero,
            dead_letter_max_age: zero,
            batch: 5,
            ..keep_all()
        },
    }
}
