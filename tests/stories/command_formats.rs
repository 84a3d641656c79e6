//! How the command line prints, and how it finds the service: formats, ages, `--watch`, contexts,
//! `doctor`, and the beginnings of ids.

use std::os::unix::fs::PermissionsExt as _;

use gateway_events::clock::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::command::{command, run};
use crate::support::terminal::run_on_terminal;
use crate::support::{Service, TEST_TIMEOUT, deployed};

#[tokio::test]
async fn an_answer_is_printed_in_each_format() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    service.gateway("tokyo").await;
    let json = service.run("gateway list --json").await.json();
    assert_eq!(service.run("gateway list --output json").await.json(), json);
    let lines = service.run("gateway list -o jsonl").await;
    let lines: Vec<Value> =
        lines.well().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(json!(lines), json["list"]);
    let yaml = service.run("gateway list --output yaml").await;
    let yaml: Value = serde_norway::from_str(yaml.well()).expect("YAML");
    assert_eq!(yaml, json);
    let csv = service.run("gateway list --output csv").await;
    let mut rows = csv.well().lines();
    assert!(rows.next().expect("a header").starts_with("id,name,"), "{csv:?}");
    assert!(rows.next().expect("a row").starts_with(&format!("{id},berlin,")), "{csv:?}");
    assert_eq!(rows.count(), 1);
    let one: Value =
        serde_norway::from_str(service.run("gateway show berlin -o yaml").await.well())
            .expect("YAML");
    assert_eq!(one["id"], json!(id));
    service.run("gateway list --json --output csv").await.failed(2, &["--json", "--output"]);
    service.run("listen berlin --output csv").await.failed(1, &["jsonl"]);

    // Ages in tables, exact instants beside them.
    service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    let page = service.eventually("/deliveries", |page| page["count"] == 1).await;
    let table = service.run("delivery failed").await;
    assert!(table.well().contains(" s ago"), "{table:?}");
    let wide = service.run("delivery failed --output wide").await;
    let at = page["list"][0]["lastFailureAt"].as_str().expect("a time");
    assert!(wide.well().contains(&at[..23]) && !wide.out.contains(" ago"), "{wide:?}");
    for from in ["yesterday", "2020-01-31", "today"] {
        let found = service.run(&format!("delivery failed --from {from} --json")).await.json();
        assert_eq!(found["count"], 1, "{from}");
    }
    let none = service.run("delivery failed --to yesterday --json").await.json();
    assert_eq!(none["count"], 0);
}

#[tokio::test]
async fn an_empty_list_has_no_lines() {
    let service = Service::start().await;
    assert_eq!(service.run("job list --output jsonl").await.well(), "");
}

#[tokio::test]
async fn colours_are_for_terminals_only_and_no_color_is_honoured() {
    let service = Service::start().await;
    service.gateway("berlin").await;
    let on_terminal = |name: &'static str, value: &'static str| {
        let mut command = service.command("gateway list");
        command.env("TERM", "xterm").env(name, value);
        command
    };
    let (_, coloured) = run_on_terminal(on_terminal("LANG", "C"), "").await;
    assert!(coloured.contains("\u{1b}[33maway, never connected"), "{coloured:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (_, plain) = run_on_terminal(on_terminal(name, value), "").await;
        assert!(!plain.contains('\u{1b}') && plain.contains("away"), "{plain:?}");
    }
    let mut piped = service.command("gateway list");
    piped.env("TERM", "xterm");
    assert!(!run(&mut piped).await.well().contains('\u{1b}'));
}

