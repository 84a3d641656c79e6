//! Alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{EventType, GatewayId, NodeId, OrganisationKey};
use gateway_events::store::audit::entries;
use gateway_events::store::{
    Actor, AfterAttempt, AlertChange, AlertEvent, Alerts, AttemptEnd, Audited, ClaimedNotification,
    Conflict, EvaluationLease, Existing, ExpiringToken, FailureCount, KEPT_ATTEMPTS,
    MAX_DESTINATIONS, MAX_RULES, NodeCondition, NodeHealth, NotificationState, Outcome, Result,
    Sealed, StoreError, StoredAlert, StoredAttempt, StoredDestination, StoredNotification,
    StoredRule, UsedAddress, WatchedGateway,
};

use super::MemoryStore;
use super::tables::{Tables, next};

/// By organisation and id.
type ById<T> = BTreeMap<(OrganisationKey, String), T>;

/// The tables of alerts.
#[derive(Clone, Debug, Default)]
pub(super) struct AlertTables {
    rules: ById<StoredRule>,
    destinations: ById<StoredDestination>,
    /// By organisation, rule and group.
    alerts: BTreeMap<(OrganisationKey, String, String), StoredAlert>,
    notifications: BTreeMap<i64, Notification>,
    health: BTreeMap<NodeId, NodeHealth>,
    lease: Lease,
    last: i64,
}

/// The lease of the evaluation of rules.
#[derive(Clone, Debug, Default)]
struct Lease {
    number: i64,
    /// The node that holds it, and until when.
    holder: Option<(NodeId, Timestamp)>,
}

#[derive(Clone, Debug)]
struct Notification {
    organisation: OrganisationKey,
    body: String,
    claimed_until: Option<Timestamp>,
    info: StoredNotification,
}

impl Notification {
    fn thread(&self) -> (OrganisationKey, &str, &str, &str) {
        (self.organisation, &self.info.destination, &self.info.rule, &self.info.group)
    }

    fn is_claimed(&self, now: Timestamp) -> bool {
        self.claimed_until.is_some_and(|until| until > now)
    }
}

#[async_trait]
impl Alerts for MemoryStore {
    async fn alert_rules(&self, organisation: OrganisationKey) -> Result<Vec<StoredRule>> {
        self.read(|tables| Ok(of(&tables.alerts.rules, organisation))).await
    }

    async fn put_alert_rule(
        &self,
        actor: &Actor,
        id: &str,
        existing: Existing,
        was: Option<&str>,
        definition: &str,
    ) -> Result<bool> {
        let key = (actor.organisation, id.to_owned());
        self.audited(actor, |tables, now| {
            let rules = &mut tables.alerts.rules;
            let is_stored = rules.get(&key).is_some_and(|row| row.definition.is_some());
            if existing == Existing::Refuse && (is_stored || was.is_some()) {
                return Err(Conflict::AlertId { what: "alert rule", id: id.to_owned() }.into());
            }
            if !rules.contains_key(&key) && full(rules, key.0, MAX_RULES) {
                return Err(Conflict::AlertRules { most: MAX_RULES }.into());
            }
            let row = rules.entry(key).or_insert_with(|| StoredRule {
                id: id.to_owned(),
                definition: None,
                silence: None,
                created_at: now,
                updated_at: now,
            });
            if row.definition.as_deref() == Some(definition) {
                return Ok(Audited::new(false, []));
            }
            let old = row.definition.replace(definition.to_owned());
            row.updated_at = now;
            let before = old.as_deref().or(was);
            Ok(Audited::new(before.is_none(), [entries::alert_rule_put(id, before, definition)]))
        })
        .await
    }

    async fn delete_alert_rule(&self, actor: &Actor, id: &str) -> Result<()> {
        let key = (actor.organisation, id.to_owned());
        self.audited(actor, |tables, _| {
            let rules = &mut tables.alerts.rules;
            let old = rules.get(&key).and_then(|row| row.definition.clone());
            let old = old.ok_or(StoreError::NotFound("alert rule"))?;
            rules.remove(&key);
            Ok(Audited::new((), [entries::alert_rule_deleted(id, &old)]))
        })
        .await
    }

