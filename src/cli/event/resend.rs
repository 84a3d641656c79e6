//! `event resend`: append an event for further gateways.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use gateway_events::api::{Object, ResendRequest, Resent, Target};
use gateway_events::client::api::Api;
use gateway_events::event::EventId;

use super::super::access::ClientOptions;
use super::super::confirm::Confirmation;
use super::super::gateway::{parse_label, unique_labels};
use super::super::output::{answer, cell, clean, note, optional};
use super::super::reference::{GatewayRef, Names, event_id, resolve_all};
use super::super::table::table;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["gateways", "all", "labels"]))]
pub(crate) struct Resend {
    /// The event's id, or the beginning of it
    id: EventId,
    /// For this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// For every gateway; asks for confirmation
    #[arg(long)]
    all: bool,
    /// For every gateway with this label; may be repeated, and then all must match. Asks for confirmation
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Also for gateways that have it in their log; asks for confirmation
    #[arg(long)]
    force: bool,
    /// Only report what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(crate) async fn run(
    resend: Resend,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let id = event_id(&resend.id, api).await?;
    let gateway_ids = Some(resolve_all(&resend.gateways, api).await?).filter(|ids| !ids.is_empty());
    let target = if resend.all {
        Some(Target { all: Some(true), ..Target::default() })
    } else if resend.labels.is_empty() {
        None
    } else {
        let labels = Some(unique_labels(resend.labels)?);
        Some(Target { labels, ..Target::default() })
    };
    let is_asked = resend.force || target.is_some();
    let mut request = ResendRequest {
        gateway_ids,
        target: target.map(Object),
        force: resend.force,
        dry_run: true,
    };
    if is_asked && !resend.dry_run {
        let count = api.resend(&id, &request).await?.deliveries.len();
        if count > 0 {
            let gateways = if count == 1 { "gateway" } else { "gateways" };
            let consequences = format!("The event {id} will be appended for {count} {gateways}.");
            resend.confirmation.require(consequences, "Resend it?")?;
        }
    }
    request.dry_run = resend.dry_run;
    let done = api.resend(&id, &request).await?;
    let ids = done.deliveries.iter().map(|delivery| delivery.gateway_id);
    let ids = ids.chain(done.already_in_log.iter().map(|delivery| delivery.gateway_id));
    let names = Names::of(ids.filter(|_| !client.json), api).await;
    answer(client.json, &done, |done| shown(done, &names, resend.dry_run))?;
    for warning in &done.warnings {
        note(format_args!("warning: {}", clean(&warning.message)));
    }
    let is_unmatched = done.deliveries.is_empty() && done.already_in_log.is_empty();
    Ok(if is_unmatched { ExitCode::from(super::NO_GATEWAY_MATCHED) } else { ExitCode::SUCCESS })
}

fn shown(resent: &Resent, names: &Names, is_dry_run: bool) -> String {
    let rows = resent
        .deliveries
        .iter()
        .map(|delivery| [names.cell(delivery.gateway_id), optional(delivery.sequence)]);
    let mut lines = vec![table(["gateway", "new sequence"], rows, "no new deliveries")];
    if !resent.already_in_log.is_empty() {
        let present = resent
            .already_in_log
            .iter()
            .map(|delivery| [names.cell(delivery.gateway_id), cell(delivery.sequence)]);
        let present = table(["gateway", "sequence"], present, "");
        lines.push(format!("\nLeft out, because the event is in their log:\n\n{present}"));
        if resent.deliveries.is_empty() {
            lines.push("\nTo append it again for these gateways, use --force.".to_owned());
        }
    }
    if is_dry_run {
        lines.push("\nThis was a dry run: nothing was changed.".to_owned());
    }
    lines.join("\n")
}
