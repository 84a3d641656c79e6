//! `token`: manage keys of gateways and access tokens. A new one is printed once, and can't be
//! retrieved again.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gateway_events::api::{AccessToken, GatewayToken, NewAccessToken, NewGatewayToken, Scope};
use gateway_events::app;
use gateway_events::clock::Timestamp;
use gateway_events::names;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::access::{ClientOptions, JsonOption};
use super::confirm::Confirmation;
use super::output::{age, answer, cell, clean, time};
use super::reference::{GatewayRef, token_id};
use super::serve::Settings;
use super::table::table;
use super::time::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a gateway's key or an access token; it is shown only once
    Create(Create),
    /// Create an admin access token directly in the database, if no other one is available
    ///
    /// Requires write access to the database; the service need not be stopped.
    Recover(Recover),
    /// Generate an access token that is in no database yet, for `serve --admin-token-file`
    Generate(JsonOption),
    /// List access tokens, or a gateway's keys, without their secrets
    List {
        /// List the keys of this gateway, by its name or id
        #[arg(long)]
        gateway: Option<GatewayRef>,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Revoke a key or token, and close the connections that use it
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The public id of the key or token (the part between the underscores), or the beginning of it
    #[arg(value_parser = parse_public_id)]
    token: String,
    /// Revoke a key of this gateway, by its name or id
    #[arg(long)]
    gateway: Option<GatewayRef>,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Create a key for this gateway, by its name or id
    #[arg(long, required_unless_present = "access", conflicts_with = "access")]
    gateway: Option<GatewayRef>,
    /// Create an access token with this name
    #[arg(long, value_name = "NAME", requires = "scope")]
    access: Option<String>,
    /// What the access token may do; may be repeated
    #[arg(long, value_enum, conflicts_with = "gateway")]
    scope: Vec<ScopeName>,
    /// Time after which it expires, such as 30d; never if omitted
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires_in: Option<Duration>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    settings: Settings,
    /// The token's name in the list of access tokens
    #[arg(long, default_value = "recovered", value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    output: JsonOption,
}

/// The name of an access token, held to the rules of `POST /access-tokens`.
fn parse_name(text: &str) -> Result<String, &'static str> {
    let name = text.trim();
    if names::is_name(name, 128) {
        return Ok(name.to_owned());
    }
    Err(
        "must be 1 to 128 characters, not only dots, none of them a control or format character or a filler",
    )
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeName {
    Publish,
    Read,
    Admin,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Publish => Self::Publish,
            ScopeName::Read => Self::Read,
            ScopeName::Admin => Self::Admin,
        }
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(new) => create(new).await,
        Command::Recover(Recover { settings, name, output }) => {
            let token = app::recover_access(&settings.load()?, &name).await?;
            let made = json!({"token": token.expose_secret(), "name": name});
            answer(output.json, &made, |_| {
                format!("{}\n\nStore it now: it can't be shown again.", token.expose_secret())
            })
        }
        Command::Generate(output) => {
            let token = app::generate_token()?;
            let made = json!({"token": token.expose_secret()});
            answer(output.json, &made, |_| token.expose_secret().to_owned())
        }
        Command::List { gateway, client } => {
            let api = client.api()?;
            if let Some(gateway) = gateway {
                let page = api.gateway_tokens(gateway.resolve(&api).await?).await?;
                answer(client.json, &page, |page| listed(page.list.iter().map(of_gateway)))
            } else {
                let page = api.access_tokens().await?;
                answer(client.json, &page, |page| listed(page.list.iter().map(for_access)))
            }
        }
        Command::Revoke(args) => revoke(args).await,
    }
}

