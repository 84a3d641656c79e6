//! Mistyped labels of gateways, while other gateways have the right ones, and mistyped rows of the
//! inbox: `why` says what was probably meant, and how to correct it.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    more_events_than_a_diagnosis_lists_are_resent_in_order
    a_mistyped_label_of_a_gateway_is_found_although_others_match
    a_label_that_is_probably_meant_as_it_is_is_not_corrected
    a_rejected_row_with_a_mistyped_type_or_target_is_explained
}

async fn relabel(service: &Service, id: &str, labels: Value) {
    service.admin().patch(&format!("/gateways/{id}"), &json!({"labels": labels})).await.success();
}

async fn publish(service: &Service, labels: Value) -> String {
    let event = json!({"type": "gateway.config.updated", "target": {"labels": labels},
        "payload": {"configType": "c", "action": "update"}});
    let accepted = service.admin().post("/events", &event).await.success();
    accepted["id"].as_str().expect("an id").to_owned()
}

async fn diagnosis(service: &Service, id: &str) -> Value {
    service.admin().get(&format!("/gateways/{id}/diagnosis")).await.success()
}

fn commands(diagnosis: &Value) -> Vec<&str> {
    let steps = diagnosis["next"].as_array().expect("a list").iter();
    let commands = steps.map(|step| step["command"].as_str().expect("a command"));
    commands.map(|it| it.strip_prefix("gateway-events ").expect("our program")).collect()
}

/// The words of a text, which may be wrapped.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn a_mistyped_label_of_a_gateway_is_found_although_others_match(backend: Backend) {
    let service = backend.start().await;
    let (berlin, _) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    let (osaka, _) = service.gateway("osaka").await;
    relabel(&service, &berlin, json!({"region": "eu-wset", "env": "prod"})).await;
    relabel(&service, &osaka, json!({"regoin": "eu-west", "env": "prod"})).await;
    relabel(&service, &tokyo, json!({"region": "eu-west", "env": "prod"})).await;
    let first = publish(&service, json!({"region": "eu-west"})).await;
    let second = publish(&service, json!({"region": "eu-west"})).await;
    let last = publish(&service, json!({"region": "eu-west", "env": "prod"})).await;
    // Other labels are missing, too, so this one was not for it.
    publish(&service, json!({"region": "eu-west", "tier": "gold"})).await;

    let found = diagnosis(&service, &berlin).await;
    let missed = found["missed"]["list"].as_array().expect("a list");
    let causes: Vec<_> = missed.iter().map(|it| (&it["cause"], &it["events"])).collect();
    let mistyped = json!("mistyped_label");
    assert_eq!(causes, [(&mistyped, &json!(1)), (&mistyped, &json!(2))], "{found:#}");
    assert_eq!(missed[0]["differences"][0]["didYouMean"], "region=eu-wset");
    let oldest = missed[1]["oldest"].as_array().expect("a list").iter();
    let oldest: Vec<_> = oldest.map(|it| it["eventId"].as_str().expect("an id")).collect();
    assert_eq!(oldest, [&first, &second], "{found:#}");
    let mend = "gateway update berlin --label region=eu-west";
    let resend = format!("event resend {last} --gateway berlin");
    assert_eq!(commands(&found)[1..3], [mend, &resend], "{found:#}");
    let resend_some = "event resend --missed-by berlin --label region=eu-west";
    assert_eq!(commands(&found)[3], resend_some, "{found:#}");
    let resend_all = "event resend --missed-by berlin";
    let text = words(service.run("why berlin").await.well());
    for says in ["region=eu-wset", "no other gateway", "2 events for region=eu-west", mend] {
        assert!(text.contains(says), "{says:?} is missing: {text}");
    }
    for at in [&missed[1]["firstAt"], &missed[1]["lastAt"]] {
        let second = &at.as_str().expect("an instant")[..19];
        assert!(text.contains(second), "{second} is missing: {text}");
    }
    let mistyped_name = diagnosis(&service, &osaka).await;
    let mend_name = "gateway update osaka --label region=eu-west --remove-label regoin";
    assert_eq!(commands(&mistyped_name)[1], mend_name, "{mistyped_name:#}");
    assert_eq!(diagnosis(&service, &tokyo).await["missed"]["list"], json!([]));

    // Corrected by the proposed commands.
    service.run(mend).await.well();
    service.run(mend_name).await.well();
    let planned = service.run(&format!("{resend_all} --dry-run")).await;
    assert!(planned.well().contains("dry run"), "{planned:?}");
    service.run(resend_some).await.failed(1, &["2 events", "2 new deliveries", "--yes"]);
    let none =
        service.run("event resend --missed-by berlin --label region=eu-west --label a=b").await;
    assert!(none.well().contains("no new deliveries"), "{none:?}");
    service.run(resend_all).await.failed(1, &["3 events", "3 new deliveries", "--yes"]);
    assert_eq!(log(&service, &berlin).await, Vec::<String>::new());
    let sent = service.run(&format!("{resend_all} --yes")).await;
    assert!(sent.well().contains(&first), "{sent:?}");
    assert_eq!(log(&service, &berlin).await, [first, second, last], "in order");
    let again = service.run(&format!("{resend_all} --yes")).await;
    assert!(again.well().contains("no new deliveries"), "{again:?}");
    publish(&service, json!({"region": "eu-west"})).await;
    for id in [&berlin, &osaka] {
        let labels = &service.admin().get(&format!("/gateways/{id}")).await.success()["labels"];
        assert_eq!(labels, &json!({"region": "eu-west", "env": "prod"}));
        let mended = diagnosis(&service, id).await;
        let is_relabel = |it: &&str| it.starts_with("gateway update");
        assert!(!commands(&mended).iter().any(is_relabel), "{mended:#}");
    }
}

