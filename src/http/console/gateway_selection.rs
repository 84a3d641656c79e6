//! Pausing, resuming, disabling and enabling the gateways that are selected in the list: what will
//! happen at each first, then the confirmation, then the result of each.

use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::{MergePatch, OptionalJson, Path};
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::super::{actions, gateways};
use super::components::{gateway_link, hidden, table, text};
use super::fields::{Fields, Reader, field};
use super::form::Submission;
use super::layout::{self, Call, Section};
use super::pairs::Pairs;
use super::selection::{self, Outcome, Run};
use super::states::verdict;
use super::text::{count, said};
use super::visit::{View, Visit};
use crate::api::{Gateway, GatewayChange, PauseRequest, ResumeRequest};
use crate::event::GatewayId;

/// The path of the form.
const PATH: &str = "/console/gateways/selected";
const LIST: &str = "/console/gateways";
/// The field of the selected gateways' ids.
pub(super) const NAME: &str = "gateway";
/// The most gateways of one action.
pub(super) const MAX_GATEWAYS: usize = 50;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Pause,
    Resume,
    Disable,
    Enable,
}

impl Action {
    const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Disable, Self::Enable];

    /// The value of the field.
    const fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Disable => "disable",
            Self::Enable => "enable",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Pause => "Pause delivery",
            Self::Resume => "Resume delivery",
            Self::Disable => "Disable gateways",
            Self::Enable => "Enable gateways",
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Pause => "Pause",
            Self::Resume => "Resume",
            Self::Disable => "Disable",
            Self::Enable => "Enable",
        }
    }

    /// Why it changes nothing at a gateway, if so.
    const fn unchanged(self, gateway: &Gateway) -> Option<&'static str> {
        match (self, gateway.paused.is_some(), gateway.disabled) {
            (Self::Pause, true, _) => Some("It is paused already."),
            (Self::Resume, false, _) => Some("It is not paused."),
            (Self::Disable, _, true) => Some("It is disabled already."),
            (Self::Enable, _, false) => Some("It is enabled already."),
            _ => None,
        }
    }

    /// What it does to a gateway that it changes.
    fn effect(self, gateway: &Gateway) -> Markup {
        let pending = count(gateway.lag.events, "pending event", "pending events");
        html! {
            @match self {
                Self::Pause => { "Delivery stops. Its " (pending) @if gateway.lag.events == 1 { " is" } @else { " are" } " kept." }
                Self::Resume => { "Delivery continues with its " (pending) "." }
                Self::Disable => {
                    @if gateway.connections > 0 { (count(gateway.connections, "connection is closed", "connections are closed")) ". " }
                    "It can't connect until it is enabled. Its events are kept."
                }
                Self::Enable => { "It may connect again, with its keys." }
            }
        }
    }

    /// What it has done.
    const fn done(self) -> &'static str {
        match self {
            Self::Pause => "It is paused.",
            Self::Resume => "Delivery continues.",
            Self::Disable => "It is disabled.",
            Self::Enable => "It is enabled.",
        }
    }
}

/// The form below the filters of the list.
pub(super) fn form(visit: &Visit) -> Markup {
    let controls = html! {
        div.field {
            label for="action" { "Action" }
            select #action name="action" {
                @for action in Action::ALL { option value=(action.word()) { (action.title()) } }
            }
        }
        button type="submit" { "Continue…" }
    };
    selection::form(visit, PATH, &controls)
}

/// The checkbox of a gateway.
pub(super) fn checkbox(gateway: &Gateway) -> Markup {
    let name = super::text::short(&gateway.name, 64);
    selection::checkbox(NAME, &gateway.id.to_string(), &format!("Select {name}"))
}

/// What will happen, or what was confirmed.
pub(super) async fn submit(submission: Submission) -> Response {
    match chosen(&submission).await {
        Ok(response) => response,
        Err(problem) => submission.refused(&problem),
    }
}

