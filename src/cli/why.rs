//! `why`: why a gateway or an event has missing deliveries, and what to do next.

use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{
    EventDiagnosis, EventDiagnosisQuery, EventFilter, Evidence, FailuresByReason,
    GatewayChangeRecord, GatewayDiagnosis, NextStep, Resync,
};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, EventIdPrefix, GatewayId};
use gateway_events::names::closest;

use super::access::ClientOptions;
use super::event::target;
use super::output::{answer, cell, clean, labels, optional, time};
use super::reference::{GatewayRef, beginning_with, gateway_named};

/// Matches of a prefix that an error lists.
const SHOWN: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// A gateway, by its name or id, or an event, by its id; or the unique beginning of an id
    what: String,
    /// For an event: whether it was for this gateway, by its name or id, and why not
    #[arg(long)]
    gateway: Option<GatewayRef>,
    #[command(flatten)]
    client: ClientOptions,
}

/// What the argument stands for.
enum Subject {
    Gateway(GatewayId),
    Event(EventId),
}

pub(crate) async fn run(why: Why) -> anyhow::Result<ExitCode> {
    let Why { what, gateway, client } = why;
    let api = client.api()?;
    let with = match &gateway {
        Some(gateway) => Some(gateway.resolve(&api).await?),
        None => None,
    };
    if with.is_none()
        && let Some(id) = exact_gateway(&what)
    {
        match api.gateway_diagnosis(id).await {
            // It may be an event's id.
            Err(error) if error.status() == Some(404) => {}
            found => return answer(client.json, &found?, of_gateway),
        }
    }
    match subject(&what, with.is_some(), &api).await? {
        Subject::Gateway(id) => answer(client.json, &api.gateway_diagnosis(id).await?, of_gateway),
        Subject::Event(id) => {
            let query = EventDiagnosisQuery { gateway_id: with };
            answer(client.json, &api.event_diagnosis(&id, &query).await?, of_event)
        }
    }
}

fn exact_gateway(what: &str) -> Option<GatewayId> {
    what.parse().ok()
}

