//! Rejected rows of the inbox.

use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::extract::{MergePatch, OptionalJson, Path};
use super::super::problem::{HandlerResult, Problem};
use super::super::query::{FromQuery as _, Query};
use super::super::{inbox, inbox_edit};
use super::components::{Filters, empty, facts, hidden, live, paging, table, text};
use super::form::{Submission, TOKEN};
use super::layout::{Call, Section};
use super::lookup;
use super::pairs::Pairs;
use super::states::{Tone, state};
use super::text::{lines, none, number, said, sentences, when, when_any};
use super::visit::{Key, View, Visit};
use crate::api::{
    EditedRow, PageQuery, RejectedFilter, RejectedRow, RejectedRowChange, RejectedRowWithPayload,
    RejectionReason, RetryRowRequest,
};

/// The longest payload that is edited here, in bytes. A form has at most 64 KiB, and percent-encoding
/// can triple a text.
const MAX_PAYLOAD_BYTES: usize = 16 * 1024;

type ListQuery = (RejectedFilter, PageQuery);

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Inbox, view)
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let query = match visit.query.get("limit") {
        "" => visit.query.with("limit", "50"),
        _ => visit.query.clone(),
    };
    let asked: ListQuery = query.query()?;
    let page = inbox::list(visit.part(), visit.session.reader()?, Query(asked)).await?.0;
    let mut reasons = vec![("", "any")];
    reasons.extend(RejectionReason::ALL.iter().map(|it| (it.as_str(), it.as_str())));
    let filters = Filters::of(visit)
        .choice("reason", "Reason", &reasons)
        .choice("retried", "Retried rows", &[("", "hide"), ("true", "show")])
        .form();
    let list = html! {
        @if page.list.is_empty() {
            (empty(&html! {
                p { "No row of the table " code { "inbox" } " was rejected, or none that matches." }
                p { "Programs can publish by inserting rows in their own transactions. Rows that can't be published are listed here with the reason." }
            }))
        } @else { (rows(visit, &page.list)) }
        (paging(visit, page.pagination.next.as_deref(), &query))
    };
    let body = html! { h1 { "Rejected rows" } (filters) (live(visit, 5000, &list)) };
    let calls = vec![Call::get("/inbox/rejected", &query.known(&ListQuery::names()))];
    Ok(View { title: "Rejected rows".to_owned(), calls, body })
}

fn rows(visit: &Visit, rows: &[RejectedRow]) -> Markup {
    let rows: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                html! { a href=(format!("/console/inbox/{}", row.id)) { "Row " (row.id) } },
                state(row.reason.as_str(), Tone::Bad),
                said(&row.event_type),
                sentences(&row.detail),
                when(row.rejected_at, visit.now),
                when_any(row.retried_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Row"),
        text("Reason"),
        text("Type"),
        text("What is wrong"),
        text("Rejected"),
        text("Retried"),
    ];
    table("Rejected rows, newest first", &columns, &rows)
}

pub(super) async fn row(visit: Visit, Key(id): Key<i64>) -> Response {
    let view = one(&visit, id).await;
    visit.respond(Section::Inbox, view)
}

async fn one(visit: &Visit, id: i64) -> HandlerResult<View> {
    let found = inbox::show(visit.part(), visit.session.reader()?, Path(id), Query(())).await?.0;
    let title = format!("Rejected row {id}");
    let body = html! {
        p.up { a href="/console/inbox" { "Rejected rows" } }
        h1 { (title) }
        div.verdict {
            (state(found.row.reason.as_str(), Tone::Bad))
            p { (sentences(&found.row.detail)) " (" (when(found.row.rejected_at, visit.now)) ")" }
        }
        (row_facts(visit, &found))
        section aria-labelledby="next" {
            h2 #next { "What to do next" }
            @if visit.session.is_admin() && found.row.retried_at.is_none() {
                p {
                    @if found.row.reason == RejectionReason::UnknownEventType {
                        a href=(super::event_types::registration(&found.row.event_type)) { "Register its type" }
                        " if it is right, and put the row back: it is validated again."
                    } @else { "Remove the cause, and put the row back: it is validated again." }
                }
                div.inline {
                    form method="post" action=(format!("/console/inbox/{id}/retry")) {
                        (hidden(TOKEN, &visit.session.id.form_token()))
                        button.primary type="submit" { "Put it back into the inbox" }
                    }
                    details {
                        summary { "Delete it" }
                        form method="post" action=(format!("/console/inbox/{id}/delete")) {
                            (hidden(TOKEN, &visit.session.id.form_token()))
                            button.danger type="submit" { "Delete permanently" }
                        }
                    }
                }
            }
            @if visit.session.is_admin() && found.row.retried_at.is_none() && found.payload.len() <= MAX_PAYLOAD_BYTES {
                (correction(visit, &found))
            } @else {
                p { "If its content is wrong, correct it with " code { "gateway-events inbox edit " (id) } "." }
            }
        }
        section aria-labelledby="payload" {
            h2 #payload { "Payload" }
            pre tabindex="0" { code { (lines(&found.payload)) } }
        }
    };
    let calls = vec![Call::get(format!("/inbox/rejected/{id}"), &Pairs::default())];
    Ok(View { title, calls, body })
}

