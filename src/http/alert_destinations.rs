//! Destinations of alerts: listed, shown, created, replaced, deleted and tested. Their secrets are
//! accepted, and never shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use uuid::Uuid;

use super::alert_bodies::{check_path_id, to_json};
use super::auth::{Admin, Reader};
use super::extract::{self, Path};
use super::openapi::{Bodiless, Body, Long, Missing, Problems, Scoped, Sealing, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::alerts::Alerting;
use crate::alerts::destinations::{Prepared, prepare};
use crate::alerts::secrets::SecretsError;
use crate::api::{AlertDestination, AlertDestinationDefinition, AlertTest, Code, Page};
use crate::event::OrganisationKey;
use crate::store::{Actor, Alerts, Existing, Sealed, StoreError, StoredDestination};

const MISSING: &str = "alert destination";

/// List the destinations of alerts.
#[utoipa::path(
    get, path = "/alerts/destinations", tag = "alerts", operation_id = "listAlertDestinations",
    responses(
        (status = 200, description = "All destinations.", body = Page<AlertDestination>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(alerts): Part<dyn Alerts>,
    Reader(organisation): Reader,
    _: Query<()>,
) -> HandlerResult<Json<Page<AlertDestination>>> {
    let stored = alerts.alert_destinations(organisation).await?;
    let list = stored.into_iter().map(shown).collect::<HandlerResult<_>>()?;
    Ok(Json(Page::whole(list)))
}

/// Show a destination of alerts.
#[utoipa::path(
    get, path = "/alerts/destinations/{id}", tag = "alerts", operation_id = "showAlertDestination",
    params(("id" = String, Path, description = "The destination's id.")),
    responses(
        (status = 200, description = "The destination.", body = AlertDestination),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    Part(alerts): Part<dyn Alerts>,
    Reader(organisation): Reader,
    Path(id): Path<String>,
    _: Query<()>,
) -> HandlerResult<Json<AlertDestination>> {
    Ok(Json(shown(stored(alerts.as_ref(), organisation, &id).await?)?))
}

/// Create a destination of alerts.
///
/// The URL and the secret are encrypted with the key in `alerts.key_file`, and not shown again. A
/// host with an address that is not public is refused, unless it is in `alerts.allowed_networks`.
#[utoipa::path(
    post, path = "/alerts/destinations", tag = "alerts", operation_id = "createAlertDestination",
    request_body = AlertDestinationDefinition,
    responses(
        (status = 201, description = "It is created.", body = AlertDestination),
        Problems<(Scoped, Body, Taken, Sealing)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn create(
    State(alerting): State<Arc<Alerting>>,
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    _: Query<()>,
    extract::Json(mut definition): extract::Json<AlertDestinationDefinition>,
) -> HandlerResult<(StatusCode, Json<AlertDestination>)> {
    let prepared = prepare(&definition, None).map_err(Problem::invalid_fields)?;
    let id = definition.id.take().unwrap_or_else(|| Uuid::now_v7().to_string());
    let (_, destination) =
        store(&alerting, alerts.as_ref(), &actor, &id, Existing::Refuse, prepared, None).await?;
    Ok((StatusCode::CREATED, Json(destination)))
}

/// Create or replace a destination of alerts.
///
/// Without `url` or `secret`, those that are stored are kept. A stored secret is not sent to another
/// server: if the scheme, host or port of the URL changes, or an e-mail server is to be reached
/// without TLS, a `PUT` without `secret` is refused.
#[utoipa::path(
    put, path = "/alerts/destinations/{id}", tag = "alerts", operation_id = "putAlertDestination",
    params(("id" = String, Path, description = "The destination's id.")),
    request_body = AlertDestinationDefinition,
    responses(
        (status = 200, description = "It is replaced.", body = AlertDestination),
        (status = 201, description = "It is created.", body = AlertDestination),
        Problems<(Scoped, Body, Taken, Sealing)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn put(
    State(alerting): State<Arc<Alerting>>,
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
    extract::Json(mut definition): extract::Json<AlertDestinationDefinition>,
) -> HandlerResult<(StatusCode, Json<AlertDestination>)> {
    check_path_id(&id, definition.id.as_deref())?;
    definition.id = Some(id.clone());
    let existing = alerts.alert_destinations(actor.organisation).await?;
    let existing = existing.into_iter().find(|destination| destination.id == id);
    // Secrets that can't be decrypted any more can be replaced.
    let kept = existing.and_then(|stored| {
        let (settings, secrets) = alerting.unseal(actor.organisation, &stored).ok()?;
        Some((settings, secrets, stored.sealed))
    });
    let old = kept.as_ref().map(|(settings, secrets, _)| (settings, secrets));
    let prepared = prepare(&definition, old).map_err(Problem::invalid_fields)?;
    // Encrypting the same secrets again would look like a replacement in the audit log.
    let sealed =
        kept.filter(|(_, secrets, _)| *secrets == prepared.secrets).map(|(_, _, sealed)| sealed);
    let (is_new, destination) =
        store(&alerting, alerts.as_ref(), &actor, &id, Existing::Replace, prepared, sealed).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(destination)))
}

/// Delete a destination of alerts.
///
/// Notifications that wait for it are given up.
#[utoipa::path(
    delete, path = "/alerts/destinations/{id}", tag = "alerts",
    operation_id = "deleteAlertDestination",
    params(("id" = String, Path, description = "The destination's id.")),
    responses(
        (status = 204, description = "It is deleted."),
        Problems<(Scoped, Missing, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn remove(
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    alerts.delete_alert_destination(&actor, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Test a destination of alerts.
///
/// Sends it a message of the type `alert.test`, and returns its response.
#[utoipa::path(
    post, path = "/alerts/destinations/{id}/test", tag = "alerts",
    operation_id = "testAlertDestination",
    params(("id" = String, Path, description = "The destination's id.")),
    responses(
        (status = 200, description = "The response of the destination.", body = AlertTest),
        Problems<(Scoped, Missing, Sealing, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn test(
    State(alerting): State<Arc<Alerting>>,
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
) -> HandlerResult<Json<AlertTest>> {
    let stored = stored(alerts.as_ref(), actor.organisation, &id).await?;
    let by = &actor.principal.name;
    let test =
        alerting.test(actor.organisation, &stored, by).await.map_err(|error| unsealed(&error))?;
    let outcome = if test.delivered { "delivered" } else { "failed" };
    alerts.record_destination_test(&actor, &id, outcome).await?;
    Ok(Json(test))
}

async fn stored(
    alerts: &dyn Alerts,
    organisation: OrganisationKey,
    id: &str,
) -> HandlerResult<StoredDestination> {
    let all = alerts.alert_destinations(organisation).await?;
    all.into_iter().find(|one| one.id == id).ok_or_else(|| Problem::not_found(MISSING))
}

/// Stores a destination, and encrypts its secrets unless they are `sealed` already. Returns whether it
/// is new, and what is shown of it.
async fn store(
    alerting: &Alerting,
    alerts: &dyn Alerts,
    actor: &Actor,
    id: &str,
    existing: Existing,
    prepared: Prepared,
    sealed: Option<Sealed>,
) -> HandlerResult<(bool, AlertDestination)> {
    let checked = alerting.check_host(&prepared).await;
    checked.map_err(|error| Problem::invalid_fields(vec![error]))?;
    let organisation = actor.organisation;
    let sealed = sealed.map_or_else(
        || alerting.seal(organisation, id, &prepared.secrets).map_err(|error| unsealed(&error)),
        Ok,
    )?;
    let text = to_json(&prepared.settings)?;
    let is_new = alerts.put_alert_destination(actor, id, existing, &text, &sealed).await?;
    let destination = shown(stored(alerts, organisation, id).await?)?;
    Ok((is_new, AlertDestination { secret: prepared.generated, ..destination }))
}

/// What is not secret about a destination.
pub(super) fn shown(stored: StoredDestination) -> HandlerResult<AlertDestination> {
    let settings = serde_json::from_str(&stored.definition).map_err(|error| {
        StoreError::Corrupt(format!("alert destination {}: {error}", stored.id))
    })?;
    Ok(AlertDestination {
        id: stored.id,
        settings,
        created_at: stored.created_at,
        updated_at: stored.updated_at,
        secret: None,
    })
}

fn unsealed(error: &SecretsError) -> Problem {
    Problem::new(Code::AlertKeyMissing, format!("{error}."))
}