#[tokio::test]
async fn an_answer_is_repeated_until_the_interrupt() {
    let service = Service::start().await;
    service.gateway("berlin").await;
    let mut watching = service.command("gateway list --watch=1s").spawn().expect("it starts");
    let mut out = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let mut blocks: Vec<String> = Vec::new();
    let read = tokio::time::timeout(TEST_TIMEOUT, async {
        while blocks.iter().filter(|line| line.starts_with("berlin")).count() < 2 {
            blocks.push(out.next_line().await.expect("text").expect("a line"));
        }
    });
    read.await.expect("in time");
    let is_blank: Vec<bool> = blocks.iter().map(String::is_empty).collect();
    assert_eq!(is_blank.iter().filter(|blank| **blank).count(), 1, "{blocks:?}");
    let pid = i32::try_from(watching.id().expect("it runs")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    let ended = tokio::time::timeout(TEST_TIMEOUT, watching.wait()).await.expect("in time");
    assert_eq!(ended.expect("it ends").code(), Some(0));
    service.run("gateway show nowhere --watch").await.failed(1, &["nowhere"]);
    service.run("gateway list --watch=10ms").await.failed(2, &["1s"]);
    service.run("gateway delete berlin --watch").await.failed(2, &["--watch"]);
}

#[tokio::test]
async fn the_beginning_of_an_id_stands_for_it_if_it_is_the_only_one() {
    let service = Service::start().await;
    for (name, id) in [
        ("berlin", "0198c0de-0000-7000-8000-000000000001"),
        ("tokyo", "0198c0de-0000-7000-8000-000000000002"),
        ("osaka", "0298c0de-0000-7000-8000-000000000003"),
        ("0198", "0398c0de-0000-7000-8000-000000000004"),
    ] {
        service.run(&format!("gateway register {name} --id {id}")).await.well();
    }
    let name = async |text: &str| {
        service.run(&format!("gateway show {text} --json")).await.json()["name"].clone()
    };
    assert_eq!(name("0298").await, "osaka");
    assert_eq!(name("0298C0DE-00").await, "osaka");
    assert_eq!(name("0198").await, "0198");
    service
        .run("gateway show 0198c")
        .await
        .failed(1, &["0198c", "000000000001", "berlin", "000000000002", "tokyo"]);
    service.run("gateway show 029").await.failed(1, &["029", "gateway list"]);
    service.run("gateway delete 0198c0de --yes").await.failed(1, &["several gateways"]);

    let publish = "event publish gateway.config.updated {\"configType\":\"cache\",\"action\":\"update\"} --all --user u-1 --correlation-id c-1";
    for id in ["alpha-1", "alpha-2", "beta-1"] {
        service.run(&format!("{publish} --id {id}")).await.well();
    }
    let shown = service.run("event show beta --json").await.json();
    assert_eq!((&shown["id"], &shown["userId"]), (&json!("beta-1"), &json!("u-1")));
    service.run("event show alpha").await.failed(1, &["alpha-1", "alpha-2"]);
    service.run("event show gamma").await.failed(1, &["404"]);
    service.run("event show bet").await.failed(1, &["404"]);
    service.eventually("/deliveries?eventId=beta-1", |page| page["count"] == 4).await;
    let failed = service.run("delivery failed --event beta --json").await.json();
    assert_eq!(failed["count"], 4);

    let made = service.run("token create --access ci --scope read --json").await.json();
    let id = made["id"].as_str().expect("an id");
    let revoked = service.run(&format!("token revoke {} --yes", &id[..6])).await;
    assert!(revoked.well().contains(id), "{revoked:?}");
}

#[tokio::test]
async fn contexts_name_services_and_their_token_is_sent_to_no_other() {
    let service = Service::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let token = home.path().join("token");
    std::fs::write(&token, &service.token).expect("written");
    let with = |arguments: &str| {
        let mut command = command(arguments);
        command.env("XDG_CONFIG_HOME", home.path());
        command
    };
    let context = async |arguments: &str| run(&mut with(arguments)).await;
    assert!(context("context list").await.well().contains("context set NAME"));
    context("context show").await.failed(1, &["no context is in use"]);
    let url = format!("https://localhost:{}", service.port);
    let set = format!(
        "context set prod --url {url} --ca-file {} --token-file {}",
        service.certificate().display(),
        token.display()
    );
    assert!(context(&set).await.well().contains("is the current one"));
    context("context set other --url https://localhost:1").await.well();
    context("context set bad").await.failed(1, &["--url"]);
    context("context set bad --url nonsense").await.failed(1, &["nonsense"]);
    let list = context("context list --json").await.json();
    assert_eq!((&list["count"], &list["list"][1]["current"]), (&json!(2), &json!(true)));
    let file = home.path().join("gateway-events/config.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(&service.token), "{text}");
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The token's file is readable for others.
    let warned = context("gateway list").await;
    assert!(warned.code == Some(0) && warned.err.contains("chmod 600"), "{warned:?}");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&token, private).expect("changed");
    context("gateway list").await.well();
    context("gateway list --context other").await.failed(1, &["access token"]);
    context("gateway list --context none").await.failed(1, &["none", "prod"]);
    context("gateway list --url https://localhost:2").await.failed(1, &["access token"]);
    let mut by_environment = with("gateway list");
    by_environment.env("GATEWAY_EVENTS_CONTEXT", "other");
    run(&mut by_environment).await.failed(1, &["access token"]);
    let mut by_url = with("gateway list");
    by_url.env("GATEWAY_EVENTS_URL", &url);
    run(&mut by_url).await.well();
    // The same address in other spellings; another port, host, path or scheme is another service.
    for same in [
        format!("{url}/"),
        format!("HTTPS://LocalHost:{}", service.port),
        format!("https://localhost:0{}//", service.port),
    ] {
        context(&format!("gateway list --url {same}")).await.well();
    }
    for other in [
        format!("{url}/api"),
        format!("https://localhost.:{}", service.port),
        format!("https://user@localhost:{}", service.port),
    ] {
        let refused = context(&format!("gateway list --url {other}")).await;
        assert_eq!(refused.code, Some(1), "{other}: {refused:?}");
        assert!(refused.out.is_empty(), "{other}: {refused:?}");
    }

    context("context use other").await.well();
    assert_eq!(context("context show --json").await.json()["name"], "other");
    context("context use none").await.failed(1, &["none"]);
    context("context delete other").await.failed(1, &["--yes"]);
    context("context delete other --yes").await.well();
    context("context show").await.failed(1, &["no context is in use"]);
    context("context use prod").await.well();
    context("gateway list").await.well();

    let open = std::fs::Permissions::from_mode(0o622);
    std::fs::set_permissions(&file, open).expect("changed");
    context("gateway list").await.failed(1, &["chmod go-w"]);
}

#[tokio::test]
async fn doctor_reports_each_fault() {
    let service = Service::start().await;
    let report = service.run("doctor --json").await.json();
    let result = |report: &Value, check: &str| -> String {
        let list = report["list"].as_array().expect("a list").iter();
        let found = list.filter(|one| one["check"] == check).map(|one| &one["result"]);
        found.map(|one| one.as_str().expect("a word").to_owned()).collect()
    };
    for check in [
        "address",
        "dns",
        "tcp",
        "tls",
        "certificate",
        "clock",
        "version",
        "readiness",
        "descriptors",
        "token",
        "expiry",
    ] {
        assert_eq!(result(&report, check), "ok", "{check}: {report:#}");
    }
    let text = service.run("doctor").await;
    assert!(text.well().contains("publish, read, admin"), "{text:?}");
    let made =
        service.run("token create --access soon --scope read --expires-in 1h --json").await.json();
    let failing = async |name: &str, value: &str, arguments: &str| {
        let mut doctor = service.command(&format!("doctor --json {arguments}"));
        doctor.env(name, value);
        let done = run(&mut doctor).await;
        assert_eq!((done.code, done.err.as_str()), (Some(1), ""), "{done:?}");
        serde_json::from_str::<Value>(&done.out).expect("JSON")
    };
    let none = failing("GATEWAY_EVENTS_TOKEN", "", "").await;
    assert_eq!(result(&none, "token"), "fail", "{none:#}");
    let wrong = failing("GATEWAY_EVENTS_TOKEN", "gwa_x_y", "").await;
    assert_eq!(result(&wrong, "token"), "fail", "{wrong:#}");
    // With a rejected token, none can be created by the API.
    assert!(wrong.to_string().contains("token recover"), "{wrong:#}");
    assert!(!wrong.to_string().contains("token create"), "{wrong:#}");
    let untrusted = failing("GATEWAY_EVENTS_CA_FILE", "", "").await;
    assert_eq!(result(&untrusted, "tls"), "fail", "{untrusted:#}");
    assert_eq!(result(&untrusted, "certificate"), "ok", "{untrusted:#}");
    let refused = failing("LANG", "C", "--url https://localhost:1").await;
    assert_eq!(result(&refused, "tcp"), "fail", "{refused:#}");
    let nowhere = failing("LANG", "C", "--url https://nowhere.invalid").await;
    assert_eq!(result(&nowhere, "dns"), "fail", "{nowhere:#}");
    let mut reader = service.command("doctor");
    reader.env("GATEWAY_EVENTS_TOKEN", made["token"].as_str().expect("a token"));
    let reader = run(&mut reader).await;
    assert!(reader.well().contains(": read\n"), "{reader:?}");
    service.run("token create --access adm --scope admin --expires-in 1h").await.well();
}

#[tokio::test]
async fn event_types_are_managed_and_totals_are_shown() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    let schema = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(schema.path(), r#"{"type":"object","required":["n"]}"#).expect("written");
    let put = format!(
        "event-type put billing.changed --description Money --schema {}",
        schema.path().display()
    );
    assert!(service.run(&put).await.well().contains("\"required\""));
    let list = service.run("event-type list").await;
    for word in ["billing.changed", "Money", "api.deployed"] {
        assert!(list.well().contains(word), "{word}: {list:?}");
    }
    let shown = service.run("event-type show billing.changed --json").await.json();
    assert_eq!(shown["schema"]["required"], json!(["n"]));
    // What is not named is kept.
    let put = "event-type put billing.changed --ttl 15m --barrier --json";
    let put = service.run(put).await.json();
    assert_eq!((&put["ttlSeconds"], &put["barrier"]), (&json!(900), &json!(true)));
    assert_eq!(
        (&put["description"], &put["schema"]["required"][0]),
        (&json!("Money"), &json!("n"))
    );
    let put = service.run("event-type put billing.changed --description Cash --json").await.json();
    assert_eq!((&put["ttlSeconds"], &put["barrier"]), (&json!(900), &json!(true)));
    assert_eq!((&put["description"], &put["schema"]["required"][0]), (&json!("Cash"), &json!("n")));
    let put = "event-type put billing.changed --no-ttl --barrier=false --description Money --json";
    let put = service.run(put).await.json();
    assert_eq!((&put["ttlSeconds"], &put["barrier"]), (&Value::Null, &json!(false)));
    service.run("event publish billing.changed {} --all").await.failed(1, &["422", "n"]);
    service.run("event publish billing.changed {\"n\":1} --gateway berlin").await.well();
    service.run("event-type delete billing.changed").await.failed(1, &["permanently", "--yes"]);
    service.run("event-type delete billing.changed --yes").await.failed(1, &["409", "force"]);
    service.run("event-type delete billing.changed --yes --force").await.well();
    service.run("event-type show billing.changed").await.failed(1, &["404"]);
    service.run("event-type delete billing.changed --yes").await.failed(1, &["404"]);
    service.run("event-type delete api.deployed --yes").await.failed(1, &["409", "built-in"]);
    // A schema of one's own for a built-in type is deleted, and the built-in one is in force again.
    service.run("event-type put api.deployed --description Own").await.well();
    service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    service.run("event-type delete api.deployed --yes").await.well();
    assert_ne!(
        service.run("event-type show api.deployed --json").await.json()["description"],
        "Own"
    );
    service.run("event-type put unused.type --ttl 0s").await.failed(2, &["--ttl", "at least one"]);
    for command in [
        "event-type put unused.type",
        "event publish unused.type {} --all",
        "event republish e --all",
    ] {
        let refused = service.run(&format!("{command} --ttl 20y")).await;
        refused.failed(2, &["--ttl", "at most 316224000 s (3660 days)"]);
    }
    let put = service.run("event-type put unused.type --ttl 15m --json").await.json();
    assert_eq!(put["ttlSeconds"], 900, "{put:#}");
    let published = "event publish unused.type {} --label no=match --ttl 2h --id two-hours --json";
    let published = service.run(published).await;
    assert_eq!(published.code, Some(3), "{published:?}");
    let event = service.admin().get("/events/two-hours").await.success();
    let at =
        |name: &str| Timestamp::parse(event[name].as_str().expect("a time")).expect("RFC 3339");
    let hours = at("expiresAt").since(at("appendedAt")).as_secs() / 60;
    assert!((115..=120).contains(&hours), "{event:#}");
    service.run("event-type delete unused.type --yes --force").await.well();
    let audit = service.run("audit list --action event_type.deleted --json").await.json();
    assert_eq!(audit["count"], 3, "{audit:#}");

    service.eventually("/deliveries", |page| page["count"] == 2).await;
    let stats = service.run("stats").await;
    assert!(stats.well().contains("pending          2"), "{stats:?}");
    let summary = service.run("delivery summary --by gateway --bucket 1d").await;
    let words: Vec<&str> = summary.well().split_whitespace().collect();
    assert!(words.ends_with(&["berlin", "2"]), "{summary:?}");
    service.run("delivery summary --bucket soon").await.failed(1, &["422", "bucket"]);
}

#[tokio::test]
async fn manual_pages_are_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let man = run(&mut command(&format!("man --dir {}/pages", directory.path().display()))).await;
    assert!(man.well().contains("gateway-events.1"));
    let page =
        std::fs::read_to_string(directory.path().join("pages/gateway-events-event-publish.1"));
    assert!(page.expect("a page").contains("correlation"));
    // Without a directory, the main page is printed, and nothing is written.
    let empty = tempfile::tempdir().expect("a directory");
    let printed = run(command("man").current_dir(empty.path())).await;
    let page = printed.well();
    assert!(page.contains(".TH gateway-events 1") && page.contains("gateway\\-events\\-event(1)"));
    assert_eq!(std::fs::read_dir(empty.path()).expect("a directory").count(), 0);
}

