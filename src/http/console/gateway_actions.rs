//! What an admin can do to a gateway: pause, resume, skip a delivery, request a resync, disable and
//! enable it.

use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::extract::{Json, MergePatch, OptionalJson, Path};
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::super::{actions, gateways};
use super::components::{event_link, hidden, table, text};
use super::form::{Submission, TOKEN};
use super::gateway_labels;
use super::layout::{Call, Section};
use super::text::{number, said};
use super::visit::{Key, View, Visit};
use crate::api::{
    Gateway, GatewayChange, GatewayDiagnosis, PauseRequest, ResumeRequest, ResyncRequest,
    ResyncResponse, SkipRequest, SkipResponse,
};
use crate::event::{GatewayId, Sequence};

/// The forms.
pub(super) fn part(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let token = visit.session.id.form_token();
    let path = |action: &str| format!("/console/gateways/{}/{action}", gateway.id);
    let first = diagnosis.pending.list.first().map(|pending| pending.sequence.0);
    html! {
        section.actions aria-labelledby="actions" {
            h2 #actions { "Actions" }
            @if gateway.paused.is_some() {
                form method="post" action=(path("resume")) {
                    (hidden(TOKEN, &token))
                    p.hint { "Delivery continues in order." }
                    button.primary type="submit" { "Resume delivery" }
                }
            } @else {
                details {
                    summary { "Pause delivery" }
                    form method="post" action=(path("pause")) {
                        (hidden(TOKEN, &token))
                        p.hint { "The gateway stays connected, and its events stay pending. Their expiry is not postponed." }
                        (reason("pause-reason", false))
                        button type="submit" { "Pause delivery" }
                    }
                }
            }
            details {
                summary { "Skip a pending delivery" }
                form method="post" action=(path("skip")) {
                    (hidden(TOKEN, &token))
                    p.hint { "It becomes a dead letter, which can be redriven later." }
                    div.field {
                        label for="skip-sequence" { "Sequence" }
                        input #skip-sequence type="number" name="sequence" min="1" required value=[first];
                    }
                    (reason("skip-reason", true))
                    button.danger type="submit" { "Skip this delivery" }
                }
            }
            (super::replay::offer(visit, gateway))
            details {
                summary { "Request a resync" }
                form method="post" action=(path("resync")) {
                    (hidden(TOKEN, &token))
                    p.hint { "The gateway reconnects and reads a full snapshot. Requires reliable mode." }
                    div.field {
                        label for="resync-instance" { "Instance, or all if empty" }
                        input #resync-instance type="text" name="instance" maxlength="128" spellcheck="false" autocomplete="off";
                    }
                    (reason("resync-reason", false))
                    button type="submit" { "Request a resync" }
                }
            }
            (gateway_labels::offer(visit, gateway))
            (availability(gateway, &token))
        }
    }
}

/// Enables or disables it.
fn availability(gateway: &Gateway, token: &str) -> Markup {
    let path = |action: &str| format!("/console/gateways/{}/{action}", gateway.id);
    html! {
        @if gateway.disabled {
            form method="post" action=(path("enable")) {
                (hidden(TOKEN, token))
                p.hint { "It may connect again, with its keys." }
                button type="submit" { "Enable the gateway" }
            }
        } @else {
            details {
                summary { "Disable the gateway" }
                form method="post" action=(path("disable")) {
                    (hidden(TOKEN, token))
                    p.hint { "Its connections are closed, and it can't connect until it is enabled. Its events are kept." }
                    button.danger type="submit" { "Disable the gateway" }
                }
            }
        }
    }
}

fn reason(id: &str, is_required: bool) -> Markup {
    html! {
        div.field {
            label for=(id) { @if is_required { "Reason" } @else { "Reason (optional)" } }
            input type="text" id=(id) name="reason" maxlength="500" required[is_required] autocomplete="off";
        }
    }
}

/// A field that may be left empty.
fn filled(submission: &Submission, name: &str) -> Option<String> {
    Some(submission.fields.get(name).to_owned()).filter(|text| !text.is_empty())
}

/// Leads back to the gateway, which shows the change.
pub(super) fn back(id: GatewayId) -> Response {
    Redirect::to(&format!("/console/gateways/{id}")).into_response()
}

