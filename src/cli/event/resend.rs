//! `event resend`: append events for more gateways.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use gateway_events::api::{Labels, MissedEvent, Object, ResendRequest, Resent, Target};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, GatewayId};
use serde::Serialize;

use super::super::access::ClientOptions;
use super::super::confirm::Confirmation;
use super::super::gateway::{parse_label, unique_labels};
use super::super::output::{answer, cell, clean, note, optional};
use super::super::reference::{GatewayRef, Names, event_id, resolve_all};
use super::super::table::table;

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("events").required(true).args(["ids", "missed_by"]),
    group = ArgGroup::new("target").required(true).multiple(true)
        .args(["gateways", "all", "labels", "missed_by"]),
)]
pub(crate) struct Resend {
    /// The events' ids, or the beginnings of them. Several are appended in the order of their
    /// publication; asks for confirmation
    #[arg(value_name = "ID")]
    ids: Vec<EventId>,
    /// The events that missed this gateway by a label, as `why GATEWAY` lists them, for this gateway,
    /// in the order of their publication; asks for confirmation. With --label only those for exactly
    /// these labels
    #[arg(long, value_name = "GATEWAY", conflicts_with_all = ["gateways", "all", "force"])]
    missed_by: Option<GatewayRef>,
    /// Deliver them to this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY", conflicts_with_all = ["all", "labels"])]
    gateways: Vec<GatewayRef>,
    /// Deliver them to every gateway; asks for confirmation
    #[arg(long, conflicts_with = "labels")]
    all: bool,
    /// Deliver them to every gateway with this label; if repeated, all labels must match. Asks for
    /// confirmation
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Deliver an event also to gateways that have it in their log; asks for confirmation
    #[arg(long)]
    force: bool,
    /// Only report what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// What became of several events, in the order in which they were appended.
#[derive(Default, Serialize)]
struct Several {
    list: Vec<Resent>,
    /// Events that can't be sent again, such as expired ones.
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Refused {
    id: EventId,
    detail: String,
}

pub(crate) async fn run(
    resend: Resend,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let request = request(&resend, api).await?;
    let dry_run = resend.dry_run;
    let done = if let Some(gateway) = &resend.missed_by {
        let gateway = gateway.resolve(api).await?;
        let labels = unique_labels(resend.labels.clone())?;
        missed_by(&Missing { gateway, labels }, &request, resend.confirmation, api).await?
    } else {
        let ids = ids(&resend.ids, api).await?;
        if let [id] = &ids[..] {
            return one(id, resend, request, api, client).await;
        }
        if !dry_run {
            require(&several(&ids, &planned(&request), api).await?, resend.confirmation)?;
        }
        several(&ids, &request, api).await?
    };
    conclude(&done, dry_run, api, client).await
}

async fn request(resend: &Resend, api: &Api) -> anyhow::Result<ResendRequest> {
    let gateways: Vec<_> = resend.missed_by.iter().chain(&resend.gateways).cloned().collect();
    let gateway_ids = Some(resolve_all(&gateways, api).await?).filter(|ids| !ids.is_empty());
    let target = if resend.all {
        Some(Target { all: Some(true), ..Target::default() })
    } else if resend.labels.is_empty() || resend.missed_by.is_some() {
        None
    } else {
        let labels = Some(unique_labels(resend.labels.clone())?);
        Some(Target { labels, ..Target::default() })
    };
    let (force, dry_run) = (resend.force, resend.dry_run);
    Ok(ResendRequest { gateway_ids, target: target.map(Object), force, dry_run })
}

/// The request as a dry run.
fn planned(request: &ResendRequest) -> ResendRequest {
    ResendRequest { dry_run: true, ..request.clone() }
}

/// The ids of these events, in the order of their publication, each once.
async fn ids(given: &[EventId], api: &Api) -> anyhow::Result<Vec<EventId>> {
    if let [id] = given {
        return Ok(vec![event_id(id, api).await?]);
    }
    let mut found: Vec<(Timestamp, EventId)> = Vec::with_capacity(given.len());
    for id in given {
        let id = event_id(id, api).await?;
        found.push((api.event(&id).await?.appended_at, id));
    }
    found.sort();
    found.dedup();
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// Which missed events to send.
struct Missing {
    gateway: GatewayId,
    /// The labels of the events' target; all missed events if empty.
    labels: Labels,
}

/// Sends a gateway the events that missed it. Its diagnosis lists the oldest of them, and does not list
/// again what was sent. A dry run reports on the first list.
async fn missed_by(
    missing: &Missing,
    request: &ResendRequest,
    confirmation: Confirmation,
    api: &Api,
) -> anyhow::Result<Several> {
    let mut ids = missed(missing, api).await?;
    if request.dry_run {
        return several(&ids, request, api).await;
    }
    require(&several(&ids, &planned(request), api).await?, confirmation)?;
    let mut all = Several::default();
    while !ids.is_empty() {
        let done = several(&ids, request, api).await?;
        let is_over = done.list.iter().all(|it| it.deliveries.is_empty());
        all.list.extend(done.list);
        all.refused.extend(done.refused);
        if is_over {
            break;
        }
        ids = missed(missing, api).await?;
        ids.retain(|id| !all.refused.iter().any(|refused| refused.id == *id));
    }
    Ok(all)
}

/// The events that missed a gateway by a label and are not in its log, the oldest first. If a target
/// has more of them than the diagnosis lists, the others follow later, and none may overtake them.
async fn missed(missing: &Missing, api: &Api) -> anyhow::Result<Vec<EventId>> {
    let mut missed = api.gateway_diagnosis(missing.gateway).await?.missed.list;
    missed.retain(|it| missing.labels.is_empty() || it.labels == missing.labels);
    let is_cut = missed.iter().filter(|it| it.oldest.len() < it.events);
    let listed_until = is_cut.filter_map(|it| it.oldest.last()).map(|it| it.appended_at).min();
    let mut events: Vec<MissedEvent> = missed.into_iter().flat_map(|it| it.oldest).collect();
    events.retain(|it| listed_until.is_none_or(|end| it.appended_at <= end));
    events.sort_by(|a, b| (a.appended_at, &a.event_id).cmp(&(b.appended_at, &b.event_id)));
    Ok(events.into_iter().map(|it| it.event_id).collect())
}

/// Resends events one after the other. One that can't be sent again does not stop the others.
async fn several(ids: &[EventId], request: &ResendRequest, api: &Api) -> anyhow::Result<Several> {
    let mut done = Several::default();
    for id in ids {
        match api.resend(id, request).await {
            Ok(resent) => done.list.push(resent),
            Err(ApiError::Refused(problem)) if problem.status == 409 => {
                done.refused.push(Refused { id: id.clone(), detail: problem.detail });
            }
            Err(error) => {
                let (sent, all) = (done.list.len(), ids.len());
                return Err(anyhow::Error::from(error).context(format!(
                    "failed to resend event {id}, after {sent} of {all}; repeat the command to go on"
                )));
            }
        }
    }
    Ok(done)
}

/// Asks whether what a dry run found may be done.
fn require(planned: &Several, confirmation: Confirmation) -> anyhow::Result<()> {
    let count: usize = planned.list.iter().map(|it| it.deliveries.len()).sum();
    if count == 0 {
        return Ok(());
    }
    let events = planned.list.iter().filter(|it| !it.deliveries.is_empty()).count();
    let events = if events == 1 { "1 event".to_owned() } else { format!("{events} events") };
    let deliveries = if count == 1 { "delivery" } else { "deliveries" };
    let consequences = format!("{events} will be resent, {count} new {deliveries} in all.");
    confirmation.require(consequences, "Resend them?")
}

async fn conclude(
    done: &Several,
    dry_run: bool,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let resent = done.list.iter();
    let ids = resent.flat_map(|it| it.deliveries.iter().map(|delivery| delivery.gateway_id));
    let names = Names::of(ids.filter(|_| !client.json), api).await;
    answer(client.json, done, |done| {
        let rows = done.list.iter().flat_map(|resent| {
            let rows = resent.deliveries.iter();
            rows.map(|it| [cell(&resent.id), names.cell(it.gateway_id), optional(it.sequence)])
        });
        let mut lines =
            vec![table(["event", "gateway", "new sequence"], rows, "no new deliveries")];
        let left_out = done.list.iter().filter(|it| it.deliveries.is_empty()).count();
        if left_out > 0 {
            lines.push(format!(
                "\nevents left out, because they are in the log or for no gateway: {left_out}"
            ));
        }
        if dry_run {
            lines.push("\nThis was a dry run: nothing was changed.".to_owned());
        }
        lines.join("\n")
    })?;
    for refused in &done.refused {
        note(format_args!("warning: event {}: {}", refused.id, clean(&refused.detail)));
    }
    Ok(if done.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn one(
    id: &EventId,
    resend: Resend,
    request: ResendRequest,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let is_asked = resend.force || request.target.is_some();
    if is_asked && !resend.dry_run {
        let count = api.resend(id, &planned(&request)).await?.deliveries.len();
        if count > 0 {
            let gateways = if count == 1 { "gateway" } else { "gateways" };
            let consequences = format!("The event {id} will be appended for {count} {gateways}.");
            resend.confirmation.require(consequences, "Resend it?")?;
        }
    }
    let done = api.resend(id, &request).await?;
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
