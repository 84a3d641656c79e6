//! Masks secrets in shown settings and in error messages.

use super::database_url::{self, MASK};

/// The value of a setting with secrets masked.
pub(super) fn shown(key: &str, value: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    let is_secret = ["password", "secret", "token"].iter().any(|word| name.contains(word));
    // The path of a file is not a secret.
    if is_secret && !name.ends_with("_file") {
        MASK.to_owned()
    } else if name == "url" || name.ends_with("_url") || name == "endpoint" {
        // A value from the environment or a flag is quoted.
        match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
            Some(value) => format!("\"{}\"", database_url::masked(value)),
            None => database_url::masked(value),
        }
    } else {
        value.to_owned()
    }
}

/// Masks secrets in a table, recursively.
pub(super) fn mask(table: &mut toml::Table) {
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::Table(inner) => mask(inner),
            toml::Value::String(text) => *text = shown(key, text),
            _ if shown(key, "") == MASK => *value = toml::Value::String(MASK.to_owned()),
            _ => {}
        }
    }
}
