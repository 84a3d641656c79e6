//! How commands connect to the service: the certificates they trust, and their errors when they
//! can't connect, or when their output is not read.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::support::command::{CommandOutput, command, run};
use crate::support::{Service, TEST_TIMEOUT, deployed};

#[tokio::test]
async fn a_certificate_is_verified_unless_that_is_disabled() {
    let service = Service::start().await;
    let bare = |arguments: &str| {
        let mut command = service.command(arguments);
        command.env_remove("GATEWAY_EVENTS_CA_FILE");
        command
    };
    run(&mut bare("gateway list")).await.failed(1, &["certificate", "--ca-file", "--insecure"]);
    run(&mut bare("gateway list --insecure")).await.well();
    let ca = format!("gateway list --ca-file {}", service.certificate().display());
    run(&mut bare(&ca)).await.well();
    run(&mut bare(&format!("{ca} --insecure"))).await.failed(2, &["--ca-file", "--insecure"]);
    run(&mut bare("gateway list --ca-file nowhere.pem")).await.failed(1, &["nowhere.pem", "PEM"]);
    let log = format!("gateway list --ca-file {}", service.database().display());
    run(&mut bare(&log)).await.failed(1, &["gateway-events.db", "PEM"]);
    // A valid certificate for another name is refused.
    let mut elsewhere = service.command("gateway list");
    elsewhere.env("GATEWAY_EVENTS_URL", format!("https://127.0.0.2:{}", service.port));
    run(&mut elsewhere).await.failed(1, &["127.0.0.2"]);
}

#[tokio::test]
async fn a_command_that_can_not_connect_says_why() {
    let service = Service::start().await;
    let with = |name: &str, value: &str| {
        let mut command = service.command("gateway list");
        command.env(name, value);
        command
    };
    let away = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = away.local_addr().expect("an address").port();
    drop(away);
    let url = format!("https://localhost:{port}");
    let mut unreachable = with("GATEWAY_EVENTS_URL", &url);
    run(&mut unreachable).await.failed(1, &[&url, "failed to connect", "--url"]);
    let plain = format!("http://localhost:{}", service.port);
    run(&mut with("GATEWAY_EVENTS_URL", &plain)).await.failed(1, &[&plain, "https://"]);
    for (bad, says) in [("localhost", "https://host:8443"), ("ftp://localhost", "https://")] {
        run(&mut with("GATEWAY_EVENTS_URL", bad)).await.failed(1, &[bad, says]);
    }
    for (bad, says) in [("gwa_nonsense", "401"), ("Bearer x", "spaces"), ("two\nlines", "spaces")] {
        let said = run(&mut with("GATEWAY_EVENTS_TOKEN", bad)).await;
        said.failed(1, &[says, "GATEWAY_EVENTS_TOKEN"]);
        assert!(!said.err.contains(bad), "a secret is repeated: {said:?}");
    }
    let mut listen = service.command("listen --as-gateway --yes");
    let said = run(listen.env("GATEWAY_EVENTS_KEY", "two\nlines")).await;
    said.failed(1, &["GATEWAY_EVENTS_KEY", "spaces"]);
    let needed = ["access token is required", "GATEWAY_EVENTS_TOKEN", "--token-file"];
    run(&mut with("GATEWAY_EVENTS_TOKEN", "")).await.failed(1, &needed);
    run(service.command("gateway list").env_remove("GATEWAY_EVENTS_TOKEN"))
        .await
        .failed(1, &needed);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{}\n", service.token)).expect("written");
    let from_file = format!("gateway list --token-file {}", file.path().display());
    let mut from_file = service.command(&from_file);
    run(from_file.env_remove("GATEWAY_EVENTS_TOKEN")).await.well();
    let mut from_input = service.command("gateway list --token-file -");
    from_input.stdin(std::fs::File::open(file.path()).expect("a file"));
    run(&mut from_input).await.well();
    service
        .run("gateway list --token-file nowhere")
        .await
        .failed(1, &["nowhere", "failed to read"]);
}

#[tokio::test]
async fn broken_pipe_is_not_an_error() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let ended = async |mut command: tokio::process::Command| -> CommandOutput {
        let mut running = command.spawn().expect("it starts");
        drop(running.stdout.take());
        service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
        let ended = tokio::time::timeout(TEST_TIMEOUT, running.wait_with_output()).await;
        ended.expect("it ends").expect("it ends").into()
    };
    for arguments in ["gateway list", "gateway list --json", "delivery failed", "token list"] {
        ended(service.command(arguments)).await.well();
    }
    for arguments in ["completions bash", "config show", "--help"] {
        ended(command(arguments)).await.well();
    }
    let mut listen = service.command("listen --as-gateway --yes");
    listen.env("GATEWAY_EVENTS_KEY", &key);
    let said = ended(listen).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.err.contains("panicked"), "{said:?}");
}

