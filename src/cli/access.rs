//! How a command reaches the service: address, token, trust. Secrets come
//! from the environment or from files.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use gateway_events::client::api::Api;
use gateway_events::client::tls::Trust;
use secrecy::SecretString;

const TOKEN_VARIABLE: &str = "GATEWAY_EVENTS_TOKEN";

/// Options of every command that is a client of the service.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Client options")]
pub(crate) struct ClientOptions {
    /// The service's address (https://localhost:8443 if there is none)
    #[arg(long, global = true, env = "GATEWAY_EVENTS_URL")]
    pub(crate) url: Option<String>,
    /// File with the access token, `-` for standard input; otherwise GATEWAY_EVENTS_TOKEN is used
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the certificate to trust (a self-signed one is DATA_DIR/certificate.pem)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GATEWAY_EVENTS_CA_FILE",
        conflicts_with = "insecure"
    )]
    pub(crate) ca_file: Option<PathBuf>,
    /// Accept any certificate: for development only
    #[arg(long, global = true)]
    pub(crate) insecure: bool,
    /// Print the service's answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl ClientOptions {
    /// The service's address.
    pub(crate) fn address(&self) -> &str {
        self.url.as_deref().unwrap_or("https://localhost:8443")
    }

    /// Whom to trust.
    pub(crate) fn trust(&self) -> Trust {
        match &self.ca_file {
            Some(path) => Trust::CaFile(path.clone()),
            None if self.insecure => Trust::Insecure,
            None => Trust::Platform,
        }
    }

    /// A client with the access token.
    pub(crate) fn api(&self) -> anyhow::Result<Api> {
        Ok(Api::new(self.address(), Some(self.token()?), &self.trust())?)
    }

    /// The access token.
    pub(crate) fn token(&self) -> anyhow::Result<SecretString> {
        secret(self.token_file.as_deref(), TOKEN_VARIABLE)?.with_context(|| {
            format!(
                "an access token is needed: set {TOKEN_VARIABLE}, or name a file by --token-file"
            )
        })
    }
}

/// Reads a secret from a file (`-` is standard input) or else from the environment.
pub(crate) fn secret(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<SecretString>> {
    let text = match file {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
            text
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("{} can't be read", path.display()))?,
        None => match std::env::var(variable) {
            Ok(text) => text,
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{variable} can't be used")),
        },
    };
    let text = text.trim();
    let source = file.map_or_else(|| variable.to_owned(), |file| file.display().to_string());
    anyhow::ensure!(
        text.bytes().all(|byte| byte.is_ascii_graphic()),
        "{source} holds no token or key: there are blanks or line breaks in it; it must hold the one word that was shown when it was made"
    );
    Ok((!text.is_empty()).then(|| SecretString::from(text)))
}
