//! `rollout`: how far events have come at their gateways; and waiting for them, which `event publish`
//! and `event show` do, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use gateway_events::api::{
    Level, NewEvent, Quorum, RolloutGateway, RolloutOfEvents, RolloutQuery, RolloutState, WaitEnd,
    WaitFor, WaitQuery,
};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::event::{CorrelationId, EventId, GatewayId};
use tokio::time::{Instant, sleep, timeout};

use super::access::ClientOptions;
use super::output::{answer, cell, clean, note, optional};
use super::table::table;
use super::time::parse_duration;

/// The longest a single request waits: so often the display is refreshed.
const REFRESH: Duration = Duration::from_secs(2);
/// The pause before a request that failed is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How much later than requested an answer may come.
const OVERDUE: Duration = Duration::from_secs(5);
/// The time to wait if none is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Gateways that are examined before an event is published.
const MAX_EXAMINED: usize = 100;
/// Gateways that are shown on a terminal while waiting, at most.
const SHOWN: usize = 10;
/// The width of a line on a terminal while waiting.
const WIDTH: usize = 79;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["correlation_id", "event"]))]
pub(crate) struct Rollout {
    /// Of all events with this correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
    /// Of one event, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    #[command(flatten)]
    wait: WaitOptions,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitOptions {
    /// Wait until enough gateways have `received` or `applied` it; exits with 1 otherwise
    #[arg(long, value_name = "received|applied")]
    wait: Option<WaitFor>,
    /// How many gateways are enough: all, a number, or a percentage such as 80%
    #[arg(long, requires = "wait", default_value_t = Quorum::All)]
    quorum: Quorum,
    /// How long to wait, such as 2m; 30s if omitted
    #[arg(long, requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

impl WaitOptions {
    /// How far to wait; `None` if not at all.
    pub(crate) const fn level(&self) -> Option<WaitFor> {
        self.wait
    }

    fn query(&self, time: Duration) -> WaitQuery {
        WaitQuery {
            wait: self.wait,
            quorum: Some(self.quorum),
            timeout: Some(format!("{}ms", time.as_millis())),
        }
    }
}

/// Refuses to publish an event to wait for, if the wait can't be reached: if gateways don't report
/// such an event as applied, or if fewer gateways than the quorum match its target now.
pub(crate) async fn check(wait: WaitOptions, event: &NewEvent, api: &Api) -> anyhow::Result<()> {
    let Some(level) = wait.level() else { return Ok(()) };
    let last = event.event_type.as_str().rsplit('.').next();
    if level == WaitFor::Applied && !matches!(last, Some("deployed" | "undeployed")) {
        anyhow::ensure!(
            any_acknowledges(&matched(event, api).await?, api).await?,
            "none of these gateways uses reliable mode, and in plain mode only deployments (types that end with .deployed or .undeployed) are reported as applied, not {}; nothing was published: use --wait received",
            event.event_type
        );
    }
    let Quorum::Count(count) = wait.quorum else { return Ok(()) };
    let matched = matched(event, api).await?.len();
    anyhow::ensure!(
        count <= matched,
        "the quorum is {count}, but the target matches {matched} {}, so it can't be {} by that many; nothing was published",
        if matched == 1 { "gateway" } else { "gateways" },
        level.as_str()
    );
    Ok(())
}

/// Whether one of these gateways has an instance in reliable mode, which acknowledges every event.
async fn any_acknowledges(gateways: &BTreeSet<GatewayId>, api: &Api) -> anyhow::Result<bool> {
    for id in gateways.iter().take(MAX_EXAMINED) {
        let instances = api.instances(*id).await?.list;
        if instances.iter().any(|instance| instance.confirm == Level::Applied) {
            return Ok(true);
        }
    }
    // The service decides for the others.
    Ok(gateways.len() > MAX_EXAMINED)
}

/// The gateways that an event would be for.
async fn matched(event: &NewEvent, api: &Api) -> anyhow::Result<BTreeSet<GatewayId>> {
    if let Some(ids) = &event.gateway_ids {
        return Ok(ids.iter().copied().collect());
    }
    let wanted = event.target.as_ref().and_then(|target| target.labels.clone());
    let wanted = wanted.unwrap_or_default();
    let gateways = api.gateways().await?;
    let matches = gateways.iter().filter(|gateway| {
        wanted.iter().all(|(name, value)| gateway.labels.get(name) == Some(value))
    });
    Ok(matches.map(|gateway| gateway.id).collect())
}

pub(crate) async fn run(rollout: Rollout) -> anyhow::Result<ExitCode> {
    let Rollout { correlation_id, event: event_id, wait, client } = rollout;
    let api = client.api()?;
    let event_id = match event_id {
        Some(id) => Some(super::reference::event_id(&id, &api).await?),
        None => None,
    };
    let query = RolloutQuery { correlation_id, event_id };
    if wait.level().is_none() {
        let rollout = api.rollout(&query, &WaitQuery::default()).await?;
        return answer(client.json, &rollout, whole);
    }
    conclude(&waited(&api, &query, wait).await?, wait, client.json)
}

/// Prints the end of a wait; the exit code says whether it was reached.
pub(crate) fn conclude(
    rollout: &RolloutOfEvents,
    wait: WaitOptions,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    answer(as_json, rollout, |rollout| outcome(rollout, wait))?;
    Ok(exit_code(rollout))
}

/// 0 if enough gateways came far enough, otherwise 1.
pub(crate) fn exit_code(rollout: &RolloutOfEvents) -> ExitCode {
    if rollout.rollout.reached == Some(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits with as many requests as needed. Shows the progress on standard error: on a terminal a
/// line per gateway that is not there yet, otherwise a line per change. A request that fails because
/// of its node or the network is repeated until the deadline: another node may be behind the address.
pub(crate) async fn waited(
    api: &Api,
    query: &RolloutQuery,
    wait: WaitOptions,
) -> anyhow::Result<RolloutOfEvents> {
    let deadline = Instant::now() + wait.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let mut progress = Progress::new(wait);
    // The first answer shows where everything is.
    let mut time = Duration::ZERO;
    loop {
        let asked = wait.query(time);
        let answer = timeout(time + OVERDUE, api.rollout(query, &asked)).await;
        let Ok(answer) = answer else {
            // The node, or the network to it, is gone without closing the connection.
            anyhow::ensure!(Instant::now() < deadline, "{} did not answer in time", api.base());
            time = Duration::ZERO;
            continue;
        };
        match answer {
            Ok(rollout) => {
                progress.show(&rollout);
                let ended = rollout.rollout.ended;
                let is_over = matches!(
                    ended,
                    Some(
                        WaitEnd::Reached
                            | WaitEnd::Unreachable
                            | WaitEnd::Filtered
                            | WaitEnd::Superseded
                    ) | None
                );
                if is_over || Instant::now() >= deadline {
                    progress.clear();
                    return Ok(rollout);
                }
                if ended == Some(WaitEnd::Shutdown) {
                    sleep(RETRY_PAUSE).await;
                }
            }
            Err(error) if may_pass(&error) && Instant::now() < deadline => sleep(RETRY_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
        time = deadline.saturating_duration_since(Instant::now()).min(REFRESH);
    }
}

/// Whether a repeated request may succeed.
fn may_pass(error: &ApiError) -> bool {
    matches!(error, ApiError::Unreachable { .. }) || matches!(error.status(), Some(429 | 502..=504))
}

/// What is shown while waiting.
struct Progress {
    level: Option<WaitFor>,
    is_terminal: bool,
    /// Lines on the terminal that the next ones replace.
    lines: usize,
    /// The states that were shown.
    states: BTreeMap<(EventId, GatewayId), RolloutState>,
}

impl Progress {
    fn new(wait: WaitOptions) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { level: wait.level(), is_terminal, lines: 0, states: BTreeMap::new() }
    }

    fn show(&mut self, rollout: &RolloutOfEvents) {
        if self.is_terminal { self.redraw(rollout) } else { self.report(rollout) }
    }

    /// A line for each change.
    fn report(&mut self, rollout: &RolloutOfEvents) {
        for gateway in &rollout.rollout.gateways {
            let place = (gateway.event_id.clone(), gateway.gateway_id);
            if self.states.insert(place, gateway.state) != Some(gateway.state) {
                note(line(gateway));
            }
        }
    }

    /// A line for each gateway that is not there yet, in place of the last ones.
    fn redraw(&mut self, rollout: &RolloutOfEvents) {
        self.clear();
        let missing: Vec<&RolloutGateway> = missing(rollout, self.level).collect();
        let mut lines: Vec<String> = missing.iter().take(SHOWN).map(|it| line(it)).collect();
        if missing.len() > SHOWN {
            lines.push(format!("… and {} more", missing.len() - SHOWN));
        }
        lines.push(counts(rollout));
        self.lines = lines.len();
        let lines = lines.iter().map(|line| line.chars().take(WIDTH).collect::<String>() + "\n");
        let text: String = lines.collect();
        // If standard error is closed, nothing can be shown.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Removes the lines from the terminal.
    fn clear(&mut self) {
        if self.lines > 0 {
            let _ = write!(std::io::stderr().lock(), "\u{1b}[{}A\u{1b}[J", self.lines);
            self.lines = 0;
        }
    }
}

/// A gateway's state in a line.
fn line(gateway: &RolloutGateway) -> String {
    let mut text = format!("{}  {}", cell(&gateway.gateway_name), state(gateway.state));
    if let Some(why) = why(gateway) {
        _ = write!(text, ": {why}");
    }
    text
}

/// Why it was given up, or which instances filtered it.
fn why(gateway: &RolloutGateway) -> Option<String> {
    let by: Vec<String> = gateway.filtered_by.iter().map(|name| clean(name)).collect();
    match gateway.reason {
        Some(reason) => Some(clean(reason.as_str())),
        None if by.is_empty() => None,
        None if gateway.state == RolloutState::Filtered => Some(format!("by {}", by.join(", "))),
        None => Some(format!("filtered by {}", by.join(", "))),
    }
}

const fn state(state: RolloutState) -> &'static str {
    match state {
        RolloutState::NotConnected => "not connected",
        other => other.as_str(),
    }
}

fn counts(rollout: &RolloutOfEvents) -> String {
    let it = &rollout.rollout;
    let parts = [
        (it.applied, "applied"),
        (it.received, "received"),
        (it.filtered, "filtered"),
        (it.superseded, "superseded"),
        (it.pending, "pending"),
        (it.not_connected, "not connected"),
        (it.failed, "failed"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, word)| format!("{count} {word}")).collect();
    let gateways = if it.targets == 1 { "gateway" } else { "gateways" };
    if parts.is_empty() {
        return "for no gateway".to_owned();
    }
    format!("{} of {} {gateways}", parts.join(", "), it.targets)
}

/// The gateways that have not come far enough.
fn missing(
    rollout: &RolloutOfEvents,
    level: Option<WaitFor>,
) -> impl Iterator<Item = &RolloutGateway> {
    rollout.rollout.gateways.iter().filter(move |gateway| match gateway.state {
        RolloutState::Applied | RolloutState::Filtered | RolloutState::Superseded => false,
        RolloutState::Received => level == Some(WaitFor::Applied),
        RolloutState::Pending | RolloutState::NotConnected | RolloutState::Failed => true,
    })
}

/// The end of a wait: whether it was reached, and which gateways are missing and why.
fn outcome(rollout: &RolloutOfEvents, wait: WaitOptions) -> String {
    let (of, level) = (&rollout.rollout, wait.level().map_or("received", WaitFor::as_str));
    let there =
        if wait.level() == Some(WaitFor::Applied) { of.applied } else { of.applied + of.received };
    let needed = of.needed.unwrap_or(of.targets);
    let mut what = match rollout.events.len() {
        0 | 1 => format!("{level} by {there} of {} gateways, {needed} needed", of.targets),
        _ => format!("{there} of {} deliveries {level}, {needed} needed", of.targets),
    };
    if of.filtered > 0 {
        _ = write!(what, ", {} filtered", of.filtered);
    }
    if of.superseded > 0 {
        _ = write!(what, ", {} superseded", of.superseded);
    }
    let verdict = match of.ended {
        Some(WaitEnd::Reached) => return format!("reached: {what}"),
        Some(WaitEnd::Filtered) => {
            let rows = of.gateways.iter().map(row);
            let gateways = table(HEADER, rows, "for no gateway");
            return format!("not reached: all gateways filtered it\n\n{gateways}");
        }
        Some(WaitEnd::Superseded) => {
            let rows = of.gateways.iter().map(row);
            let gateways = table(HEADER, rows, "for no gateway");
            return format!("not reached: newer events superseded it\n\n{gateways}");
        }
        Some(WaitEnd::Unreachable) if of.targets == 0 => {
            "not reached: no gateway matched".to_owned()
        }
        Some(WaitEnd::Unreachable) => format!("not reached, and can't be reached any more: {what}"),
        _ => format!("not reached in time: {what}"),
    };
    let rows = missing(rollout, wait.level()).map(row);
    format!("{verdict}\n\n{}", table(HEADER, rows, "no gateway is missing"))
}

const HEADER: [&str; 5] = ["gateway", "state", "reason", "sequence", "event"];

fn row(gateway: &RolloutGateway) -> [String; 5] {
    [
        cell(&gateway.gateway_name),
        state(gateway.state).to_owned(),
        optional(why(gateway)),
        cell(gateway.sequence),
        cell(&gateway.event_id),
    ]
}

/// The whole rollout.
fn whole(rollout: &RolloutOfEvents) -> String {
    let rows = rollout.rollout.gateways.iter().map(row);
    let mut text = format!("{}\n\n{}", counts(rollout), table(HEADER, rows, "for no gateway"));
    if rollout.rollout.more {
        text.push_str("\n\nThere are more; they are left out of all counts.");
    }
    text
}
