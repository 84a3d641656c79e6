//! Steps about named instances, and outcomes in reliable mode.

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, Epoch, Reason, Sequence};
use gateway_events::store::{
    Confirmation, GapReason, GatewayChange, InstanceOutcome, Level, NewConnection, OpenInstance,
    Range, ResumeFrom,
};

use super::Side;
use super::calls::{Answers, World, both, event_id, superseded};
use super::snapshot::{gateway as alike, shown};
use super::steps::{From, RecordKind, RecordStep, Step};
use crate::conformance::actor;

impl World {
    pub(super) async fn instances(&mut self, sides: &mut [Side; 2], step: &Step) -> Answers {
        let of = self.organisation;
        match step {
            Step::OpenInstance { gateway, replica, applied, resume } => {
                let level = if *applied { Level::Applied } else { Level::Received };
                self.open_instance(sides, *gateway, *replica, level, *resume).await
            }
            Step::ConfirmBy { gateway, all } => {
                let id = self.gateways[*gateway].0;
                let confirmation = if *all { Confirmation::All } else { Confirmation::Any };
                let confirmation = Some(confirmation);
                let change = GatewayChange { confirmation, ..GatewayChange::default() };
                both!(self, sides, side => {
                    side.store.update_gateway(&actor(of), id, change.clone()).await.map(alike)
                })
            }
            Step::Forget { gateway, replica } => {
                let (id, name) = (self.gateways[*gateway].0, format!("r{replica}"));
                both!(self, sides, side => {
                    side.store.forget_instance(&actor(of), id, &name).await
                })
            }
            other => panic!("{other:?} is not about instances"),
        }
    }

    async fn open_instance(
        &mut self,
        sides: &mut [Side; 2],
        gateway: usize,
        replica: u8,
        confirm: Level,
        resume: From,
    ) -> Answers {
        let key = self.gateways[gateway].1;
        let connection = NewConnection {
            id: ConnectionId::new(),
            gateway: key,
            token: "token".to_owned(),
            instance: if replica == 0 { String::new() } else { format!("r{replica}") },
            transport: "websocket.v1",
            remote_address: "192.0.2.1:4711".to_owned(),
        };
        let answers = both!(self, sides, side => {
            let resume = match (resume, side.store.peek_log(key).await) {
                (From::Latest, _) => ResumeFrom::Latest,
                (From::Earliest, _) => ResumeFrom::Earliest,
                (From::After { sequence, foreign, event }, Ok(log)) => ResumeFrom::After {
                    epoch: if foreign { Epoch::new() } else { log.epoch },
                    sequence: Sequence(sequence.into()),
                    event_id: event.map(event_id),
                },
                (From::Server | From::After { .. }, _) => ResumeFrom::Server,
            };
            let opening = OpenInstance { connection: connection.clone(), confirm, resume };
            // Everything except the epoch, which each store generates.
            match side.store.open_instance(opening).await {
                Ok(mut it) => {
                    it.replaces.sort_by_key(|replaced| replaced.id);
                    let at = it.opened;
                    let sent = (at.sent, at.suspect, at.is_unsure, at.repeats);
                    let superseded = superseded(&side.store, &connection, &at).await;
                    let cursor = (it.received, it.applied, it.floor, it.gap, it.replaces);
                    Ok((at.position, at.head, sent, at.control, cursor, superseded))
                }
                Err(error) => Err(error),
            }
        });
        if !answers[0].starts_with("error") {
            self.levels.insert(connection.id, confirm);
            self.connections.push((connection.id, gateway, connection.instance.into()));
        }
        answers
    }
}

/// What a connection in reliable mode says; `None` if it is not about that, and `Some(None)` on any
/// other connection.
#[expect(clippy::option_option, reason = "the documented cases are three")]
pub(super) fn outcome(
    step: &RecordStep,
    confirm: Option<&Level>,
    range: Range,
    started_at: Timestamp,
) -> Option<Option<InstanceOutcome>> {
    let (sequence, last) = (range.first, range.last);
    let advance_to = |advance: bool| advance.then_some(sequence);
    let detail = "as the test says".to_owned();
    let outcome = match step.kind {
        RecordKind::Acknowledged { applied } => {
            let level = if applied { Level::Applied } else { Level::Received };
            // Cumulative: everything up to its end.
            let range = Range { first: Sequence(1), last };
            let confirms = confirm == Some(&level);
            InstanceOutcome::Acknowledged { level, confirms, range, started_at }
        }
        RecordKind::Retried => {
            InstanceOutcome::Retried { sequence, code: Reason::Overloaded, detail, started_at }
        }
        RecordKind::Rejected { advance } => {
            let (code, advance_to) = (Reason::Unsupported, advance_to(advance));
            InstanceOutcome::Rejected { sequence, code, detail, started_at, advance_to }
        }
        RecordKind::Filtered { advance } => {
            InstanceOutcome::Filtered { range, advance_to: advance.then_some(last) }
        }
        RecordKind::Covered => {
            InstanceOutcome::Covered { reason: GapReason::Resync, resume_at: last }
        }
        _ => return None,
    };
    Some(confirm.map(|_| outcome))
}
