//! `alert destination`: list, show, put, delete and test destinations. Their secrets are read from a
//! file or standard input, and shown only when the service has generated one.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use gateway_events::api::{AlertDestination, AlertDestinationDefinition, AlertTest, Page};
use gateway_events::client::api::Api;

use super::super::confirm::Confirmation;
use super::super::output::{answer, cell, time};
use super::super::table::table;
use super::read;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all destinations
    List,
    /// Show a destination, without its secrets
    Show {
        /// The destination's id
        id: String,
    },
    /// Create or replace a destination
    Put {
        /// The destination's id
        id: String,
        /// File with the definition in JSON, `-` for standard input; it contains secrets
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Delete a destination; its pending notifications are given up
    Delete {
        /// The destination's id
        id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Send a test message to a destination, and show its response; exits with 1 if the message was not
    /// delivered
    Test {
        /// The destination's id
        id: String,
    },
}

pub(crate) async fn run(command: Command, json: bool, api: &Api) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => answer(json, &api.alert_destinations().await?, listed),
        Command::Show { id } => answer(json, &api.alert_destination(&id).await?, shown),
        Command::Put { id, file } => {
            let definition: AlertDestinationDefinition = read(&file)?;
            answer(json, &api.put_alert_destination(&id, &definition).await?, shown)
        }
        Command::Delete { id, confirmation } => {
            confirmation.require(
                format_args!(
                    "Alert destination {id} will be deleted, with its URL and its secret."
                ),
                "Delete it?",
            )?;
            api.delete_alert_destination(&id).await?;
            answer(json, &(), |()| format!("alert destination {id} is deleted"))
        }
        Command::Test { id } => {
            let test = api.test_alert_destination(&id).await?;
            answer(json, &test, tested)?;
            Ok(if test.delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn listed(page: &Page<AlertDestination>) -> String {
    let rows = page.list.iter().map(|destination| {
        let settings = &destination.settings;
        [
            cell(&destination.id),
            cell(settings.kind.as_str()),
            cell(&settings.address),
            cell(&settings.description),
        ]
    });
    table(["destination", "kind", "address", "description"], rows, "no destinations")
}

fn shown(destination: &AlertDestination) -> String {
    let settings = &destination.settings;
    let mut text = format!(
        "destination  {}\nkind         {}\naddress      {}\n",
        cell(&destination.id),
        settings.kind.as_str(),
        cell(&settings.address)
    );
    let lines = [
        ("description", Some(settings.description.clone()).filter(|it| !it.is_empty())),
        ("username", settings.username.clone()),
        ("from", settings.from.clone()),
        ("to", Some(settings.to.join(", ")).filter(|it| !it.is_empty())),
        ("changed", Some(time(destination.updated_at))),
        ("secret", destination.secret.clone()),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            _ = writeln!(text, "{name:<12} {}", cell(value));
        }
    }
    if destination.secret.is_some() {
        text.push_str("\nStore the secret now: it is not shown again.\n");
    }
    text
}

fn tested(test: &AlertTest) -> String {
    let outcome = if test.delivered { "delivered" } else { "refused" };
    format!("{outcome} after {} ms: {}", test.duration_ms, cell(&test.detail))
}
