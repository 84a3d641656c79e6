//! Replays, resends and jobs as calls.

use gateway_events::event::{JobId, Sequence};
use gateway_events::store::{BulkJob, BulkJobState, DeliveryFilter, ReplaySelection};

use super::Side;
use super::calls::{Answers, World, both, event_id};
use super::snapshot::shown;
use super::steps::Step;
use crate::conformance::actor;

impl World {
    pub(super) async fn bulk(&mut self, sides: &mut [Side; 2], step: &Step) -> Answers {
        let (of, job) = (self.organisation, JobId::new());
        match step {
            Step::Replay { gateway, first, last, dry_run } => {
                let sequence = |it: u8| Sequence(i64::from(it));
                let selection = ReplaySelection::Range(sequence(*first), last.map(sequence));
                let id = self.gateways[*gateway].0;
                both!(self, sides, side => {
                    side.store.replay(&actor(of), job, id, selection, *dry_run).await
                })
            }
            Step::Resend { id, target, force, dry_run } => {
                let target = self.target(target);
                both!(self, sides, side => {
                    let id = event_id(*id);
                    side.store.resend(&actor(of), &id, target.clone(), *force, *dry_run).await
                })
            }
            Step::StartRedrive { gateway } => {
                let filter = DeliveryFilter {
                    gateway_id: gateway.map(|nth| self.gateways[nth].0),
                    ..DeliveryFilter::default()
                };
                both!(self, sides, side => {
                    let started = side.store.start_redrive(&actor(of), job, filter.clone()).await;
                    started.map(|job| summary(&job))
                })
            }
            Step::Work => both!(self, sides, side => {
                let running = Some(BulkJobState::Running);
                let jobs = side.store.bulk_jobs(of, running, None, 10).await.unwrap();
                let mut worked = Vec::new();
                for job in jobs {
                    let moved = side.store.work_on_bulk_job(&job).await;
                    worked.push(moved.map(|job| job.map(|job| summary(&job))));
                }
                worked.into_iter().collect::<Result<Vec<_>, _>>()
            }),
            // `Abort`; the others are not for this function.
            _ => both!(self, sides, side => {
                match side.store.bulk_jobs(of, None, None, 1).await.unwrap().pop() {
                    Some(job) => {
                        let aborted = side.store.abort_bulk_job(&actor(of), job.id).await;
                        aborted.map(|job| Some(summary(&job)))
                    }
                    None => Ok(None),
                }
            }),
        }
    }
}

/// Everything of a job but its times and its node.
fn summary(job: &BulkJob) -> String {
    let BulkJob { key, task, state, failure, done, total, counts, .. } = job;
    format!("{key} {task:?} {state:?} {failure:?} {done} {total:?} {counts:?}")
}
