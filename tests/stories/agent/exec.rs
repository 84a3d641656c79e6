//! The exit status of a program decides what becomes of an event.

use serde_json::{Value, json};

use super::{Agent, attempts, confirmed, failures, program, publish, until, why, written};
use crate::both_databases::{Backend, on_both};
use crate::cloud_events::post_binary;
use crate::support::Service;
use crate::support::command::{command, run};

on_both! {
    each_exit_status_has_its_outcome
}

/// Records each event's sequence, and exits as the prefix of its correlation id says.
const EXIT_BY_CORRELATION_ID: &str = r#"
cat >/dev/null
echo "$GATEWAY_EVENTS_SEQUENCE" >>journal
times=$(grep -c "^$GATEWAY_EVENTS_SEQUENCE\$" journal)
case $GATEWAY_EVENTS_CORRELATION_ID in
applied*) exit 0 ;;
rejected*) printf 'the first line\nthe \033[31mlast\377 line\n' >&2; exit 3 ;;
invalid*) exit 65 ;;
later*) [ "$times" -gt 2 ] || exit 75 ;;
killed*) [ "$times" -gt 1 ] || kill -9 $$ ;;
never*) echo "still not" >&2; exit 75 ;;
esac"#;

/// Publishes an event for each correlation id.
async fn correlated(service: &Service, gateway: &str, ids: &[&str]) {
    let event = |id: &&str| {
        let mut event = crate::support::deployed(&[gateway], id);
        event["correlationId"] = json!(id);
        event
    };
    let events: Vec<Value> = ids.iter().map(event).collect();
    service.api().post("/events", &json!(events)).await.expect("accepted");
}

async fn each_exit_status_has_its_outcome(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__MAX_ATTEMPTS", "3")]).await;
    let (id, key) = service.gateway("one").await;
    correlated(&service, &id, &["applied-1", "rejected", "later", "invalid", "killed", "never"])
        .await;
    correlated(&service, &id, &["applied-2"]).await;
    let program_file = program(&service, "program_file", EXIT_BY_CORRELATION_ID);
    let agent = Agent::start(&service, &key, &["--exec", &program_file]);
    confirmed(&service, &id, 7).await;
    let failed = failures(&service, &id, 3).await;
    let sequences: Vec<_> = failed.iter().map(|row| row["sequence"].as_i64()).collect();
    assert_eq!(sequences, [Some(2), Some(4), Some(6)]);
    let reasons: Vec<_> = failed.iter().map(why).collect();
    assert_eq!(reasons[0].0, "apply_failed");
    assert_eq!(reasons[0].1, "exit status 3: the first line the [31mlast\u{fffd} line");
    assert_eq!(reasons[1], ("invalid", "exit status 65"));
    assert_eq!(reasons[2], ("apply_failed", "exit status 75: still not"));
    assert_eq!(attempts(&failed[2], "apply_failed"), 3);
    agent.stop().await;
    let journal = std::fs::read_to_string(service.directory().join("journal")).expect("a journal");
    let expected = "1\n2\n3\n3\n3\n4\n5\n5\n6\n6\n6\n7\n";
    assert_eq!(journal, expected, "one at a time and in order");
}

