//! Checks settings without starting the service: whether the URLs can be parsed, and
//! whether the files and directories can be opened. Nothing is written, created or
//! connected to.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::{ServeError, first_token, refuse_missing_database};
use crate::alerts::secrets::SecretKey;
use crate::config::Config;
use crate::http::tls::Certificates;

/// Opens what the settings name, as the service does. Returns one line per problem.
pub fn check(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let unusable = |key: &str, path: &Path, why: String| {
        format!("{key}: {} can't be used: {why}", path.display())
    };
    if let Err(error) = data_dir(&config.data_dir) {
        problems.push(unusable("data_dir", &config.data_dir, error));
    }
    let database = config.data_dir.join("gateway-events.db");
    if !config.database.is_shared() && exists(&database) {
        let opened = File::options().read(true).write(true).open(&database);
        if let Err(error) = opened {
            problems.push(unusable("data_dir", &database, error.to_string()));
        }
    }
    if let Err(error) = refuse_missing_database(config) {
        problems.push(error.to_string());
    }
    if let Some(path) = &config.admin_token_file
        && let Err(why) = token_file(path, &config.data_dir)
    {
        problems.push(unusable("admin_token_file", path, why));
    }
    if let Some(path) = &config.alerts.key_file
        && let Err(error) = SecretKey::read(path)
    {
        problems.push(error.to_string());
    }
    for (parameter, path) in config.database.files() {
        if let Err(error) = File::open(&path) {
            let key = format!("database.url, {parameter}");
            problems.push(unusable(&key, &path, error.to_string()));
        }
    }
    if !cfg!(feature = "otlp") && !config.otlp.endpoint.is_empty() {
        problems.push(
            "otlp.endpoint: must be empty, because this program was built without the feature `otlp`"
                .to_owned(),
        );
    }
    if let Err(error) = config.database.check() {
        problems.push(error.to_string());
    }
    if let Some(problem) = certificates(config) {
        problems.push(problem);
    }
    problems
}

/// Whether the file contains a token, or else can be created: in a directory that exists, or in the
/// data directory, which the service creates.
fn token_file(path: &Path, data_dir: &Path) -> Result<(), String> {
    if exists(path) {
        return first_token::read(path).map(drop).map_err(|error| match error {
            ServeError::TokenFile { why, .. } => why,
            other => other.to_string(),
        });
    }
    let parent = parent(path);
    if parent == data_dir {
        return Ok(());
    }
    writable(parent).map_err(|why| format!("it can't be created in {}: {why}", parent.display()))
}

/// Whether files can be created in the directory.
fn writable(directory: &Path) -> Result<(), String> {
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => Err("it is not a directory".to_owned()),
        Ok(_) => {
            let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
            access(directory, all).map_err(|error| io::Error::from(error).to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The directory of a path: the current one if it names none.
fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Whether the directory is writable, or can be created.
fn data_dir(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = parent(path);
            if parent == path {
                return Err(error.to_string());
            }
            data_dir(parent)
                .map_err(|why| format!("it can't be created in {}: {why}", parent.display()))
        }
        _ => writable(path),
    }
}

fn certificates(config: &Config) -> Option<String> {
    let server = &config.server;
    if server.plaintext {
        return None;
    }
    let pair = match (&server.certificate, &server.private_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => (config.data_dir.join("certificate.pem"), config.data_dir.join("private-key.pem")),
    };
    let (certificate, key) = pair;
    let is_configured = server.certificate.is_some();
    if !is_configured && !exists(&certificate) {
        // It is generated at the first start.
        return None;
    }
    let opened = Certificates::open(certificate, key);
    opened.err().map(|error| format!("server.certificate, server.private_key: {error}"))
}

/// Whether the path exists; a dangling symbolic link counts.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
