//! Nodes: the processes that share the database.

use axum::response::Response;
use maud::{Markup, html};

use super::super::nodes;
use super::super::problem::HandlerResult;
use super::super::query::Query;
use super::components::{live, numeric, shortened, table, text};
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::states::node_status;
use super::text::{none, number, said, when, when_any};
use super::visit::{View, Visit};
use crate::api::{Node, NodesQuery};

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Nodes, view)
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let query = Query(NodesQuery { limit: Some(100) });
    let page = nodes::list(visit.part(), visit.session.reader()?, query).await?.0;
    let body = html! {
        h1 { "Nodes" }
        p.hint { "A process that restarts is a new node. Gateways may connect to any of them." }
        (live(visit, 5000, &rows(visit, &page.list)))
    };
    let calls = vec![Call::get("/nodes", &Pairs::default())];
    Ok(View { title: "Nodes".to_owned(), calls, body })
}

fn rows(visit: &Visit, nodes: &[Node]) -> Markup {
    let rows: Vec<Vec<Markup>> = nodes
        .iter()
        .map(|node| {
            let any = |text: &Option<String>| text.as_deref().map_or_else(none, said);
            vec![
                any(&node.host),
                node_status(node.status),
                any(&node.address),
                any(&node.version),
                html! {
                    (number(node.connections))
                    @if let Some(most) = node.max_connections { " of " (number(most)) }
                },
                when(node.started_at, visit.now),
                when(node.last_heartbeat, visit.now),
                when_any(node.stopped_at.or(node.lost_at), visit.now),
                html! { code.id title=(node.id) { (shortened(&node.id.to_string())) } },
            ]
        })
        .collect();
    let columns = [
        text("Host"),
        text("State"),
        text("Address"),
        text("Version"),
        numeric("Connections"),
        text("Started"),
        text("Last heartbeat"),
        text("Ended"),
        text("Id"),
    ];
    table("Nodes, newest first", &columns, &rows)
}
