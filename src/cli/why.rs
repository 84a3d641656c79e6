//! `why`: why a gateway or an event has missing deliveries, and what to do next.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{
    AuditQuery, EventDiagnosis, EventDiagnosisQuery, EventFilter, EventState, EventVerdict,
    Evidence, FailuresByReason, GatewayChangeRecord, GatewayDiagnosis, GatewayThen, NextStep,
    RejectedForGateway, RejectionReason, Resync,
};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, EventIdPrefix, GatewayId};
use gateway_events::names::{closest, inert};

use super::access::ClientOptions;
use super::event::target;
use super::output::{answer, cell, clean, labels, optional, time, width, wrapped_with};
use super::reference::{GatewayRef, Names, beginning_with, gateway_named};

/// Matches of a prefix that an error lists, and gateways of a target that are named.
const SHOWN: usize = 5;
/// Characters of a detail that are shown, at most.
const MAX_DETAIL_CHARS: usize = 160;

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
            let diagnosis = api.event_diagnosis(&id, &query).await?;
            let ids = diagnosis.target.as_ref().and_then(|target| target.gateway_ids.clone());
            let ids = ids.unwrap_or_default().into_iter().take(SHOWN);
            let names = Names::of(ids.filter(|_| !client.json), &api).await;
            answer(client.json, &diagnosis, |diagnosis| of_event(diagnosis, &names))
        }
    }
}

fn exact_gateway(what: &str) -> Option<GatewayId> {
    what.parse().ok()
}

