//! `job`: list, show and abort jobs, which are redrives and replays of many deliveries.

use gateway_events::command::number::whole;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gateway_events::api::{AbortRequest, Aborted, Job, JobState, JobsQuery, Object, Page};
use gateway_events::client::api::Api;

use super::access::ClientOptions;
use super::confirm::Confirmation;
use super::delivery::filter;
use super::output::{self, age, cell, clean, optional, time};
use super::reference::{Names, job_id};
use super::table::table;

/// How often the progress of a job is read.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List jobs, newest first
    List {
        /// Only jobs in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Maximum number of jobs to list
        #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
        limit: u32,
    },
    /// Show a job
    Show {
        /// The job's id, or the beginning of it
        id: String,
        /// Wait until it has ended, and show its progress; exits with 1 unless it is done
        #[arg(long)]
        wait: bool,
    },
    /// End a running job; what it has appended stays
    Abort {
        /// The job's id, or the beginning of it
        id: String,
        /// Only report what would be left undone
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Running,
    Done,
    Aborted,
    Failed,
}

/// The option of commands that may start a job.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// If a job is started, do not wait for its end
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::List { state, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let query = JobsQuery { state: state.map(Into::into) };
            output::answer(client.json, &api.jobs(&query, limit).await?, listed)
        }
        Command::Show { id, wait } => {
            let job = api.job(job_id(&id, &api).await?).await?;
            answer(job, Wait { no_wait: !wait }, &api, client).await
        }
        Command::Abort { id, dry_run: true, .. } => {
            let id = job_id(&id, &api).await?;
            let would = api.abort_job(id, &AbortRequest { dry_run: true }).await?;
            output::answer(client.json, &would, would_abort)
        }
        Command::Abort { id, dry_run: false, confirmation } => {
            let id = job_id(&id, &api).await?;
            let job = api.job(id).await?;
            if job.state == JobState::Running {
                let consequences = format!(
                    "The {} has appended {} deliveries, which stay; it will not be continued.",
                    job.kind.as_str(),
                    job.appended
                );
                confirmation.require(consequences, "Abort it?")?;
            }
            let aborted = api.abort_job(id, &AbortRequest::default()).await?;
            show(&aborted.job, &api, client).await
        }
    }
}

/// Prints a job: that it was started or, unless that is not wanted, after its end. The exit code is
/// 1 if it was waited for and is not done.
pub(crate) async fn answer(
    job: Job,
    wait: Wait,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    if wait.no_wait {
        return show(&job, api, client).await;
    }
    let job = ended(job, api).await?;
    let code = show(&job, api, client).await?;
    Ok(if job.state == JobState::Done { code } else { ExitCode::FAILURE })
}

/// Waits until a job has ended. On a terminal, shows its progress on standard error.
async fn ended(mut job: Job, api: &Api) -> anyhow::Result<Job> {
    let mut errors = io::stderr();
    let is_shown = errors.is_terminal();
    while job.state == JobState::Running {
        if is_shown {
            write!(errors, "\r{} {}: {}  ", job.kind.as_str(), job.id, progress(&job))?;
            errors.flush()?;
        }
        tokio::time::sleep(POLL).await;
        job = api.job(job.id).await?;
    }
    if is_shown {
        writeln!(errors)?;
    }
    Ok(job)
}

async fn show(job: &Job, api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let filter = job.parameters.filter.as_ref().and_then(|Object(filter)| filter.gateway_id);
    let gateway = job.parameters.gateway_id.or(filter);
    let names = Names::of(gateway.into_iter().filter(|_| !client.json), api).await;
    output::answer(client.json, job, |job| shown(job, &names))
}

fn would_abort(would: &Aborted) -> String {
    let job = &would.job;
    let text = if job.state == JobState::Running {
        let left = would.left.map_or_else(
            || "it has not counted how many are left".to_owned(),
            |left| format!("{left} of {} would be left undone", job.progress.total.unwrap_or(left)),
        );
        format!(
            "the {} {} would be aborted: {} deliveries are appended and stay; {left}",
            job.kind.as_str(),
            job.id,
            job.appended
        )
    } else {
        format!("the {} {} has ended: {}", job.kind.as_str(), job.id, state(job))
    };
    format!("{text}\nThis was a dry run: nothing was changed.")
}

fn listed(page: &Page<Job>) -> String {
    let rows = page.list.iter().map(|job| {
        [
            cell(job.id),
            cell(job.kind.as_str()),
            cell(job.state.as_str()),
            progress(job),
            cell(job.appended),
            age(job.started_at),
            cell(&job.started_by.name),
        ]
    });
    let header = ["id", "kind", "state", "progress", "appended", "started", "by"];
    let mut text = table(header, rows, "no jobs");
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more; raise --limit.");
    }
    text
}

fn shown(job: &Job, names: &Names) -> String {
    let mut lines = vec![
        ("id", cell(job.id)),
        ("kind", cell(job.kind.as_str())),
        ("of", what(job, names)),
        ("state", state(job)),
        ("progress", progress(job)),
        ("appended", cell(job.appended)),
        ("started", format!("{} by {}", time(job.started_at), cell(&job.started_by.name))),
        ("ended", time(job.ended_at)),
        ("node", optional(job.node)),
    ];
    let skipped = &job.skipped;
    for (count, why) in [
        (skipped.pending, "still pending; they will be delivered"),
        (skipped.delivered, "delivered, filtered or superseded since"),
        (skipped.already_redriven, "appended again by another request"),
        (skipped.gateway_deleted, "the gateway is deleted"),
        (skipped.repeated, "the event occurs again later in the range"),
        (skipped.event_removed, "removed by retention; publish them again"),
        (skipped.payload_purged, "their payloads were purged"),
        (skipped.expired, "expired; publish them again if they are still valid"),
    ] {
        if count > 0 {
            lines.push(("skipped", format!("{count}: {why}")));
        }
    }
    let lines = lines.into_iter().map(|(name, value)| format!("{name:<10} {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What it appends again.
fn what(job: &Job, names: &Names) -> String {
    let parameters = &job.parameters;
    if let (Some(gateway), Some(first), Some(last)) =
        (parameters.gateway_id, parameters.from_sequence, parameters.to_sequence)
    {
        return format!("{}, sequences {first} to {last}", names.cell(gateway));
    }
    let Some(Object(filter)) = &parameters.filter else { return "-".to_owned() };
    filter::shown(filter, names)
}

fn state(job: &Job) -> String {
    match &job.failure {
        Some(why) => format!("{}: {}", job.state.as_str(), clean(why)),
        None => job.state.as_str().to_owned(),
    }
}

fn progress(job: &Job) -> String {
    let done = job.progress.done;
    job.progress.total.map_or_else(|| "counting".to_owned(), |total| format!("{done} of {total}"))
}

impl From<State> for JobState {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Done => Self::Done,
            State::Aborted => Self::Aborted,
            State::Failed => Self::Failed,
        }
    }
}