/// The events of a gateway's log, oldest first.
async fn log(service: &Service, gateway: &str) -> Vec<String> {
    let page = service.admin().get(&format!("/gateways/{gateway}/log?limit=500")).await.success();
    let rows = page["list"].as_array().expect("a list").iter();
    let mut ids: Vec<(i64, String)> = rows
        .map(|row| {
            let id = row["eventId"].as_str().expect("an id").to_owned();
            (row["sequence"].as_i64().expect("a number"), id)
        })
        .collect();
    ids.sort();
    ids.into_iter().map(|(_, id)| id).collect()
}

async fn more_events_than_a_diagnosis_lists_are_resent_in_order(backend: Backend) {
    let service = backend.start().await;
    let (berlin, _) = service.gateway("berlin").await;
    relabel(&service, &berlin, json!({"region": "eu-west", "env": "prod"})).await;
    relabel(&service, &berlin, json!({"region": null, "env": null})).await;
    let mut published = Vec::new();
    for number in 0..130 {
        // Two targets, one with more events than are listed.
        let labels =
            if number % 6 == 5 { json!({"env": "prod"}) } else { json!({"region": "eu-west"}) };
        published.push(publish(&service, labels).await);
    }
    let found = diagnosis(&service, &berlin).await;
    let missed = found["missed"]["list"].as_array().expect("a list");
    let listed = |it: &Value| it["oldest"].as_array().map(Vec::len);
    let counts: Vec<_> = missed.iter().map(|it| (it["events"].as_i64(), listed(it))).collect();
    assert!(counts.contains(&(Some(109), Some(100))), "{counts:?}");
    assert!(counts.contains(&(Some(21), Some(21))), "{counts:?}");
    service.run("event resend --missed-by berlin --yes").await.well();
    assert_eq!(log(&service, &berlin).await, published);
    // Without an event, nothing is asked for.
    let none = service.run("event resend --missed-by berlin").await;
    assert!(none.well().contains("no new deliveries"), "{none:?}");
}