    async fn silence_alert_rule(
        &self,
        actor: &Actor,
        id: &str,
        until: Option<Timestamp>,
    ) -> Result<()> {
        let (key, by) = ((actor.organisation, id.to_owned()), actor.principal.name.clone());
        self.audited(actor, |tables, now| {
            let row = tables.alerts.rules.entry(key).or_insert_with(|| StoredRule {
                id: id.to_owned(),
                definition: None,
                silence: None,
                created_at: now,
                updated_at: now,
            });
            row.silence = until.map(|until| (until, by));
            row.updated_at = now;
            Ok(Audited::new((), [entries::alert_rule_silenced(id, until)]))
        })
        .await
    }

    async fn alert_destinations(
        &self,
        organisation: OrganisationKey,
    ) -> Result<Vec<StoredDestination>> {
        self.read(|tables| Ok(of(&tables.alerts.destinations, organisation))).await
    }

    async fn put_alert_destination(
        &self,
        actor: &Actor,
        id: &str,
        existing: Existing,
        definition: &str,
        sealed: &Sealed,
    ) -> Result<bool> {
        let key = (actor.organisation, id.to_owned());
        self.audited(actor, |tables, now| {
            let all = &mut tables.alerts.destinations;
            let old = all.get(&key).cloned();
            if existing == Existing::Refuse && old.is_some() {
                let what = "alert destination";
                return Err(Conflict::AlertId { what, id: id.to_owned() }.into());
            }
            if old.is_none() && full(all, key.0, MAX_DESTINATIONS) {
                return Err(Conflict::AlertDestinations { most: MAX_DESTINATIONS }.into());
            }
            let is_same =
                |old: &StoredDestination| old.definition == definition && old.sealed == *sealed;
            if old.as_ref().is_some_and(is_same) {
                return Ok(Audited::new(false, []));
            }
            let new = StoredDestination {
                id: id.to_owned(),
                definition: definition.to_owned(),
                sealed: sealed.clone(),
                created_at: old.as_ref().map_or(now, |old| old.created_at),
                updated_at: now,
            };
            all.insert(key, new);
            let before = old.as_ref().map(|old| old.definition.as_str());
            let has_new_secrets = old.as_ref().is_none_or(|old| old.sealed != *sealed);
            let entry = entries::alert_destination_put(id, before, definition, has_new_secrets);
            Ok(Audited::new(old.is_none(), [entry]))
        })
        .await
    }

    async fn delete_alert_destination(&self, actor: &Actor, id: &str) -> Result<()> {
        let key = (actor.organisation, id.to_owned());
        self.audited(actor, |tables, _| {
            let old = tables.alerts.destinations.remove(&key);
            let old = old.ok_or(StoreError::NotFound("alert destination"))?;
            Ok(Audited::new((), [entries::alert_destination_deleted(id, &old.definition)]))
        })
        .await
    }

    async fn record_destination_test(&self, actor: &Actor, id: &str, outcome: &str) -> Result<()> {
        let entry = entries::alert_destination_tested(id, outcome);
        self.audited(actor, |_, _| Ok(Audited::new((), [entry]))).await
    }

    async fn alerts(&self, organisation: OrganisationKey) -> Result<Vec<StoredAlert>> {
        self.read(|tables| {
            let rows = tables.alerts.alerts.iter().filter(|((of, ..), _)| *of == organisation);
            Ok(rows.map(|(_, alert)| alert.clone()).collect())
        })
        .await
    }

