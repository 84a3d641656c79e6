//! Errors about arguments name the option that was typed: `--since` is another name of `--from`.

use std::ffi::OsStr;

use clap::error::{ContextKind, ContextValue};

const NAME: &str = "--from";
const ALIAS: &str = "--since";

/// Names the alias in an error about arguments that contain it. clap names the option itself.
pub(crate) fn as_typed(mut error: clap::Error, arguments: &[impl AsRef<OsStr>]) -> clap::Error {
    let is_alias = |argument: &str| argument.split('=').next() == Some(ALIAS);
    if arguments.iter().any(|argument| argument.as_ref().to_str().is_some_and(is_alias)) {
        for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
            let typed = match error.get(kind) {
                Some(ContextValue::String(one)) => ContextValue::String(renamed(one)),
                Some(ContextValue::Strings(all)) => {
                    ContextValue::Strings(all.iter().map(|one| renamed(one)).collect())
                }
                _ => continue,
            };
            error.insert(kind, typed);
        }
    }
    error
}

/// The option under its alias, if it has one.
fn renamed(option: &str) -> String {
    match option.strip_prefix(NAME) {
        Some(value) if value.starts_with(' ') => format!("{ALIAS}{value}"),
        _ => option.to_owned(),
    }
}
