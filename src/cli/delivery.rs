//! `delivery`: list deliveries, and redrive failed ones.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use gateway_events::api::{
    Attempt, Delivery, DeliveryState, Object, Outcome, Page, RedriveRequest, Redriven, RedrivenAs,
};
use gateway_events::client::api::Api;
use gateway_events::event::Sequence;

use super::access::ClientOptions;
use super::confirm::Confirmation;
use super::job::{self, Wait};
use super::output::{age, answer, cell, clean, optional};
use super::reference::{Names, note_unknown_type};
use super::table::table;

pub(crate) mod filter;
mod list;
mod summary;

use filter::FailureFilter;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List failed deliveries, newest failure first (by default of the last 24 hours)
    Failed {
        #[command(flatten)]
        filter: FailureFilter,
        /// Maximum number of deliveries to list
        #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
        limit: u32,
    },
    /// List deliveries by state (pending, delivered, filtered, superseded or all), by gateway and newest
    /// first (by default of the last 24 hours, and pending ones of any time)
    List(list::List),
    /// Count failed attempts over time, by reason, gateway or event type
    Summary(summary::Count),
    /// Append failed deliveries again: the same event, a new sequence
    Redrive(Redrive),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true)
    .arg("sequence").args(FailureFilter::options()))]
pub(crate) struct Redrive {
    #[command(flatten)]
    filter: FailureFilter,
    /// One delivery: this sequence of the gateway
    #[arg(
        long,
        requires = "gateway",
        value_parser = whole(0_u64..),
        conflicts_with_all = FailureFilter::options_besides_gateway()
    )]
    sequence: Option<u64>,
    /// Only report what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Failed { filter, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let filter = filter.resolve(&api).await?;
            let page = api.failed_deliveries(&filter, limit).await?;
            if page.list.is_empty() {
                note_unknown_type(filter.event_type.as_ref(), &api).await;
            }
            answer(client.json, &page, shown)
        }
        Command::List(list) => list::run(list, &api, client).await,
        Command::Summary(count) => summary::run(count, &api, client).await,
        Command::Redrive(redrive) => {
            let is_dry_run = redrive.dry_run;
            let (wait, confirmation) = (redrive.wait, redrive.confirmation);
            let request = redrive.request(&api).await?;
            if !is_dry_run {
                confirm(&api, &request, confirmation).await?;
            }
            let event_type = request.filter.as_ref().and_then(|filter| filter.0.event_type.clone());
            let done = redrive_all(&api, request).await?;
            if let Some(job) = done.job {
                return job::answer(job, wait, &api, client).await;
            }
            if done.redriven.is_empty() {
                note_unknown_type(event_type.as_ref(), &api).await;
            }
            let ids = done.redriven.iter().map(|delivery| delivery.gateway_id);
            let names = Names::of(ids.filter(|_| !client.json), &api).await;
            answer(client.json, &done, |done| redriven(done, &names, is_dry_run))
        }
    }
}

/// Asks for confirmation if there is more to append than a request may.
async fn confirm(
    api: &Api,
    request: &RedriveRequest,
    confirmation: Confirmation,
) -> anyhow::Result<()> {
    if request.filter.is_none() {
        return Ok(());
    }
    let dry_run = RedriveRequest { dry_run: true, ..request.clone() };
    let would = api.redrive(&dry_run).await?;
    match would.total {
        Some(total) if would.more => confirmation
            .require(format_args!("{total} dead letters will be appended again."), "Append them?"),
        _ => Ok(()),
    }
}

/// Repeats the call until it is complete: the work per call is bounded.
async fn redrive_all(api: &Api, mut request: RedriveRequest) -> anyhow::Result<Redriven> {
    let mut all = api.redrive(&request).await?;
    while let Some(next) = all.next.take() {
        request.cursor = Some(next);
        let done = api.redrive(&request).await?;
        all.redriven.extend(done.redriven);
        all.pending += done.pending;
        all.delivered += done.delivered;
        all.already_redriven += done.already_redriven;
        all.event_removed += done.event_removed;
        all.payload_purged += done.payload_purged;
        all.expired += done.expired;
        all.gateway_deleted += done.gateway_deleted;
        all.job = all.job.or(done.job);
        (all.more, all.next) = (done.more, done.next);
    }
    Ok(all)
}

/// Failed deliveries as a table.
pub(crate) fn shown(page: &Page<Delivery>) -> String {
    let rows = page.list.iter().map(|delivery| {
        [
            age(delivery.last_failure_at),
            cell(&delivery.gateway_name),
            cell(delivery.sequence),
            optional(delivery.event_type.as_ref()),
            reason(delivery),
            cell(delivery.failures),
            state(delivery),
            optional(delivery.event_id.as_ref()),
        ]
    });
    let mut text = table(
        ["last failure", "gateway", "sequence", "type", "reason", "failures", "now", "event"],
        rows,
        "no delivery failed in this window",
    );
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more: raise --limit or narrow the window.");
    }
    text
}

