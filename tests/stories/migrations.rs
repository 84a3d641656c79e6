//! Operators migrate with sqlx-cli or with our own command: each accepts what
//! the other has done.

use std::path::{Path, PathBuf};

use tempfile::tempdir;
use tokio::process::Command;

use crate::support::command::{Said, command, run};

const INSTALL: &str = "cargo install sqlx-cli --version 0.9.0 --locked --no-default-features --features sqlite,postgres,rustls";

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

/// `sqlx migrate VERB` on a database of ours.
async fn theirs(verb: &str, data: &Path) -> Said {
    let mut sqlx = Command::new(sqlx());
    sqlx.args(["migrate", verb, "--source", "migrations/sqlite", "--database-url"])
        .arg(format!("sqlite://{}?mode=rwc", data.join("gateway-events.db").display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    run(&mut sqlx).await
}

async fn ours(arguments: &str, data: &Path) -> Said {
    run(&mut command(&format!("migrate {arguments} --data-dir {}", data.display()))).await
}

#[tokio::test]
async fn sqlx_cli_and_our_command_accept_each_others_history() {
    let directory = tempdir().expect("a directory");
    let newest = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite"))
        .expect("the migrations")
        .count();
    for ours_first in [true, false] {
        let data = directory.path().join(ours_first.to_string());
        std::fs::create_dir(&data).expect("made");
        let pending = ours("--check", &data).await;
        assert_eq!((pending.code, pending.out.lines().count()), (Some(1), newest), "{pending:?}");
        assert!(pending.out.starts_with("pending: 0001 log\n"), "{pending:?}");
        if ours_first {
            assert!(ours("", &data).await.well().contains("is up to date"));
            assert_eq!(theirs("run", &data).await.well(), "", "nothing was left to do");
        } else {
            assert!(theirs("run", &data).await.well().contains("Applied 1/migrate log"));
            assert!(ours("", &data).await.well().contains("is up to date"));
        }
        assert!(ours("--check", &data).await.well().contains("is up to date"));
        let info = theirs("info", &data).await;
        let installed = info.well().lines().filter(|line| line.contains("/installed"));
        assert_eq!(installed.count(), newest, "{info:?}");
        let file = data.join("gateway-events.db");
        let report = run(&mut command(&format!("verify {} --json", file.display()))).await.json();
        assert_eq!(report["problems"], serde_json::json!([]));
    }
}

#[tokio::test]
async fn a_history_that_is_not_ours_is_refused() {
    use sqlx::{ConnectOptions as _, Connection as _};
    let directory = tempdir().expect("a directory");
    let data = directory.path();
    ours("", data).await.well();
    let change = async |statement: &'static str| {
        let file =
            sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("gateway-events.db"));
        let mut database = file.connect().await.expect("the database");
        sqlx::query(statement).execute(&mut database).await.expect("changed");
        database.close().await.expect("closed");
    };
    change("update _sqlx_migrations set version = 9999 where version = 1").await;
    for verb in ["", "--check"] {
        ours(verb, data).await.failed(1, &["migration 9999", "newer"]);
    }
    change("update _sqlx_migrations set version = 1, checksum = x'00' where version = 9999").await;
    for verb in ["", "--check"] {
        ours(verb, data).await.failed(1, &["migration 1"]);
    }
}
