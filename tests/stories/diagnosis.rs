//! "Gateway berlin did not get last night's deployments": six causes, each found with `why` or the
//! diagnosis, and fixed with at most two more commands, by the command line and by the API.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::support::command::run;
use crate::support::{Service, deployed, failed_report};

on_both! {
    deployments_that_the_gateway_refused_are_found_and_redriven
    a_gateway_that_is_away_is_found
    an_expired_event_is_found_and_published_again
    a_label_that_was_removed_or_mistyped_is_found
    a_revoked_key_is_found_and_replaced
    a_rejected_row_is_found_and_put_back
    untrusted_text_is_escaped_in_a_diagnosis
    a_name_an_id_or_the_beginning_of_an_id_is_looked_up
}

/// The commands that a diagnosis proposes, without the name of the program.
fn commands(diagnosis: &Value) -> Vec<String> {
    let next = diagnosis["next"].as_array().expect("a list").iter();
    let command = |step: &Value| step["command"].as_str().expect("a command").to_owned();
    next.map(command)
        .map(|it| it.strip_prefix("gateway-events ").expect("our program").to_owned())
        .collect()
}

/// The only proposed command that begins so.
fn command(diagnosis: &Value, begins: &str) -> String {
    let commands = commands(diagnosis);
    let found: Vec<_> = commands.iter().filter(|it| it.starts_with(begins)).collect();
    let [one] = found[..] else { panic!("{begins} is not proposed once: {diagnosis:#}") };
    one.clone()
}

fn summary(diagnosis: &Value) -> &str {
    diagnosis["verdict"]["summary"].as_str().expect("a sentence")
}

async fn diagnosis(service: &Service, id: &str) -> Value {
    service.admin().get(&format!("/gateways/{id}/diagnosis")).await.success()
}

/// The words of a text, which may be wrapped.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `why` shows what the API returns.
async fn why(service: &Service, what: &str, diagnosis: &Value) -> String {
    let shown = service.run(&format!("why {what}")).await;
    let shown = shown.well();
    // Sentences are wrapped, and commands are not: they are copied.
    let words = words(shown);
    assert!(words.contains(summary(diagnosis)), "{shown}\n{diagnosis:#}");
    for command in commands(diagnosis) {
        let line = format!("gateway-events {command}");
        assert!(shown.lines().any(|it| it.trim() == line), "{line:?} is missing: {shown}");
    }
    let is_command = |line: &str| line.trim_start().starts_with("gateway-events ");
    for line in shown.lines().filter(|line| !is_command(line)) {
        assert!(line.chars().count() <= 80, "{line:?} is too long: {shown}");
    }
    words
}

async fn deployments_that_the_gateway_refused_are_found_and_redriven(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    let mut socket = service.connected(&key).await;
    for deployment in ["d-1", "d-2", "d-3", "d-4"] {
        service.admin().post("/events", &deployed(&[&id], deployment)).await.success();
    }
    socket.expect(1..=4).await;
    for deployment in ["d-1", "d-2", "d-3", "d-4"] {
        socket.send(Message::text(failed_report(deployment))).await;
    }
    let socket = socket.serve();
    let is_failing = |it: &Value| it["verdict"]["failures"] == 4 && it["confirmed"] == 4;
    service.eventually(&format!("/gateways/{id}"), is_failing).await;

    let found = diagnosis(&service, &id).await;
    let says = summary(&found);
    assert!(says.starts_with("failing: 4 deployments failed since "), "{says}");
    assert!(says.ends_with(", GATEWAY_PROCESSING_ERROR"), "{says}");
    assert_eq!((&found["deadLetters"], &found["failures"][0]["count"]), (&json!(4), &json!(4)));
    assert_eq!(found["deadLettersByReason"][0]["reason"], "gateway_processing_error");
    why(&service, "berlin", &found).await;
    let listed = service.run("gateway list").await.well().to_owned();
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert!(words.join(" ").contains(says), "{listed}");
    let event = service.admin().get("/events").await.success()["list"][0]["id"].clone();
    let event = event.as_str().expect("an id");
    let of_event = service.admin().get(&format!("/events/{event}/diagnosis")).await.success();
    assert_eq!(of_event["open"]["list"][0]["reason"], "gateway_processing_error");
    assert_eq!(of_event["open"]["list"][0]["detail"], "GATEWAY_PROCESSING_ERROR", "{of_event:#}");
    let text = why(&service, event, &of_event).await;
    assert!(text.starts_with(&format!("{event} failed at 1 of 1 gateway since ")), "{text}");
    assert!(text.contains(", for berlin "), "its name, not its id: {text}");

    let redrive = command(&found, "delivery redrive --gateway berlin");
    let done = service.run(&redrive).await;
    assert!(done.well().contains("4 appended again"), "{done:?}");
    service.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 8).await;
    let repaired = diagnosis(&service, &id).await;
    assert_eq!((summary(&repaired), &repaired["deadLetters"]), ("ok", &json!(0)));
    assert_eq!(commands(&repaired), Vec::<String>::new(), "{repaired:#}");
    socket.abort();
}

