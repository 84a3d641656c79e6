//! The first admin token and its recovery: operators are never locked out, and a file of another
//! user grants no access.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::both_databases::{Backend, on_both};
use crate::support::{Service, TEST_TIMEOUT};

on_both! {
    an_admin_token_is_recovered_with_and_without_a_running_service
    nothing_is_recovered_where_there_is_no_database
}

#[tokio::test]
async fn an_admin_token_that_could_not_be_shown_is_not_lost() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The first start can't print the token: its standard output is full.
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a full device");
    let mut first = Command::new(env!("CARGO_BIN_EXE_gateway-events"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path())
        .stdout(full)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let ended = tokio::time::timeout(TEST_TIMEOUT, first.wait()).await.expect("it ends in time");
    assert_eq!(ended.expect("it ends").code(), Some(1));
    // The next start prints a valid token.
    let service = Service::start_in(directory, &[]).await;
    service.api().get("/gateways").await.expect("admitted");
}

async fn an_admin_token_is_recovered_with_and_without_a_running_service(backend: Backend) {
    let mut service = backend.start().await;
    let beside = recover(&backend, service.directory()).await.expect("a token");
    service.api_with(&beside).get("/access-tokens").await.expect("admitted at once");
    service.kill().await;
    let without = recover(&backend, service.directory()).await.expect("a token");
    service.restart().await;
    let tokens = service.api_with(&without).get("/access-tokens").await.expect("admitted");
    let names = tokens["list"].as_array().expect("a list").iter().map(|token| &token["name"]);
    assert_eq!(names.collect::<Vec<_>>(), ["first", "recovered", "recovered"]);
}

async fn nothing_is_recovered_where_there_is_no_database(backend: Backend) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let refused = recover(&backend, directory.path()).await.expect_err("nothing to recover");
    assert!(refused.contains("gateway-events migrate"), "{refused}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
}

async fn recover(backend: &Backend, directory: &Path) -> Result<String, String> {
    let mut recover = Command::new(env!("CARGO_BIN_EXE_gateway-events"));
    recover.args(["token", "recover", "--data-dir"]).arg(directory);
    if let Backend::Postgres(database) = backend {
        recover.env("GATEWAY_EVENTS__DATABASE__URL", database.url());
    }
    let output = recover.output().await.expect("the binary runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let token = out.lines().next().map(str::to_owned);
    token.filter(|_| output.status.success()).ok_or_else(|| err.into_owned())
}
