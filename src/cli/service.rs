//! The service as a process of its own, so that it can be killed and measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use gateway_events::client::Url;
use gateway_events::client::api::Api;
use gateway_events::client::tls::Trust;
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const TOKEN_FILE: &str = "admin-token";
const LOG_FILE: &str = "service.log";

/// A running service; dropping it kills the process.
pub(crate) struct Service {
    process: Child,
    directory: PathBuf,
    url: Url,
}

impl Service {
    /// Starts this very program with `serve` and settings such as
    /// `("LIMITS__ATTEMPTS_PER_MINUTE", "3")`, and waits until it listens.
    /// The first start writes the admin's token to the directory.
    pub(crate) async fn start(
        directory: &Path,
        port: u16,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut process = spawn(directory, port, settings)?;
        let out = process.stdout.take().context("the service has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let Some(address) = address(&mut lines).await? else {
            let status = process.wait().await?;
            let log = std::fs::read_to_string(directory.join(LOG_FILE)).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            anyhow::bail!("the service ended ({status}) before it listened:\n{}", tail.join("\n"));
        };
        // A full pipe would stop the service.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            process,
            directory: directory.to_owned(),
            url: Url::parse(&address).with_context(|| format!("{address} is no address"))?,
        })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(0)
    }

    /// Its self-signed certificate is the one to trust.
    pub(crate) fn trust(&self) -> Trust {
        Trust::CaFile(self.directory.join("certificate.pem"))
    }

    /// The admin's token.
    pub(crate) fn token(&self) -> anyhow::Result<SecretString> {
        let token = std::fs::read_to_string(self.directory.join(TOKEN_FILE))
            .context("the service made no admin access token")?;
        Ok(SecretString::from(token.trim_end().to_owned()))
    }

    /// A client with the admin's token.
    pub(crate) fn api(&self) -> anyhow::Result<Api> {
        Ok(Api::new(self.url.as_str(), Some(self.token()?), &self.trust())?)
    }

    /// Its process, as long as it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("the service can't be killed")
    }
}

fn spawn(directory: &Path, port: u16, settings: &[(&str, String)]) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program's own file is unknown")?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join(LOG_FILE))
        .context("no log file can be made")?;
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg("--data-dir")
        .arg(directory)
        .arg("--admin-token-file")
        .arg(directory.join(TOKEN_FILE))
        .arg("--listen")
        .arg(format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    // Settings of the machine's real service must not reach this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GATEWAY_EVENTS") {
            command.env_remove(name);
        }
    }
    command.envs(settings.iter().map(|(key, value)| (format!("GATEWAY_EVENTS__{key}"), value)));
    command.spawn().context("the service can't be started")
}

/// Reads on until the service says where it listens.
async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Option<String>> {
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once("listening on ") {
            return Ok(rest.split_whitespace().next().map(str::to_owned));
        }
    }
    Ok(None)
}
