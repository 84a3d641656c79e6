//! Finds the source of a value, for error messages.

use std::path::PathBuf;

use toml::{Table, Value};

use super::sources::Settings;
use super::{ConfigError, keys, secrets};

/// All sources of settings.
pub(super) struct Origins<'a> {
    pub(super) defaults: &'a Table,
    pub(super) file: Option<&'a (PathBuf, Table)>,
    pub(super) environment: &'a Settings,
    pub(super) flags: &'a Settings,
}

impl Origins<'_> {
    /// The error about a value of the wrong type.
    pub(super) fn explain(
        &self,
        error: &serde_path_to_error::Error<toml::de::Error>,
    ) -> ConfigError {
        let key = error.path().to_string();
        let key = key.split('[').next().unwrap_or(&key);
        self.refuse(key, self.with_example(key, error.inner().message().to_owned()))
    }

    /// The error about the value of a key.
    pub(super) fn refuse(&self, key: &str, why: String) -> ConfigError {
        let (value, origin) = self.find(key);
        ConfigError::Value { key: key.to_owned(), value: secrets::shown(key, &value), origin, why }
    }

    fn find(&self, key: &str) -> (String, String) {
        if let Some(given) = self.flags.get(key).or_else(|| self.environment.get(key)) {
            return (given.text.clone(), given.origin.clone());
        }
        if let Some((path, table)) = self.file
            && let Some(value) = keys::find(table, key)
        {
            return (value.to_string(), format!("the file {}", path.display()));
        }
        let value = keys::find(self.defaults, key);
        (value.map_or_else(|| "(nothing)".to_owned(), Value::to_string), "the defaults".to_owned())
    }

    /// An example of a valid value: the default.
    fn with_example(&self, key: &str, why: String) -> String {
        match keys::find(self.defaults, key) {
            None | Some(Value::Table(_) | Value::Array(_)) => why,
            Some(Value::String(text)) if text.is_empty() => why,
            Some(default) => format!("{why}; write it like the default, {default}"),
        }
    }
}
