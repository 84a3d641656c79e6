//! The answers to `gateway pause`, `resume`, `skip` and `resync`.

use gateway_events::api::{
    Gateway, GatewayChange, PauseResponse, Resync, ResyncRequest, ResyncResponse, SkipResponse,
};
use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;

use super::super::confirm::Confirmation;
use super::super::output::{cell, clean, optional, time};

/// What `gateway pause` prints.
pub(super) fn paused(done: &PauseResponse) -> String {
    let name = cell(&done.gateway.name);
    match (&done.gateway.paused, done.changed, done.dry_run) {
        (_, true, true) => format!("gateway {name} would be paused"),
        (Some(pause), changed, _) => {
            let already = if changed { "is" } else { "is already" };
            let reason = pause.reason.as_ref().map(|reason| format!(": {}", cell(reason)));
            let (by, at) = (cell(&pause.by), time(pause.at));
            format!(
                "gateway {name} {already} paused by {by} since {at}{}",
                reason.unwrap_or_default()
            )
        }
        (None, ..) => format!("gateway {name} is not paused"),
    }
}

/// What `gateway resume` prints.
pub(super) fn resumed(done: &PauseResponse) -> String {
    let name = cell(&done.gateway.name);
    match (done.changed, done.dry_run) {
        (true, true) => format!("gateway {name} would be resumed"),
        (true, false) => format!("gateway {name} is resumed"),
        (false, _) => format!("gateway {name} was not paused; nothing was changed"),
    }
}

/// What `gateway skip` prints.
pub(super) fn skipped(done: &SkipResponse) -> String {
    let (sequence, event) = (done.sequence, optional(done.event_id.as_ref()));
    match (done.changed, done.dry_run) {
        (true, true) => format!("delivery {sequence} (event {event}) would be skipped"),
        (true, false) => format!("delivery {sequence} (event {event}) is skipped"),
        (false, _) => format!("delivery {sequence} (event {event}) was skipped before"),
    }
}

/// What `gateway resync` prints.
pub(super) fn resync(done: &ResyncResponse) -> String {
    let first = match (done.changed, done.dry_run) {
        (true, true) => "a resync would be requested",
        (true, false) => "a resync is requested",
        (false, _) => "a resync was requested before; nothing was changed",
    };
    let line = |one: &Resync| {
        let instance = one.instance.as_deref();
        let instance = instance.map_or_else(|| "an unnamed connection".to_owned(), cell);
        let by = clean(&one.requested_by);
        format!(
            "  {instance}: {}, requested by {by} {}",
            one.state.as_str(),
            time(one.requested_at)
        )
    };
    let lines = std::iter::once(first.to_owned()).chain(done.pending.iter().map(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Disables a gateway, after a confirmation unless it is disabled already.
pub(super) async fn disable(
    id: GatewayId,
    confirmation: Confirmation,
    api: &Api,
) -> anyhow::Result<Gateway> {
    let before = api.gateway(id).await?;
    if before.disabled_at.is_none() {
        confirmation.require(disabling(&before), "Disable it?")?;
    }
    let change = GatewayChange { disabled: Some(true), ..GatewayChange::default() };
    Ok(api.change_gateway(id, &change).await?)
}

/// Requests a resync, after a confirmation unless it would change nothing.
pub(super) async fn request_resync(
    id: GatewayId,
    mut request: ResyncRequest,
    confirmation: Confirmation,
    api: &Api,
) -> anyhow::Result<ResyncResponse> {
    let is_dry_run = std::mem::replace(&mut request.dry_run, true);
    let would = api.resync_gateway(id, &request).await?;
    if is_dry_run {
        return Ok(would);
    }
    if would.changed {
        confirmation.require(resyncing(&would), "Request it?")?;
    }
    request.dry_run = false;
    Ok(api.resync_gateway(id, &request).await?)
}

/// The consequences of disabling a gateway.
fn disabling(gateway: &Gateway) -> String {
    let name = clean(&gateway.name);
    let open = match gateway.connections {
        0 => String::new(),
        1 => " Its connection is closed.".to_owned(),
        count => format!(" Its {count} connections are closed."),
    };
    format!(
        "Gateway {name} will be refused with 403 until it is enabled, and its events are kept for it.{open} \
         Many gateways end their process when they are refused; `gateway pause` only holds back events."
    )
}

/// The consequences of a resync request, given what a dry run says.
fn resyncing(would: &ResyncResponse) -> String {
    let instances = match &would.pending[..] {
        [one] => match &one.instance {
            Some(name) => format!("The instance {} reads", clean(name)),
            None => "The gateway reads".to_owned(),
        },
        several => format!("{} instances read", several.len()),
    };
    format!(
        "{instances} a snapshot of everything in place of the events up to it: connections in reliable \
         mode are asked to reconnect."
    )
}
