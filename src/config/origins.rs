//! Finds out who set a value, so that an error can send people there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{ConfigError, DEFAULTS, secrets, toml_source};

/// Who said what, for errors.
pub(super) struct Origins<'a> {
    pub(super) file: Option<&'a (PathBuf, String)>,
    pub(super) environment: &'a BTreeMap<String, (String, String)>,
    pub(super) flags: Vec<(&'static str, String)>,
}

impl Origins<'_> {
    pub(super) fn explain(&self, error: &config::ConfigError) -> ConfigError {
        match error {
            config::ConfigError::Type { key: Some(key), expected, .. } => {
                self.refuse(key, with_example(key, format!("expected {expected}")))
            }
            config::ConfigError::At { key: Some(key), error, .. } => {
                self.refuse(key, with_example(key, error.to_string()))
            }
            config::ConfigError::NotFound(key) => self.refuse(key, "the key is missing".to_owned()),
            other => self.refuse("(configuration)", other.to_string()),
        }
    }

    /// `key` may be a section, if serde met a key in it that does not exist;
    /// then the first such key is named instead.
    pub(super) fn refuse(&self, key: &str, why: String) -> ConfigError {
        let unknown = why
            .strip_prefix("unknown field `")
            .and_then(|rest| rest.split('`').next())
            .map(|name| match key {
                "(configuration)" => name.to_owned(),
                section if section.ends_with(name) => section.to_owned(),
                section => format!("{section}.{name}"),
            });
        let key = unknown.as_deref().unwrap_or(key);
        let (value, origin) = self.find(key);
        ConfigError::Value { key: key.to_owned(), value: secrets::shown(key, &value), origin, why }
    }

    fn find(&self, key: &str) -> (String, String) {
        if let Some((_, value)) = self.flags.iter().find(|(name, _)| *name == key) {
            let flag = key.rsplit('.').next().unwrap_or(key).replace('_', "-");
            return (format!("{value:?}"), format!("the flag --{flag}"));
        }
        if let Some((variable, value)) = self.environment.get(key) {
            return (format!("{value:?}"), format!("the environment variable {variable}"));
        }
        if let Some((path, text)) = self.file
            && let Some(value) = look_up(text, key)
        {
            return (value, format!("the file {}", path.display()));
        }
        let value = look_up(DEFAULTS, key).unwrap_or_else(|| "(nothing)".to_owned());
        (value, "the defaults".to_owned())
    }
}

/// The default shows how a value of this kind is written.
fn with_example(key: &str, why: String) -> String {
    match value(DEFAULTS, key) {
        None | Some(toml::Value::Table(_) | toml::Value::Array(_)) => why,
        Some(toml::Value::String(text)) if text.is_empty() => why,
        Some(default) => format!("{why}; write it like the default, {default}"),
    }
}

fn look_up(text: &str, key: &str) -> Option<String> {
    value(text, key).map(|value| value.to_string())
}

fn value(text: &str, key: &str) -> Option<toml::Value> {
    let key = key.split('[').next().unwrap_or(key);
    let source = config::Config::builder().add_source(toml_source(text)).build();
    source.ok()?.get(key).ok()
}
