//! Error messages of the command line and the probes.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::command::{self, command};
use crate::support::{Service, deployed};

/// Runs the binary; returns its exit code, standard output and standard error.
async fn run(service: &Service, arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = tokio::process::Command::new(env!("CARGO_BIN_EXE_gateway-events"))
        .args(arguments)
        .env("GATEWAY_EVENTS_URL", format!("https://localhost:{}", service.port))
        .env("GATEWAY_EVENTS_TOKEN", &service.token)
        .env("GATEWAY_EVENTS_CA_FILE", service.certificate())
        .output()
        .await
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (done.status.code(), text(done.stdout), text(done.stderr))
}

#[tokio::test]
async fn a_database_is_verified_by_its_name_or_by_the_settings() {
    let service = Service::start().await;
    let database = service.database();
    let directory = database.parent().expect("a directory").to_str().expect("text");
    let file = database.to_str().expect("text");
    for arguments in [["verify", file].as_slice(), &["verify", "--data-dir", directory]] {
        let (code, out, err) = run(&service, arguments).await;
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains(file) && out.contains("sound"), "{out}");
    }
    let missing = format!("{file}.not");
    let (code, _, err) = run(&service, &["verify", &missing]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains(&missing) && err.contains("No such file"), "{err}");
}

#[tokio::test]
async fn a_second_server_reports_once_that_the_database_is_in_use() {
    let service = Service::start().await;
    let database = service.database();
    let directory = database.parent().expect("a directory").to_str().expect("text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", directory];
    let (code, _, err) = run(&service, &arguments).await;
    assert_eq!(code, Some(1));
    assert_eq!(err.matches("is in use by another").count(), 1, "{err}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let service = Service::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("gateway-events.db");
    std::fs::write(&file, "not a database, but long enough to be read as one".repeat(99))
        .expect("written");
    let (file, directory) = (file.display().to_string(), directory.path().display().to_string());
    for arguments in [
        ["serve", "--plaintext", "--listen", "127.0.0.1:0"].as_slice(),
        &["migrate"],
        &["migrate", "--check"],
        &["verify"],
        &["token", "recover"],
    ] {
        let arguments = [arguments, &["--data-dir", &directory]].concat();
        let (code, _, err) = run(&service, &arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {err}");
        let says = format!("{file} is not a SQLite database");
        assert!(err.contains(&says), "{arguments:?}: {err}");
    }
}

/// Creates an SQLite database with a table that is not one of the service's.
async fn another_programs_database(file: &Path) {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let mut conn = options.connect().await.expect("a database");
    sqlx::query("create table users (name text)").execute(&mut conn).await.expect("created");
    conn.close().await.expect("closed");
}

#[tokio::test]
async fn verify_says_what_is_wrong_with_a_file_and_leaves_it_unchanged() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let migrate = format!("migrate --data-dir {}", directory.path().display());
    command::run(&mut command(&migrate)).await.well();
    let sound = std::fs::read(at("gateway-events.db")).expect("a database");
    let mut damaged = sound.clone();
    // The first page has the schema, after a header of 100 bytes.
    damaged[100..1000].fill(b'x');
    std::fs::write(at("empty.db"), "").expect("written");
    std::fs::write(at("text.db"), "not a database ".repeat(999)).expect("written");
    std::fs::write(at("cut.db"), &sound[..sound.len() / 2]).expect("written");
    std::fs::write(at("damaged.db"), damaged).expect("written");
    another_programs_database(&at("foreign.db")).await;
    for (name, says) in [
        ("empty.db", "is empty: it has no tables"),
        ("text.db", "is not a SQLite database, or its header is damaged"),
        ("cut.db", "is damaged or incomplete"),
        ("damaged.db", "is damaged or incomplete"),
        ("foreign.db", "is a SQLite database, but not one of gateway-events"),
    ] {
        let file = at(name);
        let before = std::fs::read(&file).expect("a file");
        let file = file.display().to_string();
        let refused = command::run(&mut command(&format!("verify {file}"))).await;
        refused.failed(1, &[&format!("{file} {says}")]);
        let advice = if name == "foreign.db" { "check its path" } else { "use another one" };
        assert!(refused.err.contains(advice), "{refused:?}");
        assert!(!refused.err.contains("older schema"), "{refused:?}");
        assert_eq!(std::fs::read(&file).expect("a file"), before, "{name} was changed");
    }
    let missing = at("missing.db");
    let refused = command::run(&mut command(&format!("verify {}", missing.display()))).await;
    refused.failed(1, &["missing.db"]);
    assert!(!missing.exists(), "it was created");
}

#[tokio::test]
async fn failed_deliveries_are_found_by_their_correlation_id() {
    let service = Service::start().await;
    let (id, _) = service.gateway("away").await;
    for name in ["one", "two"] {
        let mut event = deployed(&[&id], name);
        event["correlationId"] = json!(name);
        service.api().post("/events", &event).await.expect("accepted");
    }
    service.eventually("/deliveries", |page| page["count"] == 2).await;
    let arguments = ["delivery", "failed", "--correlation-id", "two", "--json"];
    let (code, out, err) = run(&service, &arguments).await;
    assert_eq!(code, Some(0), "{err}");
    let page: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&page["count"], &page["list"][0]["sequence"]), (&json!(1), &json!(2)), "{out}");
}

#[tokio::test]
async fn readiness_reports_a_full_disk_without_becoming_unready() {
    let more_than_there_is = i64::MAX.to_string();
    let settings = [("DATABASE__MIN_FREE_BYTES", more_than_there_is.as_str())];
    let service = Service::start_with(&settings).await;
    let (id, key) = service.gateway("one").await;
    let refused = service.api().post("/events", &deployed(&[&id], "d")).await;
    assert_eq!(refused.expect_err("no room").status(), Some(507));
    let ready = service.api().at_root(Method::GET, "/readyz").send().await.expect("an answer");
    assert_eq!(ready.status(), 200);
    let said = ready.text().await.expect("text");
    assert!(said.starts_with("degraded: ") && said.contains("507"), "{said}");
    service.connected(&key).await;
}
