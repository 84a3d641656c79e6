//! Redriving the failed deliveries that are selected in the list: a dry run first, then the
//! confirmation, then the result of each. The dry run chooses the idempotency keys, so a
//! confirmation that is sent twice redrives once.

use std::collections::BTreeMap;

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::idempotency::Keyed;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::super::{deliveries, gateways};
use super::components::{event_link, gateway_link, hidden, numeric, table, text};
use super::delivery_list::DeliveryList;
use super::form::Submission;
use super::layout::Call;
use super::redrive;
use super::selection::{self, Outcome, Run};
use super::text::{count, none, number};
use super::visit::{View, Visit};
use crate::api::{Delivery, PageQuery, RedriveRequest, Redriven};
use crate::event::{GatewayId, Sequence};

/// The path of the form.
const PATH: &str = "/console/failures/redrive-selected";
/// The field of the selected deliveries.
const NAME: &str = "delivery";
/// The most deliveries of one redrive: the rows of a page.
pub(super) const MAX_DELIVERIES: usize = PageQuery::DEFAULT_LIMIT;
/// The API's path.
const REDRIVE: &str = "/deliveries/redrive";

/// A delivery, as its checkbox names it: `GATEWAY-ID:SEQUENCE`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chosen {
    gateway: GatewayId,
    sequence: Sequence,
}

impl Chosen {
    fn parse(text: &str) -> Option<Self> {
        let (gateway, sequence) = text.split_once(':')?;
        let sequence = Sequence(sequence.parse().ok()?);
        Some(Self { gateway: gateway.parse().ok()?, sequence })
    }

    fn value(self) -> String {
        format!("{}:{}", self.gateway, self.sequence.0)
    }

    fn request(self, dry_run: bool) -> RedriveRequest {
        RedriveRequest {
            gateway_id: Some(self.gateway),
            sequence: Some(self.sequence),
            dry_run,
            ..RedriveRequest::default()
        }
    }
}

/// The form above the list.
pub(super) fn form(visit: &Visit, list: &DeliveryList) -> Markup {
    let button = html! { (list.field()) button type="submit" { "Redrive selected…" } };
    selection::form(visit, PATH, &button)
}

/// The checkbox of a delivery.
pub(super) fn checkbox(delivery: &Delivery) -> Markup {
    let chosen = Chosen { gateway: delivery.gateway_id, sequence: delivery.sequence };
    let name = super::text::short(&delivery.gateway_name, 64);
    let label = format!("Select sequence {} of {name}", delivery.sequence.0);
    selection::checkbox(NAME, &chosen.value(), &label)
}

/// The dry run, or what was confirmed.
pub(super) async fn submit(submission: Submission) -> Response {
    match redriven(&submission).await {
        Ok(view) => {
            let section = DeliveryList::of(&submission.fields).section;
            submission.visit.respond(section, Ok(view))
        }
        Err(problem) => submission.refused(&problem),
    }
}

async fn redriven(submission: &Submission) -> HandlerResult<View> {
    let visit = &submission.visit;
    visit.session.admin()?;
    let is_dry_run = submission.is_dry_run()?;
    let values = selection::values(submission, NAME, MAX_DELIVERIES)?;
    let chosen = values.into_iter().map(|value| {
        let invalid = || Problem::invalid(NAME, "must be a gateway's id, a colon and a sequence");
        Chosen::parse(value).ok_or_else(invalid)
    });
    let mut chosen = chosen.collect::<HandlerResult<Vec<Chosen>>>()?;
    // The events of a gateway are appended in their order, whatever the order of the list is.
    chosen.sort_by_key(|one| (one.gateway.to_string(), one.sequence));
    let names = names(visit, &chosen).await?;
    if is_dry_run {
        plan(submission, &chosen, &names).await
    } else {
        let key: uuid::Uuid =
            submission.fields.get("key").parse().map_err(|_| {
                Problem::invalid("key", "must be the UUID that the dry run has chosen")
            })?;
        execute(submission, &chosen, &names, key).await
    }
}

/// Links to the gateways of the deliveries.
type Names = BTreeMap<String, Markup>;

async fn names(visit: &Visit, chosen: &[Chosen]) -> HandlerResult<Names> {
    let mut names = Names::new();
    for id in chosen.iter().map(|one| one.gateway) {
        let text = id.to_string();
        if names.contains_key(&text) {
            continue;
        }
        let reader = visit.session.reader()?;
        let link =
            match gateways::show(visit.state(), visit.part(), reader, Path(id), Query(())).await {
                Ok(gateway) => gateway_link(id, &gateway.0.name),
                Err(problem) if problem.code() == "not_found" => html! { code.id { (text) } },
                Err(problem) => return Err(problem),
            };
        names.insert(text, link);
    }
    Ok(names)
}

/// The first cells of a delivery's row.
fn cells(one: Chosen, names: &Names) -> Vec<Markup> {
    let link = names.get(&one.gateway.to_string()).cloned().unwrap_or_else(none);
    vec![link, html! { (number(one.sequence.0)) }]
}

