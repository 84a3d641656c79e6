//! Alerts: rules and destinations ([`definitions`]), what an evaluation reads ([`findings`]) and
//! changes ([`changes`]), and the outbox of notifications ([`outbox`]).

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::audit::audited;
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::store::audit::entries;
use crate::store::{
    Actor, AlertChange, Alerts, AttemptEnd, Audited, ClaimedNotification, EvaluationLease,
    Existing, ExpiringToken, FailureCount, NodeCondition, NodeHealth, Result, Sealed, StoredAlert,
    StoredDestination, StoredNotification, StoredRule, UsedAddress, WatchedGateway,
};

mod changes;
mod definitions;
mod findings;
pub(super) mod outbox;

#[async_trait]
impl Alerts for Backend {
    async fn alert_rules(&self, organisation: OrganisationKey) -> Result<Vec<StoredRule>> {
        run!(self.query, |conn| definitions::rules(conn, organisation))
    }

    async fn put_alert_rule(
        &self,
        actor: &Actor,
        id: &str,
        existing: Existing,
        was: Option<&str>,
        definition: &str,
    ) -> Result<bool> {
        let (organisation, id) = (actor.organisation, id.to_owned());
        let (was, definition) = (was.map(str::to_owned), definition.to_owned());
        audited!(self, actor, |conn, now| definitions::put_rule(
            conn,
            now,
            organisation,
            &id,
            existing,
            was.as_deref(),
            &definition
        ))
    }

    async fn delete_alert_rule(&self, actor: &Actor, id: &str) -> Result<()> {
        let (organisation, id) = (actor.organisation, id.to_owned());
        audited!(self, actor, |conn, _now| definitions::delete_rule(conn, organisation, &id))
    }

    async fn silence_alert_rule(
        &self,
        actor: &Actor,
        id: &str,
        until: Option<Timestamp>,
    ) -> Result<()> {
        let (organisation, id) = (actor.organisation, id.to_owned());
        let by = actor.principal.name.clone();
        audited!(self, actor, |conn, now| definitions::silence(
            conn,
            now,
            organisation,
            &id,
            until,
            &by
        ))
    }

    async fn alert_destinations(
        &self,
        organisation: OrganisationKey,
    ) -> Result<Vec<StoredDestination>> {
        run!(self.query, |conn| definitions::destinations(conn, organisation))
    }

    async fn put_alert_destination(
        &self,
        actor: &Actor,
        id: &str,
        existing: Existing,
        definition: &str,
        sealed: &Sealed,
    ) -> Result<bool> {
        let (organisation, id) = (actor.organisation, id.to_owned());
        let (definition, sealed) = (definition.to_owned(), sealed.clone());
        audited!(self, actor, |conn, now| definitions::put_destination(
            conn,
            now,
            organisation,
            &id,
            existing,
            &definition,
            &sealed
        ))
    }

    async fn delete_alert_destination(&self, actor: &Actor, id: &str) -> Result<()> {
        let (organisation, id) = (actor.organisation, id.to_owned());
        audited!(self, actor, |conn, _now| definitions::delete_destination(conn, organisation, &id))
    }

    async fn record_destination_test(&self, actor: &Actor, id: &str, outcome: &str) -> Result<()> {
        let entry = entries::alert_destination_tested(id, outcome);
        audited!(self, actor, |_conn, _now| async { Ok(Audited::new((), [entry])) })
    }

    async fn alerts(&self, organisation: OrganisationKey) -> Result<Vec<StoredAlert>> {
        run!(self.query, |conn| findings::alerts(conn, organisation))
    }

    async fn notifications(
        &self,
        organisation: OrganisationKey,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredNotification>> {
        run!(self.query, |conn| outbox::list(conn, organisation, before, limit))
    }

    async fn organisations(&self) -> Result<Vec<OrganisationKey>> {
        run!(self.snapshot, |conn| findings::organisations(conn))
    }

    async fn acquire_evaluation_lease(&self, lease: Duration) -> Result<Option<EvaluationLease>> {
        let node = self.node;
        run!(self.write_tx, |conn, now| changes::acquire_lease(conn, now, node, lease))
    }

    async fn change_alerts(
        &self,
        lease: EvaluationLease,
        organisation: OrganisationKey,
        changes: &[AlertChange],
    ) -> Result<bool> {
        let changes = changes.to_vec();
        run!(self.write_tx, |conn, now| changes::apply(conn, now, lease, organisation, &changes))
    }

    async fn watched_gateways(&self, organisation: OrganisationKey) -> Result<Vec<WatchedGateway>> {
        run!(self.query, |conn| findings::gateways(conn, organisation))
    }

    async fn failure_counts(
        &self,
        organisation: OrganisationKey,
        count: &FailureCount,
    ) -> Result<Vec<(GatewayId, i64)>> {
        let count = count.clone();
        run!(self.query, |conn| findings::failures(conn, organisation, &count))
    }

    async fn rejected_count(&self, organisation: OrganisationKey, most: i64) -> Result<i64> {
        run!(self.query, |conn| findings::rejected(conn, organisation, most))
    }

    async fn node_conditions(&self, since: Timestamp, limit: i64) -> Result<Vec<NodeCondition>> {
        run!(self.query, |conn| findings::nodes(conn, since, limit))
    }

    async fn note_node_health(&self, health: NodeHealth) -> Result<()> {
        let node = self.node;
        run!(self.write_tx, |conn, _now| changes::note_health(conn, node, health))
    }

    async fn expiring_tokens(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        used_since: Timestamp,
        limit: i64,
    ) -> Result<Vec<ExpiringToken>> {
        run!(self.query, |conn| findings::expiring(conn, organisation, from, to, used_since, limit))
    }

    async fn used_addresses(
        &self,
        organisation: OrganisationKey,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<UsedAddress>> {
        run!(self.query, |conn| findings::addresses(conn, organisation, since, limit))
    }

    async fn claim_notifications(
        &self,
        lease: Duration,
        per_destination: i64,
        limit: i64,
    ) -> Result<Vec<ClaimedNotification>> {
        let node = self.node;
        // Most of the time there is nothing, and a transaction that writes is not needed to see it.
        let is_due = run!(self.snapshot, |conn| outbox::has_work(conn))?;
        if !is_due {
            return Ok(Vec::new());
        }
        run!(self.write_tx, |conn, now| outbox::claim(
            conn,
            now,
            node,
            lease,
            per_destination,
            limit
        ))
    }

    async fn end_attempt(&self, key: i64, attempt: i64, end: AttemptEnd) -> Result<()> {
        run!(self.write_tx, |conn, now| outbox::end(conn, now, key, attempt, &end))
    }
}
