//! A database for commands that run before there is a service, or without one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::{TempDir, tempdir};
use tokio::process::Command;

use crate::both_databases::Backend;
use crate::support::Service;
use crate::support::command::{CommandOutput, command, run};

const INSTALL: &str = "cargo install sqlx-cli --version 0.9.0 --locked --no-default-features --features sqlite,postgres,rustls";

pub(crate) struct OfflineDatabase {
    backend: Backend,
    data: TempDir,
}

impl OfflineDatabase {
    /// An empty database, or the path of one that does not exist yet.
    pub(crate) fn new(backend: Backend) -> Self {
        Self { backend, data: tempdir().expect("a directory") }
    }

    fn file(&self) -> PathBuf {
        self.data.path().join("gateway-events.db")
    }

    /// The directory of its migrations, relative to the repository's root.
    pub(crate) fn migrations(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite => "migrations/sqlite",
            Backend::Postgres(_) => "migrations/postgres",
        }
    }

    /// The versions of the migrations. There are gaps between the numbers.
    pub(crate) fn versions(&self) -> Vec<usize> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.migrations());
        let files = std::fs::read_dir(folder).expect("the migrations");
        let version = |file: std::io::Result<std::fs::DirEntry>| {
            let name = file.expect("a migration").file_name();
            let name = name.into_string().expect("a name");
            let (version, _) = name.split_once('_').expect("a version and a name");
            version.parse().expect("a number")
        };
        files.map(version).collect()
    }

    /// Runs one of our commands on the database.
    pub(crate) async fn ours(&self, arguments: &str) -> CommandOutput {
        let mut ours = command(arguments);
        ours.arg("--data-dir").arg(self.data.path());
        if let Backend::Postgres(database) = &self.backend {
            ours.env("GATEWAY_EVENTS__DATABASE__URL", database.url());
        }
        run(&mut ours).await
    }

    /// Runs `sqlx migrate …` on the database.
    pub(crate) async fn theirs(&self, arguments: &str) -> CommandOutput {
        let url = match &self.backend {
            Backend::Sqlite => format!("sqlite://{}?mode=rwc", self.file().display()),
            Backend::Postgres(database) => database.url(),
        };
        let mut sqlx = Command::new(sqlx());
        sqlx.arg("migrate")
            .args(arguments.split_whitespace())
            .args(["--source", self.migrations(), "--database-url", &url])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        run(&mut sqlx).await
    }

    /// Runs statements in the database directly.
    pub(crate) async fn change(&self, statements: &str) {
        match &self.backend {
            Backend::Sqlite => {
                let file = SqliteConnectOptions::new().filename(self.file());
                let mut database = file.connect().await.expect("the database");
                let statements = AssertSqlSafe(statements.to_owned());
                sqlx::raw_sql(statements).execute(&mut database).await.expect("changed");
                database.close().await.expect("closed");
            }
            Backend::Postgres(database) => database.run(statements),
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Starts the service with the database and an access token that it contains.
    pub(crate) async fn start(self, token: &str) -> (Service, Backend) {
        let url = match &self.backend {
            Backend::Sqlite => None,
            Backend::Postgres(database) => Some(("DATABASE__URL", database.url())),
        };
        let settings: Vec<_> = url.iter().map(|(key, url)| (*key, url.as_str())).collect();
        (Service::start_again_in(self.data, &settings, token).await, self.backend)
    }
}

/// The `sqlx` in the path or in cargo's directory.
fn sqlx() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    std::env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|directory| directory.join("sqlx"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("this story needs sqlx-cli; install it: {INSTALL}"))
}
