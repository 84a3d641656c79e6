//! The file, the environment and the flags, before anybody looks at values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::ConfigError;

const PREFIX: &str = "GATEWAY_EVENTS__";

/// What the command line sets; `None` leaves a key to the other sources.
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

impl Flags {
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let text =
            |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        [
            ("data_dir", text(&self.data_dir)),
            ("admin_token_file", text(&self.admin_token_file)),
            ("server.listen", self.listen.clone()),
            ("server.plaintext", self.plaintext.map(|on| on.to_string())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

/// Where settings come from besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment; other variables are passed over.
    pub environment: Vec<(String, String)>,
    /// The command line.
    pub flags: Flags,
}

impl Sources {
    /// With this process's environment.
    pub fn from_environment(file: Option<PathBuf>, flags: Flags) -> Self {
        let environment = std::env::vars_os()
            .map(|(key, value)| {
                (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .collect();
        Self { file, environment, flags }
    }
}

/// Our variables: dotted key to (variable, value).
pub(super) fn environment(
    all: &[(String, String)],
) -> Result<BTreeMap<String, (String, String)>, ConfigError> {
    let mut ours = BTreeMap::new();
    for (variable, value) in all {
        let Some(rest) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        if value.is_empty() {
            return Err(ConfigError::Value {
                key,
                value: "\"\"".to_owned(),
                origin: format!("the environment variable {variable}"),
                why: "it is set but empty; give it a value or unset it".to_owned(),
            });
        }
        ours.insert(key, (variable.clone(), value.clone()));
    }
    Ok(ours)
}

/// Gives settings the kinds that the defaults have: the environment and the
/// flags know texts only.
pub(super) fn take_kinds(settings: &mut toml::Table, defaults: &toml::Table) {
    use toml::Value::{Array, Boolean, Integer, String, Table};
    for (key, value) in settings.iter_mut() {
        let kind = match (&*value, defaults.get(key)) {
            (String(text), Some(Integer(_))) => text.parse().ok().map(Integer),
            (String(text), Some(Boolean(_))) => text.parse().ok().map(Boolean),
            (String(text), Some(Array(_))) => {
                Some(Array(text.split(',').map(|part| part.trim().into()).collect()))
            }
            _ => None,
        };
        if let Some(kind) = kind {
            *value = kind;
        } else if let (Table(inner), Some(Table(defaults))) = (value, defaults.get(key)) {
            take_kinds(inner, defaults);
        }
    }
}