async fn a_gateway_that_is_away_is_found(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    let new = diagnosis(&service, &id).await;
    assert!(summary(&new).starts_with("away, never connected"), "{new:#}");
    drop(service.connected(&key).await);
    let event = deployed(&[&id], "d-1");
    let event = service.admin().post("/events", &event).await.success()["id"].clone();
    let away = |it: &Value| it["connections"]["list"][0]["closeReason"].is_string();
    let found = service.eventually(&format!("/gateways/{id}/diagnosis"), away).await;
    assert!(summary(&found).starts_with("away since "), "{found:#}");
    assert_eq!(found["pending"]["list"][0]["eventId"], event);
    let next = command(&found, "gateway connections berlin --all");
    why(&service, "berlin", &found).await;
    service.run(&next).await.well();
    let event = event.as_str().expect("an id");
    let of_event = service.admin().get(&format!("/events/{event}/diagnosis")).await.success();
    assert_eq!(of_event["verdict"]["state"], "pending");
    assert_eq!(command(&of_event, "why"), "why berlin");
    // Fixed: the gateway is started.
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 1).await;
    assert_eq!(summary(&diagnosis(&service, &id).await), "ok");
    socket.abort();
}

async fn an_expired_event_is_found_and_published_again(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    let mut event = deployed(&[&id], "d-1");
    event["ttlSeconds"] = json!(1);
    service.admin().post("/events", &event).await.success();
    let is_dead = |it: &Value| it["deadLetters"] == 1;
    let found = service.eventually(&format!("/gateways/{id}/diagnosis"), is_dead).await;
    assert_eq!(found["deadLettersByReason"][0]["reason"], "expired");
    why(&service, "berlin", &found).await;
    let list = command(&found, "delivery failed --gateway berlin --reason expired");
    assert!(service.run(&list).await.well().contains("expired"));
    let listed = service.admin().get(&format!("/deliveries?gatewayId={id}")).await.success();
    let expired = listed["list"][0]["eventId"].as_str().expect("an id").to_owned();
    let of_event = format!("/events/{expired}/diagnosis");
    let of_event = service.admin().get(&of_event).await.success();
    let again = command(&of_event, "event republish");
    assert_eq!(again, format!("event republish {expired} --gateway berlin --ttl 1d"));
    let said = service.run(&again).await;
    assert!(said.well().contains("is stored"), "{said:?}");
    let events = service.admin().get("/events").await.success();
    let new = &events["list"][0];
    assert_ne!(new["id"], expired, "{events:#}");
    assert_eq!(new["correlationId"], events["list"][1]["correlationId"], "{events:#}");
    let stored = |id: &Value| {
        let path = format!("/events/{}", id.as_str().expect("an id"));
        let admin = service.admin();
        async move { admin.get(&path).await.success() }
    };
    let (old, new) = (stored(&json!(expired)).await, stored(&new["id"]).await);
    assert_eq!((&old["payload"], &old["type"]), (&new["payload"], &new["type"]));
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |it| it["lag"]["events"] == 0).await;
    socket.abort();
}