    async fn notifications(
        &self,
        organisation: OrganisationKey,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredNotification>> {
        self.read(|tables| {
            let rows = tables.alerts.notifications.range(..before.unwrap_or(i64::MAX)).rev();
            let own = rows.filter(|(_, row)| row.organisation == organisation);
            Ok(own.take(limit).map(|(_, row)| row.info.clone()).collect())
        })
        .await
    }

    async fn organisations(&self) -> Result<Vec<OrganisationKey>> {
        self.read(|tables| {
            Ok(tables
                .organisations
                .values()
                .copied()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect())
        })
        .await
    }

    async fn acquire_evaluation_lease(&self, lease: Duration) -> Result<Option<EvaluationLease>> {
        let node = self.node;
        self.write(|tables, now| {
            let stored = &mut tables.alerts.lease;
            if stored.holder.is_some_and(|(holder, until)| holder != node && until > now) {
                return Ok(None);
            }
            stored.holder = Some((node, now.plus(lease)));
            stored.number += 1;
            Ok(Some(EvaluationLease { number: stored.number, at: now }))
        })
        .await
    }

    async fn change_alerts(
        &self,
        lease: EvaluationLease,
        organisation: OrganisationKey,
        changes: &[AlertChange],
    ) -> Result<bool> {
        self.write(|tables, now| Ok(tables.alerts.change(now, lease, organisation, changes))).await
    }

    async fn watched_gateways(&self, organisation: OrganisationKey) -> Result<Vec<WatchedGateway>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.watched_gateways(now, organisation)).await
    }

    async fn failure_counts(
        &self,
        organisation: OrganisationKey,
        count: &FailureCount,
    ) -> Result<Vec<(GatewayId, i64)>> {
        self.read(|tables| Ok(tables.failure_counts(organisation, count))).await
    }

    async fn rejected_count(&self, organisation: OrganisationKey, most: i64) -> Result<i64> {
        self.read(|tables| {
            let name = tables.organisations.iter().find(|(_, key)| **key == organisation);
            let Some((name, _)) = name else { return Ok(0) };
            let open = tables
                .rejected
                .values()
                .filter(|row| row.row.content.organisation == *name && row.retried_at.is_none());
            Ok(i64::try_from(open.count()).unwrap_or(i64::MAX).min(most))
        })
        .await
    }

    async fn node_conditions(&self, since: Timestamp, limit: i64) -> Result<Vec<NodeCondition>> {
        self.read(|tables| {
            let rows = tables.nodes.iter().filter(|(_, row)| row.heartbeat_at >= since);
            let mut found: Vec<NodeCondition> = rows
                .map(|(id, row)| NodeCondition {
                    id: *id,
                    host: row.about.as_ref().and_then(|about| about.host.clone()),
                    started_at: row.started_at,
                    heartbeat_at: row.heartbeat_at,
                    stopped_at: row.stopped_at,
                    lost_at: row.lost_at,
                    health: tables.alerts.health.get(id).copied().unwrap_or_default(),
                })
                .collect();
            found.sort_by(|a, b| b.started_at.cmp(&a.started_at).then(a.id.cmp(&b.id)));
            found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(found)
        })
        .await
    }

    async fn note_node_health(&self, health: NodeHealth) -> Result<()> {
        let node = self.node;
        self.write(|tables, _| {
            tables.alerts.health.insert(node, health);
            Ok(())
        })
        .await
    }

    async fn expiring_tokens(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        used_since: Timestamp,
        limit: i64,
    ) -> Result<Vec<ExpiringToken>> {
        self.read(|tables| Ok(tables.expiring_tokens(organisation, from, to, used_since, limit)))
            .await
    }

    async fn used_addresses(
        &self,
        organisation: OrganisationKey,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<UsedAddress>> {
        self.read(|tables| {
            let rows = tables.connections.values();
            let recent = rows.filter(|row| row.closed.is_none_or(|(at, _)| at >= since));
            let mut found: Vec<UsedAddress> = recent
                .filter_map(|row| {
                    let gateway = tables.gateways.get(&row.gateway)?;
                    let is_own =
                        gateway.organisation == organisation && gateway.deleted_at.is_none();
                    is_own.then(|| UsedAddress {
                        gateway: gateway.id,
                        token: row.token.clone(),
                        address: row.remote_address.clone(),
                    })
                })
                .collect();
            let key = |it: &UsedAddress| (it.gateway, it.token.clone(), it.address.clone());
            found.sort_by_key(key);
            found.dedup();
            found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(found)
        })
        .await
    }

    async fn claim_notifications(
        &self,
        lease: Duration,
        per_destination: i64,
        limit: i64,
    ) -> Result<Vec<ClaimedNotification>> {
        let node = self.node;
        self.write(|tables, now| Ok(tables.alerts.claim(now, node, lease, per_destination, limit)))
            .await
    }

    async fn end_attempt(&self, key: i64, attempt: i64, end: AttemptEnd) -> Result<()> {
        self.write(|tables, now| {
            tables.alerts.end(now, key, attempt, &end);
            Ok(())
        })
        .await
    }
}

