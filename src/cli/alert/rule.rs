//! `alert rule`: list, show, put, delete and silence rules.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use gateway_events::api::{AlertRule, AlertRuleDefinition, AlertSilence, Page};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;

use super::super::confirm::Confirmation;
use super::super::output::{answer, cell, labels, time};
use super::super::table::table;
use super::super::time::{parse_duration, parse_instant};
use super::read;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all rules, built-in ones included
    List,
    /// Show a rule
    Show {
        /// The rule's id, such as gateway-away
        id: String,
    },
    /// Create or replace a rule
    Put {
        /// The rule's id, such as gateway-away
        id: String,
        /// File with the definition in JSON, `-` for standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Delete a rule; a built-in one of the same id is in force again
    Delete {
        /// The rule's id, such as gateway-away
        id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Silence a rule's notifications for a while, or end the silence
    Silence(Silence),
}

#[derive(Debug, Args)]
pub(crate) struct Silence {
    /// The rule's id, such as gateway-away
    id: String,
    #[command(flatten)]
    length: Length,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Length {
    /// Silence it for this long, such as 30m or 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    span: Option<Duration>,
    /// Silence it until this time, such as 2026-01-31T09:30:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    until: Option<Timestamp>,
    /// End the silence
    #[arg(long)]
    end: bool,
}

pub(crate) async fn run(command: Command, json: bool, api: &Api) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => answer(json, &api.alert_rules().await?, listed),
        Command::Show { id } => answer(json, &api.alert_rule(&id).await?, shown),
        Command::Put { id, file } => {
            let definition: AlertRuleDefinition = read(&file)?;
            answer(json, &api.put_alert_rule(&id, &definition).await?, shown)
        }
        Command::Delete { id, confirmation } => {
            confirmation.require(
                format_args!("Alert rule {id} will be deleted, and its alerts will be resolved."),
                "Delete it?",
            )?;
            api.delete_alert_rule(&id).await?;
            answer(json, &(), |()| format!("alert rule {id} is deleted"))
        }
        Command::Silence(Silence { id, length: Length { span, until, end: _ } }) => {
            let until = span.map(|span| Timestamp::now().plus(span)).or(until);
            let rule = api.silence_alert_rule(&id, &AlertSilence { until }).await?;
            answer(json, &rule, shown)
        }
    }
}

fn listed(page: &Page<AlertRule>) -> String {
    let rows = page.list.iter().map(|rule| {
        let definition = &rule.definition;
        let state = match (definition.enabled, rule.silenced_until) {
            (false, _) => "disabled",
            (true, Some(_)) => "silent",
            (true, None) => "on",
        };
        [
            cell(&rule.id),
            cell(definition.kind.as_str()),
            cell(definition.severity.as_str()),
            cell(state),
            cell(&definition.description),
        ]
    });
    table(["rule", "kind", "severity", "state", "description"], rows, "no rules")
}

fn shown(rule: &AlertRule) -> String {
    let definition = &rule.definition;
    let mut text = format!(
        "rule         {}\nkind         {}\nseverity     {}\n",
        cell(&rule.id),
        definition.kind.as_str(),
        definition.severity.as_str()
    );
    let seconds = |secs: u64| format!("{secs} s");
    let lines = [
        ("description", Some(definition.description.clone()).filter(|it| !it.is_empty())),
        ("owner", Some(definition.owner.clone()).filter(|it| !it.is_empty())),
        ("enabled", (!definition.enabled).then(|| "no".to_owned())),
        ("selector", (!definition.selector.is_empty()).then(|| labels(&definition.selector))),
        ("group by", definition.group_by.clone()),
        ("threshold", definition.threshold.map(|number| number.to_string())),
        ("window", definition.window_seconds.map(seconds)),
        ("reason", definition.reason.map(|reason| reason.to_string())),
        ("event type", definition.event_type.as_ref().map(ToString::to_string)),
        ("allowed", Some(definition.allowed_networks.join(", ")).filter(|it| !it.is_empty())),
        ("for", Some(seconds(definition.for_seconds))),
        ("keep firing", Some(seconds(definition.keep_firing_seconds))),
        ("destinations", definition.destinations.as_ref().map(|ids| ids.join(", "))),
        ("silent until", rule.silenced_until.map(time)),
        ("silenced by", rule.silenced_by.clone()),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            _ = writeln!(text, "{name:<12} {}", cell(value));
        }
    }
    text
}
