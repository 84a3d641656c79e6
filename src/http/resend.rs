//! `POST /events/{id}/resend`: an existing event is appended for more gateways.

use axum::Json;

use super::auth::Admin;
use super::extract::Path;
use super::idempotency::Keyed;
use super::openapi::{Body, Idempotent, Missing, Problems, Resending, Scoped, Storing, Taken};
use super::part::Part;
use super::problem::HandlerResult;
use super::query::Query;
use crate::api::{AcceptedDelivery, Object, ResendRequest, Resent, ResentDelivery, Warning};
use crate::event::EventId;
use crate::ingest;
use crate::store::{self, Bulk, EarlierResult};

/// Resend an event to more gateways.
///
/// Appends the event, with the same id and correlation id, to the logs of gateways that it was not
/// published for: for a label that was mistyped, or a gateway that was registered later. Gateways
/// that have it in their log are left out unless `force` is set, so a repeated request does nothing; with `force`, one that has
/// the `Idempotency-Key` of the first does nothing.
/// It was valid when it was published, and is not validated again. A disabled gateway gets it when
/// it is enabled. An event that has expired is refused with 409.
#[utoipa::path(
    post, path = "/events/{id}/resend", tag = "events", operation_id = "resendEvent",
    params(
        ("id" = EventId, Path, description = "The event."),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "Identifies the request: a repeat with the same body appends nothing again, and gets the first response."),
    ),
    request_body(
        content = ResendRequest,
        examples(
            ("gateways" = (summary = "To one gateway", value = json!({
                "gatewayIds": ["01890a5d-ac96-774b-bcce-b302099a8057"],
            }))),
            ("labels" = (summary = "To gateways with a label", value = json!({
                "target": {"labels": {"env": "prod"}}, "dryRun": true,
            }))),
        ),
    ),
    responses(
        (status = 200, description = "The result, or in a dry run what it would be.", body = Resent),
        Problems<(Scoped, Missing, Body, Taken, Storing, Resending, Idempotent)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn resend(
    Part(bulk): Part<dyn Bulk>,
    Admin(actor): Admin,
    Path(id): Path<EventId>,
    _: Query<()>,
    Keyed(key, asked): Keyed<ResendRequest>,
) -> HandlerResult<Json<Resent>> {
    let actor = actor.with_request_key(key.filter(|_| !asked.dry_run));
    if let Some(EarlierResult::Resent(resent)) = bulk.earlier_result(&actor).await? {
        return Ok(Json(response(id, resent)));
    }
    let selected = asked.target.map(|Object(target)| target);
    let target = ingest::target(asked.gateway_ids, selected)?;
    let resent = bulk.resend(&actor, &id, target, asked.force, asked.dry_run).await??;
    Ok(Json(response(id, resent)))
}

fn response(id: EventId, resent: store::Resent) -> Resent {
    let mut warnings = Vec::new();
    if resent.deliveries.is_empty() && resent.present.is_empty() {
        warnings.push(Warning {
            code: Warning::NO_GATEWAYS_MATCHED.to_owned(),
            message: "No gateway matched the target: the event was not resent.".to_owned(),
        });
    }
    let appended = resent.deliveries.into_iter();
    let present = resent.present.into_iter();
    Resent {
        id,
        deliveries: appended
            .map(|(gateway_id, sequence)| ResentDelivery { gateway_id, sequence })
            .collect(),
        already_in_log: present
            .map(|it| AcceptedDelivery { gateway_id: it.gateway_id, sequence: it.sequence })
            .collect(),
        warnings,
    }
}