#[tokio::test]
async fn a_program_gets_the_event_and_no_secret() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let dump =
        program(&service, "dump", "env >environment; printf '%s\\n' \"$@\" >arguments; cat >event");
    let variables = [("GATEWAY_EVENTS_KEY", key.as_str()), ("PRODUCT", "kept")];
    let arguments = ["--exec", &dump, "--url", "two words"];
    let agent = Agent::start_with(&service, &key, &variables, &arguments);
    let payload = r#"{"configType": "cache",  "action":"update", "n": 1.50, "ü": "\u00fc"}"#;
    let event = format!(
        r#"{{"id":"e-1","correlationId":"c-1","userId":"Zoë","type":"gateway.config.updated","gatewayIds":["{id}"],"payload":{payload}}}"#
    );
    let event: Box<serde_json::value::RawValue> = serde_json::from_str(&event).expect("JSON");
    service.api().post("/events", &event).await.expect("accepted");
    confirmed(&service, &id, 1).await;
    let read =
        |name: &str| std::fs::read_to_string(service.directory().join(name)).expect("written");
    assert_eq!(read("arguments"), "--url\ntwo words\n");
    let frame = read("event");
    assert!(frame.contains(payload), "byte for byte: {frame}");
    let frame: Value = serde_json::from_str(&frame).expect("JSON");
    for (member, value) in [
        ("type", json!("gateway.config.updated")),
        ("eventId", json!("e-1")),
        ("correlationId", json!("c-1")),
        ("userId", json!("Zoë")),
        ("sequence", json!(1)),
        ("attempt", json!(1)),
    ] {
        assert_eq!(frame[member], value, "{frame:#}");
    }
    let environment = read("environment");
    let mut named: Vec<&str> =
        environment.lines().filter(|line| line.starts_with("GATEWAY_EVENTS")).collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "GATEWAY_EVENTS_ATTEMPT=1",
            "GATEWAY_EVENTS_CORRELATION_ID=c-1",
            "GATEWAY_EVENTS_ID=e-1",
            "GATEWAY_EVENTS_SEQUENCE=1",
            "GATEWAY_EVENTS_TYPE=gateway.config.updated",
        ]
    );
    assert!(environment.contains("PRODUCT=kept"), "{environment}");
    assert!(!environment.contains(&key) && !environment.contains(&service.token));
    let log = agent.log();
    assert!(!log.contains(&key), "no key in the log");
    assert_eq!(frame.get("attributes"), None, "it was not published as a CloudEvent");

    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "e-2"),
        ("ce-source", "/platform"),
        ("ce-type", "gateway.config.updated"),
        ("ce-tenant", "a"),
        ("ce-gatewayids", id.as_str()),
    ];
    post_binary(&service.admin(), &headers, payload).await.success();
    confirmed(&service, &id, 2).await;
    let frame = read("event");
    assert!(frame.contains(payload), "byte for byte: {frame}");
    let frame: Value = serde_json::from_str(&frame).expect("JSON");
    assert_eq!(frame["attributes"], json!({"source": "/platform", "tenant": "a"}));
    agent.stop().await;
}

#[tokio::test]
async fn every_transport_is_supported() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    for (number, transport) in ["websocket", "sse", "long-poll", "grpc"].into_iter().enumerate() {
        let agent = Agent::start(&service, &key, &["--transport", transport, "--exec", &record]);
        publish(&service, &id, &[transport]).await;
        confirmed(&service, &id, i64::try_from(number).expect("few") + 1).await;
        agent.stop().await;
    }
    assert_eq!(written(&service.directory().join("journal"), "4").await, "1\n2\n3\n4\n");
}

#[tokio::test]
async fn events_follow_each_other_without_pauses() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d"; 200]).await;
    let agent = Agent::start(&service, &key, &["--exec", "true"]);
    // A pause of half a second after each would take longer than this waits.
    confirmed(&service, &id, 200).await;
    agent.stop().await;
}

#[tokio::test]
async fn output_is_logged_at_debug_level_and_bounded() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let text = "seq 100000; echo the end; echo a warning >&2";
    let talk = program(&service, "talk", text);
    publish(&service, &id, &["d-1"]).await;
    let agent = Agent::start(&service, &key, &["--log-filter", "debug", "--exec", &talk]);
    confirmed(&service, &id, 1).await;
    agent.logged("the end").await;
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("the end")).expect("a line");
    assert!(line.contains("a warning") && line.len() < 8192, "{line}");
    agent.stop().await;
}

#[tokio::test]
async fn only_the_chosen_types_are_received() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_TYPE\" >>journal");
    publish(&service, &id, &["d-1"]).await;
    let config = json!({"configType": "cache", "action": "update"});
    let event = json!({"type": "gateway.config.updated", "gatewayIds": [id], "payload": config});
    service.api().post("/events", &event).await.expect("accepted");
    let arguments = ["--type", "gateway.config.updated", "--exec", &record];
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, 2).await;
    let journal = written(&service.directory().join("journal"), "config").await;
    assert_eq!(journal, "gateway.config.updated\n");
    agent.stop().await;
}