fn of<T: Clone>(rows: &ById<T>, organisation: OrganisationKey) -> Vec<T> {
    let own = rows.iter().filter(|((of, _), _)| *of == organisation);
    own.map(|(_, row)| row.clone()).collect()
}

fn full<T>(rows: &ById<T>, organisation: OrganisationKey, most: i64) -> bool {
    let own = rows.keys().filter(|(of, _)| *of == organisation).count();
    i64::try_from(own).unwrap_or(i64::MAX) >= most
}

impl AlertTables {
    fn change(
        &mut self,
        now: Timestamp,
        lease: EvaluationLease,
        organisation: OrganisationKey,
        changes: &[AlertChange],
    ) -> bool {
        if self.lease.number != lease.number {
            return false;
        }
        for AlertChange { alert, is_forgotten, notifications } in changes {
            let key = (organisation, alert.rule.clone(), alert.group.clone());
            if *is_forgotten {
                self.alerts.remove(&key);
            } else {
                self.alerts.insert(key, alert.clone());
            }
            for new in notifications {
                let thread = (organisation, &*new.destination, &*alert.rule, &*alert.group);
                let is_superseded =
                    new.event == AlertEvent::Resolved && self.supersede_begin(now, thread);
                let number = next(&mut self.last);
                let info = StoredNotification {
                    key: number,
                    id: new.id.clone(),
                    rule: alert.rule.clone(),
                    group: alert.group.clone(),
                    destination: new.destination.clone(),
                    event: new.event,
                    state: if is_superseded {
                        NotificationState::Superseded
                    } else {
                        NotificationState::Pending
                    },
                    attempt_count: 0,
                    due_at: now,
                    created_at: now,
                    ended_at: is_superseded.then_some(now),
                    attempts: Vec::new(),
                };
                let body = new.body.clone();
                let row = Notification { organisation, body, claimed_until: None, info };
                self.notifications.insert(number, row);
            }
        }
        true
    }

    /// Ends the newest notification of a thread, if it says that the alert fires, was not attempted,
    /// and follows one that it was resolved.
    fn supersede_begin(
        &mut self,
        now: Timestamp,
        thread: (OrganisationKey, &str, &str, &str),
    ) -> bool {
        let rows = self.notifications.values_mut();
        let mut open: Vec<_> =
            rows.filter(|row| row.info.ended_at.is_none() && row.thread() == thread).collect();
        let (Some(newest), Some(before)) = (open.pop(), open.pop()) else { return false };
        let is_begin = newest.info.event == AlertEvent::Firing && newest.info.attempt_count == 0;
        if !is_begin || before.info.event != AlertEvent::Resolved {
            return false;
        }
        newest.info.state = NotificationState::Superseded;
        newest.info.ended_at = Some(now);
        true
    }

