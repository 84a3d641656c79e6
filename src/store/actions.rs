//! Corrective actions of admins on one gateway or one event: pause and resume, skip, resync, purge.
//!
//! Each is idempotent: a repeat changes nothing, is not audited again, and says so. A resync is stored
//! for the next connections ([`Resync`](super::Resync)). Each other one raises the revision of the logs
//! concerned, so that connections on all nodes read again what they are to send ([`Control`]). With `dry_run`, an action checks the same conditions and changes nothing.

use std::fmt;

use async_trait::async_trait;

use super::{Actor, Gateway, Result, ResyncChange, ResyncRequest, TimedKey, UndeliveredRange};
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, GatewayKey, Sequence};
use crate::wake::Control;

/// Operations that correct what a gateway is sent.
#[async_trait]
pub trait Actions: Send + Sync + 'static {
    /// Pauses a gateway: it stays connected, and nothing more is sent to it. One that is paused
    /// stays as it is, with its first reason.
    async fn pause_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        reason: Option<&str>,
        dry_run: bool,
    ) -> Result<PauseChange>;
    /// Resumes a paused gateway.
    async fn resume_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        dry_run: bool,
    ) -> Result<PauseChange>;
    /// Gives up a pending delivery: it becomes a dead letter with the reason `skipped`. `NotFound`
    /// if there is no such sequence, `Conflict` if it is not pending.
    async fn skip_delivery(
        &self,
        actor: &Actor,
        id: GatewayId,
        sequence: Sequence,
        reason: &str,
        dry_run: bool,
    ) -> Result<Skipped>;
    /// Requests that instances of a gateway read a snapshot. `NotFound` if there is no such gateway
    /// or instance, `Conflict` if the gateway has only used plain mode.
    async fn request_resync(
        &self,
        actor: &Actor,
        id: GatewayId,
        request: &ResyncRequest,
        dry_run: bool,
    ) -> Result<ResyncChange>;
    /// Removes an event's payload from wherever it is stored. Pending deliveries become dead
    /// letters with the reason `purged`. The digest stays, so that a repeat is recognised.
    async fn purge_event(
        &self,
        actor: &Actor,
        id: &EventId,
        reason: &str,
        dry_run: bool,
    ) -> Result<Purged>;
    /// A page of the logs whose delivery was changed on any node, in the order of their last
    /// changes, after a position. At most `limit`.
    async fn stream_changes(&self, after: TimedKey, limit: usize) -> Result<StreamChanges>;
}

/// The pause of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it was paused.
    pub at: Timestamp,
    /// The name of the principal that paused it.
    pub by: String,
    /// Why, if that was said.
    pub reason: Option<String>,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused by {}", self.by)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// The result of a pause or a resume.
#[derive(Clone, Debug)]
pub struct PauseChange {
    /// Whether it changed something or, in a dry run, would change something.
    pub changed: bool,
    /// The gateway; in a dry run, as it was before.
    pub gateway: Gateway,
    /// The new state of its log; `None` if nothing was changed.
    pub control: Option<Control>,
}

/// The result of a skip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The key by which the store refers to the gateway.
    pub key: GatewayKey,
    /// Whether it changed something or, in a dry run, would change something.
    pub changed: bool,
    /// The delivery.
    pub delivery: UndeliveredRange,
    /// The new state of the gateway's log; `None` if nothing was changed.
    pub control: Option<Control>,
}

/// The purge of an event's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// When it was purged.
    pub at: Timestamp,
    /// The name of the principal that purged it.
    pub by: String,
    /// The reason that the principal gave.
    pub reason: String,
}

/// The result of a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Whether it changed something or, in a dry run, would change something.
    pub changed: bool,
    /// The purge on record; in a dry run, the one that would be recorded.
    pub purge: Purge,
    /// The deliveries that were given up or, in a dry run, would be.
    pub given_up: Vec<UndeliveredRange>,
    /// The new states of the logs concerned.
    pub controls: Vec<(GatewayKey, Control)>,
}

/// Recent changes to the delivery of logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamChanges {
    /// The database's time when they were read.
    pub as_of: Timestamp,
    /// The newest state of each log.
    pub changed: Vec<(GatewayKey, Control)>,
    /// Where the next page begins: after this time of a change and gateway. `None` after the last.
    pub next: Option<TimedKey>,
}

impl Purge {
    /// The detail of a rejected row whose payload was purged, if it was about the payload.
    pub const DETAIL: &str = "payload: was purged";

    /// From the columns of an event; `None` if it was not purged.
    pub fn stored(
        at: Option<Timestamp>,
        by: Option<String>,
        reason: Option<String>,
    ) -> Option<Self> {
        at.map(|at| Self { at, by: by.unwrap_or_default(), reason: reason.unwrap_or_default() })
    }
}

impl Skipped {
    /// What the ledger says about an attempt at a skipped delivery.
    pub fn detail(by: &str, reason: &str) -> String {
        format!("skipped by {by}: {reason}")
    }
}
