//! Commands with a wrong address, certificate, context, key or event type say what is wrong and what to
//! do about it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::support::command::{CommandOutput, command, run};
use crate::support::{Service, TEST_TIMEOUT};

/// Runs `doctor` with these arguments; returns its only failed check, which is the last one.
async fn failed_check(service: &Service, arguments: &str) -> Value {
    let done = run(&mut service.command(&format!("doctor --json {arguments}"))).await;
    assert_eq!((done.code, done.err.as_str()), (Some(1), ""), "{done:?}");
    let report: Value = serde_json::from_str(&done.out).expect("JSON");
    let checks = report["list"].as_array().expect("a list");
    let (last, before) = checks.split_last().expect("a check");
    assert_eq!(last["result"], "fail", "{report:#}");
    assert!(before.iter().all(|check| check["result"] != "fail"), "{report:#}");
    last.clone()
}

#[track_caller]
fn says(check: &Value, name: &str, found: &str, advice: &str) {
    assert_eq!(check["check"], name, "{check:#}");
    let text = |member: &str| check[member].as_str().expect("a text");
    assert!(text("found").contains(found), "{check:#}");
    assert!(text("advice").contains(advice), "{check:#}");
}

#[tokio::test]
async fn doctor_says_whether_the_server_uses_tls() {
    let service = Service::start().await;
    let tls = failed_check(&service, &format!("--url http://localhost:{}", service.port)).await;
    says(&tls, "tls", "uses TLS, but the address begins with http://", "use https://");
    let (mut running, plaintext) = plaintext_service(service.directory()).await;
    let none = failed_check(&service, &format!("--url https://{plaintext}")).await;
    says(&none, "tls", "did not answer with TLS", "use http://");
    // The right scheme is found in order, up to the token of the other service.
    let right = failed_check(&service, &format!("--url http://{plaintext}")).await;
    says(&right, "token", "401", "token recover");
    running.kill().await.expect("it ran");
}

/// Starts a service without TLS in a directory below this one; returns its address.
async fn plaintext_service(directory: &Path) -> (Child, String) {
    let mut serve = command("serve --plaintext --listen 127.0.0.1:0 --data-dir");
    serve.arg(directory.join("plaintext")).stderr(Stdio::null());
    let mut running = serve.spawn().expect("it starts");
    let mut lines = BufReader::new(running.stdout.take().expect("a pipe")).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some((_, address)) = line.split_once("listening on http://") {
                return address.split_whitespace().next().expect("an address").to_owned();
            }
        }
        panic!("it does not listen");
    };
    let address = tokio::time::timeout(TEST_TIMEOUT, listening).await.expect("it listens in time");
    (running, address)
}

/// A web server that knows none of the paths; collects the requests.
async fn foreign_server() -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let requests = Arc::new(Mutex::new(String::new()));
    let collected = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            collected.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&head));
            let answer =
                "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlost";
            // The client may have closed the connection.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, requests)
}

#[tokio::test]
async fn doctor_recognises_another_server_and_sends_it_no_token() {
    let service = Service::start().await;
    let (address, requests) = foreign_server().await;
    let check = failed_check(&service, &format!("--url http://{address}")).await;
    says(&check, "service", "is not gateway-events", "check whether --url is the address");
    assert!(check["found"].as_str().is_some_and(|found| found.contains("404")), "{check:#}");
    let requests = requests.lock().expect("not poisoned").to_lowercase();
    assert!(requests.contains("get /api/internal/v1/") && !requests.contains("gwa_"), "{requests}");
}

#[tokio::test]
async fn doctor_names_the_files_that_it_can_not_use() {
    let service = Service::start().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let other = service.directory().join("other.pem");
    std::fs::write(&other, made.expect("a certificate").cert.pem()).expect("written");
    let missing = failed_check(&service, "--ca-file nowhere.pem").await;
    says(&missing, "ca-file", "nowhere.pem: I/O error: No such file", "check --ca-file");
    let database = service.database().display().to_string();
    let no_certificate = failed_check(&service, &format!("--ca-file {database}")).await;
    says(&no_certificate, "ca-file", &database, "check --ca-file");
    let token = failed_check(&service, "--token-file nowhere").await;
    says(&token, "token", "the file nowhere: No such file", "check --token-file");

    let wrong = format!("doctor --json --ca-file {}", other.display());
    let wrong: Value = serde_json::from_str(&service.run(&wrong).await.out).expect("JSON");
    let checks = wrong["list"].as_array().expect("a list");
    let tls = checks.iter().find(|check| check["result"] == "fail").expect("a failed check");
    let found = format!("not issued by one in the CA file {}", other.display());
    says(tls, "tls", &found, "DATA_DIR/certificate.pem");
}

#[tokio::test]
async fn a_context_for_another_address_is_mentioned_once() {
    let service = Service::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let token = home.path().join("token");
    std::fs::write(&token, &service.token).expect("written");
    let with = |arguments: &str| {
        let mut command = command(arguments);
        command.env("XDG_CONFIG_HOME", home.path());
        command
    };
    let other = "https://localhost:1";
    let set = format!("context set prod --url {other} --token-file {}", token.display());
    run(&mut with(&set)).await.well();
    let url = format!("https://localhost:{}", service.port);
    let unused = |source: &str| {
        format!(
            "the token and CA file of context prod are not used, because its address is {other}, and {source} is {url}\n"
        )
    };
    for arguments in ["gateway list", "event list", "doctor"] {
        let mut list = with(&format!("{arguments} --url {url} --insecure"));
        let done = run(&mut list).await;
        assert_eq!(done.code, Some(1), "{done:?}");
        assert_eq!(done.err.matches(&unused("--url")).count(), 1, "{done:?}");
        let said = format!("{}{}", done.out, done.err);
        assert!(said.contains("an access token is required"), "{done:?}");
    }
    let mut by_variable = with("gateway list --insecure");
    by_variable.env("GATEWAY_EVENTS_URL", &url);
    run(&mut by_variable).await.failed(1, &[&unused("GATEWAY_EVENTS_URL")]);
    // Everything that the context has is replaced.
    let mut complete = with(&format!("gateway list --url {url}"));
    complete.env("GATEWAY_EVENTS_TOKEN", &service.token);
    run(complete.env("GATEWAY_EVENTS_CA_FILE", service.certificate())).await.well();
}