#[tokio::test]
async fn times_too_far_back_are_refused() {
    for (arguments, says) in [
        ("delivery failed --since=99999y", "too far back"),
        ("event list --from=99999999999999999999d", "too far back"),
        ("event list --since=300y", "too far back"),
    ] {
        run(&mut command(arguments)).await.failed(2, &[says]);
    }
}

/// A spreadsheet takes a cell that begins with one of a few characters for a formula.
#[tokio::test]
async fn no_cell_of_csv_is_a_formula() {
    let service = Service::start().await;
    for name in ["=1+2", "+1", "-1", "@SUM(1)", "plain"] {
        service.admin().post("/gateways", &json!({"name": name})).await.success();
    }
    let listed = service.run("gateway list --output csv").await;
    let mut reader = csv::Reader::from_reader(listed.well().as_bytes());
    let columns = reader.headers().expect("a header").clone();
    let column = columns.iter().position(|it| it == "name").expect("a name");
    let rows: Vec<_> = reader.records().map(|row| row.expect("a row")).collect();
    let mut names: Vec<&str> = rows.iter().map(|row| &row[column]).collect();
    names.sort_unstable();
    assert_eq!(names, ["'+1", "'-1", "'=1+2", "'@SUM(1)", "plain"]);
    for row in &rows {
        assert!(!row.iter().any(|cell| cell.starts_with(['=', '+', '-', '@'])), "{row:?}");
    }
    // Other formats have the names as they are.
    let listed = service.run("gateway list --output jsonl").await;
    assert!(listed.well().contains("\"=1+2\""), "{listed:?}");
}
