//! A gateway's reports on deployments, matched to the events that they answer.
//! A report names no event, so it takes a look into the log; the lane does not
//! wait for that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::backoff::{Backoff, is_passing};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::socket::frame::{DeploymentAck, Status};
use crate::store::{DeploymentKey, Result, Store};

/// Reports that may wait for the database; past it they are refused.
const ENOUGH: usize = 256;

type Found = Option<(Sequence, Option<Timestamp>)>;

/// What waits to be matched.
pub(super) struct Reports {
    store: Arc<dyn Store>,
    gateway: GatewayKey,
    /// Each with the last number that had been sent when it came.
    waiting: VecDeque<(DeploymentAck, Sequence)>,
    lookup: Option<BoxFuture<'static, Result<Found>>>,
    backoff: Backoff,
}

/// A report and the event that it answers, if that had been sent before.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) ack: DeploymentAck,
    pub(super) sequence: Option<Sequence>,
}

impl Matched {
    /// Applied, or why not.
    pub(super) fn result(&self) -> Result<(), (Reason, String)> {
        if self.ack.status == Status::Success {
            return Ok(());
        }
        let code = self.ack.error_code.as_deref().unwrap_or_default();
        let reason = match code {
            "GATEWAY_PROCESSING_ERROR" => Reason::GatewayProcessingError,
            "DEPLOYMENT_ID_MISMATCH" => Reason::DeploymentIdMismatch,
            _ => Reason::ApplyFailed,
        };
        Err((reason, code.escape_debug().take(200).collect()))
    }
}

impl Reports {
    pub(super) fn new(store: Arc<dyn Store>, gateway: GatewayKey) -> Self {
        Self { store, gateway, waiting: VecDeque::new(), lookup: None, backoff: Backoff::default() }
    }

    /// Takes a report on what was `sent` so far; false if too many wait.
    pub(super) fn push(&mut self, ack: DeploymentAck, sent: Sequence) -> bool {
        let room = self.waiting.len() < ENOUGH;
        if room {
            self.waiting.push_back((ack, sent));
        }
        room
    }

    /// Lets go of what waits.
    pub(super) fn forget(&mut self) {
        self.lookup = None;
        self.waiting.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Matches the oldest one, trying until the database answers; never ends
    /// while none waits. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Matched {
        loop {
            let found = match self.look_up() {
                Some(lookup) => lookup.await,
                None => std::future::pending().await,
            };
            self.lookup = None;
            let found = match found {
                Err(error) if is_passing(&error) => {
                    let wait = self.backoff.next();
                    tracing::warn!(%error, "a report could not be matched yet; trying again");
                    self.lookup = self.ask(wait);
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "a report can't be matched");
                    None
                }
                Ok(found) => found,
            };
            self.backoff.reset();
            if let Some((ack, sent)) = self.waiting.pop_front() {
                let sequence = found
                    .filter(|(_, performed_at)| same_instant(ack.performed_at, *performed_at))
                    .map(|(sequence, _)| sequence)
                    .filter(|sequence| *sequence <= sent);
                return Matched { ack, sequence };
            }
        }
    }

    fn look_up(&mut self) -> Option<&mut BoxFuture<'static, Result<Found>>> {
        if self.lookup.is_none() {
            self.lookup = self.ask(Duration::ZERO);
        }
        self.lookup.as_mut()
    }

    fn ask(&self, wait: Duration) -> Option<BoxFuture<'static, Result<Found>>> {
        let (ack, _) = self.waiting.front()?;
        let key = DeploymentKey {
            artifact_id: ack.artifact_id.clone(),
            deployment_id: ack.deployment_id.clone(),
            suffix: ack.action.suffix(),
        };
        let (store, gateway) = (Arc::clone(&self.store), self.gateway);
        Some(Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            store.find_deployment(gateway, &key).await
        }))
    }
}

/// Gateways keep times to the millisecond; what one of both lacks can't differ.
fn same_instant(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    let millis = |time: Timestamp| time.micros().div_euclid(1000);
    match (one, other) {
        (Some(one), Some(other)) => millis(one) == millis(other),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_compared_as_instants_to_the_millisecond() {
        let time = |text| Timestamp::parse(text).ok();
        let utc = time("2026-01-31T09:30:00.123456Z");
        assert!(same_instant(utc, time("2026-01-31T10:30:00.123+01:00")));
        assert!(!same_instant(utc, time("2026-01-31T09:30:00.124Z")));
        assert!(same_instant(utc, None));
    }
}
