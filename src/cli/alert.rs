//! `alert`: what fires, notifications, rules, and destinations.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use gateway_events::api::{Alert, AlertNotification, Page, PageQuery};
use gateway_events::client::api::Api;
use serde::de::DeserializeOwned;

use super::access::ClientOptions;
use super::output::{age, answer, cell, optional};
use super::table::table;

mod destination;
mod rule;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List alerts: firing ones first, then pending and resolved ones
    List,
    /// List notifications, newest first
    Notifications,
    /// List, show, put, delete and silence rules
    #[command(subcommand)]
    Rule(rule::Command),
    /// List, show, put, delete and test destinations
    #[command(subcommand)]
    Destination(destination::Command),
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::List => {
            let page = Page::whole(all(&api).await?);
            answer(client.json, &page, listed)
        }
        Command::Notifications => {
            let none = PageQuery { limit: Some(1), cursor: None };
            let page = Page::whole(api.alerts(&none).await?.notifications);
            answer(client.json, &page, notifications)
        }
        Command::Rule(command) => rule::run(command, client.json, &api).await,
        Command::Destination(command) => destination::run(command, client.json, &api).await,
    }
}

/// The alerts of all pages.
async fn all(api: &Api) -> anyhow::Result<Vec<Alert>> {
    let (mut alerts, mut cursor) = (Vec::new(), None);
    loop {
        let page = PageQuery { limit: Some(PageQuery::MAX_LIMIT), cursor };
        let overview = api.alerts(&page).await?;
        alerts.extend(overview.alerts);
        cursor = overview.pagination.next;
        if cursor.is_none() {
            return Ok(alerts);
        }
    }
}

fn listed(page: &Page<Alert>) -> String {
    let rows = page.list.iter().map(|alert| {
        let state = alert.state.as_str();
        let state = if alert.silenced { format!("{state} (silent)") } else { state.to_owned() };
        [
            cell(&alert.key),
            state,
            cell(alert.severity.as_str()),
            age(alert.resolved_at.or(alert.fired_at).unwrap_or(alert.since)),
            cell(&alert.found.summary),
        ]
    });
    table(["alert", "state", "severity", "since", "summary"], rows, "no alerts")
}

fn notifications(page: &Page<AlertNotification>) -> String {
    let rows = page.list.iter().map(|notification| {
        let last = notification.attempts.last();
        [
            cell(&notification.key),
            cell(notification.event.as_str()),
            cell(&notification.destination),
            cell(notification.state.as_str()),
            cell(notification.attempt_count),
            age(notification.created_at),
            optional(last.map(|attempt| &attempt.detail).filter(|detail| !detail.is_empty())),
        ]
    });
    let header = ["alert", "event", "destination", "state", "attempts", "stored", "last response"];
    table(header, rows, "no notifications")
}

/// Reads a definition in JSON from a file, or from standard input.
fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
    } else {
        text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
    }
    serde_json::from_str(&text).with_context(|| {
        format!("{} is not a valid rule or destination definition", path.display())
    })
}
