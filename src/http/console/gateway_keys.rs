//! A gateway's keys, and their rotation: create a second key, give it to the gateway, and revoke the
//! first one when the gateway uses the second.

use axum::response::Response;
use maud::{Markup, html};
use secrecy::ExposeSecret as _;

use super::super::extract::Path;
use super::super::gateway_tokens;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::components::{hidden, more, table, text};
use super::form::{Submission, TOKEN};
use super::layout::{Call, Section};
use super::states::key_state;
use super::text::{when, when_any};
use super::visit::{Key, View, Visit};
use crate::api::{GatewayDiagnosis, KeyRecord, KeyState, NewGatewayToken};
use crate::event::GatewayId;
use crate::store::Credentials;

/// The choices of a key's lifetime, in days.
const LIFETIMES: [(&str, &str); 4] =
    [("", "never"), ("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year")];

/// The part of a gateway's page.
pub(super) fn part(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
    let is_admin = visit.session.is_admin();
    let rows: Vec<Vec<Markup>> =
        diagnosis.keys.list.iter().map(|key| row(visit, diagnosis.gateway_id, key)).collect();
    let columns = [
        text("Key"),
        text("State"),
        text("Created"),
        text("Last used"),
        text("Expires"),
        text("Revoked"),
        text("Action"),
    ];
    let columns = if is_admin { &columns[..] } else { &columns[..6] };
    html! {
        section aria-labelledby="keys" {
            h2 #keys { "Keys" }
            @if rows.is_empty() { p.hint { "It has no key, so it can't connect." } }
            @else { (table("Keys", columns, &rows)) (more(&diagnosis.keys)) }
            @if is_admin { (new_key(visit, diagnosis)) }
        }
    }
}

fn is_live(key: &KeyRecord) -> bool {
    matches!(key.state, KeyState::Valid | KeyState::Expiring)
}

fn row(visit: &Visit, gateway: GatewayId, key: &KeyRecord) -> Vec<Markup> {
    let action = html! {
        @if is_live(key) {
            details {
                summary aria-label=(format!("Revoke the key {}", key.id)) { "Revoke" }
                form method="post" action=(format!("/console/gateways/{gateway}/keys/{}/revoke", key.id)) {
                    (hidden(TOKEN, &visit.session.id.form_token()))
                    button.danger type="submit" { "Revoke permanently" }
                }
            }
        } @else { (super::text::none()) }
    };
    vec![
        html! { code { (key.id) } },
        key_state(key.state),
        when(key.created_at, visit.now),
        when_any(key.last_used_at, visit.now),
        when_any(key.expires_at, visit.now),
        when_any(key.revoked_at, visit.now),
        action,
    ]
}

/// The step of a rotation that comes next.
fn new_key(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
    let live: Vec<&KeyRecord> = diagnosis.keys.list.iter().filter(|key| is_live(key)).collect();
    html! {
        @match live.as_slice() {
            [_, _, ..] => p.hint {
                "It has two valid keys, the maximum. Revoke the old one when the gateway uses the new one: "
                "its last use is in the table."
            },
            keys => {
                p.hint {
                    @if keys.is_empty() { "Create a key, and configure the gateway with it." }
                    @else { "To rotate the key, create a second one, configure the gateway with it, and then revoke the first. Revoking a key closes the connections that use it." }
                }
                form.inline method="post" action=(format!("/console/gateways/{}/keys", diagnosis.gateway_id)) {
                    (hidden(TOKEN, &visit.session.id.form_token()))
                    div.field {
                        label for="key-expiry" { "Expires" }
                        select #key-expiry name="days" {
                            @for (days, text) in LIFETIMES { option value=(days) { (text) } }
                        }
                    }
                    button type="submit" { "Create a key" }
                }
            }
        }
    }
}

pub(super) async fn create(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    match created(&submission, id).await {
        Ok(view) => submission.visit.respond(Section::Gateways, Ok(view)),
        Err(problem) => submission.refused(&problem),
    }
}

async fn created(submission: &Submission, id: GatewayId) -> HandlerResult<View> {
    let visit = &submission.visit;
    let days = match submission.fields.get("days") {
        "" => None,
        days => {
            Some(days.parse::<u64>().map_err(|_| Problem::invalid("days", "must be a number"))?)
        }
    };
    let expires_in_seconds = days.map(|days| days.saturating_mul(24 * 3600));
    let new = NewGatewayToken { expires_in_seconds };
    let call = Call::post(format!("/gateways/{id}/tokens"), &new);
    let admin = visit.session.admin()?;
    let credentials = visit.state.part::<dyn Credentials>();
    let (issued, _) = gateway_tokens::new_key(credentials.as_ref(), &admin.0, id, new).await?;
    let title = "A new key".to_owned();
    let body = html! {
        p.up { a href=(format!("/console/gateways/{id}")) { "Back to the gateway" } }
        h1 { (title) }
        div.notice.good role="status" {
            p { "This is the only time that the key is shown. Copy it now; it can't be retrieved again." }
        }
        div.command {
            pre tabindex="0" { code #key { (issued.key.expose_secret()) } }
            button type="button" hidden data-copy="key" { "Copy" }
        }
        p { "The gateway sends it in the header " code { "api-key" } " when it connects." }
    };
    Ok(View { title, calls: vec![call], body })
}

pub(super) async fn revoke(
    Key((id, key)): Key<(GatewayId, String)>,
    submission: Submission,
) -> Response {
    let done = async {
        let visit = &submission.visit;
        let admin = visit.session.admin()?;
        gateway_tokens::revoke(visit.state(), visit.part(), admin, Path((id, key)), Query(())).await
    };
    match done.await {
        Ok(_) => super::gateway_actions::back(id),
        Err(problem) => submission.refused(&problem),
    }
}