async fn a_label_that_was_removed_or_mistyped_is_found(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    let (late, _) = service.gateway("tokyo").await;
    let socket = service.connected(&key).await.serve();
    let path = format!("/gateways/{id}");
    let label = json!({"labels": {"region": "eu-west", "env": "prod"}});
    admin.patch(&path, &label).await.success();
    let publish = async |region: &str| {
        let event = json!({"type": "gateway.config.updated", "target": {"labels": {"region": region}},
            "payload": {"configType": "c", "action": "update"}});
        admin.post("/events", &event).await.success()["id"].as_str().expect("an id").to_owned()
    };
    let matched = publish("eu-west").await;
    admin.patch(&path, &json!({"labels": {"region": null}})).await.success();
    let removed = publish("eu-west").await;
    let mistyped = publish("eu-wset").await;
    publish("us-east").await;
    let found = diagnosis(&service, &id).await;
    assert_eq!(summary(&found), "ok", "the gateway itself is well");
    let missed = found["missed"]["list"].as_array().expect("a list");
    let cause = |event: &str| {
        let one = missed.iter().find(|it| it["lastEventId"] == event);
        one.unwrap_or_else(|| panic!("{event} is not listed: {found:#}"))["cause"].clone()
    };
    assert_eq!(
        (cause(&removed), cause(&mistyped)),
        (json!("removed_label"), json!("mistyped_target"))
    );
    assert_eq!(missed.len(), 2, "{found:#}");
    let text = why(&service, "berlin", &found).await;
    assert!(text.contains("region=eu-west is similar, so one of them may be mistyped"), "{text}");
    assert!(text.contains("it had region=eu-west until "), "{text}");
    let history = found["history"]["list"].as_array().expect("a list");
    assert_eq!(history.len(), 3, "registered, labelled, and the label removed");
    assert_eq!(history[0]["labels"], json!({"env": "prod"}));

    // From the event: which gateway it missed, and why.
    let of_event = admin.get(&format!("/events/{mistyped}/diagnosis")).await.success();
    assert_eq!(of_event["verdict"]["state"], "unmatched");
    let then = &of_event["gateways"]["list"][0];
    assert_eq!((&then["gatewayName"], &then["then"]), (&json!("berlin"), &json!("differed")));
    assert_eq!(then["differences"][0]["didYouMean"], "region=eu-west", "{of_event:#}");
    assert_eq!(of_event["gateways"]["list"].as_array().map(Vec::len), Some(1));
    why(&service, &mistyped, &of_event).await;
    let one = format!("/events/{removed}/diagnosis?gatewayId={late}");
    let one = admin.get(&one).await.success();
    assert_eq!(one["gateways"]["list"][0]["then"], "differed");
    assert_eq!(one["gateways"]["list"][0]["labels"], json!({}));
    service
        .eventually(&format!("/events/{matched}"), |it| it["verdict"]["state"] == "delivered")
        .await;
    let one = admin.get(&format!("/events/{matched}/diagnosis?gatewayId={id}")).await.success();
    assert_eq!(one["gateways"]["list"][0]["then"], "matched");
    assert_eq!(commands(&one), Vec::<String>::new(), "{one:#}");
    let (new, _) = service.gateway("osaka").await;
    let one = admin.get(&format!("/events/{removed}/diagnosis?gatewayId={new}")).await.success();
    assert_eq!(one["gateways"]["list"][0]["then"], "not_registered");
    let asked = service.run(&format!("why {removed} --gateway osaka")).await;
    assert!(asked.well().contains("after the event was published"), "{asked:?}");

    // Fixed: the label is set, and the event is sent to it.
    let relabel = command(&found, "gateway update berlin --label region=eu-west");
    service.run(&relabel).await.well();
    let resend = command(&found, &format!("event resend {mistyped}"));
    assert_eq!(resend, format!("event resend {mistyped} --gateway berlin"));
    service.run(&resend).await.well();
    let resend = command(&found, &format!("event resend {removed}"));
    service.run(&resend).await.well();
    for event in [&removed, &mistyped] {
        let delivered = |it: &Value| it["deliveries"][0]["state"] == "delivered";
        service.eventually(&format!("/events/{event}"), delivered).await;
    }
    let labelled = admin.get(&path).await.success();
    assert_eq!(labelled["labels"], json!({"region": "eu-west", "env": "prod"}));
    let after = diagnosis(&service, &id).await;
    assert!(!commands(&after).iter().any(|it| it.starts_with("gateway update")), "{after:#}");
    socket.abort();
}

