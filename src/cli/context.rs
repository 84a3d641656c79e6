//! `context`: named services with their addresses, CA files and token files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gateway_events::command::context::{Contexts, Service, path};
use gateway_events::names;
use serde_json::{Value, json};

use super::confirm::Confirmation;
use super::formats::Format;
use super::output::{answer, cell, clean, optional, say};
use super::table::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List contexts
    List(OutputOption),
    /// Select the current context
    Use {
        /// The name of the context to select
        name: String,
    },
    /// Show the current context, or the named one
    Show {
        /// The context's name; the current one if omitted
        name: Option<String>,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Create or change a context; the first one becomes the current one
    Set(Set),
    /// Delete a context
    Delete {
        /// The name of the context to delete
        name: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

/// The output format of contexts.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputOption {
    /// Print JSON: short for --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// The output format
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The name of the context to create or change
    name: String,
    /// The service's address; required for a new context
    #[arg(long)]
    url: Option<String>,
    /// PEM file with the certificate to trust
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with the access token; the token itself is not stored in the context
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut contexts = Contexts::load()?;
    match command {
        Command::List(output) => return list(&contexts, output),
        Command::Show { name, output } => return show(&contexts, name.as_deref(), output),
        Command::Use { name } => {
            contexts.named(&name)?;
            say(format_args!("context {} is now the current one", clean(&name)))?;
            contexts.current = Some(name);
        }
        Command::Set(set) => {
            let name = set.name.clone();
            set.apply(&mut contexts)?;
            let current = contexts.current.get_or_insert_with(|| name.clone());
            let current = if *current == name { ", and is the current one" } else { "" };
            say(format_args!("context {} is saved{current}", clean(&name)))?;
        }
        Command::Delete { name, confirmation } => {
            contexts.named(&name)?;
            let consequences =
                format_args!("Context {} will be deleted; its files are kept.", clean(&name));
            confirmation.require(consequences, "Delete it?")?;
            contexts.contexts.remove(&name);
            contexts.current.take_if(|current| *current == name);
            say(format_args!("context {} is deleted", clean(&name)))?;
        }
    }
    contexts.save()?;
    Ok(ExitCode::SUCCESS)
}

fn list(contexts: &Contexts, output: OutputOption) -> anyhow::Result<ExitCode> {
    let list: Vec<Value> =
        contexts.contexts.iter().map(|(name, it)| shown(contexts, name, it)).collect();
    let page = json!({"count": list.len(), "list": list});
    answer(output.json, &page, |_| {
        let rows = contexts.contexts.iter().map(|(name, it)| {
            let is_current = contexts.current.as_ref() == Some(name);
            [
                cell(if is_current { "*" } else { " " }),
                cell(name),
                cell(&it.url),
                optional(it.ca_file.as_deref().map(Path::display)),
                optional(it.token_file.as_deref().map(Path::display)),
            ]
        });
        let nothing =
            "no contexts; create one: gateway-events context set NAME --url URL --token-file FILE";
        table(["", "name", "url", "ca file", "token file"], rows, nothing)
    })
}

fn show(contexts: &Contexts, name: Option<&str>, output: OutputOption) -> anyhow::Result<ExitCode> {
    let (name, service) =
        contexts.in_use(name)?.context("no context is in use: gateway-events context use NAME")?;
    let value = shown(contexts, &name, &service);
    answer(output.json, &value, |_| {
        let lines = [
            ("name", clean(&name)),
            ("url", clean(&service.url)),
            ("ca file", optional(service.ca_file.as_deref().map(Path::display))),
            ("token file", optional(service.token_file.as_deref().map(Path::display))),
            ("stored in", optional(path().as_deref().map(Path::display))),
        ];
        lines.map(|(name, value)| format!("{name:<12} {value}")).join("\n")
    })
}

fn shown(contexts: &Contexts, name: &str, service: &Service) -> Value {
    json!({
        "name": name,
        "current": contexts.current.as_deref() == Some(name),
        "url": service.url,
        "caFile": service.ca_file,
        "tokenFile": service.token_file,
    })
}

impl Set {
    fn apply(self, contexts: &mut Contexts) -> anyhow::Result<()> {
        anyhow::ensure!(
            names::is_name(&self.name, 64),
            "a context's name has 1 to 64 characters, not only dots, none of them a control or format character or a filler"
        );
        if let Some(url) = &self.url {
            gateway_events::client::api::Api::new(
                url,
                None,
                &gateway_events::client::tls::Trust::Insecure,
            )?;
        }
        let is_new = !contexts.contexts.contains_key(&self.name);
        anyhow::ensure!(self.url.is_some() || !is_new, "a new context needs --url");
        let service = contexts.contexts.entry(self.name).or_default();
        if let Some(url) = self.url {
            service.url = url;
        }
        // Commands may run in any directory.
        for (kept, given) in
            [(&mut service.ca_file, self.ca_file), (&mut service.token_file, self.token_file)]
        {
            if let Some(given) = given {
                let path = std::path::absolute(&given)
                    .with_context(|| format!("{} is not a valid path", given.display()))?;
                anyhow::ensure!(path.is_file(), "there is no file {}", path.display());
                *kept = Some(path);
            }
        }
        Ok(())
    }
}