pub(super) async fn pause(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    let request = PauseRequest { reason: filled(&submission, "reason"), dry_run: false };
    let done = async {
        let visit = &submission.visit;
        let admin = visit.session.admin()?;
        actions::pause(
            visit.state(),
            visit.part(),
            admin,
            Path(id),
            Query(()),
            OptionalJson(request),
        )
        .await
    };
    match done.await {
        Ok(_) => back(id),
        Err(problem) => submission.refused(&problem),
    }
}

pub(super) async fn resume(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    let done = async {
        let visit = &submission.visit;
        let (admin, request) = (visit.session.admin()?, OptionalJson(ResumeRequest::default()));
        actions::resume(visit.state(), visit.part(), admin, Path(id), Query(()), request).await
    };
    match done.await {
        Ok(_) => back(id),
        Err(problem) => submission.refused(&problem),
    }
}

pub(super) async fn disable(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    set_disabled(id, &submission, true).await
}

pub(super) async fn enable(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    set_disabled(id, &submission, false).await
}

async fn set_disabled(id: GatewayId, submission: &Submission, disabled: bool) -> Response {
    let change = GatewayChange { disabled: Some(disabled), ..GatewayChange::default() };
    let done = async {
        let visit = &submission.visit;
        let admin = visit.session.admin()?;
        gateways::change(
            visit.state(),
            visit.part(),
            admin,
            Path(id),
            Query(()),
            MergePatch(change),
        )
        .await
    };
    match done.await {
        Ok(_) => back(id),
        Err(problem) => submission.refused(&problem),
    }
}

pub(super) async fn skip(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    let done = async {
        let visit = &submission.visit;
        let sequence = submission.fields.get("sequence").parse().map(Sequence);
        let sequence =
            sequence.map_err(|_| Problem::invalid("sequence", "must be a whole number"))?;
        let reason = submission.fields.get("reason").to_owned();
        let request = SkipRequest { sequence, reason, dry_run: false };
        let call = Call::post(format!("/gateways/{id}/skip"), &request);
        let admin = visit.session.admin()?;
        let done =
            actions::skip(visit.state(), visit.part(), admin, Path(id), Query(()), Json(request))
                .await?;
        Ok((done.0, call))
    };
    match done.await {
        Ok((done, call)) => result(&submission, id, "Skipped", &skipped(&done), call),
        Err(problem) => submission.refused(&problem),
    }
}

fn skipped(done: &SkipResponse) -> Markup {
    html! {
        p {
            "Sequence " (number(done.sequence.0)) " "
            @if done.changed { "is now a dead letter." } @else { "was skipped before." }
            @if let Some(event) = &done.event_id { " Its event is " (event_link(event.as_str())) "." }
        }
        p { "To deliver it, redrive it from the list of failures." }
    }
}

pub(super) async fn resync(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    let done: HandlerResult<_> = async {
        let visit = &submission.visit;
        let (instance, reason) = (filled(&submission, "instance"), filled(&submission, "reason"));
        let request = ResyncRequest { instance, reason, dry_run: false };
        let call = Call::post(format!("/gateways/{id}/resync"), &request);
        let (admin, request) = (visit.session.admin()?, OptionalJson(request));
        let done =
            actions::resync(visit.state(), visit.part(), admin, Path(id), Query(()), request)
                .await?;
        Ok((done.0, call))
    }
    .await;
    match done {
        Ok((done, call)) => result(&submission, id, "Resync requested", &requested(&done), call),
        Err(problem) => submission.refused(&problem),
    }
}

fn requested(done: &ResyncResponse) -> Markup {
    let rows: Vec<Vec<Markup>> = done
        .pending
        .iter()
        .map(|it| {
            let instance = it.instance.as_deref().unwrap_or("unnamed connection");
            vec![said(instance), html! { (it.state.as_str()) }]
        })
        .collect();
    html! {
        @if rows.is_empty() { p { "It has no instance that has connected before, so nothing was requested." } }
        @else { (table("Requests", &[text("Instance"), text("State")], &rows)) }
    }
}

fn result(
    submission: &Submission,
    id: GatewayId,
    title: &str,
    content: &Markup,
    call: Call,
) -> Response {
    let body = html! {
        p.up { a href=(format!("/console/gateways/{id}")) { "Back to the gateway" } }
        h1 { (title) }
        div.notice.good role="status" { (content) }
    };
    let view = View { title: title.to_owned(), calls: vec![call], body };
    submission.visit.respond(Section::Gateways, Ok(view))
}