async fn a_label_that_is_probably_meant_as_it_is_is_not_corrected(backend: Backend) {
    let service = backend.start().await;
    let (one, _) = service.gateway("one").await;
    let (two, _) = service.gateway("two").await;
    let (other, _) = service.gateway("other").await;
    // Places that differ by a digit, a value of several gateways, and one that events asked for.
    relabel(&service, &one, json!({"site": "eu-site-1", "zone": "northa", "tier": "golden"})).await;
    relabel(&service, &two, json!({"site": "eu-site-2", "zone": "northb", "tier": "goldem"})).await;
    relabel(&service, &other, json!({"zone": "northa"})).await;
    publish(&service, json!({"tier": "golden"})).await;
    for labels in
        [json!({"site": "eu-site-2"}), json!({"zone": "northb"}), json!({"tier": "goldem"})]
    {
        publish(&service, labels).await;
    }
    let found = diagnosis(&service, &one).await;
    assert_eq!(found["missed"]["list"], json!([]), "{found:#}");
    let is_relabel = |it: &&str| it.starts_with("gateway update");
    assert!(!commands(&found).iter().any(is_relabel), "{found:#}");
    // A deleted gateway's label is no evidence any more.
    service.admin().delete(&format!("/gateways/{other}")).await;
    let found = diagnosis(&service, &one).await;
    assert_eq!(found["missed"]["list"][0]["cause"], "mistyped_label", "{found:#}");
    assert_eq!(found["missed"]["list"][0]["labels"], json!({"zone": "northb"}));
}

async fn a_rejected_row_with_a_mistyped_type_or_target_is_explained(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("berlin").await;
    relabel(&service, &id, json!({"region": "eu-west"})).await;
    let insert = |columns: &str, values: &str| {
        format!("insert into inbox (type, payload, {columns}) values ({values})")
    };
    let similar = r#"'plan.moved', '{}', '{"labels": {"region": "eu-wset"}}'"#;
    backend.change(&service, &insert("target", similar)).await;
    let exact = r#"'plan.changed', '{}', '{"labels": {"region": "eu-west"}}'"#;
    backend.change(&service, &insert("target", exact)).await;
    let typo = format!("'api.deploid', '{{}}', '{id}'");
    backend.change(&service, &insert("gateway_id", &typo)).await;
    let are_found =
        |it: &Value| it["rejected"]["list"].as_array().is_some_and(|list| list.len() == 3);
    let found = service.eventually(&format!("/gateways/{id}/diagnosis"), are_found).await;
    let rows = found["rejected"]["list"].as_array().expect("a list");
    let of = |target: &str| {
        let is_it = |row: &&Value| row["target"].as_str().is_some_and(|it| it.contains(target));
        rows.iter().find(is_it).unwrap_or_else(|| panic!("{target} is missing: {found:#}"))
    };
    assert_eq!(of("eu-wset")["similarTarget"], true);
    assert_eq!(of("eu-west")["similarTarget"], false);
    let named = rows.iter().find(|row| row["gatewayId"] == id.as_str()).expect("the row");
    assert_eq!(
        (&named["similarTarget"], &named["didYouMean"]),
        (&json!(false), &json!("api.deployed"))
    );
    assert_eq!(of("eu-wset")["didYouMean"], Value::Null, "no type is similar");

    let edit = format!("inbox edit {} --type api.deployed", named["id"]);
    assert!(commands(&found).contains(&edit.as_str()), "{edit} is missing: {found:#}");
    let text = words(service.run("why berlin").await.well());
    for says in ["did you mean api.deployed?", "similar target", &edit] {
        assert!(text.contains(says), "{says:?} is missing: {text}");
    }
    // Only rows for it are called so.
    let of_similar = found["next"].as_array().expect("a list").iter().find(|step| {
        let why = step["why"].as_str().expect("a sentence");
        why.contains("similar target")
    });
    let why = of_similar.expect("a step")["why"].as_str().expect("a sentence");
    assert!(!why.contains("for it"), "{why}");
    // Valid payload or not, the type is corrected.
    let edited = service.run(&edit).await;
    assert!(edited.out.contains("still rejected: invalid"), "{edited:?}");
}