    fn claim(
        &mut self,
        now: Timestamp,
        node: NodeId,
        lease: Duration,
        per_destination: i64,
        limit: i64,
    ) -> Vec<ClaimedNotification> {
        let mut seen = BTreeSet::new();
        let mut waiting = Vec::new();
        for (key, row) in &self.notifications {
            let is_open = row.info.ended_at.is_none();
            let is_first = is_open && seen.insert(row.thread());
            if is_first && (row.info.due_at <= now || row.is_claimed(now)) {
                waiting.push((!row.is_claimed(now), row.info.due_at, *key));
            }
        }
        waiting.sort_unstable();
        let mut places: BTreeMap<(OrganisationKey, String), i64> = BTreeMap::new();
        let mut due = Vec::new();
        for (is_free, due_at, key) in waiting {
            let row = &self.notifications[&key];
            let place = places.entry((row.organisation, row.info.destination.clone())).or_default();
            *place += 1;
            if is_free && *place <= per_destination {
                due.push((*place, due_at, key));
            }
        }
        due.sort_unstable();
        due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        due.into_iter().map(|(_, _, key)| self.claim_one(now, node, lease, key)).collect()
    }

    fn claim_one(
        &mut self,
        now: Timestamp,
        node: NodeId,
        lease: Duration,
        key: i64,
    ) -> ClaimedNotification {
        let row = self.notifications.get_mut(&key).expect("it was found");
        row.claimed_until = Some(now.plus(lease));
        row.info.attempt_count += 1;
        let attempt = row.info.attempt_count;
        row.info.attempts.push(StoredAttempt {
            number: attempt,
            node,
            started_at: now,
            ended_at: None,
            status: None,
            detail: String::new(),
        });
        row.info.attempts.retain(|it| it.number > attempt - KEPT_ATTEMPTS);
        let destination = (row.organisation, row.info.destination.clone());
        ClaimedNotification {
            key,
            id: row.info.id.clone(),
            organisation: row.organisation,
            rule: row.info.rule.clone(),
            group: row.info.group.clone(),
            event: row.info.event,
            body: row.body.clone(),
            attempt,
            created_at: row.info.created_at,
            claimed_at: now,
            destination: self.destinations.get(&destination).cloned(),
        }
    }

    fn end(&mut self, now: Timestamp, key: i64, attempt: i64, end: &AttemptEnd) {
        let Some(row) = self.notifications.get_mut(&key) else { return };
        let open = row.info.attempts.iter_mut().find(|it| it.number == attempt);
        if let Some(open) = open.filter(|it| it.ended_at.is_none()) {
            open.ended_at = Some(now);
            open.status = end.status;
            open.detail.clone_from(&end.detail);
        }
        let is_newest = row.info.attempt_count == attempt;
        if row.info.ended_at.is_some() || !(is_newest || end.then == AfterAttempt::Delivered) {
            return;
        }
        row.claimed_until = None;
        match end.then {
            AfterAttempt::Retry(pause) => row.info.due_at = now.plus(pause),
            AfterAttempt::Delivered => row.info.state = NotificationState::Delivered,
            AfterAttempt::GivenUp => row.info.state = NotificationState::Failed,
        }
        if row.info.state != NotificationState::Pending {
            row.info.ended_at = Some(now);
        }
    }
}

impl Tables {
    /// Removes up to `batch` notifications that ended before an instant, and resolved alerts likewise;
    /// returns how many.
    pub(super) fn forget_alerts(&mut self, before: Timestamp, batch: usize) -> usize {
        let AlertTables { notifications, alerts, .. } = &mut self.alerts;
        let ended = notifications.iter().filter_map(|(key, row)| Some((row.info.ended_at?, *key)));
        let ended = super::retention::oldest(ended.filter(|(at, _)| *at < before), batch);
        for key in &ended {
            notifications.remove(key);
        }
        let resolved = alerts.iter().filter_map(|(key, row)| Some((row.resolved_at?, key.clone())));
        let resolved = super::retention::oldest(resolved.filter(|(at, _)| *at < before), batch);
        for key in &resolved {
            alerts.remove(key);
        }
        ended.len().max(resolved.len())
    }