/// Finds the gateway or event with a name, an id, or an id that begins so.
async fn subject(what: &str, only_events: bool, api: &Api) -> anyhow::Result<Subject> {
    if !only_events && let Some(id) = gateway_named(what, api).await? {
        return Ok(Subject::Gateway(id));
    }
    if let Ok(id) = what.parse::<EventId>() {
        match api.event_diagnosis(&id, &EventDiagnosisQuery::default()).await {
            Ok(_) => return Ok(Subject::Event(id)),
            Err(ApiError::Refused(problem)) if problem.status == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    let gateways =
        if only_events { Vec::new() } else { beginning_with(what, SHOWN + 1, api).await? };
    let mut found: Vec<(String, Subject)> = gateways
        .iter()
        .map(|gateway| {
            let shown = format!("gateway {} {}", gateway.id, clean(&gateway.name));
            (shown, Subject::Gateway(gateway.id))
        })
        .collect();
    if let Ok(prefix) = what.parse::<EventIdPrefix>() {
        let beginning = Timestamp::from_micros(0);
        let filter = EventFilter {
            from: Some(beginning),
            id_prefix: Some(prefix),
            ..EventFilter::default()
        };
        for event in api.events(&filter, SHOWN + 1).await?.list {
            let shown = format!("event {} {}", event.id, event.event_type);
            found.push((shown, Subject::Event(event.id)));
        }
    }
    if found.len() > 1 {
        let more = if found.len() > SHOWN { "\n  …" } else { "" };
        let list: Vec<String> = found.into_iter().take(SHOWN).map(|(shown, _)| shown).collect();
        anyhow::bail!("several ids begin with {what:?}:\n  {}{more}", list.join("\n  "));
    }
    if let Some((_, subject)) = found.pop() {
        return Ok(subject);
    }
    let gateways = if only_events { Vec::new() } else { api.gateways().await? };
    let names = gateways.iter().map(|gateway| gateway.name.as_str());
    let advice = match closest(what, names) {
        Some(closest) => format!("did you mean {closest:?}?"),
        None => "`gateway-events gateway list` shows all gateways, `gateway-events event list` the events".to_owned(),
    };
    anyhow::bail!(
        "no gateway is named {what:?}, and no id of a gateway or an event begins with it; {advice}"
    )
}

/// Lines of a text, in sections.
#[derive(Default)]
struct Text(Vec<String>);

impl Text {
    fn line(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    fn section<T>(&mut self, name: &str, list: &[T], more: usize, line: impl Fn(&T) -> String) {
        if list.is_empty() && more == 0 {
            return;
        }
        self.line(format!("\n{name}"));
        for element in list {
            self.line(format!("  {}", line(element)));
        }
        if more > 0 {
            self.line(format!("  … and {more} more"));
        }
    }

    fn evidence<T>(&mut self, name: &str, evidence: &Evidence<T>, line: impl Fn(&T) -> String) {
        self.section(name, &evidence.list, evidence.more, line);
    }

    fn steps(&mut self, steps: &[NextStep]) {
        if steps.is_empty() {
            return self.line("\nnothing to do");
        }
        self.line("\nwhat to do next");
        for step in steps {
            self.line(format!("  {}", clean(&step.why)));
            self.line(format!("    {}", clean(&step.command)));
        }
    }

    fn finish(self) -> String {
        self.0.join("\n")
    }
}

fn of_gateway(diagnosis: &GatewayDiagnosis) -> String {
    let mut text = Text::default();
    let name = cell(&diagnosis.gateway_name);
    text.line(format!("{name} is {}", clean(&diagnosis.verdict.summary)));
    text.line(format!("id {}, registered {}", diagnosis.gateway_id, time(diagnosis.registered_at)));
    text.steps(&diagnosis.next);
    text.evidence("events that missed it by a label", &diagnosis.missed, |missed| {
        let why: Vec<String> = missed.differences.iter().map(|it| clean(&it.summary)).collect();
        format!(
            "{}  {} for {}: it {}; last event {}",
            time(missed.last_at),
            missed.events,
            labels(&missed.labels),
            why.join(", and "),
            missed.last_event_id
        )
    });
    let dead = &diagnosis.dead_letters_by_reason;
    text.section("dead letters (given up, not redriven)", dead, 0, failures);
    text.evidence("pending, oldest first", &diagnosis.pending, |pending| {
        let expires = pending.expires_at.map(|at| format!(", expires {}", time(at)));
        format!(
            "{}  sequence {}, {}, event {}{}",
            time(pending.appended_at),
            pending.sequence,
            pending.event_type,
            pending.event_id,
            expires.unwrap_or_default()
        )
    });
    text.evidence("rejected rows of the inbox that name it", &diagnosis.rejected, |row| {
        format!(
            "{}  row {}, type {}, {}: {}",
            time(row.rejected_at),
            row.id,
            cell(&row.event_type),
            row.reason.as_str(),
            clean(&row.detail)
        )
    });
    text.section("failed attempts by reason", &diagnosis.failures, 0, failures);
    if let Some(refusal) = &diagnosis.last_refusal {
        let cause = refusal.cause.as_ref().map(|cause| format!(" ({})", clean(cause)));
        text.line("\nlast refused connection attempt");
        text.line(format!(
            "  {}  {}{}, from {}",
            time(refusal.at),
            cell(&refusal.code),
            cause.unwrap_or_default(),
            cell(&refusal.address)
        ));
    }
    text.evidence("connections, newest first", &diagnosis.connections, |connection| {
        let end = connection.closed_at.map_or_else(
            || "still open".to_owned(),
            |at| format!("ended {} by {}", time(at), optional(connection.close_reason)),
        );
        let opened = time(connection.connected_at);
        format!("{opened}  from {}, {end}", cell(&connection.remote_address))
    });
    text.evidence("resync requests", &diagnosis.resyncs, resync);
    text.evidence("keys", &diagnosis.keys, |key| {
        let ends = [("expires", key.expires_at), ("revoked", key.revoked_at)];
        let ends =
            ends.into_iter().filter_map(|(word, at)| Some(format!(", {word} {}", time(at?))));
        format!(
            "{}  {} {}, last used {}{}",
            time(key.created_at),
            cell(&key.id),
            key.state.as_str(),
            time(key.last_used_at),
            ends.collect::<String>()
        )
    });
    text.evidence("history, newest first", &diagnosis.history, change);
    text.finish()
}

fn failures(failures: &FailuresByReason) -> String {
    format!(
        "{}  {} {}, the first {}",
        time(failures.last_at),
        failures.count,
        failures.reason,
        time(failures.first_at)
    )
}

fn resync(resync: &Resync) -> String {
    let instance =
        resync.instance.as_deref().map_or_else(|| "an unnamed connection".to_owned(), cell);
    let reason = resync.reason.as_ref().map(|reason| format!(" ({})", clean(reason)));
    let ended = resync.ended_at.map(|at| format!(" {}", time(at)));
    format!(
        "{}  of {instance}, requested by {}{}: {}{}",
        time(resync.requested_at),
        clean(&resync.requested_by),
        reason.unwrap_or_default(),
        resync.state.as_str(),
        ended.unwrap_or_default()
    )
}

fn change(record: &GatewayChangeRecord) -> String {
    let state = match (record.deleted, record.disabled) {
        (true, _) => "deleted, ",
        (false, true) => "disabled, ",
        (false, false) => "",
    };
    let by = match record.changed_by.as_str() {
        "" => String::new(),
        by => format!(", changed by {}", clean(by)),
    };
    format!(
        "{}  {state}named {}, labels {}{by}",
        time(record.changed_at),
        cell(&record.name),
        labels(&record.labels)
    )
}

fn of_event(diagnosis: &EventDiagnosis) -> String {
    let mut text = Text::default();
    text.line(format!("{} is {}", diagnosis.event_id, clean(&diagnosis.verdict.summary)));
    let target = target(diagnosis.target.as_ref(), diagnosis.gateway_count, cell);
    let (published, event_type) = (time(diagnosis.appended_at), &diagnosis.event_type);
    text.line(format!("{event_type}, published {published}, for {target}"));
    if let Some(at) = diagnosis.expires_at {
        text.line(format!("expires {}", time(at)));
    }
    text.steps(&diagnosis.next);
    text.evidence("not delivered", &diagnosis.open, |open| {
        let detail = open.detail.as_ref().map(|detail| format!(" ({})", clean(detail)));
        format!(
            "{}  {} at {}, sequence {}: {}{}",
            time(open.last_failure_at),
            open.state.as_str(),
            cell(&open.gateway_name),
            open.sequence,
            optional(open.reason),
            detail.unwrap_or_default()
        )
    });
    text.evidence("filtered (not wanted by the gateway's instances)", &diagnosis.filtered, |it| {
        let why = it.detail.as_deref().unwrap_or("not among the types that it asked for");
        let at = time(it.filtered_at);
        format!("{at}  at {}, sequence {}: {}", cell(&it.gateway_name), it.sequence, clean(why))
    });
    text.evidence("gateways when it was published", &diagnosis.gateways, |then| {
        clean(&then.summary)
    });
    if diagnosis.more {
        text.line("\nNot all gateways were compared; name one by --gateway.");
    }
    text.finish()
}
