//! The nodes that share the database. They belong to no organisation, but every connection names
//! its node, so the same tokens give access to both. The only information about other organisations
//! is the number of connections of a node.

use axum::Json;

use super::auth::Reader;
use super::openapi::{Problems, Scoped};
use super::part::Part;
use super::problem::HandlerResult;
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{Node, NodeStats, NodeStatus, NodesQuery, Page, PageQuery};
use crate::store::{self, NodeInfo, Nodes};

impl FromQuery for NodesQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self { limit: parameters.limit()? })
    }
}

/// List nodes.
///
/// The live ones first, then those that ended in the last days.
#[utoipa::path(
    get, path = "/nodes", tag = "overview", operation_id = "listNodes",
    params(NodesQuery),
    responses(
        (status = 200, description = "The nodes. There is no next page.", body = Page<Node>),
        Problems<(Scoped,)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(nodes): Part<dyn Nodes>,
    Reader(_): Reader,
    Query(query): Query<NodesQuery>,
) -> HandlerResult<Json<Page<Node>>> {
    let limit = query.limit.unwrap_or(PageQuery::DEFAULT_LIMIT);
    let nodes = nodes.nodes(limit).await?;
    Ok(Json(Page::new(nodes.into_iter().map(Into::into).collect(), limit, None)))
}

/// Totals of the live nodes.
pub(super) fn totals(nodes: &[NodeInfo]) -> NodeStats {
    let live = || nodes.iter().filter(|node| node.status == store::NodeStatus::Live);
    NodeStats {
        live: live().count(),
        connections: live().map(|node| node.connections).sum(),
        max_connections: live().filter_map(|node| node.max_connections).sum(),
    }
}

impl From<NodeInfo> for Node {
    fn from(node: NodeInfo) -> Self {
        Self {
            id: node.id,
            status: match node.status {
                store::NodeStatus::Live => NodeStatus::Live,
                store::NodeStatus::Stopped => NodeStatus::Stopped,
                store::NodeStatus::Lost => NodeStatus::Lost,
            },
            host: node.host,
            address: node.address,
            version: node.version,
            started_at: node.started_at,
            last_heartbeat: node.last_heartbeat,
            connections: node.connections,
            max_connections: node.max_connections,
            stopped_at: node.stopped_at,
            lost_at: node.lost_at,
        }
    }
}
