//! `token`: keys that gateways connect with, and access tokens for the API.
//! A new one is shown once, here, and never again.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gateway_events::app;
use gateway_events::client::api::Api;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::access::ClientOptions;
use super::output::{answer, cell, elements, time};
use super::reference::GatewayRef;
use super::serve::Settings;
use super::table::table;
use super::time::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a gateway's key, or an access token; it is shown only now
    Create(Create),
    /// Make an admin access token in the database itself, for when there is none to ask with
    ///
    /// Whoever may write the data directory may do so; the service need not be stopped.
    Recover(Recover),
    /// Make up an access token that no database knows yet, for `serve --admin-token-file`
    Generate,
    /// List access tokens, or a gateway's keys, without their secrets
    List {
        /// Whose keys: a gateway's name or id
        #[arg(long)]
        gateway: Option<GatewayRef>,
    },
    /// Revoke one; live connections that use it are closed
    Revoke {
        /// Its public id, the part between the underscores
        #[arg(value_parser = parse_public_id)]
        token: String,
        /// Whose key: a gateway's name or id
        #[arg(long)]
        gateway: Option<GatewayRef>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// For this gateway, by its name or id: a key to connect with
    #[arg(long, required_unless_present = "access", conflicts_with = "access")]
    gateway: Option<GatewayRef>,
    /// For the API: an access token of this name
    #[arg(long, value_name = "NAME", requires = "scope")]
    access: Option<String>,
    /// What the access token may do; may be repeated
    #[arg(long, value_enum, conflicts_with = "gateway")]
    scope: Vec<Scope>,
    /// After how long it expires, such as 30d; never if left out
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires_in: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    settings: Settings,
    /// What the token is called in the list of access tokens
    #[arg(long, default_value = "recovered")]
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scope {
    Publish,
    Read,
    Admin,
}

impl Scope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(new) => {
            let api = client.api()?;
            let path = path_of(new.gateway.as_ref(), &api).await?;
            let made = api.post(&path, &new.body()).await?;
            answer(client.json, &made, |made| {
                format!(
                    "{}\n\nKeep it now: it can't be shown again. Its id is {}, it expires: {}.",
                    cell(&made["token"]),
                    cell(&made["id"]),
                    made["expiresAt"]
                        .as_str()
                        .map_or("never".to_owned(), |_| time(&made["expiresAt"])),
                )
            })
        }
        Command::Recover(Recover { settings, name }) => {
            let token = app::recover_access(&settings.load()?, &name).await?;
            let made = json!({"token": token.expose_secret(), "name": name});
            answer(client.json, &made, |made| {
                format!("{}\n\nKeep it now: it can't be shown again.", cell(&made["token"]))
            })
        }
        Command::Generate => {
            let token = app::generate_token()?;
            answer(client.json, &json!({"token": token.expose_secret()}), |made| {
                cell(&made["token"])
            })
        }
        Command::List { gateway } => {
            let api = client.api()?;
            let listed = api.get(&path_of(gateway.as_ref(), &api).await?).await?;
            answer(client.json, &listed, shown)
        }
        Command::Revoke { token, gateway } => {
            let api = client.api()?;
            let path = path_of(gateway.as_ref(), &api).await?;
            let nothing = api.delete(&format!("{path}/{token}")).await?;
            answer(client.json, &nothing, |_| format!("token {token} is revoked"))
        }
    }
}

impl Create {
    fn body(self) -> Value {
        let mut body = json!({});
        if let Some(lifetime) = self.expires_in {
            body["expiresInSeconds"] = json!(lifetime.as_secs());
        }
        if let Some(name) = self.access {
            let scopes: Vec<&str> = self.scope.into_iter().map(Scope::as_str).collect();
            body["name"] = json!(name);
            body["scopes"] = json!(scopes);
        }
        body
    }
}

/// Reads a public id; from a whole key, which is easily given instead, it is
/// taken out, so that the secret goes nowhere.
fn parse_public_id(text: &str) -> Result<String, String> {
    let id = match text.split('_').collect::<Vec<_>>()[..] {
        ["gwk" | "gwa", id, _secret] => id,
        _ => text,
    };
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(id.to_owned());
    }
    Err("a token's public id has letters and digits only; `token list` shows it".to_owned())
}

async fn path_of(gateway: Option<&GatewayRef>, api: &Api) -> anyhow::Result<String> {
    Ok(match gateway {
        Some(gateway) => format!("/gateways/{}/tokens", gateway.resolve(api).await?),
        None => "/access-tokens".to_owned(),
    })
}

fn shown(listed: &Value) -> String {
    let rows = elements(&listed["list"]).iter().map(|token| {
        let scopes: Vec<&str> =
            elements(&token["scopes"]).iter().filter_map(Value::as_str).collect();
        [
            cell(&token["id"]),
            cell(&token["name"]),
            cell(&Value::from(scopes.join(","))),
            time(&token["createdAt"]),
            time(&token["expiresAt"]),
            time(&token["revokedAt"]),
            time(&token["lastUsedAt"]),
        ]
    });
    table(["id", "name", "scopes", "created", "expires", "revoked", "last used"], rows, "no tokens")
}