/// A form that corrects what is most often wrong.
fn correction(visit: &Visit, found: &RejectedRowWithPayload) -> Markup {
    let row = &found.row;
    html! {
        details {
            summary { "Correct its content" }
            form method="post" action=(format!("/console/inbox/{}/edit", row.id)) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                (hidden("version", &row.version.to_string()))
                p.hint { "It is published if it is valid then. The other columns can be changed with " code { "gateway-events inbox edit " (row.id) } "." }
                div.field {
                    label for="edit-type" { "Type" }
                    input #edit-type type="text" name="type" value=(row.event_type) required spellcheck="false" autocomplete="off";
                }
                div.field {
                    label for="edit-gateway" { "Gateway, by its name or id" }
                    input #edit-gateway type="text" name="gateway" value=[row.gateway_id.as_deref()] spellcheck="false" autocomplete="off";
                }
                div.field {
                    label for="edit-target" { "Or a target, as JSON" }
                    input #edit-target type="text" name="target" value=[row.target.as_deref()] spellcheck="false" autocomplete="off";
                }
                div.field {
                    label for="edit-payload" { "Payload" }
                    textarea #edit-payload name="payload" rows="12" spellcheck="false" { "\n" (found.payload) }
                }
                button.primary type="submit" { "Correct and publish" }
            }
        }
    }
}

/// Corrects the row, which publishes it if it is valid then.
pub(super) async fn edit(Key(id): Key<i64>, submission: Submission) -> Response {
    let done: HandlerResult<EditedRow> = async {
        let visit = &submission.visit;
        let fields = &submission.fields;
        let admin = visit.session.admin()?;
        let version = fields.get("version").parse();
        let version = version.map_err(|_| Problem::invalid("version", "must be a whole number"))?;
        let reader = visit.session.reader()?;
        let found = inbox::show(visit.part(), reader, Path(id), Query(())).await?.0;
        // Browsers end the lines of a text with CR LF.
        let payload = fields.raw("payload").replace("\r\n", "\n");
        let is_new = found.payload.replace("\r\n", "\n") != payload;
        let gateway = match fields.get("gateway") {
            "" => None,
            text => Some(lookup::gateway(visit, "gateway", text).await?.id),
        };
        let target = fields.get("target");
        let change = RejectedRowChange {
            version,
            event_type: Some(fields.get("type").to_owned()),
            payload: is_new.then_some(payload),
            gateway_id: Some(gateway),
            target: Some(Some(target.to_owned()).filter(|target| !target.is_empty())),
            ..RejectedRowChange::default()
        };
        let (headers, patch) = (HeaderMap::new(), MergePatch(change));
        let done = inbox_edit::edit(
            visit.state(),
            visit.part(),
            admin,
            Path(id),
            Query(()),
            headers,
            patch,
        );
        Ok(done.await?.0)
    }
    .await;
    answer(
        &submission,
        done.map(|done| match done.event_id {
            Some(event) => format!("/console/events/{event}"),
            None => format!("/console/inbox/{id}"),
        }),
    )
}

fn row_facts(visit: &Visit, found: &RejectedRowWithPayload) -> Markup {
    let row = &found.row;
    let any = |text: &Option<String>| text.as_deref().map_or_else(none, said);
    facts(&[
        ("Type", said(&row.event_type)),
        ("Gateway", any(&row.gateway_id)),
        ("Target", any(&row.target)),
        ("Event id", any(&row.event_id)),
        ("Correlation id", any(&row.correlation_id)),
        ("User", any(&row.user_id)),
        ("Expires", any(&row.expires_at)),
        ("Collapse key", any(&row.collapse_key)),
        ("Inserted", when(row.inserted_at, visit.now)),
        ("Put back", when_any(row.retried_at, visit.now)),
        ("Payload", html! { (number(row.payload_bytes)) " bytes" }),
    ])
}

/// Puts the row back into the inbox.
pub(super) async fn retry(Key(id): Key<i64>, submission: Submission) -> Response {
    let done = async {
        let visit = &submission.visit;
        let (headers, asked) = (HeaderMap::new(), OptionalJson(RetryRowRequest::default()));
        let admin = visit.session.admin()?;
        inbox::retry_one(visit.state(), visit.part(), admin, Path(id), Query(()), headers, asked)
            .await
    };
    answer(&submission, done.await.map(|_| format!("/console/inbox/{id}")))
}

/// Deletes the row.
pub(super) async fn delete(Key(id): Key<i64>, submission: Submission) -> Response {
    let done = async {
        let visit = &submission.visit;
        inbox::remove(visit.part(), visit.session.admin()?, Path(id), Query(())).await
    };
    answer(&submission, done.await.map(|_| "/console/inbox".to_owned()))
}

fn answer(submission: &Submission, next: HandlerResult<String>) -> Response {
    match next {
        Ok(next) => Redirect::to(&next).into_response(),
        Err(problem) => submission.refused(&problem),
    }
}
