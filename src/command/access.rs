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

/// Options of a command that is a client of the service. The fields do not include values from
/// the environment; the methods do.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Client options")]
pub struct ClientOptions {
    /// The service's address; otherwise GATEWAY_EVENTS_URL, or else https://localhost:8443
    #[arg(long, global = true)]
    pub url: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
    /// Print the service's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The access token, and which certificates to trust.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Client options")]
pub struct Credentials {
    /// File with the access token, `-` for standard input; otherwise GATEWAY_EVENTS_TOKEN is used
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificate to trust (a self-signed one is DATA_DIR/certificate.pem);
    /// otherwise GATEWAY_EVENTS_CA_FILE
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "insecure")]
    ca_file: Option<PathBuf>,
    /// Accept any certificate: for development only
    #[arg(long, global = true)]
    insecure: bool,
}

/// The option of a command that is not a client of the service but can print JSON.
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonOption {
    /// Print the result as JSON
    #[arg(long)]
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

    /// A client of the API with the access token.
    pub fn api(&self) -> anyhow::Result<Api> {
        Ok(Api::new(&self.address()?, Some(self.credentials.token()?), &self.trust())?)
    }

    /// Which certificates to accept.
    pub fn trust(&self) -> Trust {
        self.credentials.trust()
    }
}

impl Credentials {
    /// Which certificates to accept: the options, then the environment, then the system's.
    pub fn trust(&self) -> Trust {
        let from_environment =
            || std::env::var_os(CA_FILE_VARIABLE).filter(|path| !path.is_empty());
        match &self.ca_file {
            Some(path) => Trust::CaFile(path.clone()),
            None if self.insecure => Trust::Insecure,
            None => from_environment().map_or(Trust::Platform, |path| Trust::CaFile(path.into())),
        }
    }

    /// The access token; an error if there is none.
    pub fn token(&self) -> anyhow::Result<SecretString> {
        let file = self.token_file.as_deref();
        secret(file, TOKEN_VARIABLE)?.with_context(|| match file {
            Some(file) => format!("{} is empty; it must contain an access token", named(file)),
            None => format!(
                "an access token is required: set {TOKEN_VARIABLE}, or pass a file by --token-file"
            ),
        })
    }
}

/// A file in messages.
fn named(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        format!("the file {}", file.display())
    }
}

/// Reads a secret from a file (`-` is standard input), or from the environment without a
/// file. `None` if it is missing or empty; an error if it contains spaces or line breaks.
pub fn secret(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<SecretString>> {
    let source = file.map_or_else(|| variable.to_owned(), named);
    let text = match file {
        Some(path) => {
            let mut bytes = Vec::new();
            let read = if path == Path::new("-") {
                std::io::stdin().read_to_end(&mut bytes)
            } else {
                std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
            };
            read.with_context(|| format!("failed to read {source}"))?;
            String::from_utf8(bytes).ok()
        }
        None => match std::env::var(variable) {
            Ok(text) => Some(text),
            Err(VarError::NotPresent) => return Ok(None),
            Err(VarError::NotUnicode(_)) => None,
        },
    };
    let text = text.as_deref().map(str::trim);
    let is_token = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let text = text.filter(is_token).with_context(|| {
        format!(
            "{source} does not contain a token or key: these have no spaces, line breaks or other special characters; it must contain only the text that was shown when the token was created"
        )
    })?;
    Ok((!text.is_empty()).then(|| SecretString::from(text)))
}