    fn watched_gateways(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
    ) -> Result<Vec<WatchedGateway>> {
        let rows = self
            .gateways
            .iter()
            .filter(|(_, row)| row.organisation == organisation && row.deleted_at.is_none());
        let rows = rows.map(|(key, row)| {
            let gateway = self.shown(now, *key)?;
            Ok(WatchedGateway {
                id: gateway.id,
                name: gateway.name,
                labels: gateway.labels,
                is_stopped: gateway.disabled_at.is_some() || gateway.paused.is_some(),
                is_connected: gateway.live_connections > 0,
                left_at: gateway.left.map_or(gateway.created_at, |(at, _)| at),
                pending: gateway.pending,
                oldest_pending_at: gateway.oldest_pending_at,
                dead_letters: row.stream.dead_total,
            })
        });
        let mut found = rows.collect::<Result<Vec<_>>>()?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn failure_counts(
        &self,
        organisation: OrganisationKey,
        count: &FailureCount,
    ) -> Vec<(GatewayId, i64)> {
        let mut found: BTreeMap<GatewayId, i64> = BTreeMap::new();
        for row in self.attempts.values() {
            let Some(gateway) = self.gateways.get(&row.gateway) else { continue };
            let is_counted = row.outcome == Outcome::Failed
                && row.finished_at >= count.since
                && gateway.organisation == organisation
                && gateway.deleted_at.is_none()
                && count.reason.is_none_or(|reason| row.reason == Some(reason));
            if !is_counted {
                continue;
            }
            let of_type = |sequence: &i64| match &count.event_type {
                None => true,
                Some(wanted) => self.type_at((row.gateway, *sequence)) == Some(wanted),
            };
            let amount = (row.first..=row.last).filter(of_type).count();
            if amount > 0 {
                *found.entry(gateway.id).or_default() += i64::try_from(amount).unwrap_or(i64::MAX);
            }
        }
        found.into_iter().collect()
    }

    fn type_at(&self, key: super::tables::Key) -> Option<&EventType> {
        let event = self.events.get(self.outbox.get(&key)?)?;
        Some(&event.event.event_type)
    }

    fn expiring_tokens(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        used_since: Timestamp,
        limit: i64,
    ) -> Vec<ExpiringToken> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let due = |at: Option<Timestamp>| at.filter(|at| (from..=to).contains(at));
        let mut keys = Vec::new();
        for (id, token) in &self.gateway_tokens {
            let Some(gateway) = self.gateways.get(&token.of) else { continue };
            let Some(expires_at) = due(token.info.expires_at) else { continue };
            let is_open = token.info.revoked_at.is_none()
                && gateway.organisation == organisation
                && gateway.deleted_at.is_none();
            let is_outlived = self.gateway_tokens.iter().any(|(other, it)| {
                it.of == token.of
                    && other != id
                    && it.info.revoked_at.is_none()
                    && it.info.expires_at.is_none_or(|at| at > expires_at)
            });
            if is_open && !is_outlived {
                let (gateway, name) = (Some(gateway.id), gateway.name.clone());
                keys.push(ExpiringToken { id: id.clone(), gateway, name, expires_at });
            }
        }
        let mut tokens = Vec::new();
        for (id, token) in &self.access_tokens {
            let Some(expires_at) = due(token.info.expires_at) else { continue };
            let is_used = token.info.last_used_at.is_some_and(|at| at >= used_since);
            if token.info.revoked_at.is_none() && token.of == organisation && is_used {
                let name = token.info.name.clone();
                tokens.push(ExpiringToken { id: id.clone(), gateway: None, name, expires_at });
            }
        }
        let order = |a: &ExpiringToken, b: &ExpiringToken| {
            a.expires_at.cmp(&b.expires_at).then_with(|| a.id.cmp(&b.id))
        };
        keys.sort_by(order);
        tokens.sort_by(order);
        keys.truncate(limit);
        tokens.truncate(limit);
        keys.append(&mut tokens);
        keys
    }
}
