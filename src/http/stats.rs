//! Totals from the database: they survive restarts and cover all nodes.

use axum::Json;

use super::auth::Reader;
use super::deliveries::{bucket_in, closed_window};
use super::nodes;
use super::openapi::{Long, Problems, Scoped};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    Connection, ConnectionStats, DeliveryStats, PublishedByBucket, PublishedQuery,
    PublishedSummary, Stats, Window,
};
use crate::event::OrganisationKey;
use crate::store::{Connections, Ledger, Log, Nodes, PublishedCount, Totals};

/// The maximum number of connections returned. The limit on live ones is a setting.
const SHOWN: usize = 10_000;
/// The maximum number of nodes included in the totals.
const NODES: usize = 1000;

/// Show totals.
///
/// Connections, nodes and deliveries. Totals survive restarts and cover all nodes.
#[utoipa::path(
    get, path = "/stats", tag = "overview", operation_id = "showStats",
    responses(
        (status = 200, description = "The overview.", body = Stats),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    Part(connections): Part<dyn Connections>,
    Part(ledger): Part<dyn Ledger>,
    Part(nodes): Part<dyn Nodes>,
    Reader(organisation): Reader,
    _: Query<()>,
) -> HandlerResult<Json<Stats>> {
    let (connections, totals, nodes) = tokio::try_join!(
        connections.connections(organisation, None, true, None, SHOWN),
        ledger.totals(organisation),
        nodes.nodes(NODES),
    )?;
    let connections: Vec<Connection> = connections.rows.into_iter().map(Into::into).collect();
    Ok(Json(Stats {
        gateway_connections: ConnectionStats { total_active: connections.len(), connections },
        nodes: nodes::totals(&nodes),
        event_delivery: totals.into(),
    }))
}

impl FromQuery for PublishedQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self { bucket: parameters.text("bucket").map(str::to_owned) })
    }
}

/// Count published events over time.
///
/// In buckets of time, also those that retention has removed since. Counts are kept for
/// `retention.audit`.
#[utoipa::path(
    get, path = "/stats/published", tag = "overview", operation_id = "countPublished",
    params(Window, PublishedQuery),
    responses(
        (status = 200, description = "The counts.", body = PublishedSummary),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn published(
    Part(log): Part<dyn Log>,
    Reader(organisation): Reader,
    Query((asked, query)): Query<(Window, PublishedQuery)>,
) -> HandlerResult<Json<PublishedSummary>> {
    let window = closed_window(asked.from, asked.to)?;
    let bucket = bucket_in(window, query.bucket.as_deref())?;
    if bucket.as_secs() % 60 > 0 {
        return Err(Problem::invalid("bucket", "must be a whole number of minutes"));
    }
    let rows = log.published_summary(organisation, window, bucket).await?;
    let in_bucket = |it: PublishedCount| PublishedByBucket { from: it.from, count: it.count };
    let list: Vec<PublishedByBucket> = rows.into_iter().map(in_bucket).collect();
    let (count, bucket_seconds) = (list.len(), bucket.as_secs());
    let (from, to) = (window.from(), window.to());
    Ok(Json(PublishedSummary { count, list, from, to, bucket_seconds }))
}

/// Totals of the deliveries of an organisation.
pub(super) async fn deliveries(
    ledger: &dyn Ledger,
    organisation: OrganisationKey,
) -> HandlerResult<DeliveryStats> {
    Ok(ledger.totals(organisation).await?.into())
}

impl From<Totals> for DeliveryStats {
    fn from(totals: Totals) -> Self {
        Self {
            total_events_sent: totals.confirmed,
            failed_deliveries: totals.failed_attempts,
            dead_letters: totals.dead_letters,
            pending: totals.pending,
            last_failure_time: totals.last_failure.map(|(at, _)| at),
            last_failure_reason: totals.last_failure.map(|(_, reason)| reason),
        }
    }
}