/// A `listen` that is connected.
async fn listening(service: &Service, key: &str, arguments: &str) -> Child {
    let mut command = service.command(&format!("listen --as-gateway --yes {arguments}"));
    let mut running = command.env("GATEWAY_EVENTS_KEY", key).spawn().expect("it starts");
    let mut remarks = BufReader::new(running.stderr.take().expect("a pipe")).lines();
    let connected = async { remarks.next_line().await.expect("text").expect("a line") };
    let line = tokio::time::timeout(TEST_TIMEOUT, connected).await.expect("it connects");
    assert!(line.starts_with("connected as gateway "), "{line}");
    // It must be able to write more remarks.
    tokio::spawn(async move { while let Ok(Some(_)) = remarks.next_line().await {} });
    running
}

/// Sends SIGTERM; returns what it printed.
async fn ended(running: Child) -> (Option<i32>, String) {
    let pid = i32::try_from(running.id().expect("it runs")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    let ended = tokio::time::timeout(TEST_TIMEOUT, running.wait_with_output()).await;
    let ended = ended.expect("it ends in time").expect("it ends");
    (ended.status.code(), String::from_utf8(ended.stdout).expect("text"))
}

#[tokio::test]
async fn listen_connects_as_a_gateway_if_requested() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let publish = async |deployment: &str| {
        let answer = service.admin().post("/events", &deployed(&[&id], deployment)).await;
        answer.success()["id"].as_str().expect("an id").to_owned()
    };
    let settled = async |event: &str, outcome: &str| {
        let path = format!("/events/{event}");
        let has = |event: &serde_json::Value| {
            let attempts = event["deliveries"][0]["attempts"].as_array();
            attempts.is_some_and(|all| all.iter().any(|attempt| attempt["outcome"] == outcome))
        };
        service.eventually(&path, has).await
    };
    let slow = listening(&service, &key, "--slow 700ms").await;
    let event = publish("d-1").await;
    let seen = settled(&event, "received").await;
    let attempt = &seen["deliveries"][0]["attempts"][0];
    let time = |name: &str| {
        gateway_events::clock::Timestamp::parse(attempt[name].as_str().expect("a time"))
            .expect("a time")
    };
    let took = time("finishedAt").since(time("startedAt"));
    assert!(took >= std::time::Duration::from_millis(700), "confirmed after {took:?}");
    let (code, out) = ended(slow).await;
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().count(), 1, "{out}");
    assert!(out.contains("api.deployed") && out.contains("#1") && out.contains("d-1"), "{out}");

    let applying = listening(&service, &key, "--ack --json").await;
    let event = publish("d-2").await;
    settled(&event, "applied").await;
    let (code, out) = ended(applying).await;
    assert_eq!(code, Some(0));
    let frame: serde_json::Value = serde_json::from_str(&out).expect("one frame");
    assert_eq!(
        (frame["eventId"].as_str(), frame["sequence"].as_i64()),
        (Some(event.as_str()), Some(2))
    );

    let failing = listening(&service, &key, "--fail DEPLOYMENT_ID_MISMATCH").await;
    let event = publish("d-3").await;
    let seen = settled(&event, "failed").await;
    assert_eq!(seen["deliveries"][0]["reason"], "deployment_id_mismatch");
    assert_eq!(ended(failing).await.0, Some(0));

    let mut both = service.command("listen --as-gateway --yes --ack --fail X");
    run(both.env("GATEWAY_EVENTS_KEY", &key)).await.failed(2, &["--ack", "--fail"]);
    service.run("listen --as-gateway --yes").await.failed(1, &["GATEWAY_EVENTS_KEY", "--key-file"]);
    let mut wrong = service.command("listen --as-gateway --yes");
    run(wrong.env("GATEWAY_EVENTS_KEY", "nonsense"))
        .await
        .failed(1, &["not valid", "token create"]);
    service.run(&format!("gateway disable {id} --yes")).await.well();
    let mut disabled = service.command("listen --as-gateway --yes");
    run(disabled.env("GATEWAY_EVENTS_KEY", &key)).await.failed(1, &["disabled", "gateway enable"]);
    // An untrusted certificate may be replaced, so the command retries, and prints advice.
    let mut untrusting = service.command("listen --as-gateway --yes");
    untrusting.env("GATEWAY_EVENTS_KEY", &key).env_remove("GATEWAY_EVENTS_CA_FILE");
    let mut running = untrusting.stdout(Stdio::null()).spawn().expect("it starts");
    let mut remarks = BufReader::new(running.stderr.take().expect("a pipe")).lines();
    let line = tokio::time::timeout(TEST_TIMEOUT, remarks.next_line()).await.expect("in time");
    let line = line.expect("text").expect("a line");
    assert!(line.contains("certificate") && line.contains("--ca-file"), "{line}");
    running.kill().await.expect("it ran");
}