#[tokio::test]
async fn metrics_show_the_outcomes() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "3")]).await;
    let (id, key) = service.gateway("one").await;
    correlated(&service, &id, &["applied-1", "rejected", "later"]).await;
    let program_file = program(&service, "program_file", EXIT_BY_CORRELATION_ID);
    let arguments = ["--metrics-listen", "127.0.0.1:0", "--exec", &program_file];
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, 3).await;
    agent.logged("serving metrics").await;
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("serving metrics")).expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    let address = line["address"].as_str().expect("an address");
    let get = async |path: &str| {
        super::http(&service)
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .expect("an answer")
    };
    let metrics = get("/metrics").await.text().await.expect("text");
    for line in [
        "gateway_events_agent_events_total{outcome=\"applied\"} 2",
        "gateway_events_agent_events_total{outcome=\"rejected\"} 1",
        "gateway_events_agent_events_total{outcome=\"retry\"} 2",
        "gateway_events_agent_events_total{outcome=\"unavailable\"} 0",
        "gateway_events_agent_retries_total 2",
        "gateway_events_agent_last_applied_sequence 3",
        "gateway_events_agent_connected 1",
        "gateway_events_agent_duration_seconds_count{outcome=\"applied\"} 2",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is missing:\n{metrics}");
    }
    assert!(!metrics.contains("gateway_events_connections"), "only the agent's:\n{metrics}");
    assert_eq!(get("/").await.status(), 404);
    agent.stop().await;
}

#[tokio::test]
async fn wrong_arguments_are_refused_at_the_start() {
    let service = Service::start().await;
    let missing = service.directory().join("missing");
    let plain = service.directory().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("written");
    let key = service.directory().join("key");
    std::fs::write(&key, "gwk_unknown").expect("written");
    let (key, missing, plain) = (key.display(), missing.display(), plain.display());
    let position = service.directory().join("position");
    let common = format!("agent --position {} --key-file {key}", position.display());
    let never = program(&service, "never", "echo run >>journal");
    for (arguments, code, says) in [
        (format!("--exec {missing}"), 1, "was not found"),
        ("--exec no-such-program-anywhere".to_owned(), 1, "in the folders of PATH"),
        (format!("--exec {plain}"), 1, "chmod +x"),
        ("--exec /".to_owned(), 1, "is a directory"),
        ("--forward-to http://192.0.2.1/".to_owned(), 1, "--allow-remote"),
        ("--forward-to ftp://127.0.0.1/".to_owned(), 1, "http or https"),
        ("--forward-to http://u:p@127.0.0.1/".to_owned(), 1, "a user or a password"),
        ("--forward-to http://127.0.0.1:0/".to_owned(), 1, "port 0"),
        ("--forward-to http://127.0.0.1/ --source a{b".to_owned(), 2, "must be a URI reference"),
        (format!("--timeout 0s --exec {never}"), 2, "more than zero"),
        (String::new(), 2, "--exec"),
        (format!("--forward-to http://127.0.0.1/ --exec {never}"), 2, "cannot be used with"),
        // The key is unknown.
        (format!("--exec {never}"), 1, "the key is not valid"),
    ] {
        let said = run(&mut service.command(&format!("{common} {arguments}"))).await;
        said.failed(code, &[says]);
    }
    let listen = format!("listen --as-gateway --reliable --key-file {key}");
    for instance in ["", "a\u{7}b", &"a".repeat(65)] {
        for command_line in [&format!("{common} --forward-to http://127.0.0.1/"), &listen] {
            let said = run(service.command(command_line).args(["--instance", instance])).await;
            said.failed(2, &["--instance", "must have 1 to 64 characters"]);
        }
    }
    let said = run(&mut command("agent --position p --exec true")).await;
    said.failed(1, &["a gateway's key is required"]);
    let plaintext = format!("{common} --url http://127.0.0.1:1 --transport grpc --exec {never}");
    run(&mut command(&plaintext)).await.failed(1, &["gRPC needs TLS", "use an https:// address"]);
    until(|| !service.directory().join("journal").exists(), || "it ran".to_owned()).await;
}
