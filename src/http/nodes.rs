//! The nodes that share the database. They belong to the installation and to no
//! organisation, but every connection names its node, and whoever may see how
//! many gateways are connected may see how many more can be: so they are shown to
//! the same tokens as connections, and tell nothing of other organisations but
//! how many connections a node has.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::auth::Reader;
use super::cursor;
use super::extract::Query;
use super::problem::Answer;
use crate::store::{NodeInfo, NodeStatus};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Which {
    limit: Option<String>,
}

/// `GET /nodes`: the living ones, then those that ended in the last days.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(_): Reader,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    let limit = cursor::limit(which.limit.as_deref())?;
    let nodes = app.store.nodes(limit).await?;
    let list: Vec<Value> = nodes.iter().map(|node| json!(node)).collect();
    Ok(Json(cursor::page(&list, limit, None)))
}

/// All nodes together, as far as they live.
pub(super) fn together(nodes: &[NodeInfo]) -> Value {
    let live = || nodes.iter().filter(|node| node.status == NodeStatus::Live);
    json!({
        "live": live().count(),
        "connections": live().map(|node| node.connections).sum::<i64>(),
        "maxConnections": live().filter_map(|node| node.max_connections).sum::<i64>(),
    })
}
