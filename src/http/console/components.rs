//! What pages are made of: tables, links, filters.

use maud::{Markup, html};

use super::pairs::{Pairs, encode};
use super::text::{none, number, said, short};
use super::visit::Visit;
use crate::api::Evidence;
use crate::event::GatewayId;

/// A column of a table.
#[derive(Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    is_number: bool,
    is_choice: bool,
    is_wide: bool,
}

impl Column {
    fn class(&self) -> Option<&'static str> {
        match (self.is_number, self.is_choice, self.is_wide) {
            (true, ..) => Some("number"),
            (_, true, _) => Some("choice"),
            (.., true) => Some("wide"),
            _ => None,
        }
    }
}

/// A column of texts.
pub(super) const fn text(name: &'static str) -> Column {
    Column { name, is_number: false, is_choice: false, is_wide: false }
}

/// A column of numbers, aligned at their ends.
pub(super) const fn numeric(name: &'static str) -> Column {
    Column { name, is_number: true, is_choice: false, is_wide: false }
}

/// A column of checkboxes, before that of the names.
pub(super) const fn choice(name: &'static str) -> Column {
    Column { name, is_number: false, is_choice: true, is_wide: false }
}

/// A column of texts that tables of medium width leave out. Cards of small screens have it.
pub(super) const fn wide(name: &'static str) -> Column {
    Column { name, is_number: false, is_choice: false, is_wide: true }
}

/// A table that scrolls inside its own region where it is too wide, and whose rows are cards on small
/// screens. Roles are explicit, because cards are no table to a browser.
pub(super) fn table(caption: &str, columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll role="group" aria-label=(caption) tabindex="0" {
            table role="table" {
                caption { (caption) }
                thead role="rowgroup" {
                    tr role="row" {
                        @for column in columns {
                            th scope="col" role="columnheader" class=[column.class()] {
                                (column.name)
                            }
                        }
                    }
                }
                tbody role="rowgroup" { @for row in rows { (table_row(columns, row)) } }
            }
        }
    }
}

fn table_row(columns: &[Column], row: &[Markup]) -> Markup {
    let head = columns.iter().position(|column| !column.is_choice);
    html! {
        tr role="row" {
            @for (nth, (column, cell)) in columns.iter().zip(row).enumerate() {
                @let class = column.class();
                @if Some(nth) == head {
                    th scope="row" role="rowheader" class=[class] data-label=(column.name) { div { (cell) } }
                } @else {
                    td role="cell" class=[class] data-label=(column.name) { div { (cell) } }
                }
            }
        }
    }
}

/// What a list without rows says.
pub(super) fn empty(content: &Markup) -> Markup {
    html! { div.empty { (content) } }
}

/// Names with their values.
pub(super) fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
    }
}

/// The link to the next page of a list, and back to the first.
pub(super) fn paging(visit: &Visit, next: Option<&str>, fixed: &Pairs) -> Markup {
    let is_first = visit.query.get("cursor").is_empty();
    html! {
        @if next.is_some() || !is_first {
            nav.paging aria-label="Pages" {
                @if !is_first { a href=(visit.query.with("cursor", "").after(&visit.path)) { "First page" } }
                @if let Some(next) = next {
                    a rel="next" href=(fixed.with("cursor", next).after(&visit.path)) { "Next page" }
                }
            }
        }
    }
}

/// How often a part of a page refreshes by itself, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Refresh {
    /// The shortest time between two refreshes, however much happens.
    pub(super) soonest: u32,
    /// The longest one, if nothing happens.
    pub(super) latest: u32,
}

impl Refresh {
    /// A part that is cheap to read.
    pub(super) const OFTEN: Self = Self { soonest: 2000, latest: 5000 };
    /// A part that is expensive to read.
    pub(super) const SELDOM: Self = Self { soonest: 5000, latest: 30_000 };
}

/// A part of a page that refreshes by itself every few seconds, while the page is visible.
pub(super) fn live(visit: &Visit, every: u32, content: &Markup) -> Markup {
    refreshing(visit, Refresh { soonest: every, latest: every }, None, content)
}

/// A part of a page that refreshes by itself when something has happened, at a gateway or anywhere.
pub(super) fn following(
    visit: &Visit,
    refresh: Refresh,
    gateway: Option<GatewayId>,
    content: &Markup,
) -> Markup {
    let id = gateway.map(|id| id.to_string()).unwrap_or_default();
    let changes = Pairs::default().with("gateway", id).after("/console/changes");
    refreshing(visit, refresh, Some(&changes), content)
}

