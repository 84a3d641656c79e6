//! Every command: tables for people, JSON for programs, exit codes for scripts.

use serde_json::{Value, json};

use crate::support::command::{command, run};
use crate::support::{Service, deployed};

/// The cells of a table, including its header. Columns are separated by two spaces or more, a
/// folded row continues in indented lines, and no line is wider than a terminal.
fn cells(table: &str) -> Vec<Vec<&str>> {
    let mut rows: Vec<Vec<&str>> = Vec::new();
    for line in table.lines().take_while(|line| !line.is_empty()) {
        assert!(line.chars().count() <= 80, "{line:?} is too wide");
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        match rows.last_mut().filter(|_| line.starts_with("    ")) {
            Some(row) => row.extend(cells),
            None => rows.push(cells.collect()),
        }
    }
    rows
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[tokio::test]
async fn gateways_are_registered_labelled_disabled_and_deleted() {
    let service = Service::start().await;
    let nothing = service.run("gateway list").await;
    assert!(nothing.well().contains("gateway-events gateway register NAME"));
    let berlin = service.run("gateway register berlin --label region=eu --json").await.json();
    let id = text(&berlin["id"]).to_owned();
    assert_eq!((&berlin["name"], &berlin["labels"]), (&json!("berlin"), &json!({"region": "eu"})));
    let chosen = "0198c0de-0000-7000-8000-000000000001";
    let shown = service.run(&format!("gateway register tokyo --id {chosen}")).await;
    assert!(shown.well().contains(chosen) && shown.out.contains("tokyo"), "{shown:?}");

    let list = service.run("gateway list").await;
    let table = cells(list.well());
    assert_eq!(
        table[0],
        ["NAME", "CONNECTIONS", "HEAD", "CONFIRMED", "LAG", "LABELS", "STATUS", "ID"]
    );
    assert_eq!(table[1][..6], ["berlin", "0", "0", "0", "-", "region=eu"]);
    assert!(table[1][6].starts_with("away, never connected, registered "), "{table:?}");
    assert_eq!(table[1][7..], [id.as_str()]);
    assert_eq!((table[2][0], table[2].last()), ("tokyo", Some(&chosen)));
    assert_eq!(service.run("gateway list --json").await.json()["count"], 2);

    // A change keeps what a concurrent change has set.
    service.run("gateway update berlin --label tier=gold").await.well();
    service
        .run(&format!("gateway update {id} --label env=prod --remove-label region"))
        .await
        .well();
    service.run("gateway update berlin --remove-label env --remove-label nonsense").await.well();
    let shown = service.run(&format!("gateway show {id} --json")).await.json();
    assert_eq!(shown["labels"], json!({"tier": "gold"}));
    let disabled = service.run(&format!("gateway disable {id} --yes")).await;
    assert!(disabled.well().contains("status       disabled"), "{disabled:?}");
    let enabled = service.run(&format!("gateway enable {id} --json")).await.json();
    assert_eq!(enabled["disabled"], false);
    let deleted = service.run(&format!("gateway delete {id} --yes")).await;
    assert_eq!(deleted.well(), format!("gateway {id} is deleted\n"));
    let deleted = service.run(&format!("gateway delete {chosen} --yes --json")).await;
    assert_eq!(deleted.json(), Value::Null);

    service.run(&format!("gateway show {id}")).await.failed(1, &["404", "no such gateway"]);
    service.run("gateway register kyoto").await.well();
    service.run("gateway register kyoto").await.failed(1, &["409", "kyoto"]);
    service.run("gateway show kioto").await.failed(1, &["kioto", "did you mean \"kyoto\""]);
    service.run("gateway show x").await.failed(1, &["no gateway is named \"x\"", "gateway list"]);
    service.run("gateway register x --label nonsense").await.failed(2, &["name=value"]);
    service.run("gateway update kyoto").await.failed(2, &["--remove-label"]);
    service.run("gateway update kyoto --name osaka").await.well();
    assert_eq!(service.run("gateway show osaka --json").await.json()["name"], "osaka");
}

#[tokio::test]
async fn tokens_are_shown_once_listed_and_revoked() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let made = service.run(&format!("token create --gateway {id} --expires-in 30d")).await;
    let second = made.well().lines().next().expect("a key").to_owned();
    assert!(second.starts_with("gwk_") && made.out.contains("can't be shown again"), "{made:?}");
    service.run(&format!("token create --gateway {id}")).await.failed(1, &["409", "2 live tokens"]);
    let list = service.run(&format!("token list --gateway {id}")).await;
    let table = cells(list.well());
    assert_eq!(table.len(), 3, "{list:?}");
    for one in [&key, &second] {
        let (public, secret) = one[4..].split_once('_').expect("two parts");
        assert!(list.out.contains(public) && !list.out.contains(secret));
    }
    // A whole key also identifies itself; its secret is not sent.
    for name in [key[4..16].to_owned(), second] {
        let revoked = service.run(&format!("token revoke --gateway {id} {name} --yes")).await;
        assert!(revoked.well().contains("is revoked"), "{revoked:?}");
    }
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 401);
    let left = service.run(&format!("token list --gateway {id} --json")).await.json();
    assert!(
        left["list"]
            .as_array()
            .is_some_and(|list| { list.iter().all(|token| token["revokedAt"].is_string()) })
    );

    let made = service.run("token create --access ci --scope publish --scope read --json").await;
    let made = made.json();
    assert_eq!(made["scopes"], json!(["publish", "read"]));
    let list = service.run("token list").await;
    assert!(list.well().contains("publish,read") && list.out.contains("ci"), "{list:?}");
    let mut as_ci = service.command("gateway register x");
    as_ci.env("GATEWAY_EVENTS_TOKEN", text(&made["token"]));
    run(&mut as_ci).await.failed(1, &["403", "admin"]);
    service.run(&format!("token revoke {} --yes", text(&made["id"]))).await.well();
    run(&mut as_ci).await.failed(1, &["401", "GATEWAY_EVENTS_TOKEN", "--token-file"]);
    // As if it was the id of a gateway's key.
    let unknown = service.run("token revoke aaaaaaaaaaaa --yes").await;
    unknown.failed(1, &["no access token", "token revoke aaaaaaaaaaaa --gateway NAME"]);
    service.run("token revoke ../gateways").await.failed(2, &["public id"]);
    service.run("token create").await.failed(2, &["--gateway"]);
    service.run("token create --access ci").await.failed(2, &["--scope"]);
    service.run("token create --access ci --scope all").await.failed(2, &["publish", "admin"]);
    service
        .run("token create --access ci --scope read --expires-in soon")
        .await
        .failed(2, &["30d"]);
}

