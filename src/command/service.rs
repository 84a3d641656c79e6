//! The service as a child process, which can be killed and measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::client::Url;
use crate::client::api::Api;
use crate::client::tls::Trust;

const TOKEN_FILE: &str = "admin-token";
const LOG_FILE: &str = "service.log";

/// A running service. Dropping it kills the process.
pub struct Service {
    process: Child,
    directory: PathBuf,
    url: Url,
}

impl Service {
    /// Starts `program serve` with a data directory, a port (0 for any) and settings such as
    /// `("LIMITS__ATTEMPTS_PER_MINUTE", "3")`, and waits until it listens on loopback.
    /// The first start in a directory writes an admin access token to it.
    pub async fn start(
        program: &Path,
        directory: &Path,
        port: u16,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut process = spawn(program, directory, port, settings)?;
        let out = process.stdout.take().context("the service has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let Some(address) = address(&mut lines).await? else {
            let status = process.wait().await?;
            let log = std::fs::read_to_string(directory.join(LOG_FILE)).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            anyhow::bail!("the service ended ({status}) before it listened:\n{}", tail.join("\n"));
        };
        // If nothing reads the pipe, the service blocks once it is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            process,
            directory: directory.to_owned(),
            url: Url::parse(&address).with_context(|| format!("{address} is not an address"))?,
        })
    }

    /// The address at which it listens.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The port at which it listens.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(0)
    }

    /// Trust in its self-signed certificate.
    pub fn trust(&self) -> Trust {
        Trust::CaFile(self.directory.join("certificate.pem"))
    }

    /// The admin access token of the first start.
    pub fn token(&self) -> anyhow::Result<SecretString> {
        let token = std::fs::read_to_string(self.directory.join(TOKEN_FILE))
            .context("failed to read the admin access token of the service")?;
        Ok(SecretString::from(token.trim_end().to_owned()))
    }

    /// A client with that token.
    pub fn api(&self) -> anyhow::Result<Api> {
        Ok(Api::new(self.url.as_str(), Some(self.token()?), &self.trust())?)
    }

    /// The process id; `None` after its end.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Kills the process with SIGKILL, without a shutdown, and waits for its end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("failed to kill the service")
    }
}

fn spawn(
    program: &Path,
    directory: &Path,
    port: u16,
    settings: &[(&str, String)],
) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join(LOG_FILE))
        .context("failed to create a log file")?;
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
    // Settings of another service on this machine must not apply to this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GATEWAY_EVENTS") {
            command.env_remove(name);
        }
    }
    command.envs(settings.iter().map(|(key, value)| (format!("GATEWAY_EVENTS__{key}"), value)));
    command.spawn().context("failed to start the service")
}

/// Reads standard output until the service prints its address; `None` at its end.
async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Option<String>> {
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once("listening on ") {
            return Ok(rest.split_whitespace().next().map(str::to_owned));
        }
    }
    Ok(None)
}
