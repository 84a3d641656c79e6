//! `doctor`: checks everything between this command line and a ready service, step by step.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use gateway_events::api::{AccessToken, NodesQuery};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::clock::Timestamp;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::access::ClientOptions;
use super::colour;
use super::output::{answer, clean, described, time};

mod connection;

use connection::{api, identify, reach};

/// A certificate or token that expires within this time is worth a warning.
const SOON: Duration = Duration::from_hours(14 * 24);
/// A difference of clocks that is worth a warning: the header `Date` has whole seconds.
const CLOCK: Duration = Duration::from_secs(5);
/// Descriptors in use, in percent, that are worth a warning.
const DESCRIPTORS: u64 = 80;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientOptions,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    result: Verdict,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    count: usize,
    list: Vec<Finding>,
}

impl Report {
    fn add(
        &mut self,
        check: &'static str,
        result: Verdict,
        found: impl Display,
        advice: Option<&str>,
    ) {
        let advice = advice.filter(|_| result != Verdict::Ok).map(str::to_owned);
        self.list.push(Finding { check, result, found: clean(&found.to_string()), advice });
        self.count = self.list.len();
    }

    fn ok(&mut self, check: &'static str, found: impl Display) {
        self.add(check, Verdict::Ok, found, None);
    }

    fn fail(&mut self, check: &'static str, found: impl Display, advice: &str) {
        self.add(check, Verdict::Fail, found, Some(advice));
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = &args.client;
    let (address, trust) = (client.address()?, client.trust()?);
    let mut report = Report::default();
    if let Some(api) = api(&mut report, &address, &trust)
        && reach(&mut report, &api, &trust).await
        && identify(&mut report, &api).await
    {
        service(&mut report, &api).await;
        token(&mut report, client).await;
    }
    let has_failed = report.list.iter().any(|check| check.result == Verdict::Fail);
    answer(client.json, &report, shown)?;
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(report: &Report) -> String {
    let lines = report.list.iter().map(|it| {
        let word = match it.result {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        let padding = " ".repeat(6 - word.len());
        let advice = it.advice.as_ref().map(|it| format!("\n      {it}")).unwrap_or_default();
        format!("{}{padding}{:<12} {}{advice}", colour::state(word), it.check, it.found)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// How an instant of expiry is judged.
fn expires(at: Timestamp) -> (Verdict, String) {
    let now = Timestamp::now();
    if at <= now {
        (Verdict::Fail, format!("expired at {}", time(at)))
    } else if at.since(now) < SOON {
        (Verdict::Warn, format!("expires soon, at {}", time(at)))
    } else {
        (Verdict::Ok, format!("valid until {}", time(at)))
    }
}

/// Checks what the service says without a token.
async fn service(report: &mut Report, api: &Api) {
    clock(report, api).await;
    let version = api.root("/openapi.json").await.ok().and_then(|text| version(&text));
    if let Some(server) = version {
        let client = env!("CARGO_PKG_VERSION");
        let verdict = if server == client { Verdict::Ok } else { Verdict::Warn };
        let found = format!("client {client}, service {server}");
        let advice = "use the same version: a newer service may have features that this client does not support";
        report.add("version", verdict, found, Some(advice));
    } else {
        let advice = "a proxy may hide /openapi.json; ask its operator";
        report.add("version", Verdict::Warn, "the service did not say", Some(advice));
    }
    match api.root("/readyz").await {
        Ok(said) if said.trim() == "ok" => report.ok("readiness", "the service is ready"),
        Ok(said) => {
            report.add("readiness", Verdict::Warn, said.trim(), Some("free space on its disk"));
        }
        Err(error) => report.fail("readiness", first_line(&error), "check the service's log"),
    }
    descriptors(report, api).await;
}

async fn clock(report: &mut Report, api: &Api) {
    let sent_at = Timestamp::now();
    let answered = api.root_date("/livez").await;
    let Ok(Some(date)) = answered else {
        report.add("clock", Verdict::Warn, "the service's clock is not known", None);
        return;
    };
    // The header was made between the request and now.
    let received_at = Timestamp::now();
    let difference = if date < sent_at { sent_at.since(date) } else { date.since(received_at) };
    let verdict = if difference > CLOCK { Verdict::Warn } else { Verdict::Ok };
    let found = match difference.as_secs() {
        0 | 1 => "no difference".to_owned(),
        seconds if date < sent_at => format!("the service is {seconds} s behind this machine"),
        seconds => format!("the service is {seconds} s ahead of this machine"),
    };
    let advice =
        "synchronise the clocks (NTP): times such as --since 1h are computed on this machine";
    report.add("clock", verdict, found, Some(advice));
}

/// The version in an OpenAPI document.
fn version(document: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(document).ok()?;
    Some(document["info"]["version"].as_str()?.to_owned())
}

/// Checks the file descriptors of the service: each connection needs one.
async fn descriptors(report: &mut Report, api: &Api) {
    let Ok(text) = api.root("/metrics").await else {
        let advice = "a proxy may hide /metrics; ask its operator";
        report.add("descriptors", Verdict::Warn, "unknown", Some(advice));
        return;
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let value = |name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<f64>().ok().map(|value| value as u64)
    };
    match (value("process_open_fds"), value("process_max_fds")) {
        (Some(open), Some(most)) if most > 0 => {
            let is_short = open.saturating_mul(100) / most >= DESCRIPTORS;
            let verdict = if is_short { Verdict::Warn } else { Verdict::Ok };
            let advice = "raise the limit of open files of the service (LimitNOFILE)";
            report.add("descriptors", verdict, format!("{open} of {most} in use"), Some(advice));
        }
        (Some(open), _) => report.ok("descriptors", format!("{open} in use, no limit")),
        _ => report.add("descriptors", Verdict::Warn, "unknown", None),
    }
}

/// Without a valid token, none can be created by the API.
const ASK_FOR_TOKEN: &str = "ask an admin for one; the owner of the database creates one on its host: gateway-events token recover";

/// The file with the token can't be read.
const CHECK_TOKEN_FILE: &str =
    "check --token-file, or the token file of the context: gateway-events context show";

/// Checks what the access token may do, without changing anything.
async fn token(report: &mut Report, client: &ClientOptions) {
    let (api, id) = match (client.api(), client.token()) {
        (Ok(api), Ok(token)) => {
            let id = token.expose_secret().split('_').nth(1).unwrap_or_default().to_owned();
            (api, id)
        }
        (Err(error), _) | (_, Err(error)) => {
            let is_unreadable = error.downcast_ref::<std::io::Error>().is_some();
            let advice = if is_unreadable { CHECK_TOKEN_FILE } else { ASK_FOR_TOKEN };
            report.fail("token", described(&error), advice);
            return;
        }
    };
    let mut scopes = Vec::new();
    let mut known: Option<AccessToken> = None;
    for scope in ["publish", "read", "admin"] {
        let answered = match scope {
            "publish" => api.can_publish().await,
            "read" => has_scope(api.nodes(&NodesQuery { limit: Some(1) }).await.map(drop)),
            _ => has_scope(api.access_tokens().await.map(|page| {
                known = page.list.into_iter().find(|token| token.id == id);
            })),
        };
        match answered {
            Ok(true) => scopes.push(scope),
            Ok(false) => {}
            Err(error) => {
                let is_refused = error.status() == Some(401);
                let advice = if is_refused { ASK_FOR_TOKEN } else { "check the service's log" };
                report.fail("token", first_line(&error), advice);
                return;
            }
        }
    }
    report.ok("token", format!("{id}: {}", scopes.join(", ")));
    match known.map(|token| token.expires_at) {
        Some(Some(at)) => {
            let (verdict, found) = expires(at);
            report.add("expiry", verdict, found, Some("create a new token before that"));
        }
        Some(None) => report.ok("expiry", "the token does not expire"),
        None => report.ok("expiry", "shown to tokens with the scope admin only"),
    }
}

/// Whether a call was allowed.
fn has_scope(answered: Result<(), ApiError>) -> Result<bool, ApiError> {
    match answered {
        Ok(()) => Ok(true),
        Err(error) if error.status() == Some(403) => Ok(false),
        Err(error) => Err(error),
    }
}

fn first_line(error: &ApiError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