async fn chosen(submission: &Submission) -> HandlerResult<Response> {
    submission.visit.session.admin()?;
    let is_dry_run = submission.is_dry_run()?;
    let mut reader = Reader::new(&submission.fields);
    let action = reader.one_of("action", &Action::ALL, Action::word);
    let action = reader.finish(action)?.ok_or_else(Problem::internal)?;
    let mut ids: Vec<GatewayId> = Vec::new();
    for value in selection::values(submission, NAME, MAX_GATEWAYS)? {
        let id = value.parse();
        ids.push(id.map_err(|_| Problem::invalid(NAME, "must be the id of a gateway"))?);
    }
    if is_dry_run {
        let view = plan(submission, action, &ids, None).await?;
        return Ok(submission.visit.page(Section::Gateways, StatusCode::OK, &view));
    }
    match execute(submission, action, &ids).await {
        Ok(view) => Ok(submission.visit.page(Section::Gateways, StatusCode::OK, &view)),
        // The reason, which is checked before anything is changed.
        Err(problem) if problem.code() == "invalid" => {
            let view = plan(submission, action, &ids, Some(&problem)).await?;
            Ok(submission.visit.again(Section::Gateways, &problem, &view))
        }
        Err(problem) => Err(problem),
    }
}

/// A gateway as it is now; `None` if there is none with this id.
async fn current(visit: &Visit, id: GatewayId) -> HandlerResult<Option<Gateway>> {
    let found =
        gateways::show(visit.state(), visit.part(), visit.session.reader()?, Path(id), Query(()))
            .await;
    match found {
        Ok(gateway) => Ok(Some(gateway.0)),
        Err(problem) if problem.code() == "not_found" => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// The page that is to be confirmed. `problem` is what was wrong with the confirmation.
async fn plan(
    submission: &Submission,
    action: Action,
    ids: &[GatewayId],
    problem: Option<&Problem>,
) -> HandlerResult<View> {
    let visit = &submission.visit;
    let (mut rows, mut calls, mut changing) = (Vec::new(), Vec::new(), 0);
    for id in ids {
        calls.push(Call::get(format!("/gateways/{id}"), &Pairs::default()));
        let Some(gateway) = current(visit, *id).await? else {
            let missing = html! { "There is no gateway with this id. It may have been deleted." };
            rows.push(vec![html! { code.id { (id) } }, super::text::none(), missing]);
            continue;
        };
        let effect = match action.unchanged(&gateway) {
            Some(why) => html! { "Nothing. " (why) },
            None => action.effect(&gateway),
        };
        changing += usize::from(action.unchanged(&gateway).is_none());
        let link = gateway_link(gateway.id, &gateway.name);
        rows.push(vec![link, verdict(gateway.verdict.state), effect]);
    }
    let title = format!("{}: confirm", action.title());
    let columns = [text("Gateway"), text("State"), text("What will happen")];
    let body = html! {
        p.up { a href=(selection::list(submission, LIST)) { "Gateways" } }
        h1 { (title) }
        @if let Some(problem) = problem { (layout::refusal(problem)) }
        @if changing == 0 {
            div.notice { p { "Nothing would change at the selected gateways." } }
        } @else {
            p { "Nothing has been changed yet." }
        }
        (table("What will happen at each gateway", &columns, &rows))
        @if changing > 0 { (confirmation(submission, action, ids, changing, problem)) }
    };
    Ok(View { title, calls, body })
}

fn confirmation(
    submission: &Submission,
    action: Action,
    ids: &[GatewayId],
    changing: usize,
    problem: Option<&Problem>,
) -> Markup {
    let errors = problem.map(|problem| problem.clone().into_document().errors).unwrap_or_default();
    let reason = Fields::new(&submission.fields, &errors);
    let danger = if action == Action::Disable { "danger" } else { "primary" };
    html! {
        form.inline method="post" action=(PATH) {
            (selection::fields(submission, "confirmed"))
            (hidden("action", action.word()))
            @for id in ids { (hidden(NAME, &id.to_string())) }
            @if action == Action::Pause {
                div.wide { (reason.text(&field("reason", "Reason (optional)"), 500)) }
            }
            button class=(danger) type="submit" { (action.verb()) " " (count(changing, "gateway", "gateways")) }
            a href=(selection::list(submission, LIST)) { "Cancel" }
        }
    }
}

/// Performs the action at one gateway after the other.
async fn execute(
    submission: &Submission,
    action: Action,
    ids: &[GatewayId],
) -> HandlerResult<View> {
    let visit = &submission.visit;
    let reason = Reader::new(&submission.fields).text("reason");
    let (mut rows, mut outcomes, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    let mut run = Run::new(visit);
    for (nth, id) in ids.iter().enumerate() {
        let gateway = if run.is_over() { Ok(None) } else { current(visit, *id).await };
        let name = html! {
            @if let Ok(Some(gateway)) = &gateway { (gateway_link(gateway.id, &gateway.name)) }
            @else { code.id { (id) } }
        };
        let outcome = if run.is_over() {
            Outcome::NotAttempted
        } else {
            let (attempt, call) = attempt(visit, action, gateway, reason.as_deref()).await;
            calls.extend(call);
            match attempt {
                // A reason is refused before anything is changed, and at each gateway alike.
                Err(problem) if nth == 0 && problem.code() == "invalid" => return Err(problem),
                attempt => run.outcome(attempt)?,
            }
        };
        let [state, about] = outcome.cells();
        rows.push(vec![name, state, about]);
        outcomes.push((id, outcome));
    }
    let columns = [text("Gateway"), text("Result"), text("Details")];
    let open: Vec<_> = outcomes.iter().filter(|(_, it)| it.is_open()).map(|(id, _)| id).collect();
    let title = format!("{}: result", action.title());
    let body = html! {
        p.up { a href=(selection::list(submission, LIST)) { "Gateways" } }
        h1 { (title) }
        (selection::summary(outcomes.iter().map(|(_, outcome)| outcome)))
        (table("The result at each gateway", &columns, &rows))
        @if !open.is_empty() {
            form.inline method="post" action=(PATH) {
                (selection::fields(submission, "dry-run"))
                (hidden("action", action.word()))
                @if let Some(reason) = &reason { (hidden("reason", reason)) }
                @for id in &open { (hidden(NAME, &id.to_string())) }
                button type="submit" { "Try again with " (count(open.len(), "gateway", "gateways")) "…" }
            }
        }
    };
    Ok(View { title, calls, body })
}

/// One gateway's outcome, and the request of the API that it took.
async fn attempt(
    visit: &Visit,
    action: Action,
    gateway: HandlerResult<Option<Gateway>>,
    reason: Option<&str>,
) -> (HandlerResult<Outcome>, Option<Call>) {
    let found = gateway.and_then(|it| it.ok_or_else(|| Problem::not_found("gateway")));
    let (gateway, admin) = match (found, visit.session.admin()) {
        (Ok(gateway), Ok(admin)) => (gateway, admin),
        (Err(problem), _) | (_, Err(problem)) => return (Err(problem), None),
    };
    if let Some(why) = action.unchanged(&gateway) {
        return (Ok(Outcome::Unchanged(said(why))), None);
    }
    let id = gateway.id;
    let (state, path, no) = (visit.state(), Path(id), Query(()));
    let (changed, call) = match action {
        Action::Pause => {
            let request = PauseRequest { reason: reason.map(str::to_owned), dry_run: false };
            let call = Call::post(format!("/gateways/{id}/pause"), &request);
            let done =
                actions::pause(state, visit.part(), admin, path, no, OptionalJson(request)).await;
            (done.map(|done| done.0.changed), call)
        }
        Action::Resume => {
            let request = ResumeRequest::default();
            let call = Call::post(format!("/gateways/{id}/resume"), &request);
            let done =
                actions::resume(state, visit.part(), admin, path, no, OptionalJson(request)).await;
            (done.map(|done| done.0.changed), call)
        }
        Action::Disable | Action::Enable => {
            let disabled = Some(action == Action::Disable);
            let change = GatewayChange { disabled, ..GatewayChange::default() };
            let call = Call::patch(format!("/gateways/{id}"), &change);
            let done =
                gateways::change(state, visit.part(), admin, path, no, MergePatch(change)).await;
            (done.map(|_| true), call)
        }
    };
    let outcome = changed.map(|changed| {
        if changed {
            Outcome::Done(said(action.done()))
        } else {
            Outcome::Unchanged(said("Another request changed it first."))
        }
    });
    (outcome, Some(call))
}