async fn a_revoked_key_is_found_and_replaced(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    let socket = service.connected(&key).await.serve();
    let path = format!("/gateways/{id}");
    service.eventually(&path, |it| it["connected"] == true).await;
    let keys = admin.get(&format!("{path}/tokens")).await.success();
    let public = keys["list"][0]["id"].as_str().expect("an id");
    admin.delete(&format!("{path}/tokens/{public}")).await.success();
    socket.await.expect("closed");
    assert_eq!(service.connect(&key).await.err().map(|(status, _)| status), Some(401));
    let is_refused = |found: &Value| {
        let says = summary(found);
        says.starts_with("away since ") && says.ends_with(", last refusal: key revoked")
    };
    let found = service.eventually(&format!("{path}/diagnosis"), is_refused).await;
    assert_eq!(found["lastRefusal"]["cause"], "key_revoked");
    assert_eq!(found["keys"]["list"][0]["state"], "revoked");
    assert_eq!(found["connections"]["list"][0]["closeReason"], "token_revoked");
    why(&service, "berlin", &found).await;
    let shown = service.run("gateway show berlin").await;
    assert!(shown.well().contains("last refusal: key revoked"), "{shown:?}");
    let create = command(&found, "token create --gateway berlin");
    let made = service.run(&create).await;
    let key = made.well().lines().next().expect("a key").to_owned();
    let socket = service.connected(&key).await.serve();
    service.eventually(&path, |it| it["connected"] == true).await;
    let repaired = diagnosis(&service, &id).await;
    assert_eq!((summary(&repaired), commands(&repaired)), ("ok", Vec::new()));
    socket.abort();
}

async fn a_rejected_row_is_found_and_put_back(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    service.gateway("tokyo").await;
    let row = format!(
        "insert into inbox (type, payload, gateway_id) values ('plan.changed', '{{}}', '{id}')"
    );
    backend.change(&service, &row).await;
    let is_found = |it: &Value| it["rejected"]["list"][0]["id"].is_i64();
    let found = service.eventually(&format!("/gateways/{id}/diagnosis"), is_found).await;
    let row = &found["rejected"]["list"][0];
    assert_eq!(row["reason"], "unknown_event_type", "{found:#}");
    let text = why(&service, "berlin", &found).await;
    assert!(!service.run("why tokyo").await.well().contains("plan.changed"));
    let put = command(&found, "event-type put");
    assert_eq!(put, "event-type put plan.changed");
    service.run(&put).await.well();
    let retry = format!("inbox retry {}", row["id"]);
    assert!(text.contains(&retry), "{text}");
    assert!(text.contains(&format!("inbox edit {}", row["id"])), "{text}");
    let registered = diagnosis(&service, &id).await;
    assert_eq!(commands(&registered).last(), Some(&retry), "{registered:#}");
    assert!(!commands(&registered).iter().any(|it| it.starts_with("event-type")));
    service.run(&retry).await.well();
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 1).await;
    let repaired = diagnosis(&service, &id).await;
    assert_eq!(repaired["rejected"]["list"], json!([]));
    socket.abort();
}