/// The deleted gateway that had this name last, if the token may read the audit log.
async fn deleted_gateway(name: &str, api: &Api) -> Option<GatewayId> {
    let query = AuditQuery {
        from: Some(Timestamp::from_micros(0)),
        action: Some("gateway.deleted".to_owned()),
        object: Some(name.to_owned()),
        ..AuditQuery::default()
    };
    let records = api.audit(&query, 1).await.ok()?.list;
    records.first()?.object.id.parse().ok()
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
    if !only_events && let Some(id) = deleted_gateway(what, api).await {
        return Ok(Subject::Gateway(id));
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

/// Lines of a text, in sections, wrapped at the width of the terminal. Commands are not: they are
/// copied.
struct Text {
    lines: Vec<String>,
    width: usize,
}

/// The indentation of a paragraph.
const PARAGRAPH: &str = "  ";
/// The indentation of a command, and of the further lines of an element of a list.
const FURTHER: &str = "    ";

impl Text {
    fn new() -> Self {
        Self { lines: Vec::new(), width: width() }
    }

    fn line(&mut self, line: impl AsRef<str>) {
        self.lines.push(wrapped_with(line.as_ref(), self.width, PARAGRAPH));
    }

    fn section<T>(&mut self, name: &str, list: &[T], more: usize, line: impl Fn(&T) -> String) {
        if list.is_empty() && more == 0 {
            return;
        }
        self.heading(name);
        for element in list {
            let line = format!("{PARAGRAPH}{}", line(element));
            self.lines.push(wrapped_with(&line, self.width, FURTHER));
        }
        if more > 0 {
            self.line(format!("{PARAGRAPH}… and {more} more"));
        }
    }

    fn evidence<T>(&mut self, name: &str, evidence: &Evidence<T>, line: impl Fn(&T) -> String) {
        self.section(name, &evidence.list, evidence.more, line);
    }

    fn heading(&mut self, name: &str) {
        self.lines.push(String::new());
        self.line(name);
    }

    fn steps(&mut self, steps: &[NextStep]) {
        if steps.is_empty() {
            return self.heading("nothing to do");
        }
        self.heading("what to do next");
        for step in steps {
            self.line(format!("{PARAGRAPH}{}", clean(&step.why)));
            self.lines.push(format!("{FURTHER}{}", clean(&step.command)));
        }
    }

    fn finish(self) -> String {
        self.lines.join("\n")
    }
}

fn of_gateway(diagnosis: &GatewayDiagnosis) -> String {
    let mut text = Text::new();
    let name = cell(&diagnosis.gateway_name);
    text.line(format!("{name} is {}", clean(&diagnosis.verdict.summary)));
    // Its labels, unless the history shows them.
    let only = Some(&diagnosis.history).filter(|it| it.list.len() < 2 && it.more == 0);
    let has = only.and_then(|it| it.list.first()).filter(|it| !it.labels.is_empty());
    let summary = &diagnosis.verdict.summary;
    let registered = format!(", registered {}", time(diagnosis.registered_at));
    text.line(format!(
        "id {}{}{}",
        diagnosis.gateway_id,
        if summary.contains(", registered ") { "" } else { &registered },
        has.map(|it| format!(", labels {}", labels(&it.labels))).unwrap_or_default()
    ));
    text.steps(&diagnosis.next);
    undelivered(&mut text, diagnosis);
    connections(&mut text, diagnosis);
    if only.is_none() {
        text.evidence("history, newest first", &diagnosis.history, change);
    }
    text.finish()
}

/// What it has not received, and why.
fn undelivered(text: &mut Text, diagnosis: &GatewayDiagnosis) {
    text.evidence("events that missed it by a label", &diagnosis.missed, |missed| {
        let why: Vec<String> = missed.differences.iter().map(|it| clean(&it.summary)).collect();
        let events = match missed.events {
            1 => format!("1 event for {}", labels(&missed.labels)),
            count => {
                let (wanted, first) = (labels(&missed.labels), time(missed.first_at));
                format!("{count} events for {wanted} since {first}")
            }
        };
        format!("{}  {events}: it {}", time(missed.last_at), why.join(", and "))
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
    let rows = &diagnosis.rejected;
    text.evidence("rejected rows of the inbox", rows, rejected);
    // Those that became dead letters are shown above.
    let is_shown = |it: &&FailuresByReason| {
        dead.iter().any(|dead| (dead.reason, dead.count) == (it.reason, it.count))
    };
    let others: Vec<_> = diagnosis.failures.iter().filter(|it| !is_shown(it)).collect();
    text.section("failed attempts by reason", &others, 0, |it| failures(it));
}

fn rejected(rejected: &RejectedForGateway) -> String {
    let row = &rejected.row;
    let mut text = format!(
        "{}  row {}, type {}, {}",
        time(row.rejected_at),
        row.id,
        cell(&row.event_type),
        row.reason.as_str()
    );
    if rejected.similar_target {
        text.push_str(", with a similar target");
    }
    // The details of the others are in the steps.
    if row.reason == RejectionReason::Expired {
        _ = write!(text, ": {}", clean(&row.detail));
    }
    text
}

/// The last refused attempt to connect, and the connections.
fn connections(text: &mut Text, diagnosis: &GatewayDiagnosis) {
    if let Some(refusal) = &diagnosis.last_refusal {
        let cause = refusal.cause.as_ref().map(|cause| format!(" ({})", clean(cause)));
        text.section("last refused connection attempt", &[refusal], 0, |refusal| {
            format!(
                "{}  {}{}, from {}",
                time(refusal.at),
                cell(&refusal.code),
                cause.clone().unwrap_or_default(),
                cell(&refusal.address)
            )
        });
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
        let used = key
            .last_used_at
            .map_or_else(|| "never used".to_owned(), |at| format!("last used {}", time(at)));
        format!(
            "{}  {} {}, {used}{}",
            time(key.created_at),
            cell(&key.id),
            key.state.as_str(),
            ends.collect::<String>()
        )
    });
}

fn failures(failures: &FailuresByReason) -> String {
    let mut text = format!("{}  {} {}", time(failures.last_at), failures.count, failures.reason);
    if failures.count > 1 && failures.first_at < failures.last_at {
        _ = write!(text, ", the first {}", time(failures.first_at));
    }
    let said = failures.last_detail.as_deref().map(|it| shortened(&inert(it.trim())));
    let is_more = |said: &String| !said.eq_ignore_ascii_case(failures.reason.as_str());
    if let Some(said) = said.filter(is_more) {
        _ = write!(text, ": {said}");
    }
    text
}

/// The beginning of a text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
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

/// What happened to the event, after its id.
fn happened(verdict: &EventVerdict) -> String {
    let summary = clean(&verdict.summary);
    match verdict.state {
        EventState::Failed => summary,
        EventState::Unmatched | EventState::Pending => format!("is {summary}"),
        EventState::Delivered | EventState::Superseded | EventState::Filtered => {
            format!("was {summary}")
        }
    }
}

/// What the event was published for, with the names of gateways.
fn published_for(diagnosis: &EventDiagnosis, names: &Names) -> String {
    let ids = diagnosis.target.as_ref().and_then(|target| target.gateway_ids.as_deref());
    let Some(ids) = ids else {
        return target(diagnosis.target.as_ref(), diagnosis.gateway_count, cell);
    };
    let shown: Vec<String> = ids.iter().take(SHOWN).map(|id| names.cell(*id)).collect();
    let more = ids.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn of_event(diagnosis: &EventDiagnosis, names: &Names) -> String {
    let mut text = Text::new();
    text.line(format!("{} {}", diagnosis.event_id, happened(&diagnosis.verdict)));
    let target = published_for(diagnosis, names);
    let (published, event_type) = (time(diagnosis.appended_at), &diagnosis.event_type);
    let expires = diagnosis.expires_at.map(|at| format!(", expires {}", time(at)));
    let expires = expires.unwrap_or_default();
    text.line(format!("{event_type}, published {published}, for {target}{expires}"));
    text.steps(&diagnosis.next);
    text.evidence("not delivered", &diagnosis.open, |open| {
        let reason = optional(open.reason);
        let detail = open.detail.as_ref().map(|detail| shortened(&inert(detail.trim())));
        let detail = detail.filter(|detail| !detail.eq_ignore_ascii_case(&reason));
        let detail = detail.map(|detail| format!(" ({detail})"));
        format!(
            "{}  {} at {}, sequence {}: {reason}{}",
            time(open.last_failure_at),
            open.state.as_str(),
            cell(&open.gateway_name),
            open.sequence,
            detail.unwrap_or_default()
        )
    });
    text.evidence("filtered (not wanted by the gateway's instances)", &diagnosis.filtered, |it| {
        let why = it.detail.as_deref().unwrap_or("not among the types that it requested");
        let at = time(it.filtered_at);
        format!("{at}  at {}, sequence {}: {}", cell(&it.gateway_name), it.sequence, clean(why))
    });
    // What the steps say already is not repeated.
    let is_new = |then: &&GatewayThen| {
        !diagnosis.next.iter().any(|step| step.why.starts_with(&then.summary))
    };
    let gateways: Vec<&GatewayThen> = diagnosis.gateways.list.iter().filter(is_new).collect();
    let name = "gateways when it was published";
    text.section(name, &gateways, diagnosis.gateways.more, |then| clean(&then.summary));
    if diagnosis.more {
        text.heading("Not all gateways were compared; name one by --gateway.");
    }
    text.finish()
}
