//! How a command reaches the service: address, access token, trusted certificates.
//! Secrets come from the environment or from files, never from arguments.

use std::env::VarError;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use crate::client::api::Api;
use crate::client::tls::Trust;

/// The environment variable with the address of the service.
pub const URL_VARIABLE: &str = "GATEWAY_EVENTS_URL";
const TOKEN_VARIABLE: &str = "GATEWAY_EVENTS_TOKEN";
const CA_FILE_VARIABLE: &str = "GATEWAY_EVENTS_CA_FILE";
const DEFAULT_URL: &str = "https://localhost:8443";

/// Options of every command that is a client of the service. The fields do not include
/// values from the environment; the methods do.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Client options")]
pub struct ClientOptions {
    /// The service's address; otherwise GATEWAY_EVENTS_URL, or else https://localhost:8443
    #[arg(long, global = true)]
    pub url: Option<String>,
    /// File with the access token, `-` for standard input; otherwise GATEWAY_EVENTS_TOKEN is used
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the certificate to trust (a self-signed one is DATA_DIR/certificate.pem);
    /// otherwise GATEWAY_EVENTS_CA_FILE
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "insecure")]
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate: for development only
    #[arg(long, global = true)]
    pub insecure: bool,
    /// Print the service's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl ClientOptions {
    /// The service's address: the option, then the environment, then the default.
    pub fn address(&self) -> anyhow::Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => Ok(url),
            Ok(_) | Err(VarError::NotPresent) => Ok(DEFAULT_URL.to_owned()),
            Err(error) => Err(error).with_context(|| format!("{URL_VARIABLE} is invalid")),
        }
    }

    /// Which certificates to accept: the options, then the environment, then the system's.
    pub fn trust(&self) -> Trust {
        let from_environment =
            || std::env::var_os(CA_FILE_VARIABLE).filter(|path| !path.is_empty());
        match self.trust_by_options() {
            Trust::Platform => {
                from_environment().map_or(Trust::Platform, |path| Trust::CaFile(path.into()))
            }
            explicit => explicit,
        }
    }

    /// Which certificates to accept without regard to the environment: the options, then the
    /// system's.
    pub fn trust_by_options(&self) -> Trust {
        match &self.ca_file {
            Some(path) => Trust::CaFile(path.clone()),
            None if self.insecure => Trust::Insecure,
            None => Trust::Platform,
        }
    }

    /// A client of the API with the access token.
    pub fn api(&self) -> anyhow::Result<Api> {
        Ok(Api::new(&self.address()?, Some(self.token()?), &self.trust())?)
    }

    /// The access token; an error if there is none.
    pub fn token(&self) -> anyhow::Result<SecretString> {
        secret(self.token_file.as_deref(), TOKEN_VARIABLE)?.with_context(|| {
            format!(
                "an access token is required: set {TOKEN_VARIABLE}, or pass a file by --token-file"
            )
        })
    }
}

/// Reads a secret from a file (`-` is standard input), or from the environment without a
/// file. `None` if it is missing or empty; an error if it contains spaces or line breaks.
pub fn secret(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<SecretString>> {
    let text = match file {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
            text
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?,
        None => match std::env::var(variable) {
            Ok(text) => text,
            Err(VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{variable} is invalid")),
        },
    };
    let text = text.trim();
    let source = file.map_or_else(|| variable.to_owned(), |file| file.display().to_string());
    anyhow::ensure!(
        text.bytes().all(|byte| byte.is_ascii_graphic()),
        "{source} does not contain a token or key: it has spaces or line breaks; it must contain only the text that was shown when the token was created"
    );
    Ok((!text.is_empty()).then(|| SecretString::from(text)))
}
