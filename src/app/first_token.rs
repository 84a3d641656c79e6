//! The first admin access token, with which all others can be created. It is read from a
//! file, or generated and written to one, or printed unless standard output is a persistent
//! log. It is never logged.

use std::io::Write;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

use super::{ServeError, local};
use crate::config::Config;
use crate::files;
use crate::store::{Credentials, NewToken, Scope};
use crate::token::{self, Kind, Presented};

/// The file in the data directory, unless another one is configured.
const FILE: &str = "admin-token";

/// Creates an access token if there is none. It is announced on `out` before it is stored:
/// if the process dies in between, the next start reads it from its file or prints another.
pub(super) async fn ensure(
    store: &dyn Credentials,
    config: &Config,
    print: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ServeError> {
    if store.has_access_tokens().await? {
        return Ok(());
    }
    let organisation = store.organisation("default").await?;
    let new = first(config, print, out)?;
    let scopes = [Scope::Publish, Scope::Read, Scope::Admin];
    let actor = local::principal().in_organisation(organisation);
    store.create_access_token(&actor, "first", &scopes, new).await?;
    Ok(())
}

fn first(
    config: &Config,
    print: bool,
    out: &mut (dyn Write + Send),
) -> Result<NewToken, ServeError> {
    let path = config.admin_token_file.clone().unwrap_or_else(|| config.data_dir.join(FILE));
    let is_there = std::fs::exists(&path).map_err(|error| file_error(&path, error.to_string()))?;
    let (new, announcement) = if is_there {
        (read(&path)?, format!("admin access token is in {}", path.display()))
    } else {
        let issued = token::issue(Kind::Access)?;
        let new = NewToken { id: issued.id, digest: issued.digest, expires_at: None };
        let announcement = if print {
            let key = issued.key.expose_secret();
            format!("admin access token: {key} (it is shown only now)")
        } else {
            write(&path, &issued.key)?;
            format!("admin access token is in {}", path.display())
        };
        (new, announcement)
    };
    writeln!(out, "{announcement}").and_then(|()| out.flush()).map_err(ServeError::Output)?;
    Ok(new)
}

pub(super) fn read(path: &Path) -> Result<NewToken, ServeError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| file_error(path, error.to_string()))?;
    let text = Zeroizing::new(text);
    files::warn_if_exposed(path, "the admin access token");
    let presented = Presented::parse(Kind::Access, text.trim()).map_err(|_| {
        file_error(
            path,
            "it does not contain an access token; `gateway-events token generate` generates one",
        )
    })?;
    let (id, digest) = presented.into_parts();
    Ok(NewToken { id, digest, expires_at: None })
}

fn write(path: &Path, key: &SecretString) -> Result<(), ServeError> {
    let line = Zeroizing::new(format!("{}\n", key.expose_secret()));
    files::write_new(path, &line, files::PRIVATE)
        .map_err(|error| file_error(path, error.to_string()))
}

fn file_error(path: &Path, why: impl Into<String>) -> ServeError {
    ServeError::TokenFile { path: PathBuf::from(path), why: why.into() }
}
