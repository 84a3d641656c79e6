//! Completion of names and ids that only the service knows.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::alerts::{Key, destination, watch};
use crate::audit::running_job;
use crate::both_databases::{Backend, on_both};
use crate::support::command::{CommandOutput, command, run};
use crate::support::{Service, TEST_TIMEOUT};

on_both! {
    a_shell_completes_names_that_the_service_knows
}

/// What bash offers for the last word of a command line.
async fn offered(service: &Service, words: &[&str]) -> Vec<String> {
    let script = r#"
        eval "$("$1" completions bash)" || exit 1
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        _gateway-events_names "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash", env!("CARGO_BIN_EXE_gateway-events")]).args(words);
    bash.env("GATEWAY_EVENTS_URL", format!("https://localhost:{}", service.port));
    bash.env("GATEWAY_EVENTS_TOKEN", &service.token);
    bash.env("GATEWAY_EVENTS_CA_FILE", service.certificate());
    bash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let running = bash.spawn().expect("bash runs");
    let ended = tokio::time::timeout(TEST_TIMEOUT, running.wait_with_output()).await;
    let output = CommandOutput::from(ended.expect("it ends in time").expect("it ends"));
    assert_eq!(output.err, "", "{output:?}");
    output.out.lines().map(str::to_owned).collect()
}

async fn a_shell_completes_names_that_the_service_knows(backend: Backend) {
    let alerts_key = Key::new();
    let service = crate::alerts::start(&backend, &alerts_key).await;
    let admin = service.admin();
    destination(&service, "on-call", "slack", "http://127.0.0.1:1/x").await;
    watch(&service, "gateways-of-region", &["on-call"]).await;
    let (id, _) = service.gateway("berlin").await;
    service.gateway("bern").await;
    service.gateway("tokyo").await;
    let labels = json!({"labels": {"env": "prod"}});
    admin.patch(&format!("/gateways/{id}"), &labels).await.success();
    admin.put("/event-types/billing.plan.changed", &json!({})).await.success();
    let job = running_job(&backend, &service).await.to_string();
    for (words, expected) in [
        (&["gateway", "show", "ber"][..], &["berlin", "bern"][..]),
        (&["gateway", "replay", "tok"], &["tokyo"]),
        (&["delivery", "list", "--status", "all", "--gateway", "t"], &["tokyo"]),
        (&["delivery", "list", "--gateway", "=", "t"], &["tokyo"]),
        (&["why", "bern"], &["bern"]),
        (&["event", "list", "--type", "billing"], &["billing.plan.changed"]),
        (&["event-type", "show", "billing"], &["billing.plan.changed"]),
        (&["delivery", "failed", "--reason", "not_c"], &["not_connected"]),
        (&["inbox", "retry", "--reason", "unknown_e"], &["unknown_event_type"]),
        (&["event", "resend", "e1", "--label", "env"], &["env=prod"]),
        (&["event", "resend", "e1", "--label", "env", "=", "p"], &["prod"]),
        (&["gateway", "update", "berlin", "--remove-label", "e"], &["env"]),
        (&["job", "show", &job[..8]], &[job.as_str()]),
        (&["alert", "rule", "show", "gateway"], &["gateway-away", "gateways-of-region"]),
        (&["alert", "rule", "silence", "--for", "2h", "gateways-"], &["gateways-of-region"]),
        (&["alert", "destination", "test", "on-"], &["on-call"]),
    ] {
        let found = offered(&service, words).await;
        for name in expected {
            assert!(found.iter().any(|it| it == name), "{words:?}: {name} is missing: {found:?}");
        }
        let begun = words.last().expect("a word");
        let others = found.iter().filter(|it| !it.starts_with(begun) && *begun != "p");
        assert_eq!(others.count(), 0, "{words:?}: {found:?}");
    }
    // What is no name is not looked up.
    for words in [&["gateway", "register", "ber"][..], &["event", "publish", "x", "ber"]] {
        let said = service.run(&format!("complete-word -- {}", words.join(" "))).await;
        assert_eq!(said.well(), "", "{words:?}");
    }
    // Options of the command line are used, and errors are not shown.
    let mut elsewhere = command("complete-word -- gateway show --url https://localhost:1 ber");
    assert_eq!(run(&mut elsewhere).await.well(), "");
    let mut without_token = command("complete-word -- gateway show ber");
    assert_eq!(run(&mut without_token).await.well(), "");
    assert_eq!(run(&mut command("complete-word --")).await.well(), "");
}