async fn plan(submission: &Submission, chosen: &[Chosen], names: &Names) -> HandlerResult<View> {
    let visit = &submission.visit;
    let (mut rows, mut calls, mut appended) = (Vec::new(), Vec::new(), 0);
    for one in chosen {
        let request = one.request(true);
        calls.push(Call::post(REDRIVE, &request));
        let (admin, keyed) = (visit.session.admin()?, Keyed(None, request));
        let done = deliveries::redrive(visit.part(), visit.part(), admin, Query(()), keyed).await;
        let (event, what) = match done {
            Ok((_, done)) => {
                appended += done.0.redriven.len();
                let what = html! {
                    @if let Some(why) = redrive::skip_reason(&done.0) { "Nothing. " (why) }
                    @else { "Appended again under a new sequence." }
                };
                (event(&done.0), what)
            }
            Err(problem) if problem.status().is_server_error() => return Err(problem),
            Err(problem) => {
                let why = super::text::sentences(&problem.into_document().detail);
                (none(), html! { "Refused. " (why) })
            }
        };
        rows.push([cells(*one, names), vec![event, what]].concat());
    }
    let list = DeliveryList::of(&submission.fields);
    let title = "Redrive selected: preview";
    let columns = [text("Gateway"), numeric("Sequence"), text("Event"), text("Preview")];
    let body = html! {
        p.up { a href=(selection::list(submission, list.path)) { (list.title) } }
        h1 { (title) }
        div.notice {
            @if appended == 0 {
                p { "None of the selected deliveries can be redriven." }
            } @else {
                p {
                    (count(appended, "delivery", "deliveries"))
                    " would be appended again, each under a new sequence of its gateway. Gateways recognise repeats by the event's correlation id."
                }
            }
        }
        @if appended > 0 {
            form.inline method="post" action=(PATH) {
                (selection::fields(submission, "confirmed"))
                (list.field())
                (hidden("key", &uuid::Uuid::now_v7().to_string()))
                @for one in chosen { (hidden(NAME, &one.value())) }
                button.primary type="submit" { "Redrive " (count(appended, "delivery", "deliveries")) }
                a href=(selection::list(submission, list.path)) { "Cancel" }
            }
        }
        (table("Preview of each delivery", &columns, &rows))
    };
    Ok(View { title: title.to_owned(), calls, body })
}

/// The event of the delivery that was appended again, or would be.
fn event(done: &Redriven) -> Markup {
    done.redriven.first().map_or_else(none, |it| event_link(it.event_id.as_str()))
}

async fn execute(
    submission: &Submission,
    chosen: &[Chosen],
    names: &Names,
    key: uuid::Uuid,
) -> HandlerResult<View> {
    let visit = &submission.visit;
    let (mut rows, mut calls, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    let mut run = Run::new(visit);
    for one in chosen {
        let (mut new, mut of) = (none(), none());
        let outcome = if run.is_over() {
            Outcome::NotAttempted
        } else {
            let request = one.request(false);
            let key = format!("{key}:{}", one.value());
            calls.push(Call::post(REDRIVE, &request).with_key(&key));
            let keyed = Keyed::new(key, REDRIVE, request)?;
            let admin = visit.session.admin()?;
            let done =
                deliveries::redrive(visit.part(), visit.part(), admin, Query(()), keyed).await;
            run.outcome(done.map(|(_, done)| {
                of = event(&done.0);
                let sequence = done.0.redriven.first().and_then(|it| it.new_sequence);
                new = sequence.map_or_else(none, |new| html! { (number(new.0)) });
                redrive::skip_reason(&done.0).map_or_else(
                    || Outcome::Done(html! { "Appended again." }),
                    |why| Outcome::Unchanged(html! { (why) }),
                )
            }))?
        };
        let [state, about] = outcome.cells();
        rows.push([cells(*one, names), vec![of, state, about, new]].concat());
        outcomes.push((*one, outcome));
    }
    let body = finished(submission, &outcomes, &rows);
    Ok(View { title: "Redrive selected: result".to_owned(), calls, body })
}

fn finished(
    submission: &Submission,
    outcomes: &[(Chosen, Outcome)],
    rows: &[Vec<Markup>],
) -> Markup {
    let open: Vec<Chosen> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_open()).map(|(one, _)| *one).collect();
    let columns = [
        text("Gateway"),
        numeric("Sequence"),
        text("Event"),
        text("Result"),
        text("Details"),
        numeric("New sequence"),
    ];
    let list = DeliveryList::of(&submission.fields);
    html! {
        p.up { a href=(selection::list(submission, list.path)) { (list.title) } }
        h1 { "Redrive selected: result" }
        (selection::summary(outcomes.iter().map(|(_, outcome)| outcome)))
        (table("The result of each delivery", &columns, rows))
        @if !open.is_empty() {
            // With the same key: a redrive whose outcome is unknown is not done twice.
            form.inline method="post" action=(PATH) {
                (selection::fields(submission, "confirmed"))
                (list.field())
                (hidden("key", submission.fields.get("key")))
                @for one in &open { (hidden(NAME, &one.value())) }
                button type="submit" { "Try again with " (count(open.len(), "delivery", "deliveries")) }
            }
        }
    }
}
