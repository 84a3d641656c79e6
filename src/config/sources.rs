//! Settings from the environment and from flags, converted to the types of the defaults. A
//! variable that looks like a setting but is not one is refused instead of ignored.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use toml::{Table, Value};

use super::ConfigError;
use super::keys::{self, PREFIX};

/// Variables of the command line's clients, which are not settings.
const CLIENT_VARIABLES: [&str; 5] = [
    "GATEWAY_EVENTS_URL",
    "GATEWAY_EVENTS_TOKEN",
    "GATEWAY_EVENTS_CA_FILE",
    "GATEWAY_EVENTS_KEY",
    "GATEWAY_EVENTS_BENCH_DATABASE_URL",
];

/// Settings that are paths; only these may be other than UTF-8.
const PATHS: [&str; 4] =
    ["data_dir", "admin_token_file", "server.certificate", "server.private_key"];

/// Settings from flags; `None` leaves a setting to the other sources.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--plaintext`.
    pub plaintext: Option<bool>,
    /// `--admin-token-file`.
    pub admin_token_file: Option<PathBuf>,
}

/// The sources of settings other than the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The command line.
    pub flags: Flags,
}

impl Sources {
    /// The environment of this process, without a file or flags.
    pub fn from_environment(file: Option<PathBuf>, flags: Flags) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags }
    }
}

/// A value from the environment or a flag.
#[derive(Debug)]
pub(super) struct Given {
    /// The variable or the flag, for error messages.
    pub(super) origin: String,
    /// The value, as it may be shown in error messages.
    pub(super) text: String,
    /// The value with the type of the default.
    pub(super) value: Value,
    /// The exact path if the value is one, which may be other than UTF-8.
    pub(super) path: Option<PathBuf>,
}

/// Settings by their key.
pub(super) type Settings = BTreeMap<String, Given>;

/// The settings from flags.
pub(super) fn flags(flags: &Flags) -> Settings {
    let mut settings = Settings::new();
    let mut give = |key: &str, text: String, value: Value, path: Option<PathBuf>| {
        let flag = key.rsplit('.').next().unwrap_or(key).replace('_', "-");
        let origin = format!("the flag --{flag}");
        settings.insert(key.to_owned(), Given { origin, text, value, path });
    };
    for (key, path) in
        [("data_dir", &flags.data_dir), ("admin_token_file", &flags.admin_token_file)]
    {
        if let Some(path) = path {
            let value = path.to_string_lossy().into_owned().into();
            give(key, quoted(path.as_os_str()), value, Some(path.clone()));
        }
    }
    if let Some(listen) = &flags.listen {
        give("server.listen", format!("{listen:?}"), listen.clone().into(), None);
    }
    if let Some(plaintext) = flags.plaintext {
        give("server.plaintext", plaintext.to_string(), plaintext.into(), None);
    }
    settings
}

/// The settings from the environment, and warnings about variables that look like settings
/// of this program.
pub(super) fn environment<'a>(
    variables: impl Iterator<Item = &'a (OsString, OsString)>,
    defaults: &Table,
) -> Result<(Settings, Vec<String>), ConfigError> {
    let mut settings = Settings::new();
    let mut warnings = Vec::new();
    for (variable, value) in variables {
        let variable = variable.to_string_lossy();
        if variable.starts_with(PREFIX) {
            let key = key_of(&variable);
            let given = given(&key, &variable, value, defaults)?;
            settings.insert(key, given);
        } else if keys::is_similar(&variable) && !CLIENT_VARIABLES.contains(&&*variable) {
            if let Some(meant) = keys::meant(&variable, defaults) {
                let why = format!("it has no effect under this name; did you mean {meant}?");
                return Err(refused(&variable, &variable, value, why));
            }
            if !keys::is_service_link(&variable) {
                warnings
                    .push(format!("the environment variable {variable} is unknown and ignored"));
            }
        }
    }
    Ok((settings, warnings))
}

/// The key of the setting that a variable sets; of another variable its name, by which problems
/// refer to it.
pub(super) fn key_of(variable: &str) -> String {
    variable
        .strip_prefix(PREFIX)
        .map_or_else(|| variable.to_owned(), |name| name.to_ascii_lowercase().replace("__", "."))
}

fn given(key: &str, variable: &str, value: &OsStr, defaults: &Table) -> Result<Given, ConfigError> {
    let refuse = |why: String| Err(refused(key, variable, value, why));
    let default = match keys::find(defaults, key) {
        Some(default) if !default.is_table() => default,
        _ => return refuse(keys::unknown(key, defaults, keys::variable)),
    };
    if value.is_empty() {
        return refuse("it is set but empty; give it a value or unset it".to_owned());
    }
    let path = PATHS.contains(&key).then(|| PathBuf::from(value));
    let text = value.to_string_lossy();
    if path.is_none() && value.to_str().is_none() {
        return refuse("it is not valid UTF-8".to_owned());
    }
    match typed(&text, default) {
        Ok(value) => Ok(Given {
            origin: format!("the environment variable {variable}"),
            text: format!("{text:?}"),
            value,
            path,
        }),
        Err(expected) => refuse(format!("expected {expected}, such as the default, {default}")),
    }
}

fn refused(key: &str, variable: &str, value: &OsStr, why: String) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        value: super::secrets::shown(&key.to_ascii_lowercase(), &quoted(value)),
        origin: format!("the environment variable {variable}"),
        why,
    }
}

/// A value in quotes, with invalid UTF-8 escaped.
fn quoted(value: &OsStr) -> String {
    match value.to_str() {
        Some(text) => format!("{text:?}"),
        None => format!("\"{}\"", value.as_encoded_bytes().escape_ascii()),
    }
}

/// Parses the text as a value with the type of the default. Numbers and booleans must be
/// written as in a file.
fn typed(text: &str, default: &Value) -> Result<Value, &'static str> {
    match default {
        Value::Integer(_) => text.parse().map(Value::Integer).map_err(|_| "an integer"),
        Value::Float(_) => text.parse().map(Value::Float).map_err(|_| "a number"),
        Value::Boolean(_) => {
            text.parse().map(Value::Boolean).map_err(|_| "a boolean, true or false")
        }
        Value::Array(_) => Ok(text.split(',').map(str::trim).collect::<Vec<_>>().into()),
        _ => Ok(text.into()),
    }
}
