//! `demo`: runs the service in a temporary directory with three gateways, a dozen events and
//! a crash, and reports what happened. It only uses the public interfaces: the program, the
//! API and the WebSocket.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gateway_events::api::DeliveryFilter;

use super::interrupt::interrupted;
use super::output::say;
use super::service::Service;

mod events;
mod fleet;
mod journal;
mod report;

use events::Publication;
use fleet::Fleet;
use journal::Journal;

const DEADLINE: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    let directory = tempfile::Builder::new()
        .prefix("gateway-events-demo-")
        .tempdir()
        .context("failed to create a temporary directory")?;
    let steps = Steps::default();
    let demo = tokio::time::timeout(DEADLINE, run_demo(directory.path(), &steps));
    // When this future ends or is dropped, the service is dropped, which kills the process.
    let is_sound = tokio::select! {
        ended = demo => match ended {
            // The original error is replaced: if it is a closed pipe, which commands otherwise
            // ignore, an unfinished demo would look successful.
            Ok(ended) => ended.map_err(|error| {
                anyhow::anyhow!("the demo failed at: {}: {error:#}", steps.current())
            })?,
            Err(_) => anyhow::bail!(
                "the demo did not end within {} s; it was at: {}",
                DEADLINE.as_secs(),
                steps.current()
            ),
        },
        () = interrupted() => anyhow::bail!("the demo was interrupted at: {}", steps.current()),
    };
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the demo. `Ok(false)` if not every event arrived once and in order.
async fn run_demo(directory: &std::path::Path, steps: &Steps) -> anyhow::Result<bool> {
    steps.next("starting the service in a temporary directory")?;
    // Without a grace period, undelivered events are recorded as failed before the gateway
    // reconnects.
    let program = std::env::current_exe().context("failed to find this program's own path")?;
    let settings = [("DELIVERY__NOT_CONNECTED_GRACE", "0s".to_owned())];
    let mut service = Service::start(&program, directory, 0, &settings).await?;
    let api = service.api()?;

    steps.next("registering three gateways: amsterdam, berlin and cairo")?;
    let journal = Arc::new(Journal::new());
    let mut fleet = Fleet::register(&api, &service, &journal).await?;

    steps.next("connecting amsterdam and berlin over wss; cairo stays disconnected")?;
    fleet.connect("amsterdam")?;
    fleet.connect("berlin")?;
    journal.connected("amsterdam", 1).await?;
    journal.connected("berlin", 1).await?;

    steps.next("publishing six events")?;
    let mut published: Vec<Publication> = events::publish(&api, &fleet, events::BEFORE).await?;

    steps.next(
        "waiting until both have confirmed all of them, so that no event is delivered again after the crash",
    )?;
    fleet.confirmed(&api, &["amsterdam", "berlin"]).await?;

    steps.next("killing the service (SIGKILL), and starting it again on the same port")?;
    service.kill().await?;
    service = Service::start(&program, directory, service.port(), &settings).await?;

    steps.next(
        "publishing six more at once: a gateway that has not reconnected yet gets them when it does",
    )?;
    published.extend(events::publish(&api, &fleet, events::AFTER).await?);
    journal.connected("amsterdam", 2).await?;
    journal.connected("berlin", 2).await?;
    fleet.confirmed(&api, &["amsterdam", "berlin"]).await?;

    steps.next("bringing cairo back: everything it missed is waiting")?;
    fleet.connect("cairo")?;
    fleet.confirmed(&api, &["cairo"]).await?;

    steps.next("asking the service which deliveries failed")?;
    let failed = api.failed_deliveries(&DeliveryFilter::default(), 1000).await?;
    fleet.disconnect().await;
    service.kill().await?;
    report::print(&published, &fleet, &journal.arrivals(), &failed)
}

/// The current step, for people and for error messages.
#[derive(Default)]
struct Steps(Mutex<(usize, &'static str)>);

impl Steps {
    fn next(&self, what: &'static str) -> std::io::Result<()> {
        let number = {
            // Locked only to count.
            let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *at = (at.0 + 1, what);
            at.0
        };
        say(format_args!("{number}. {what}"))
    }

    fn current(&self) -> &'static str {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
