//! `event-type`: list, show, register and delete event types.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gateway_events::api::{EventTypeDefinition, EventTypeDeletion, EventTypeInfo, Page};
use gateway_events::client::api::Api;
use gateway_events::event::EventType;
use gateway_events::event_types::built_in;
use serde_json::value::RawValue;

use super::access::ClientOptions;
use super::confirm::Confirmation;
use super::output::{answer, cell, clean};
use super::reference::event_type_error;
use super::table::table;
use super::time::parse_ttl;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all event types, built-in ones included
    List,
    /// Show an event type with the schema of its payloads
    Show {
        /// The event type's name, such as api.deployed
        name: EventType,
    },
    /// Register an event type, or change it; omitted options leave it as it is
    Put(Put),
    /// Delete a registered event type; a built-in one of the same name is in force again
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The event type's name, such as billing.plan.changed
    name: EventType,
    /// What the event means to a gateway
    #[arg(long)]
    description: Option<String>,
    /// File with the JSON Schema of payloads, `-` for standard input; a new type without one accepts
    /// any object
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Remove the schema
    #[arg(long, conflicts_with = "schema")]
    no_schema: bool,
    /// Time after which its events expire, such as 15m or 7d, unless the publisher sets another one;
    /// those of a new type don't expire by default
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
    /// Remove the time to live: its events don't expire by default
    #[arg(long, conflicts_with = "ttl")]
    no_ttl: bool,
    /// Events before and after one of this type never supersede one another; `--barrier=false` ends
    /// that
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    barrier: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The event type's name, such as billing.plan.changed
    name: EventType,
    /// Delete it although events of the last 24 hours have this type
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::List => answer(client.json, &api.event_types().await?, listed),
        Command::Show { name } => match api.event_type(&name).await {
            Ok(info) => answer(client.json, &info, shown),
            Err(error) => Err(event_type_error(error, &name, &api).await),
        },
        Command::Put(put) => {
            let name = put.name.clone();
            let definition = put.definition(&api).await?;
            answer(client.json, &api.put_event_type(&name, &definition).await?, shown)
        }
        Command::Delete(Delete { name, force, confirmation }) => {
            confirmation.require(
                format_args!(
                    "Event type {name} will be deleted permanently, with its schema. Events of this type can't be published any more, unless it is built in."
                ),
                "Delete it?",
            )?;
            if let Err(error) = api.delete_event_type(&name, &EventTypeDeletion { force }).await {
                return Err(event_type_error(error, &name, &api).await);
            }
            answer(client.json, &(), |()| format!("event type {name} is deleted"))
        }
    }
}

impl Put {
    /// The whole definition: what was not named is as it is now.
    async fn definition(self, api: &Api) -> anyhow::Result<EventTypeDefinition> {
        let schema = self.schema.as_deref().map(read).transpose()?;
        let current = match api.event_type(&self.name).await {
            Ok(current) => registered(current),
            Err(error) if error.status() == Some(404) => EventTypeDefinition::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(EventTypeDefinition {
            description: self.description.unwrap_or(current.description),
            schema: schema.or(current.schema.filter(|_| !self.no_schema)),
            ttl_seconds: self.ttl.or(current.ttl_seconds.filter(|_| !self.no_ttl)),
            barrier: self.barrier.unwrap_or(current.barrier),
        })
    }
}

/// The definition that is registered. The schema of a built-in type is in force without being
/// registered.
fn registered(info: EventTypeInfo) -> EventTypeDefinition {
    let EventTypeInfo { name, description, schema, built_in_schema, ttl_seconds, barrier } = info;
    let is_own = built_in_schema.is_some() || built_in(&name).is_none();
    EventTypeDefinition { description, schema: schema.filter(|_| is_own), ttl_seconds, barrier }
}

/// Reads a JSON document, whose bytes are kept.
fn read(path: &Path) -> anyhow::Result<Box<RawValue>> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("failed to read standard input")?
    } else {
        std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?
    };
    serde_json::from_str(text.trim()).context("the schema is not JSON")
}

fn listed(page: &Page<EventTypeInfo>) -> String {
    let rows = page.list.iter().map(|info| {
        let schema = if info.schema.is_some() { "yes" } else { "-" };
        let ttl = info.ttl_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
        let barrier = if info.barrier { "yes" } else { "-" };
        [cell(&info.name), cell(schema), ttl, cell(barrier), cell(&info.description)]
    });
    table(["name", "schema", "ttl", "barrier", "description"], rows, "no event types")
}

fn shown(info: &EventTypeInfo) -> String {
    let mut text =
        format!("name         {}\ndescription  {}\n", clean(&info.name), cell(&info.description));
    if let Some(seconds) = info.ttl_seconds {
        _ = writeln!(text, "ttl          {seconds} s");
    }
    if info.barrier {
        _ = writeln!(text, "barrier      yes");
    }
    for (title, schema) in [("schema", &info.schema), ("built-in schema", &info.built_in_schema)] {
        if let Some(schema) = schema {
            _ = write!(text, "\n{title}:\n{}\n", indented(schema));
        }
    }
    text
}

/// A JSON document with line breaks and indentation.
fn indented(json: &RawValue) -> String {
    let value: Option<serde_json::Value> = serde_json::from_str(json.get()).ok();
    let text = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    let text = text.unwrap_or_else(|| json.get().to_owned());
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}
