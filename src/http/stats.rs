//! The overview, from the database: it survives a restart and covers all nodes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::App;
use super::auth::Reader;
use super::nodes;
use super::problem::Answer;

/// Connections shown at the most; the limit on live ones is a setting.
const SHOWN: usize = 10_000;
/// Nodes that are added up.
const NODES: usize = 1000;

/// `GET /stats`.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
) -> Answer<Json<Value>> {
    let (connections, totals, nodes) = tokio::try_join!(
        app.store.connections(organisation, None, true, None, SHOWN),
        app.store.totals(organisation),
        app.store.nodes(NODES),
    )?;
    Ok(Json(json!({
        "gatewayConnections": {
            "totalActive": connections.rows.len(),
            "connections": connections.rows,
        },
        "nodes": nodes::together(&nodes),
        "eventDelivery": {
            "totalEventsSent": totals.confirmed,
            "failedDeliveries": totals.failed_attempts,
            "deadLetters": totals.dead_letters,
            "pending": totals.pending,
            "lastFailureTime": totals.last_failure.map(|(at, _)| at),
            "lastFailureReason": totals.last_failure.map(|(_, reason)| reason),
        },
    })))
}