/// Why a delivery failed last, as the text of a table's cell.
pub(super) fn reason(delivery: &Delivery) -> String {
    let last = delivery.attempts.iter().rfind(|attempt| attempt.outcome == Outcome::Failed);
    let last = last.filter(|attempt| attempt.reason == delivery.reason);
    last.and_then(attempt_reason).unwrap_or_else(|| optional(delivery.reason))
}

/// Why an attempt failed. An error code that the gateway reported follows in parentheses, unless
/// the reason says the same.
pub(super) fn attempt_reason(attempt: &Attempt) -> Option<String> {
    let reason = attempt.reason?;
    let code = attempt.detail.as_deref().filter(|code| {
        reason.is_reported() && !code.is_empty() && !code.eq_ignore_ascii_case(reason.as_str())
    });
    Some(match code {
        Some(code) => format!("{reason} ({})", clean(&beginning(code))),
        None => reason.to_string(),
    })
}

/// The beginning of a detail, which may be long. `--json` shows all of it.
fn beginning(detail: &str) -> String {
    const SHOWN: usize = 100;
    let mut text: String = detail.chars().take(SHOWN).collect();
    if text.len() < detail.len() {
        text.push('…');
    }
    text
}

/// The current state of a failed delivery; for a redriven one, that of its newest redrive.
fn state(delivery: &Delivery) -> String {
    let word = |state| match state {
        DeliveryState::Delivered => "delivered",
        DeliveryState::Filtered => "filtered",
        DeliveryState::Superseded => "superseded",
        DeliveryState::Failed => "dead letter",
        DeliveryState::Pending => "pending",
    };
    if let Some(RedrivenAs { sequence, state }) = delivery.redriven_as {
        return format!("redriven as {sequence}: {}", word(state));
    }
    if delivery.redriven {
        return "redriven".to_owned();
    }
    if delivery.delivered_since {
        return "delivered since".to_owned();
    }
    if let Some(newer) = delivery.superseded_by {
        return format!("superseded by {newer}");
    }
    match delivery.state {
        DeliveryState::Failed => "dead letter".to_owned(),
        DeliveryState::Filtered => "filtered since".to_owned(),
        DeliveryState::Superseded => "superseded since".to_owned(),
        DeliveryState::Pending | DeliveryState::Delivered => "pending".to_owned(),
    }
}

impl Redrive {
    async fn request(self, api: &Api) -> anyhow::Result<RedriveRequest> {
        let filter = self.filter.resolve(api).await?;
        let request = RedriveRequest { dry_run: self.dry_run, ..RedriveRequest::default() };
        Ok(match self.sequence {
            // With a sequence, the only other field of the filter can be the gateway.
            Some(sequence) => RedriveRequest {
                gateway_id: filter.gateway_id,
                sequence: Some(Sequence(i64::try_from(sequence).unwrap_or(i64::MAX))),
                ..request
            },
            None => RedriveRequest { filter: Some(Object(filter)), ..request },
        })
    }
}

fn redriven(done: &Redriven, names: &Names, is_dry_run: bool) -> String {
    let rows = done.redriven.iter().map(|delivery| {
        [
            names.cell(delivery.gateway_id),
            cell(&delivery.event_id),
            cell(delivery.sequence),
            optional(delivery.new_sequence),
        ]
    });
    let nothing = "nothing to append";
    let mut lines = vec![table(["gateway", "event", "sequence", "new sequence"], rows, nothing)];
    match (done.redriven.len(), is_dry_run) {
        (0, _) => {}
        (count, true) => lines.push(format!("\n{count} would be appended again")),
        (count, false) => lines.push(format!("\n{count} appended again")),
    }
    for (count, why) in [
        (done.pending, "still pending; they will be delivered"),
        (done.delivered, "delivered, filtered or superseded since"),
        (done.already_redriven, "already redriven"),
        (done.event_removed, "removed by retention; publish them again"),
        (done.payload_purged, "purged; publish new events"),
        (done.expired, "expired; publish them again if they are still valid"),
        (done.gateway_deleted, "the gateway is deleted"),
    ] {
        if count > 0 {
            lines.push(format!("{count} skipped: {why}"));
        }
    }
    if is_dry_run {
        lines.push("This was a dry run: nothing was changed.".to_owned());
    }
    lines.join("\n")
}