/// Asserts that a command was refused because of a key of the other kind, which is not printed.
#[track_caller]
fn of_other_kind(refused: &CommandOutput, source: &str, says: &[&str], secret: &str) {
    refused.failed(1, &[source]);
    refused.failed(1, says);
    assert!(!refused.err.contains(&secret[..20]), "{refused:?}");
}

#[tokio::test]
async fn a_key_of_the_other_kind_is_named_on_the_command_line() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    let file = service.directory().join("key");
    let needs_access = [
        "contains a gateway's key (gwk_…), but an access token (gwa_…) is required",
        "token create --access",
    ];
    let mut list = service.command("gateway list");
    let refused = run(list.env("GATEWAY_EVENTS_TOKEN", &key)).await;
    of_other_kind(&refused, "GATEWAY_EVENTS_TOKEN", &needs_access, &key);
    std::fs::write(&file, &key).expect("written");
    let refused = service.run(&format!("gateway list --token-file {}", file.display())).await;
    of_other_kind(&refused, &file.display().to_string(), &needs_access, &key);

    let needs_key = [
        "contains an access token (gwa_…), but a gateway's key (gwk_…) is required",
        "token create --gateway",
    ];
    let mut listen = service.command("listen --as-gateway --yes");
    let refused = run(listen.env("GATEWAY_EVENTS_KEY", &service.token)).await;
    of_other_kind(&refused, "GATEWAY_EVENTS_KEY", &needs_key, &service.token);
    std::fs::write(&file, &service.token).expect("written");
    let position = service.directory().join("position");
    let agent = format!(
        "agent --position {} --key-file {} --exec /bin/true",
        position.display(),
        file.display()
    );
    let refused = service.run(&agent).await;
    of_other_kind(&refused, &file.display().to_string(), &needs_key, &service.token);
}

/// Starts a command that retries; returns the first line on standard error with this text.
async fn first_line_with(mut command: Command, text: &str) -> String {
    let mut running = command.stdout(Stdio::null()).spawn().expect("it starts");
    let mut lines = BufReader::new(running.stderr.take().expect("a pipe")).lines();
    let reading = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains(text) {
                return line;
            }
        }
        panic!("it ended without {text:?}");
    };
    let line = tokio::time::timeout(TEST_TIMEOUT, reading).await.expect("a line in time");
    running.kill().await.expect("it ran");
    line
}

#[tokio::test]
async fn gateways_on_the_command_line_name_the_address_in_their_errors() {
    let service = Service::start().await;
    let address = format!("https://localhost:{}", service.port);
    let position = service.directory().join("position");
    let agent = format!("agent --position {} --log-format json", position.display());
    let commands = [
        ("listen --as-gateway --yes", ""),
        ("listen --as-gateway --yes --reliable --transport sse", ""),
        (agent.as_str(), "--exec /bin/true"),
    ];
    for (one, exec) in commands {
        let mut unreachable = service.command(&format!("{one} --url https://localhost:1 {exec}"));
        unreachable.env("GATEWAY_EVENTS_KEY", "gwk_unknown");
        let line = first_line_with(unreachable, "not connected").await;
        assert!(line.contains("https://localhost:1"), "{one}: {line}");
        let mut refused = service.command(&format!("{one} {exec}"));
        let refused = run(refused.env("GATEWAY_EVENTS_KEY", "gwk_unknown")).await;
        let says = format!("{address} refused the connection: the key is not valid");
        refused.failed(1, &[&says]);
    }
}

#[tokio::test]
async fn a_mistyped_event_type_is_corrected() {
    let service = Service::start().await;
    let meant = "did you mean api.deployed?";
    service.run("event publish api.deploid {} --all").await.failed(1, &["422", meant]);
    let misspelt = json!({"type": "api.deploid", "target": {"all": true}, "payload": {}});
    let unlike = json!({"type": "zzz.zzz", "target": {"all": true}, "payload": {}});
    let answer = service.admin().post("/events", &json!([misspelt, unlike])).await.success();
    let results = &answer["results"];
    assert!(results[0]["detail"].as_str().is_some_and(|it| it.contains(meant)), "{answer:#}");
    assert_eq!(results[1]["code"], "unknown_event_type", "{answer:#}");
    assert!(!results[1]["detail"].as_str().expect("a text").contains("did you mean"), "{answer:#}");
    for list in [
        "event list",
        "delivery failed",
        "delivery list --status all",
        "delivery redrive --dry-run",
    ] {
        let done = service.run(&format!("{list} --type api.deploid")).await;
        let said = format!("api.deploid is not a registered event type; {meant}\n");
        assert_eq!((done.code, &done.err), (Some(0), &said), "{list}: {done:?}");
        service.run(&format!("{list} --type api.deployed")).await.well();
    }
    service.run("event-type show api.deploid").await.failed(1, &["404", meant]);
    service.run("event-type delete api.deploid --yes").await.failed(1, &["404", meant]);
    service.run("tail --type api.deploid").await.failed(1, &["422", meant]);
}