async fn revoke(args: Revoke) -> anyhow::Result<ExitCode> {
    let Revoke { mut token, gateway, confirmation, client } = args;
    let api = client.api()?;
    if let Some(gateway) = gateway {
        let gateway = api.gateway(gateway.resolve(&api).await?).await?;
        let name = clean(&gateway.name);
        let known = api.gateway_tokens(gateway.id).await.map(|page| page.list).unwrap_or_default();
        let ids = known.into_iter().filter(|it| it.revoked_at.is_none());
        token = token_id(&token, ids.map(|it| (it.id, name.clone())).collect())?;
        confirmation.require(
            format_args!(
                "Key {token} of gateway {name} will be revoked permanently. Connections that use it are closed, and the gateway stops if it has no other key."
            ),
            "Revoke it?",
        )?;
        api.revoke_gateway_token(gateway.id, &token).await?;
    } else {
        let known = api.access_tokens().await.ok().map(|page| page.list);
        let live = known.iter().flatten().filter(|it| it.revoked_at.is_none());
        token = token_id(&token, live.map(|it| (it.id.clone(), it.name.clone())).collect())?;
        let is_known = known.is_none_or(|known| known.iter().any(|it| it.id == token));
        anyhow::ensure!(
            is_known,
            "no access token has the id {token}. To revoke a gateway's key, name the gateway: gateway-events token revoke {token} --gateway NAME"
        );
        confirmation.require(
            format_args!(
                "Access token {token} will be revoked permanently. Programs that use it are refused."
            ),
            "Revoke it?",
        )?;
        api.revoke_access_token(&token).await?;
    }
    answer(client.json, &(), |()| format!("token {token} is revoked"))
}

async fn create(new: Create) -> anyhow::Result<ExitCode> {
    let client = &new.client;
    let api = client.api()?;
    let expires_in_seconds = new.expires_in.map(|lifetime| lifetime.as_secs());
    match (new.gateway, new.access) {
        (Some(gateway), _) => {
            let id = gateway.resolve(&api).await?;
            let token = NewGatewayToken { expires_in_seconds };
            let made = api.create_gateway_token(id, &token).await?;
            answer(client.json, &made, |made| {
                shown_once(&made.token, &made.info.id, made.info.expires_at)
            })
        }
        (None, name) => {
            let scopes = new.scope.into_iter().map(Into::into).collect();
            let token =
                NewAccessToken { name: name.unwrap_or_default(), scopes, expires_in_seconds };
            let made = api.create_access_token(&token).await?;
            answer(client.json, &made, |made| {
                shown_once(&made.token, &made.info.id, made.info.expires_at)
            })
        }
    }
}

fn shown_once(token: &str, id: &str, expires_at: Option<Timestamp>) -> String {
    format!(
        "{}\n\nStore it now: it can't be shown again. Its id is {}. Expires: {}.",
        clean(token),
        clean(id),
        expires_at.map_or_else(|| "never".to_owned(), time),
    )
}

/// Parses a public id. Also accepts a whole key, of which it only uses the public id, so that the
/// secret is never sent.
fn parse_public_id(text: &str) -> Result<String, String> {
    let id = match text.split('_').collect::<Vec<_>>()[..] {
        ["gwk" | "gwa", id, _secret] => id,
        _ => text,
    };
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(id.to_owned());
    }
    Err("a public id consists of letters and digits; `token list` shows it".to_owned())
}

fn of_gateway(token: &GatewayToken) -> [String; 7] {
    [
        cell(&token.id),
        cell(""),
        cell(""),
        age(token.created_at),
        age(token.expires_at),
        age(token.revoked_at),
        age(token.last_used_at),
    ]
}

fn for_access(token: &AccessToken) -> [String; 7] {
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    [
        cell(&token.id),
        cell(&token.name),
        cell(scopes.join(",")),
        age(token.created_at),
        age(token.expires_at),
        age(token.revoked_at),
        age(token.last_used_at),
    ]
}

fn listed(rows: impl Iterator<Item = [String; 7]>) -> String {
    table(["id", "name", "scopes", "created", "expires", "revoked", "last used"], rows, "no tokens")
}