#[tokio::test]
async fn events_are_published_shown_and_appended_again() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let payload = r#"{"configType":"cache","action":"update","n":1.10}"#;
    let publish = format!("event publish gateway.config.updated {payload}");
    let published = service.run(&format!("{publish} --gateway {id} --id e-1")).await;
    assert!(published.well().starts_with("event e-1 is stored\n"), "{published:?}");
    assert_eq!(cells(published.out.split_once("\n\n").expect("a table").1)[1], ["one", "1"]);
    let unmatched = service.run(&format!("{publish} --label region=nowhere")).await;
    assert!(
        unmatched.err.contains("no gateway matched") && unmatched.code == Some(3),
        "{unmatched:?}"
    );
    let all = service.run(&format!("{publish} --all --correlation-id c-7 --json")).await.json();
    assert_eq!(all["deliveries"][0]["sequence"], 2);

    service.eventually("/deliveries", |page| page["count"] == 2).await;
    let failed = service.run("delivery failed --from -1h --type gateway.config.updated").await;
    let table = cells(failed.well());
    assert_eq!(table[0][1..3], ["GATEWAY", "SEQUENCE"]);
    assert_eq!(table.len(), 3, "{failed:?}");
    assert_eq!(
        table[2][1..],
        ["one", "1", "gateway.config.updated", "not_connected", "1", "pending", "e-1"]
    );
    let one =
        service.run(&format!("delivery failed --gateway {id} --event e-1 --json")).await.json();
    assert_eq!(one["count"], 1);
    let cut = service.run("delivery failed --limit 1").await;
    assert!(cut.well().contains("There are more"), "{cut:?}");
    let none = service.run("delivery failed --reason expired").await;
    assert!(none.well().contains("no delivery failed"), "{none:?}");
    service.run("delivery failed --from tomorrow").await.failed(2, &["tomorrow", "15m ago"]);
    service.run("delivery failed --reason bored").await.failed(2, &["bored", "not_connected"]);
    service.run("delivery failed --from now --to -1h").await.failed(1, &["422", "before"]);
    let left = service.run(&format!("delivery redrive --gateway {id}")).await;
    assert!(left.well().contains("2 skipped: still pending"), "{left:?}");
    service.run("delivery redrive").await.failed(2, &["--gateway"]);
    service.run("delivery redrive --sequence 1").await.failed(2, &["--gateway"]);
    let unknown = format!("delivery redrive --gateway {id} --sequence 9");
    service.run(&unknown).await.failed(1, &["404", "delivery"]);

    let shown = service.run("event show e-1").await;
    for part in ["event        e-1", "1.1", "not_connected", "pending"] {
        assert!(shown.well().contains(part), "{part}: {shown:?}");
    }
    assert_eq!(service.run("event show e-1 --json").await.json()["payload"]["action"], "update");
    service.run("event show e-9").await.failed(1, &["404", "no such event"]);
    service
        .run(&format!("{publish} --gateway {id} --id e-1 --correlation-id x"))
        .await
        .failed(1, &["409", "e-1"]);
    service.run("event publish no.such {} --all").await.failed(1, &["422", "PUT"]);
    service.run("event publish no.such {").await.failed(2, &["--all"]);
    service.run("event publish no.such { --all").await.failed(1, &["payload", "JSON"]);
    service.run("event publish no.such @nowhere.json --all").await.failed(1, &["nowhere.json"]);
    service.run("event publish connection.ack {} --all").await.failed(2, &["reserved"]);

    // Payloads from a file and from standard input keep their bytes, too.
    let mut socket = service.connected(&key).await;
    socket.expect(1..=2).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), payload).expect("written");
    let from_file =
        format!("event publish gateway.config.updated @{} --all", file.path().display());
    service.run(&from_file).await.well();
    let mut from_input = service.command("event publish gateway.config.updated - --all");
    from_input.stdin(std::fs::File::open(file.path()).expect("a file"));
    run(&mut from_input).await.well();
    for _ in 0..2 {
        assert!(socket.next_text().await.expect("an event").contains(payload));
    }
}

