//! Totals from the database: they survive restarts and cover all nodes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::App;
use super::auth::Reader;
use super::nodes;
use super::openapi::{Long, Problems, Scoped};
use super::problem::Answer;
use super::query::Query;
use crate::api::{Connection, ConnectionStats, DeliveryStats, Stats};
use crate::event::OrganisationKey;
use crate::store::Totals;

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
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    _: Query<()>,
) -> Answer<Json<Stats>> {
    let (connections, totals, nodes) = tokio::try_join!(
        app.store.connections(organisation, None, true, None, SHOWN),
        app.store.totals(organisation),
        app.store.nodes(NODES),
    )?;
    let connections: Vec<Connection> = connections.rows.into_iter().map(Into::into).collect();
    Ok(Json(Stats {
        gateway_connections: ConnectionStats { total_active: connections.len(), connections },
        nodes: nodes::totals(&nodes),
        event_delivery: totals.into(),
    }))
}

/// Totals of the deliveries of an organisation.
pub(super) async fn deliveries(app: &App, organisation: OrganisationKey) -> Answer<DeliveryStats> {
    Ok(app.store.totals(organisation).await?.into())
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