fn refreshing(visit: &Visit, refresh: Refresh, changes: Option<&str>, content: &Markup) -> Markup {
    let Refresh { soonest, latest } = refresh;
    html! {
        div #live data-soonest=(soonest) data-latest=(latest) data-changes=[changes]
            hx-get=(visit.address()) hx-trigger="refresh" hx-select="#live" hx-target="#live"
            hx-swap="outerHTML" { (content) }
        p #updates.updates role="status" {}
    }
}

/// A link to a gateway.
pub(super) fn gateway_link(id: GatewayId, name: &str) -> Markup {
    html! { a href=(format!("/console/gateways/{id}")) { bdi { (short(name, 64)) } } }
}

/// A link to an event.
pub(super) fn event_link(id: &str) -> Markup {
    event_link_to(id, &Pairs::default())
}

/// A link to an event, with a query.
pub(super) fn event_link_to(id: &str, query: &Pairs) -> Markup {
    let href = query.after(&event_path(id));
    html! { a.id href=(href) title=(super::text::lines(id)) { bdi { (shortened(id)) } } }
}

/// The ends of a long id, which tell it from others: generated ids begin with the time.
pub(super) fn shortened(id: &str) -> String {
    let characters: Vec<char> = crate::names::inert(id).chars().collect();
    if characters.len() <= 24 {
        return characters.into_iter().collect();
    }
    let (start, end) = (&characters[..13], &characters[characters.len() - 6..]);
    start.iter().chain(&['…']).chain(end).collect()
}

/// The path of an event's page.
pub(super) fn event_path(id: &str) -> String {
    format!("/console/events/{}", encode(id))
}

/// A field that people don't see.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// The fields of a list's filters, with what is chosen.
pub(super) struct Filters<'a> {
    visit: &'a Visit,
    fields: Vec<Markup>,
}

impl<'a> Filters<'a> {
    pub(super) const fn of(visit: &'a Visit) -> Self {
        Self { visit, fields: Vec::new() }
    }

    /// A field for text.
    pub(super) fn text(self, name: &str, label: &str, example: &str) -> Self {
        let value = self.visit.query.get(name);
        self.field(name, label, value, example)
    }

    /// A field for a gateway, with the name of the chosen one.
    pub(super) fn gateway(self, shown: &str) -> Self {
        self.field(super::lookup::NAME, "Gateway", shown, "name or id")
    }

    fn field(mut self, name: &str, label: &str, value: &str, example: &str) -> Self {
        let id = format!("filter-{name}");
        self.fields.push(html! {
            div.field {
                label for=(id) { (label) }
                input type="text" id=(id) name=(name) value=(value)
                    placeholder=(example) maxlength="256" spellcheck="false" autocomplete="off";
            }
        });
        self
    }

    /// A choice. The first option is chosen without a value in the address.
    pub(super) fn choice(mut self, name: &str, label: &str, options: &[(&str, &str)]) -> Self {
        let (id, chosen) = (format!("filter-{name}"), self.visit.query.get(name));
        self.fields.push(html! {
            div.field {
                label for=(id) { (label) }
                select id=(id) name=(name) {
                    @for (value, text) in options {
                        option value=(value) selected[*value == chosen] { (text) }
                    }
                }
            }
        });
        self
    }

    /// The form.
    pub(super) fn form(self) -> Markup {
        html! {
            form.filters method="get" action=(self.visit.path) role="search" aria-label="Filters" {
                @for field in &self.fields { (field) }
                div.field.buttons {
                    button type="submit" { "Show" }
                    a href=(self.visit.path) { "Clear" }
                }
            }
        }
    }
}

/// Labels of a gateway or a target.
pub(super) fn labels(labels: &crate::api::Labels) -> Markup {
    html! {
        @if labels.is_empty() { (none()) }
        @else {
            ul.labels {
                @for (name, value) in labels { li { (said(name)) "=" (said(value)) } }
            }
        }
    }
}

/// How many elements a list of evidence leaves out.
pub(super) fn more<T>(evidence: &Evidence<T>) -> Markup {
    html! { @if evidence.more > 0 { p.hint { "and " (number(evidence.more)) " more" } } }
}