#[tokio::test]
async fn a_dead_letter_is_redriven_by_hand() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut listen = service.command("listen --as-gateway --yes --fail GATEWAY_PROCESSING_ERROR");
    let listen = listen.env("GATEWAY_EVENTS_KEY", &key).spawn().expect("it starts");
    service.eventually("/connections", |page| page["count"] == 1).await;
    service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    service.eventually("/deliveries", |page| page["count"] == 1).await;
    let failed = service.run("delivery failed --reason gateway_processing_error").await;
    assert!(failed.well().contains("dead letter"), "{failed:?}");
    let one = format!("delivery redrive --gateway {id} --sequence 1");
    let dry = service.run(&format!("{one} --dry-run")).await;
    assert!(dry.well().contains("nothing was changed"), "{dry:?}");
    let done = service.run(&one).await;
    let table = cells(done.well());
    assert_eq!((table[1][0], table[1][2], table[1][3]), ("one", "1", "2"), "{done:?}");
    let again = service.run(&one).await;
    assert!(again.well().contains("1 skipped: already redriven"), "{again:?}");
    drop(listen);
}

#[tokio::test]
async fn a_table_of_failures_shows_the_code_that_the_gateway_reported() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut listen = service.command("listen --as-gateway --yes --fail OUT_OF_MEMORY");
    let listen = listen.env("GATEWAY_EVENTS_KEY", &key).spawn().expect("it starts");
    service.eventually("/connections", |page| page["count"] == 1).await;
    let event = service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    service.eventually("/deliveries", |page| page["count"] == 1).await;
    let failed = service.run("delivery failed").await;
    assert!(cells(failed.well())[1].contains(&"apply_failed (OUT_OF_MEMORY)"), "{failed:?}");
    let shown = service.run(&format!("event show {}", text(&event["id"]))).await;
    let table = shown.well().split_once("\n\n").expect("a table").1;
    let cells = cells(table);
    assert!(cells[1].contains(&"apply_failed (OUT_OF_MEMORY)"), "{shown:?}");
    assert!(shown.out.contains("failed: apply_failed (OUT_OF_MEMORY)"), "{shown:?}");
    drop(listen);
}

#[tokio::test]
async fn a_label_that_is_given_twice_is_refused() {
    let service = Service::start().await;
    service.gateway("one").await;
    let twice = "--label region=eu --label region=us";
    for command in [
        format!("gateway register two {twice}"),
        format!("gateway update one {twice}"),
        format!("event publish gateway.config.updated {{}} {twice}"),
    ] {
        service.run(&command).await.failed(1, &["region", "eu", "us", "twice"]);
    }
    service
        .run("gateway update one --label region=eu --remove-label region")
        .await
        .failed(1, &["region", "set and removed"]);
}