/// Text from gateways, publishers and other programs does not control the terminal.
async fn untrusted_text_is_escaped_in_a_diagnosis(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    // Names and labels with such characters are refused; an earlier version accepted them.
    let hostile_name = "update gateways set name = 'be\u{1b}[31mrlin\u{202e}', \
        labels = '{\"re\u{202e}gion\":\"\\u001b]0;x\\u0007eu-west\"}'";
    backend.change(&service, hostile_name).await;
    let mut socket = service.connected(&key).await;
    service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    socket.expect(1..=1).await;
    let report = failed_report("d-1").replace("GATEWAY_PROCESSING_ERROR", "\\u001b[2J\\u202eEVIL");
    socket.send(Message::text(report)).await;
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |it| it["verdict"]["failures"] == 1).await;
    let row = format!(
        "insert into inbox (type, payload, gateway_id) values ('a\u{1b}[1m\u{202e}b', '{{}}', '{id}')"
    );
    backend.change(&service, &row).await;
    let is_found = |it: &Value| it["rejected"]["list"][0]["id"].is_i64();
    let found = service.eventually(&format!("/gateways/{id}/diagnosis"), is_found).await;
    // The command names the gateway by its id, which a shell takes as it is.
    command(&found, &format!("delivery redrive --gateway {id}"));
    let event = service.admin().get("/events").await.success()["list"][0]["id"].clone();
    let event = event.as_str().expect("an id").to_owned();
    for what in [&id, &event] {
        let shown = service.run(&format!("why {what}")).await;
        let shown = shown.well();
        let is_odd = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.contains(is_odd), "{shown:?}");
        assert!(shown.contains('\u{fffd}'), "{shown:?}");
    }
    socket.abort();
}

async fn a_name_an_id_or_the_beginning_of_an_id_is_looked_up(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let mut gateways = Vec::new();
    for (name, id) in [
        ("one", "aaaaaaaa-0000-7000-8000-000000000001"),
        ("two", "aaaaaaaa-0000-7000-8000-000000000002"),
        ("three", "abbbbbbb-0000-7000-8000-000000000003"),
    ] {
        admin.post("/gateways", &json!({"name": name, "id": id})).await.success();
        gateways.push(id);
    }
    for id in ["order-1", "order-2", "shipment-1"] {
        let mut event = deployed(&[gateways[0]], id);
        event["id"] = json!(id);
        admin.post("/events", &event).await.success();
    }
    for (what, says) in [
        ("one", "one is away"),
        (gateways[1], "two is away"),
        ("abb", "three is away"),
        ("ABB", "three is away"),
        ("order-1", "order-1 is pending"),
        ("ship", "shipment-1 is pending"),
    ] {
        let shown = service.run(&format!("why {what}")).await;
        assert!(shown.well().starts_with(says), "{what}: {shown:?}");
    }
    service.run("why aaaa").await.failed(1, &["several ids begin", gateways[0], "two"]);
    service.run("why order").await.failed(1, &["several ids begin", "order-1", "order-2"]);
    service.run("why on").await.failed(1, &["no gateway is named"]);
    service.run("why thre").await.failed(1, &["did you mean \"three\"?"]);
    let missing = service.run("why 00000000-0000-0000-0000-000000000000").await;
    missing.failed(1, &["no gateway is named"]);

    // A deleted gateway is found by its id and, with a token that may read the audit log, by its
    // last name.
    admin.delete(&format!("/gateways/{}", gateways[1])).await.success();
    let deleted = service.run(&format!("why {}", gateways[1])).await;
    assert!(deleted.well().starts_with("two is deleted since "), "{deleted:?}");
    assert_eq!(service.run("why two").await.well(), deleted.well());
    let reader = admin.post("/access-tokens", &json!({"name": "r", "scopes": ["read"]})).await;
    let mut as_reader = service.command("why two");
    as_reader.env("GATEWAY_EVENTS_TOKEN", reader.json()["token"].as_str().expect("a token"));
    run(&mut as_reader).await.failed(1, &["no gateway is named"]);
    for path in ["/gateways/00000000-0000-0000-0000-000000000000/diagnosis", "/events/no/diagnosis"]
    {
        admin.get(path).await.refusal(404, "not_found");
    }
    let unknown = "/events/order-1/diagnosis?gatewayId=00000000-0000-0000-0000-000000000000";
    admin.get(unknown).await.refusal(404, "not_found");
    admin.get("/events/order-1/diagnosis?gatewayId=one").await.invalid("gatewayId", &["a UUID"]);
}
