//! How a command reaches the service: address, access token, trusted certificates.
//! Secrets come from the environment or from files, never from arguments.

use std::env::VarError;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use super::context::{Contexts, Service, warn_if_exposed};
use super::formats::Format;
use super::output::{clean, note};
use crate::client::Url;
use crate::client::api::Api;
use crate::client::tls::Trust;
use crate::token::Kind;

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
    /// The service's address; otherwise GATEWAY_EVENTS_URL, the context's, or https://localhost:8443
    #[arg(long, global = true)]
    pub url: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
    /// Use this context instead of the current one; otherwise GATEWAY_EVENTS_CONTEXT
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Print the service's answer as JSON: short for --output json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,
    /// The output format; by default a table with ages
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
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

/// The service that the options, the environment and the context select.
struct Resolved {
    address: String,
    /// The context, if the address is the context's: its token is sent to no other service.
    context: Service,
    /// The name and the context, if the address is another one.
    unused: Option<(String, Service)>,
}

impl ClientOptions {
    /// The service's address: the option, then the environment, the context and the default.
    pub fn address(&self) -> anyhow::Result<String> {
        Ok(self.resolved()?.address)
    }

    /// A client of the API with the access token.
    pub fn api(&self) -> anyhow::Result<Api> {
        let resolved = self.resolved()?;
        self.note_unused_token(&resolved);
        self.note_unused_ca(&resolved);
        let Resolved { address, context, .. } = resolved;
        let token = self.credentials.token_or(context.token_file.as_deref())?;
        Ok(Api::new(&address, Some(token), &self.credentials.trust_or(context.ca_file))?)
    }

    /// The certificates to trust, from `--ca-file`, `--insecure`, the environment or the context.
    pub fn trust(&self) -> anyhow::Result<Trust> {
        let resolved = self.resolved()?;
        self.note_unused_ca(&resolved);
        Ok(self.credentials.trust_or(resolved.context.ca_file))
    }

    /// The access token, from `--token-file`, the environment or the context. Fails if none of these
    /// has one.
    pub fn token(&self) -> anyhow::Result<SecretString> {
        let resolved = self.resolved()?;
        self.note_unused_token(&resolved);
        self.credentials.token_or(resolved.context.token_file.as_deref())
    }

    /// Whether to print JSON, for commands that print nothing else for programs.
    pub fn prints_json(&self) -> anyhow::Result<bool> {
        match self.output {
            None | Some(Format::Table | Format::Wide) => Ok(self.json),
            Some(Format::Json | Format::Jsonl) => Ok(true),
            Some(Format::Yaml | Format::Csv) => {
                anyhow::bail!("this command prints lines as they come: use --output jsonl")
            }
        }
    }

    fn note_unused_token(&self, resolved: &Resolved) {
        let Some((name, context)) = &resolved.unused else { return };
        if context.token_file.is_some() && !self.credentials.has_token() {
            self.note_unused(name, context, &resolved.address);
        }
    }

    fn note_unused_ca(&self, resolved: &Resolved) {
        let Some((name, context)) = &resolved.unused else { return };
        if context.ca_file.is_some() && matches!(self.credentials.trust(), Trust::Platform) {
            self.note_unused(name, context, &resolved.address);
        }
    }

    /// Remarks on standard error, once, that a context is not used, although no option or variable
    /// replaces what it has.
    fn note_unused(&self, name: &str, context: &Service, address: &str) {
        static NOTED: Once = Once::new();
        let source = if self.url.is_some() { "--url" } else { URL_VARIABLE };
        NOTED.call_once(|| {
            note(format_args!(
                "the token and CA file of context {} are not used, because its address is {}, and {source} is {}",
                clean(name),
                clean(&context.url),
                clean(address)
            ));
        });
    }

    fn resolved(&self) -> anyhow::Result<Resolved> {
        let from_environment = || match std::env::var(URL_VARIABLE) {
            Ok(url) => Ok(Some(url).filter(|url| !url.is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{URL_VARIABLE} is invalid")),
        };
        let url = match (&self.url, &self.context) {
            (Some(url), _) => Some(url.clone()),
            // A context that is named by an option is stronger than the environment.
            (None, Some(_)) => None,
            (None, None) => from_environment()?,
        };
        let context = Contexts::load()?.in_use(self.context.as_deref())?;
        Ok(match (url, context) {
            (Some(url), Some((name, context))) if !is_same(&context.url, &url) => {
                let unused = Some((name, context));
                Resolved { address: url, context: Service::default(), unused }
            }
            (_, Some((_, context))) => {
                Resolved { address: context.url.clone(), context, unused: None }
            }
            (url, None) => Resolved {
                address: url.unwrap_or_else(|| DEFAULT_URL.to_owned()),
                context: Service::default(),
                unused: None,
            },
        })
    }
}

/// Whether two addresses are those of the same service: scheme, host, port and path are equal, in
/// whatever spelling. Addresses that contain a user, a query or a fragment, or can't be parsed, must be
/// spelt alike.
fn is_same(one: &str, other: &str) -> bool {
    let parsed = |text: &str| {
        let url = Url::parse(text).ok()?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let path = url.path().trim_end_matches('/').to_owned();
        is_plain.then(|| (url.origin(), path))
    };
    one == other || parsed(one).is_some_and(|it| parsed(other) == Some(it))
}

impl Credentials {
    /// Which certificates to accept: the options, then the environment, then the system's.
    pub fn trust(&self) -> Trust {
        self.trust_or(None)
    }

    /// The certificates to trust; `ca_file` takes precedence over the system's.
    fn trust_or(&self, ca_file: Option<PathBuf>) -> Trust {
        let from_environment =
            || std::env::var_os(CA_FILE_VARIABLE).filter(|path| !path.is_empty());
        match &self.ca_file {
            Some(path) => Trust::CaFile(path.clone()),
            None if self.insecure => Trust::Insecure,
            None => from_environment()
                .map(PathBuf::from)
                .or(ca_file)
                .map_or(Trust::Platform, Trust::CaFile),
        }
    }

    /// Whether an option or the environment has a token.
    fn has_token(&self) -> bool {
        let is_set = std::env::var_os(TOKEN_VARIABLE).is_some_and(|token| !token.is_empty());
        self.token_file.is_some() || is_set
    }

    /// The access token; an error if there is none.
    pub fn token(&self) -> anyhow::Result<SecretString> {
        self.token_or(None)
    }

    /// The same, with a file that is used if neither an option nor the environment has a token.
    fn token_or(&self, otherwise: Option<&Path>) -> anyhow::Result<SecretString> {
        let given = self.token_file.as_deref();
        let file = given.or(otherwise.filter(|_| !self.has_token()));
        if let Some(file) = file.filter(|_| given.is_none()) {
            warn_if_exposed(file);
        }
        secret(Kind::Access, file, TOKEN_VARIABLE)?.with_context(|| match file {
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

/// Reads a secret of one kind from a file (`-` is standard input), or from the environment without a
/// file. `None` if it is missing or empty; an error if it contains spaces or line breaks, or is of
/// the other kind.
pub fn secret(
    kind: Kind,
    file: Option<&Path>,
    variable: &str,
) -> anyhow::Result<Option<SecretString>> {
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
    if kind.is_other(text) {
        let create = match kind {
            Kind::Access => "--access NAME --scope SCOPE",
            Kind::Gateway => "--gateway GATEWAY",
        };
        anyhow::bail!(
            "{source} {}; create one: gateway-events token create {create}",
            kind.mismatch()
        );
    }
    Ok((!text.is_empty()).then(|| SecretString::from(text)))
}
