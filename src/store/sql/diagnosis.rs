//! Evidence for a diagnosis, each on one snapshot. Every statement reads a bounded number of rows
//! along an index.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::connections::list::newest_of_gateway;
use super::deliveries::any_key;
use super::dialect::{
    Connection, DiagnosisStatements, InboxStatements, NodeStatements, query, query_as, query_scalar,
};
use super::gateways::{details, history as gateway_history};
use super::instances::resync;
use super::ledger::history;
use crate::clock::Timestamp;
use crate::event::{
    CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey, Sequence,
};
use crate::store::diagnosis::{
    CHANGES, COUNTED, DEAD_LETTERS, DETAILED, FAILURES, LABEL_TARGETS, LISTED, REJECTED,
};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{
    Diagnosis, EventEvidence, GatewayEvidence, GatewayHistory, LISTED_RESYNCS, LabelTarget,
    PendingDelivery, RejectedFilter, Result, StoreError, TokenInfo, TruncatedList,
};

/// How far back events with a target of labels are compared.
const LATELY: Duration = Duration::from_hours(7 * 24);
/// Rows of a log that are searched for pending deliveries, at most.
const SEARCHED: i64 = 1_000;

#[async_trait]
impl Diagnosis for Backend {
    async fn gateway_evidence(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<GatewayEvidence>> {
        run!(self.query, |conn| of_gateway(conn, organisation, id))
    }

    async fn event_evidence(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
        gateway: Option<GatewayId>,
    ) -> Result<Option<EventEvidence>> {
        let id = id.clone();
        run!(self.query, |conn| of_event(conn, organisation, &id, gateway))
    }
}

async fn of_gateway(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Option<GatewayEvidence>> {
    let key = match any_key(conn, organisation, id).await {
        Ok(key) => key,
        Err(StoreError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let gateway = details::the_one(conn, key).await?;
    let other = query!(
        r#"
        select g.deleted_at as "deleted_at?: Timestamp", s.dead_total as "dead_total!: i64"
        from gateways g join streams s on s.gateway = g.gateway where g.gateway = $1
        "#,
        key.0
    )
    .fetch_one(&mut *conn)
    .await?;
    let most = i64::try_from(LISTED + COUNTED).unwrap_or(i64::MAX);
    let since = conn.now().await?.minus(LATELY);
    let open = RejectedFilter::default();
    let history = gateway_history::of_gateway(conn, key, most).await?;
    let label_targets = label_targets(conn, organisation, key, since).await?;
    let shared_labels = if label_targets.is_empty() {
        BTreeSet::new()
    } else {
        let own = GatewayEvidence::own_labels(&gateway.labels, &history);
        conn.shared_labels(organisation, key, &own).await?
    };
    Ok(Some(GatewayEvidence {
        deleted_at: other.deleted_at,
        dead_total: other.dead_total,
        history,
        keys: TruncatedList::of(keys(conn, key, most).await?),
        connections: newest_of_gateway(conn, organisation, key).await?,
        resyncs: TruncatedList::of(resync::list(conn, key, LISTED_RESYNCS).await?),
        failures: conn.failures_by_reason(key, FAILURES).await?,
        dead_letters: conn.dead_letters_by_reason(key, DEAD_LETTERS).await?,
        pending: pending(conn, key, gateway.confirmed.max(gateway.floor)).await?,
        rejected: conn.rejected_rows(organisation, None, &open, None, REJECTED).await?,
        label_targets,
        shared_labels,
        said: conn.newest_details(key, DETAILED).await?,
        gateway,
    }))
}

/// The keys of a gateway: those that were not revoked first, then newest first.
async fn keys(conn: &mut Connection, gateway: GatewayKey, limit: i64) -> Result<Vec<TokenInfo>> {
    let rows = query!(
        r#"
        select id as "id!: String", created_at as "created_at!: Timestamp",
            expires_at as "expires_at?: Timestamp", revoked_at as "revoked_at?: Timestamp",
            last_used_at as "last_used_at?: Timestamp"
        from gateway_tokens where gateway = $1
        order by revoked_at is not null, created_at desc, id desc limit $2
        "#,
        gateway.0,
        limit
    )
    .fetch_all(conn)
    .await?;
    let keys = rows.into_iter().map(|row| TokenInfo {
        id: row.id,
        name: String::new(),
        scopes: Vec::new(),
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    });
    Ok(keys.collect())
}

/// Events for labels, with whether they are among the newest of the gateway's log.
async fn label_targets(
    conn: &mut Connection,
    organisation: OrganisationKey,
    gateway: GatewayKey,
    since: Timestamp,
) -> Result<Vec<LabelTarget>> {
    let targets = conn.label_targets(organisation, since, LABEL_TARGETS).await?;
    let logged = query_scalar!(
        r#"
        select event as "event!: i64" from outbox where gateway = $1
        order by sequence desc limit $2
        "#,
        gateway.0,
        LABEL_TARGETS
    )
    .fetch_all(conn)
    .await?;
    let logged: HashSet<i64> = logged.into_iter().collect();
    let noted = targets.into_iter().map(|(event, target)| {
        let is_logged = logged.contains(&event);
        LabelTarget { is_logged, ..target }
    });
    Ok(noted.collect())
}

/// The oldest pending deliveries after a position.
async fn pending(
    conn: &mut Connection,
    gateway: GatewayKey,
    after: Sequence,
) -> Result<Vec<PendingDelivery>> {
    let limit = i64::try_from(LISTED).unwrap_or(i64::MAX);
    Ok(query_as!(
        PendingDelivery,
        r#"
        select o.sequence as "sequence!: Sequence", e.id as "event_id!: EventId",
            e.type as "event_type!: EventType", e.correlation_id as "correlation_id!: CorrelationId",
            coalesce(o.appended_at, (
                select case when d.redriven_first + d.last_sequence - d.first_sequence >= o.sequence
                    then d.redriven_at end
                from dead_letters d
                where d.gateway = $1 and d.redriven_first <= o.sequence
                order by d.redriven_first desc limit 1
            ), e.appended_at) as "appended_at!: Timestamp",
            e.expires_at as "expires_at?: Timestamp"
        from (
            select sequence, event, appended_at from outbox where gateway = $1 and sequence > $2
            order by sequence limit $3
        ) o join events e on e.event = o.event
        where not exists (
            select 1 from dead_letters d
            where d.gateway = $1 and d.first_sequence between o.sequence - $4 and o.sequence
                and d.last_sequence >= o.sequence
        )
        order by o.sequence limit $5
        "#,
        gateway.0,
        after.0,
        SEARCHED,
        MAX_RANGE_LENGTH,
        limit
    )
    .fetch_all(conn)
    .await?)
}

async fn of_event(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &EventId,
    gateway: Option<GatewayId>,
) -> Result<Option<EventEvidence>> {
    let Some(event) = history::event_history(conn, organisation, id).await? else {
        return Ok(None);
    };
    let (gateways, more) = match gateway {
        Some(id) => {
            let key = any_key(conn, organisation, id).await?;
            let registered = query!(
                r#"select created_at as "at!: Timestamp" from gateways where gateway = $1"#,
                key.0
            )
            .fetch_one(&mut *conn)
            .await?;
            let changes = gateway_history::of_gateway(conn, key, CHANGES).await?;
            (vec![GatewayHistory { id, registered_at: registered.at, changes }], false)
        }
        None => gateway_history::of_organisation(conn, organisation, CHANGES).await?,
    };
    Ok(Some(EventEvidence { event, gateways, more }))
}
