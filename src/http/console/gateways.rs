//! The list of gateways, with search and filters.

use axum::response::Response;
use maud::{Markup, html};

use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::super::{cursor, gateways};
use super::components::{
    Column, Filters, Refresh, choice, empty, following, gateway_link, labels, numeric, paging,
    table, text, wide,
};
use super::gateway_selection;
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::states::verdict;
use super::text::{none, number, said, span, when};
use super::visit::{View, Visit};
use crate::api::{Gateway, GatewaysQuery, PageQuery};

/// Rows of a page.
const ROWS: usize = gateway_selection::MAX_GATEWAYS;
/// Gateways that are compared with the filters for one page, at most.
const COMPARED: usize = 2000;

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Gateways, view)
}

/// What is looked for. The API has no such filters: the console compares each gateway.
struct Wanted {
    /// A part of the name, the start of the id, or a part of a label; in lower case.
    text: String,
    state: String,
    label: String,
}

impl Wanted {
    fn of(query: &Pairs) -> Self {
        Self {
            text: query.get("q").to_lowercase(),
            state: query.get("state").to_owned(),
            label: query.get("label").to_owned(),
        }
    }

    fn is_anything(&self) -> bool {
        self.text.is_empty() && self.state.is_empty() && self.label.is_empty()
    }

    fn matches(&self, gateway: &Gateway) -> bool {
        let label_texts = || gateway.labels.iter().map(|(name, value)| format!("{name}={value}"));
        let is_named = self.text.is_empty()
            || gateway.name.to_lowercase().contains(&self.text)
            || gateway.id.to_string().starts_with(&self.text)
            || label_texts().any(|label| label.to_lowercase().contains(&self.text));
        let has_label = self.label.is_empty()
            || label_texts().any(|label| label == self.label)
            || gateway.labels.contains_key(&self.label);
        let is_in_state = match self.state.as_str() {
            "" => true,
            "connected" => gateway.connected,
            state => gateway.verdict.state.as_str() == state,
        };
        is_named && has_label && is_in_state
    }
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let wanted = Wanted::of(&visit.query);
    let (found, next) = matching(visit, &wanted).await?;
    let filters = Filters::of(visit)
        .text("q", "Search", "name, id or label")
        .choice(
            "state",
            "State",
            &[
                ("", "any"),
                ("connected", "connected"),
                ("ok", "ok"),
                ("behind", "behind"),
                ("away", "away"),
                ("failing", "failing"),
                ("paused", "paused"),
                ("disabled", "disabled"),
            ],
        )
        .text("label", "Label", "region=eu-west")
        .form();
    let list = html! {
        @if found.is_empty() { (nothing(&wanted, next.is_some())) }
        @else { (rows(visit, &found)) }
        (paging(visit, next.as_deref(), &visit.query))
    };
    let body = html! {
        h1 { "Gateways" }
        (filters)
        @if visit.session.is_admin() { (gateway_selection::form(visit)) }
        (following(visit, Refresh::OFTEN, None, &list))
    };
    let calls = vec![Call::get("/gateways", &visit.query.known(&PageQuery::names()))];
    Ok(View { title: "Gateways".to_owned(), calls, body })
}

/// The next gateways that match, and the cursor of the next page.
async fn matching(visit: &Visit, wanted: &Wanted) -> HandlerResult<(Vec<Gateway>, Option<String>)> {
    let query = GatewaysQuery::default();
    let mut cursor = Some(visit.query.get("cursor").to_owned()).filter(|it| !it.is_empty());
    let (mut found, mut compared) = (Vec::new(), 0);
    let limit = if wanted.is_anything() { ROWS } else { 500 };
    loop {
        let page = PageQuery { limit: Some(limit), cursor };
        let asked = Query((query.clone(), page));
        let page =
            gateways::list(visit.state(), visit.part(), visit.session.reader()?, asked).await?.0;
        let next = page.pagination.next;
        let last = page.list.len();
        for (nth, gateway) in page.list.into_iter().enumerate() {
            compared += 1;
            if !wanted.matches(&gateway) {
                continue;
            }
            let position = cursor::encode(&gateway.name, &("gateways", &query));
            found.push(gateway);
            if found.len() == ROWS {
                let is_last = nth + 1 == last && next.is_none();
                return Ok((found, Some(position).filter(|_| !is_last)));
            }
        }
        if next.is_none() || compared >= COMPARED {
            return Ok((found, next));
        }
        cursor = next;
    }
}

fn rows(visit: &Visit, found: &[Gateway]) -> Markup {
    let is_admin = visit.session.is_admin();
    let rows: Vec<Vec<Markup>> = found
        .iter()
        .map(|gateway| {
            let lag = gateway.lag;
            let checkbox = is_admin.then(|| gateway_selection::checkbox(gateway));
            let cells = vec![
                gateway_link(gateway.id, &gateway.name),
                verdict(gateway.verdict.state),
                when(gateway.verdict.since, visit.now),
                match &gateway.verdict.reason {
                    Some(reason) => said(reason),
                    None => none(),
                },
                html! { (number(gateway.connections)) },
                sign_of_life(visit, gateway),
                html! { (number(lag.events)) },
                html! { @if lag.events > 0 { (span(lag.seconds)) } @else { (none()) } },
                labels(&gateway.labels),
            ];
            checkbox.into_iter().chain(cells).collect()
        })
        .collect();
    let columns = [
        text("Gateway"),
        text("State"),
        text("Since"),
        text("Reason"),
        numeric("Connections"),
        wide("Last sign of life"),
        numeric("Pending"),
        numeric("Oldest"),
        text("Labels"),
    ];
    let select = is_admin.then(|| choice("Select"));
    let columns: Vec<Column> = select.into_iter().chain(columns).collect();
    table("Gateways by name", &columns, &rows)
}

/// Since when it is connected, or when its last connection ended. Which connection answered a ping
/// last is on the gateway's own page.
fn sign_of_life(visit: &Visit, gateway: &Gateway) -> Markup {
    html! {
        @match (gateway.connected, gateway.connected_since, gateway.disconnected_at) {
            (true, Some(since), _) => { "connected since " (when(since, visit.now)) }
            (true, None, _) => "connected",
            (false, _, Some(at)) => { "disconnected " (when(at, visit.now)) }
            (false, _, None) => "never connected",
        }
    }
}

fn nothing(wanted: &Wanted, more: bool) -> Markup {
    empty(&html! {
        @if more {
            p { "None of the " (number(COMPARED)) " gateways that were compared matches. The next page continues." }
        } @else if wanted.is_anything() {
            p { "No gateway is registered yet." }
            p { "Register one: " code { "gateway-events gateway register berlin" } }
        } @else {
            p { "No gateway matches. Remove a filter, or check its spelling: labels are compared exactly, as name or name=value." }
        }
    })
}
