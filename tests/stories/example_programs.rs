//! The programs and SQL scripts in `examples/`, run as their first lines say.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::process::Command;

use crate::server::Database;
use crate::support::Service;
use crate::support::command::run;

/// Cargo builds the examples with all tests, but not for a single test target.
async fn built(name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--example", name]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).kill_on_drop(true);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let ended = cargo.status().await.expect("cargo starts");
    assert!(ended.success(), "the example {name} does not build");
    let binary = Path::new(env!("CARGO_BIN_EXE_gateway-events"));
    binary.parent().expect("a folder").join("examples").join(name)
}

fn script(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    std::fs::read_to_string(file).expect("readable")
}

async fn example(name: &str, service: &Service) -> Command {
    of_service(&built(name).await, service)
}

fn of_service(program: &Path, service: &Service) -> Command {
    let mut program = Command::new(program);
    program
        .arg(format!("https://localhost:{}", service.port))
        .current_dir(service.directory())
        .env_clear()
        .env("GATEWAY_EVENTS_CA_FILE", service.certificate())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    program
}

#[tokio::test]
async fn a_gateway_in_reliable_mode_applies_refuses_and_resumes() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let program = built("gateway").await;
    let position = service.directory().join("position");
    let start = || {
        let mut gateway = of_service(&program, &service);
        gateway.arg("a").arg(&position).env("GATEWAY_EVENTS_KEY", &key);
        gateway.spawn().expect("it starts")
    };
    let publish = async |action: &str| {
        let payload = serde_json::json!({ "configType": "cache", "action": action });
        let event = serde_json::json!({
            "type": "gateway.config.updated", "gatewayIds": [id], "payload": payload,
        });
        service.api().post("/events", &event).await.expect("accepted");
    };
    let path = format!("/gateways/{id}");
    let mut gateway = start();
    publish("retry").await;
    publish("update").await;
    service.eventually(&path, |gateway| gateway["confirmed"] == 2).await;
    gateway.kill().await.expect("it was running");
    publish("update").await;
    let gateway = start();
    service.eventually(&path, |gateway| gateway["confirmed"] == 3).await;
    let pid = i32::try_from(gateway.id().expect("it runs")).ok();
    let pid = pid.and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is stopped");
    let ended =
        tokio::time::timeout(crate::support::TEST_TIMEOUT, gateway.wait_with_output()).await;
    let ended = ended.expect("it ends in time").expect("it ends");
    let said = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success(), "{said}");
    let applied: Vec<_> = said.lines().filter(|line| line.starts_with("applied ")).collect();
    assert!(matches!(applied[..], [line] if line.starts_with("applied 3 ")), "{said}");
}

#[tokio::test]
async fn a_plain_gateway_applies_what_the_publisher_and_the_platform_publish() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = example("plain_gateway", &service).await;
    let mut gateway = gateway.env("GATEWAY_EVENTS_KEY", key).spawn().expect("it starts");

    let mut publisher = example("publish", &service).await;
    let said = run(publisher.env("GATEWAY_EVENTS_TOKEN", &service.token)).await;
    assert!(said.well().contains(&format!("is number 1 for gateway {id}")), "{said:?}");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;

    // The report of a deployment is matched: the event is applied, not only received.
    let event = crate::support::deployed(&[&id], "d-1");
    let accepted = service.api().post("/events", &event).await.expect("accepted");
    let path = format!("/events/{}", accepted["id"].as_str().expect("an id"));
    let applied = |event: &Value| {
        let attempts = event["deliveries"][0]["attempts"].as_array();
        attempts.is_some_and(|all| all.iter().any(|attempt| attempt["outcome"] == "applied"))
    };
    service.eventually(&path, applied).await;
    gateway.kill().await.expect("it was running");
}

#[tokio::test]
async fn a_gateway_whose_key_is_refused_ends_with_an_error() {
    let service = Service::start().await;
    for name in ["gateway", "plain_gateway"] {
        let mut gateway = example(name, &service).await;
        let said = run(gateway.env("GATEWAY_EVENTS_KEY", "gwk_unknown")).await;
        assert_ne!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains("401"), "{said:?}");
    }
}

#[tokio::test]
async fn the_script_for_sqlite_publishes() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let text = script("publish.sqlite.sql");
    // The shell's own commands begin with a dot.
    let statements: Vec<_> = text.lines().filter(|line| !line.starts_with('.')).collect();
    let options = SqliteConnectOptions::new().filename(service.database());
    let mut platform = options.connect().await.expect("the file opens");
    let statements = sqlx::AssertSqlSafe(statements.join("\n"));
    sqlx::raw_sql(statements).execute(&mut platform).await.expect("it runs");
    platform.close().await.expect("closed");
    published(&service, &id).await;
}

#[tokio::test]
async fn the_script_for_postgres_publishes() {
    let database = Database::new();
    let service = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let (id, _) = service.gateway("one").await;
    database.run(&script("publish.postgres.sql"));
    published(&service, &id).await;
}

async fn published(service: &Service, gateway: &str) {
    let path = format!("/gateways/{gateway}/log");
    let log = service.eventually(&path, |log| !log["list"][0].is_null()).await;
    assert_eq!(log["list"][0]["type"], "gateway.config.updated", "{log:#}");
}
