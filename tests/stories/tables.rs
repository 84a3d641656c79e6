//! Output on a terminal of 80 columns: nothing is wider, no id and no time is broken, and what is
//! shown can be used as an argument.

use serde_json::Value;

use crate::support::terminal::run_on_terminal;
use crate::support::{Service, deployed};

#[tokio::test]
async fn tables_fit_the_width_and_break_no_word() {
    let service = Service::start().await;
    let (id, key) = service.gateway("amsterdam-production-1").await;
    let patch = serde_json::json!({"labels": {"environment": "production", "region": "europe-west",
        "datacentre": "amsterdam-2", "team": "integration-platform"}});
    service.admin().patch(&format!("/gateways/{id}"), &patch).await.success();
    let event = service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    let event = event["id"].as_str().expect("an id").to_owned();
    let failed = service.eventually("/deliveries", |page| page["count"] == 1).await;
    let socket = service.connected(&key).await;
    let connections = service.eventually("/connections", |page| page["count"] == 1).await;
    let words = |value: &Value, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| value[*name].as_str().expect("a text").to_owned()).collect()
    };
    let of_failure = words(&failed["list"][0], &["eventId", "gatewayName", "type", "reason"]);
    let of_connection =
        words(&connections["list"][0], &["connectionId", "gatewayName", "remoteAddress"]);
    let at = failed["list"][0]["lastFailureAt"].as_str().expect("a time");
    let at = format!("{}Z", &at[..23]);
    for (arguments, expected) in [
        ("gateway list", vec!["amsterdam-production-1".to_owned(), "1".to_owned()]),
        (
            "gateway list --output wide",
            vec![id.clone(), "amsterdam-production-1".to_owned(), "region=europe-west".to_owned()],
        ),
        ("gateway connections", of_connection),
        ("delivery failed", of_failure.clone()),
        ("delivery failed --output wide", [of_failure, vec![at.clone()]].concat()),
        (&format!("event show {event}"), vec!["not_connected".to_owned()]),
        ("token list", vec!["first".to_owned()]),
        ("node list", vec![format!("127.0.0.1:{}", service.port)]),
    ] {
        let (code, on_terminal) = run_on_terminal(service.command(arguments), "").await;
        assert_eq!(code, Some(0), "{on_terminal}");
        let in_pipe = service.run(arguments).await.out;
        for text in [&on_terminal, &in_pipe] {
            for line in text.lines().filter(|line| !line.starts_with("payload")) {
                assert!(line.chars().count() <= 80, "{arguments}: {line:?} is too wide");
            }
            for word in &expected {
                let whole = text.split_whitespace().any(|one| one == word);
                assert!(whole, "{arguments}: {word} is not there whole:\n{text}");
            }
        }
    }
    // On the terminal each gateway has one line, and a pipe has all columns.
    let (_, on_terminal) = run_on_terminal(service.command("gateway list"), "").await;
    let lines: Vec<&str> = on_terminal.lines().collect();
    assert_eq!(lines.len(), 4, "{on_terminal}");
    assert!(
        lines[1].starts_with("amsterdam-production-1 ") && lines[2].is_empty(),
        "{on_terminal}"
    );
    assert!(lines[3].contains("ID, LABELS") && lines[3].contains("--output wide"), "{on_terminal}");
    assert!(!on_terminal.contains(&id), "{on_terminal}");
    assert!(service.run("gateway list").await.out.contains(&id));
    drop(socket);
    // Long sentences and errors are wrapped between words.
    let verify = format!("verify {}", service.database().display());
    for (arguments, expected) in
        [(verify.as_str(), "rejected"), ("gateway show amsterdam-productoin-1", "mean")]
    {
        let (_, shown) = run_on_terminal(service.command(arguments), "").await;
        assert!(shown.split_whitespace().any(|word| word == expected), "{shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{arguments}: {line:?} is too wide");
        }
    }

    // A displayed time is a valid argument, as is how long ago, with a gateway's name.
    for window in [format!("--from {at}"), "--since 2h".to_owned(), "--from 2h".to_owned()] {
        let arguments = format!("delivery failed {window} --gateway amsterdam-production-1 --json");
        assert_eq!(service.run(&arguments).await.json()["count"], 1, "{window}");
    }
    let before = format!("delivery failed --since 2h --to {at} --json");
    assert_eq!(service.run(&before).await.json()["count"], 0);
}

#[tokio::test]
async fn a_gateways_name_can_be_used_instead_of_its_id() {
    let service = Service::start().await;
    service.run("gateway register berlin").await.well();
    let key = service.run("token create --gateway berlin").await;
    let key = key.well().lines().next().expect("a key").to_owned();
    assert!(service.run("token list --gateway berlin").await.well().contains(&key[4..16]));
    let publish =
        "event publish gateway.config.updated {\"configType\":\"cache\",\"action\":\"update\"}";
    service.run(&format!("{publish} --gateway berlin")).await.well();
    service
        .run(&format!("{publish} --gateway berlin --gateway brlin"))
        .await
        .failed(1, &["brlin", "berlin"]);
    service.eventually("/deliveries", |page| page["count"] == 1).await;
    let failed = service.run("delivery failed --gateway berlin --json").await.json();
    assert_eq!(failed["count"], 1);
    service.run("delivery redrive --gateway berlin --sequence 1 --dry-run").await.well();
    service.run("delivery redrive --gateway berlin --dry-run").await.well();
    for arguments in [
        "gateway show berlin",
        "gateway disable berlin --yes",
        "gateway enable berlin",
        "gateway connections berlin --all",
        "gateway update berlin --label a=b",
    ] {
        service.run(arguments).await.well();
    }
    service.run(&format!("token revoke {} --gateway berlin --yes", &key[4..16])).await.well();
    service.run("token create --gateway nowhere").await.failed(1, &["nowhere", "gateway list"]);
}
