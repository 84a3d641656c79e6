//! The gateways that an event is for: how a form names them, and which ones match now.

use maud::{Markup, html};

use super::super::super::gateways;
use super::super::super::problem::{HandlerResult, Problem};
use super::super::super::query::Query;
use super::super::components::{gateway_link, labels, numeric, table, text};
use super::super::fields::{Fields, Reader, field};
use super::super::lookup;
use super::super::pairs::Pairs;
use super::super::states::verdict;
use super::super::text::{count as counted, number};
use super::super::visit::Visit;
use crate::api::{Gateway, GatewaysQuery, Labels, PageQuery, Target};

/// Gateways that a preview lists.
const SHOWN: usize = 50;
/// Gateways that are compared with labels for a preview, at most.
const COMPARED: usize = 10_000;
/// Gateways that are read at once. Each may have a large manifest.
const AT_ONCE: usize = 100;

/// The ways to choose gateways.
const WAYS: [(&str, &str); 3] = [
    ("gateways", "The gateways named below"),
    ("labels", "All gateways with the labels below"),
    ("all", "All gateways"),
];

/// The gateways that an event is for.
pub(super) enum Aim {
    Named(Vec<Gateway>),
    Labelled(Labels),
    All,
}

/// The gateways that match now.
pub(super) struct Matched {
    count: usize,
    /// Whether all gateways were compared.
    is_all: bool,
    shown: Vec<Gateway>,
}

/// The fields.
pub(super) fn controls(fields: &Fields<'_>) -> Markup {
    html! {
        (fields.radios(&field("to", "Gateways").of("target".to_owned()), &WAYS))
        div.grid {
            (fields.area(&field("gateways", "Names or ids, one to a line"), 4))
            (fields.area(&field("labels", "Labels, one name=value to a line").hint("A gateway must have all of them."), 4))
        }
    }
}

impl Aim {
    /// Reads the fields.
    pub(super) async fn read(visit: &Visit, fields: &Pairs) -> HandlerResult<Self> {
        match fields.get("to") {
            "all" => Ok(Self::All),
            "labels" => {
                let mut reader = Reader::new(fields);
                let labels = reader.labels("labels");
                if labels.is_empty() {
                    reader.wrong("labels", "must have at least one label");
                }
                reader.finish(Self::Labelled(labels))
            }
            "gateways" | "" => {
                let named = lookup::gateways(visit, "gateways", fields.raw("gateways")).await?;
                if named.is_empty() {
                    return Err(Problem::invalid("gateways", "must name at least one gateway"));
                }
                Ok(Self::Named(named))
            }
            _ => Err(Problem::invalid("to", "must be gateways, labels or all")),
        }
    }

    /// The target as a member of the API's request.
    pub(super) fn target(&self) -> Target {
        let none = Target::default();
        match self {
            Self::All => Target { all: Some(true), ..none },
            Self::Labelled(labels) => Target { labels: Some(labels.clone()), ..none },
            Self::Named(gateways) => {
                let ids = gateways.iter().map(|gateway| gateway.id).collect();
                Target { gateway_ids: Some(ids), ..none }
            }
        }
    }

    /// The fields with ids in place of names, which may change until the confirmation.
    pub(super) fn fixed(&self, fields: &Pairs) -> Pairs {
        let Self::Named(gateways) = self else { return fields.clone() };
        let ids: Vec<String> = gateways.iter().map(|gateway| gateway.id.to_string()).collect();
        fields.with("gateways", ids.join("\n"))
    }

    /// The gateways that match now.
    pub(super) async fn matched(self, visit: &Visit) -> HandlerResult<Matched> {
        let wanted = match self {
            Self::Named(mut shown) => {
                let count = shown.len();
                shown.truncate(SHOWN);
                return Ok(Matched { count, is_all: true, shown });
            }
            Self::Labelled(labels) => labels,
            Self::All => Labels::new(),
        };
        let mut matched = Matched { count: 0, is_all: false, shown: Vec::new() };
        let (mut compared, mut cursor) = (0, None);
        while compared < COMPARED {
            let page = PageQuery { limit: Some(AT_ONCE), cursor };
            let asked = Query((GatewaysQuery::default(), page));
            let page = gateways::list(visit.state(), visit.part(), visit.session.reader()?, asked)
                .await?
                .0;
            compared += page.list.len();
            for gateway in page.list {
                let has = |(name, value)| gateway.labels.get(name) == Some(value);
                if !wanted.iter().all(has) {
                    continue;
                }
                matched.count += 1;
                if matched.shown.len() < SHOWN {
                    matched.shown.push(gateway);
                }
            }
            cursor = page.pagination.next;
            if cursor.is_none() {
                matched.is_all = true;
                break;
            }
        }
        Ok(matched)
    }
}

impl Matched {
    /// How many match, in words.
    pub(super) fn words(&self) -> String {
        let words = counted(self.count, "gateway", "gateways");
        if self.is_all { words } else { format!("at least {words}") }
    }

    /// The gateways that would receive the event, or a warning that none would.
    pub(super) fn part(&self) -> Markup {
        let rows: Vec<Vec<Markup>> = self
            .shown
            .iter()
            .map(|gateway| {
                vec![
                    gateway_link(gateway.id, &gateway.name),
                    verdict(gateway.verdict.state),
                    html! { (number(gateway.lag.events)) },
                    labels(&gateway.labels),
                ]
            })
            .collect();
        let columns = [text("Gateway"), text("State"), numeric("Pending"), text("Labels")];
        html! {
            @if self.count == 0 {
                div.notice.bad role="alert" {
                    p { "No gateway matches this target now. The event would be stored, and no gateway would receive it: gateways that are registered later do not receive earlier events." }
                }
            } @else {
                p { "It would be appended to the log of " b { (self.words()) } "." }
                (table("Gateways that would receive the event", &columns, &rows))
                @if self.count > rows.len() { p.hint { "and " (number(self.count - rows.len())) " more" } }
            }
        }
    }
}
