//! Contexts: named services with their addresses, CA files and token files, in a file of the user.
//! It never contains a token.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::output::note;
use crate::files;

/// The environment variable that selects a context.
pub const CONTEXT_VARIABLE: &str = "GATEWAY_EVENTS_CONTEXT";
/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// Bits of a mode that let others read or write.
const OTHERS: u32 = 0o077;

/// All contexts of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Contexts {
    /// The name of the one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Service>,
}

/// How to reach a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Service {
    /// Its address.
    pub url: String,
    /// A PEM file with the certificate to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A file with the access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// The file with the contexts: in `XDG_CONFIG_HOME`, or else in `~/.config`. `None` without a home
/// directory.
pub fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let directory = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    Some(directory?.join("gateway-events").join("config.toml"))
}

impl Contexts {
    /// Reads the file; no contexts if there is none. Refuses a file that others can write to, because
    /// it says where tokens are sent.
    pub fn load() -> anyhow::Result<Self> {
        let Some(path) = path() else { return Ok(Self::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", path.display()));
            }
        };
        let mode = std::fs::metadata(&path)
            .with_context(|| format!("failed to read {}", path.display()))?
            .mode();
        anyhow::ensure!(
            mode & OTHERS_WRITE == 0,
            "other users of this machine can write to {}, which says where tokens are sent; run `chmod go-w` on it",
            path.display()
        );
        let read: Self =
            toml::from_str(&text).with_context(|| format!("{} is invalid", path.display()))?;
        Ok(read)
    }

    /// Replaces the file. Only its owner may read or write it.
    pub fn save(&self) -> anyhow::Result<()> {
        let path = path().context("contexts need a home directory: set HOME or XDG_CONFIG_HOME")?;
        let failed = || format!("failed to write {}", path.display());
        let directory = path.parent().context("a file has a directory")?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(failed)?;
        let text = toml::to_string(self).with_context(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).with_context(failed)?;
        file.as_file().sync_all().with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        Ok(())
    }

    /// The context with this name.
    pub fn named(&self, name: &str) -> anyhow::Result<&Service> {
        self.contexts.get(name).with_context(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "there are none".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            };
            format!(
                "there is no context {name:?} ({known}); create it: gateway-events context set {name} --url URL"
            )
        })
    }

    /// The context in use: the given one, or that of the environment, or the current one.
    pub fn in_use(&self, given: Option<&str>) -> anyhow::Result<Option<(String, Service)>> {
        let from_environment = std::env::var(CONTEXT_VARIABLE).ok().filter(|name| !name.is_empty());
        let Some(name) = given.map(str::to_owned).or(from_environment).or(self.current.clone())
        else {
            return Ok(None);
        };
        let service = self.named(&name)?.clone();
        Ok(Some((name, service)))
    }
}

/// Remarks on standard error if others can read a file with a token.
pub fn warn_if_exposed(path: &Path) {
    let mode = files::found(path).ok().flatten().map(|found| found.mode());
    if mode.is_some_and(|mode| mode & OTHERS != 0 && mode & 0o170_000 == 0o100_000) {
        note(format_args!(
            "warning: other users of this machine have access to the token file {}; run `chmod 600` on it",
            path.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_written_as_they_are_read_and_contain_no_token() {
        let service = Service {
            url: "https://localhost:8443".to_owned(),
            ca_file: Some("/etc/ca.pem".into()),
            token_file: None,
        };
        let contexts = Contexts {
            current: Some("a".to_owned()),
            contexts: [("a".to_owned(), service)].into(),
        };
        let text = toml::to_string(&contexts).unwrap();
        assert_eq!(toml::from_str::<Contexts>(&text).unwrap(), contexts);
        assert!(
            toml::from_str::<Contexts>("[contexts.a]\nurl = \"x\"\ntoken = \"gwa_1\"").is_err()
        );
        assert!(contexts.named("b").unwrap_err().to_string().contains("context set b"));
    }
}
