//! `listen`: watching does not affect deliveries; connecting as a gateway requires confirmation.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::support::command::run;
use crate::support::terminal::run_on_terminal;
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// A running `listen`.
struct Listening {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Listening {
    fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let out = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let err = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        Self { process, out, err }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(TEST_TIMEOUT, self.out.next_line()).await.expect("in time");
        line.expect("text").expect("a line")
    }

    async fn error_line(&mut self) -> String {
        let line = tokio::time::timeout(TEST_TIMEOUT, self.err.next_line()).await.expect("in time");
        line.expect("text").expect("a line on standard error")
    }
}

async fn publish(service: &Service, id: &str, deployment: &str) {
    service.admin().post("/events", &deployed(&[id], deployment)).await.success();
}

#[tokio::test]
async fn watching_shows_each_event_and_the_gateway_still_receives_all() {
    let service = Service::start().await;
    let (id, key) = service.gateway("berlin").await;
    publish(&service, &id, "d-1").await;
    let mut watching = Vec::new();
    for arguments in ["listen berlin", "listen berlin --after 0", "listen berlin --json"] {
        let mut one = Listening::start(service.command(arguments));
        let message = one.error_line().await;
        assert!(message.contains("watching gateway berlin"), "{message}");
        assert!(message.contains("nothing is confirmed"), "{message}");
        watching.push(one);
    }
    let first = watching[1].line().await;
    assert!(first.contains("#1") && first.contains("d-1"), "{first}");
    publish(&service, &id, "d-2").await;
    for one in &mut watching[..2] {
        let line = one.line().await;
        assert!(line.contains("api.deployed") && line.contains("#2"), "{line}");
        assert!(line.contains("d-2"), "{line}");
    }
    let entry: Value = serde_json::from_str(&watching[2].line().await).expect("JSON");
    assert_eq!(entry["sequence"], 2);
    assert_eq!(entry["payload"]["deploymentId"], "d-2");
    assert_eq!(entry["state"], "pending");

    // The gateway has lost nothing, and there was no connection.
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!((&gateway["confirmed"], &gateway["head"]), (&json!(0), &json!(2)));
    let path = format!("/gateways/{id}/connections");
    assert_eq!(service.api().get(&path).await.expect("an answer")["count"], 0);
    let mut socket = service.connected(&key).await;
    socket.expect(1..=2).await;
    let serving = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 2).await;
    serving.abort();
}

#[tokio::test]
async fn watching_beyond_the_end_of_the_log_says_so() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    publish(&service, &id, "d-1").await;
    for (after, is_beyond) in [(0, false), (1, false), (3, true)] {
        let command = service.command(&format!("listen berlin --json --after {after}"));
        let mut watching = Listening::start(command);
        let message = watching.error_line().await;
        assert!(message.contains(&format!("after #{after};")), "{message}");
        if is_beyond {
            let message = watching.error_line().await;
            assert!(message.contains("ends at #1; waiting for #4"), "{message}");
            for deployment in ["d-2", "d-3", "d-4"] {
                publish(&service, &id, deployment).await;
            }
            let entry: Value = serde_json::from_str(&watching.line().await).expect("JSON");
            assert_eq!(entry["sequence"], 4);
        }
        watching.process.kill().await.expect("it ran");
        let rest = watching.err.next_line().await.expect("text");
        assert_eq!(rest, None, "after {after}");
    }
}

#[tokio::test]
async fn watching_continues_after_a_restart_of_the_service_without_a_gap() {
    let mut service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    publish(&service, &id, "d-1").await;
    let mut watching = Listening::start(service.command("listen berlin --after 0 --json"));
    watching.error_line().await;
    let first: Value = serde_json::from_str(&watching.line().await).expect("JSON");
    assert_eq!(first["sequence"], 1);
    service.kill().await;
    let message = watching.error_line().await;
    assert!(message.contains("retrying"), "{message}");
    service.restart().await;
    publish(&service, &id, "d-2").await;
    publish(&service, &id, "d-3").await;
    for sequence in [2, 3] {
        let entry: Value = serde_json::from_str(&watching.line().await).expect("JSON");
        assert_eq!(entry["sequence"], sequence);
    }
    // When its gateway is deleted, the watcher ends.
    service.api().delete(&format!("/gateways/{id}")).await.expect("deleted");
    let ended = tokio::time::timeout(2 * TEST_TIMEOUT, watching.process.wait()).await;
    assert_eq!(ended.expect("it ends in time").expect("it ends").code(), Some(1));
}

#[tokio::test]
async fn connecting_as_a_gateway_requires_confirmation() {
    let service = Service::start().await;
    let (id, key) = service.gateway("berlin").await;
    let as_gateway = |arguments: &str| {
        let mut command = service.command(&format!("listen --as-gateway {arguments}"));
        command.env("GATEWAY_EVENTS_KEY", &key);
        command
    };
    let says = ["never receives them", "--yes", "To watch only"];
    run(&mut as_gateway("")).await.failed(1, &says);
    let (code, shown) = run_on_terminal(as_gateway(""), "n\n").await;
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("[y/N]") && shown.contains("nothing was changed"), "{shown}");
    let path = format!("/gateways/{id}/connections");
    assert_eq!(service.api().get(&path).await.expect("an answer")["count"], 0);

    let mut listening = Listening::start(as_gateway("--yes"));
    assert!(listening.error_line().await.starts_with("connected as gateway "));
    publish(&service, &id, "d-1").await;
    assert!(listening.line().await.contains("d-1"));
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;

    // Options of one mode are refused in the other.
    run(&mut service.command("listen")).await.failed(2, &["GATEWAY"]);
    run(&mut service.command("listen berlin --ack")).await.failed(2, &["--ack", "cannot be used"]);
    run(&mut service.command("listen berlin --as-gateway")).await.failed(2, &["cannot be used"]);
    run(&mut service.command("listen nowhere")).await.failed(1, &["nowhere"]);
}