#[tokio::test]
async fn a_command_that_can_not_be_undone_needs_confirmation() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let own = service.token.split('_').nth(1).expect("a public id");
    for (command, says) in [
        (format!("gateway delete {id}"), "one"),
        (format!("token revoke --gateway one {}", &key[4..16]), "one"),
        (format!("token revoke {own}"), own),
        ("inbox delete 1".to_owned(), "1"),
    ] {
        service.run(&command).await.failed(1, &["permanently", says, "--yes"]);
    }
    let left = service.run("token list --gateway one --json").await.json();
    assert_eq!(left["list"][0]["revokedAt"], Value::Null);
    // Its gateway is disconnected, which ends the process of many.
    let socket = service.connected(&key).await.serve();
    service.run("gateway disable one").await.failed(1, &["403", "connection is closed", "--yes"]);
    let one = service.run("gateway show one --json").await.json();
    assert_eq!((&one["disabled"], &one["connected"]), (&json!(false), &json!(true)), "{one:#}");
    service.run("gateway disable one --yes").await.well();
    socket.await.expect("closed");
    // There is nothing to confirm if nothing changes.
    service.run("gateway disable one").await.well();
}

#[tokio::test]
async fn commands_that_only_read_can_be_repeated_and_lists_read_to_their_end() {
    let service = Service::start().await;
    for name in ["one", "two", "three"] {
        service.gateway(name).await;
    }
    for command in ["gateway instances", "event-type show", "audit list"] {
        let help = run(&mut command_of(command)).await;
        assert!(help.well().contains("--watch"), "{command}: {help:?}");
    }
    let few = service.run("audit list --limit 1").await;
    assert!(few.well().contains("There are more: use --all"), "{few:?}");
    let all = service.run("audit list --all --json").await.json();
    assert!(all["count"].as_u64() >= Some(4), "{all:#}");
    assert_eq!(all["pagination"]["next"], Value::Null);
}

fn command_of(name: &str) -> tokio::process::Command {
    command(&format!("{name} --help"))
}

#[tokio::test]
async fn help_lists_the_client_options_that_have_an_effect() {
    const ALL: [&str; 5] = ["--url", "--token-file", "--ca-file", "--insecure", "--json"];
    for (name, options) in [
        ("", &[][..]),
        ("serve", &[]),
        ("migrate", &[]),
        ("demo", &[]),
        ("openapi", &[]),
        ("asyncapi", &[]),
        ("completions", &[]),
        ("config check", &[]),
        ("config show", &["--json"]),
        ("verify", &["--json"]),
        ("token generate", &["--json"]),
        ("token recover", &["--json"]),
        ("health", &["--url", "--ca-file", "--insecure"]),
        ("token create", &ALL),
        ("token list", &ALL),
        ("token revoke", &ALL),
        ("gateway list", &ALL),
        ("event publish", &ALL),
        ("delivery redrive", &ALL),
        ("inbox retry", &ALL),
        ("node list", &ALL),
        ("listen", &ALL),
    ] {
        let help = run(&mut command(&format!("{name} --help"))).await;
        for option in ALL {
            let is_listed = help.well().split_whitespace().any(|word| word == option);
            assert_eq!(is_listed, options.contains(&option), "{option} in {name}: {}", help.out);
        }
        let is_client = options.contains(&"--token-file");
        assert_eq!(help.out.contains("GATEWAY_EVENTS_URL"), is_client, "{name}: {}", help.out);
    }
    run(&mut command("serve --json")).await.failed(2, &["--json"]);
    run(&mut command("listen --as-gateway --token-file x")).await.failed(2, &["--token-file"]);
}

#[tokio::test]
async fn help_version_and_completions_work_without_a_service() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&mut command(&format!("completions {shell}"))).await;
        for word in ["gateway-events", "redrive", "ca-file"] {
            assert!(script.well().contains(word), "{shell} lacks {word}");
        }
    }
    run(&mut command("completions tcsh")).await.failed(2, &["tcsh", "bash"]);
    assert!(run(&mut command("--version")).await.well().starts_with("gateway-events "));
    for noun in [
        "", "serve", "migrate", "verify", "config", "gateway", "token", "event", "delivery",
        "listen",
    ] {
        let help = run(&mut command(&format!("{noun} --help"))).await;
        assert!(help.well().contains("Usage: gateway-events"), "{help:?}");
    }
    run(&mut command("")).await.failed(2, &["Usage"]);
    run(&mut command("gatway list")).await.failed(2, &["gatway", "gateway"]);
}
