//! Publishing an event again, as a new one with the same content: for gateways that it did not reach
//! before it expired. The form of new events is filled with what the old one has.

use maud::{Markup, html};

use super::super::events;
use super::super::extract::Path;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::components::event_link;
use super::fields::label_lines;
use super::pairs::Pairs;
use super::text::{lines, visible_json};
use super::visit::Visit;
use crate::api::{DeliveryState, EventWithDeliveries, WaitQuery};
use crate::diagnosis::argument;
use crate::event::EventId;
use crate::names::inert;

/// The parameter of the page with the old event.
pub(super) const AGAIN: &str = "again";
/// The field of a form whose payload is written as JSON as a whole, so that it stays as it was.
pub(super) const WHOLE: &str = "whole";
/// The shortest time to live that is proposed, in seconds, for an event that expires.
const MIN_TTL_SECS: u64 = 24 * 3600;
/// Gateways that are filled in, at most.
const MAX_GATEWAYS: usize = 100;

/// The link of an event's page.
pub(super) fn offer(id: &EventId) -> Markup {
    let href = Pairs::default().with(AGAIN, id.as_str()).after("/console/publish");
    html! {
        p {
            a href=(href) { "Publish it again" }
            span.hint { " as a new event, for example with a longer time to live. Shows a form first." }
        }
    }
}

/// The old event that the address names.
pub(super) async fn old(visit: &Visit) -> HandlerResult<EventWithDeliveries> {
    let id = EventId::new(visit.query.get(AGAIN))
        .map_err(|error| Problem::invalid(AGAIN, error.to_string()))?;
    let (reader, wait) = (visit.session.reader()?, Query(WaitQuery::default()));
    let old = events::show(visit.state(), visit.part(), reader, Path(id), wait).await?.0;
    if old.purged.is_some() {
        let why = "names an event whose payload was purged; there is nothing to publish";
        return Err(Problem::invalid(AGAIN, why));
    }
    Ok(old)
}

/// What the form is filled with. The target is the gateway that the address names, or else those
/// where the delivery failed, or else the old target.
pub(super) fn values(old: &EventWithDeliveries, gateway: &str) -> Pairs {
    let ttl = old.expires_at.map(|at| at.since(old.appended_at).as_secs().max(MIN_TTL_SECS));
    let content = Pairs::default()
        .and("type", old.event_type.as_str())
        .and(WHOLE, "yes")
        .and("payload", visible_json(old.payload.get()))
        .and("ttlSeconds", ttl.map(|secs| secs.to_string()).unwrap_or_default())
        .and("collapseKey", old.collapse_key.as_deref().unwrap_or_default())
        .and("correlationId", old.correlation_id.as_str())
        // What can't be displayed can't be checked, either.
        .and("userId", inert(old.user_id.as_deref().unwrap_or_default()));
    let failed = old.deliveries.iter().filter(|it| it.state == DeliveryState::Failed);
    let mut failed: Vec<String> = failed.map(|it| it.gateway_id.to_string()).collect();
    failed.sort();
    failed.dedup();
    failed.truncate(MAX_GATEWAYS);
    let named =
        |ids: &[String]| content.clone().and("to", "gateways").and("gateways", ids.join("\n"));
    if !gateway.is_empty() {
        return named(&[gateway.to_owned()]);
    }
    match &old.target {
        _ if !failed.is_empty() => named(&failed),
        Some(target) if target.all == Some(true) => content.and("to", "all"),
        Some(target) => match (&target.labels, &target.gateway_ids) {
            (Some(labels), _) => content.and("to", "labels").and("labels", label_lines(labels)),
            (None, ids) => {
                let ids = ids.iter().flatten().take(MAX_GATEWAYS).map(ToString::to_string);
                named(&ids.collect::<Vec<_>>())
            }
        },
        None => named(&[]),
    }
}

/// What the form says about the old event.
pub(super) fn notice(old: &EventWithDeliveries) -> Markup {
    html! {
        div.notice {
            p {
                "The form has the content of the event " (event_link(old.id.as_str())) ". "
                "It is published as a new event with the same correlation id, by which a gateway that had the old one recognises it. Check the target and the time to live."
            }
            @if old.attributes.is_some() {
                p {
                    "Its attributes as a CloudEvent are not part of the form. To keep them, use "
                    code { "gateway-events event republish " (lines(&argument(old.id.as_str()))) } "."
                }
            }
        }
    }
}
