//! Operators migrate with sqlx-cli or with our own command: each accepts what
//! the other has done, in either database.

use std::path::{Path, PathBuf};

use serde_json::json;
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::tempdir;
use tokio::process::Command;

use crate::both::{On, on_both};
use crate::support::command::{Said, command, run};

const INSTALL: &str = "cargo install sqlx-cli --version 0.9.0 --locked --no-default-features --features sqlite,postgres,rustls";

on_both! {
    sqlx_cli_and_our_command_accept_each_others_history
    a_history_that_is_not_ours_is_refused
}

/// The `sqlx` of the path, or of cargo's own directory.
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

impl On {
    /// An empty database of the same kind.
    fn another(&self) -> Self {
        match self {
            Self::Embedded => Self::Embedded,
            Self::Shared(_) => Self::shared(),
        }
    }

    fn folder(&self) -> &'static str {
        match self {
            Self::Embedded => "migrations/sqlite",
            Self::Shared(_) => "migrations/postgres",
        }
    }

    fn sqlx_url(&self, data: &Path) -> String {
        match self {
            Self::Embedded => {
                format!("sqlite://{}?mode=rwc", data.join("gateway-events.db").display())
            }
            Self::Shared(database) => database.url(),
        }
    }

    /// `sqlx migrate VERB` on a database of ours.
    async fn theirs(&self, verb: &str, data: &Path) -> Said {
        let mut sqlx = Command::new(sqlx());
        sqlx.args(["migrate", verb, "--source", self.folder(), "--database-url"])
            .arg(self.sqlx_url(data))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_clear()
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        run(&mut sqlx).await
    }

    /// Our own command about the database of a data directory.
    pub(crate) async fn ours(&self, arguments: &str, data: &Path) -> Said {
        let mut ours = command(&format!("{arguments} --data-dir {}", data.display()));
        if let Self::Shared(database) = self {
            ours.env("GATEWAY_EVENTS__DATABASE__URL", database.url());
        }
        run(&mut ours).await
    }

    /// Does to the database what no command of ours does.
    pub(crate) async fn change(&self, data: &Path, statements: &str) {
        match self {
            Self::Embedded => {
                let file = sqlx::sqlite::SqliteConnectOptions::new()
                    .filename(data.join("gateway-events.db"));
                let mut database = file.connect().await.expect("the database");
                let statements = sqlx::AssertSqlSafe(statements.to_owned());
                sqlx::raw_sql(statements).execute(&mut database).await.expect("changed");
                database.close().await.expect("closed");
            }
            Self::Shared(database) => database.run(statements),
        }
    }
}

async fn sqlx_cli_and_our_command_accept_each_others_history(on: On) {
    let directory = tempdir().expect("a directory");
    let newest = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(on.folder()))
        .expect("the migrations")
        .count();
    for ours_first in [true, false] {
        let on = on.another();
        let data = directory.path().join(ours_first.to_string());
        std::fs::create_dir(&data).expect("made");
        let pending = on.ours("migrate --check", &data).await;
        assert_eq!((pending.code, pending.out.lines().count()), (Some(1), newest), "{pending:?}");
        assert!(pending.out.starts_with("pending: 0001 log\n"), "{pending:?}");
        if ours_first {
            assert!(on.ours("migrate", &data).await.well().contains("is up to date"));
            assert_eq!(on.theirs("run", &data).await.well(), "", "nothing was left to do");
        } else {
            assert!(on.theirs("run", &data).await.well().contains("Applied 1/migrate log"));
            assert!(on.ours("migrate", &data).await.well().contains("is up to date"));
        }
        assert!(on.ours("migrate --check", &data).await.well().contains("is up to date"));
        let info = on.theirs("info", &data).await;
        let installed = info.well().lines().filter(|line| line.contains("/installed"));
        assert_eq!(installed.count(), newest, "{info:?}");
        let report = on.ours("verify --json", &data).await.json();
        assert_eq!(report["problems"], json!([]));
    }
}

async fn a_history_that_is_not_ours_is_refused(on: On) {
    let directory = tempdir().expect("a directory");
    let data = directory.path();
    on.ours("migrate", data).await.well();
    let refused = async |says: &[&str]| {
        for verb in ["migrate", "migrate --check"] {
            on.ours(verb, data).await.failed(1, says);
        }
        // The service does not start on it either.
        on.ours("serve --listen 127.0.0.1:0", data).await.failed(1, says);
    };
    on.change(data, "update _sqlx_migrations set version = 9999 where version = 1").await;
    refused(&["migration 9999", "newer"]).await;
    let checksum = match on {
        On::Embedded => "x'00'",
        On::Shared(_) => r"'\x00'",
    };
    on.change(
        data,
        &format!(
            "update _sqlx_migrations set version = 1, checksum = {checksum} where version = 9999"
        ),
    )
    .await;
    refused(&["migration 1 ", "another text"]).await;
}
