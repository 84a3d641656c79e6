//! Names that people choose: what is refused, and that names which an earlier version
//! accepted keep working.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

/// Texts that are refused as any kind of name: they can't be told from another one when
/// they are shown, or change how the text around them is shown.
const INVISIBLE: [&str; 7] = [
    "be\u{7}rlin",
    "be\nrlin",
    "be\u{85}rlin",
    "be\u{200b}rlin",
    "\u{202e}nilreb",
    "berlin\u{feff}",
    "ber\u{2028}lin",
];
/// Texts that are refused as names because of what they begin or end with.
const PADDED: [&str; 8] =
    ["", " ", " berlin", "berlin ", "berlin\u{a0}", "\u{3000}berlin", ".", ".."];

#[tokio::test]
async fn names_that_look_like_others_are_refused() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let path = format!("/gateways/{id}");
    let uuids = [id.clone(), id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}")];
    let too_long = "x".repeat(129);
    let mut bad: Vec<&str> = INVISIBLE.iter().chain(&PADDED).copied().collect();
    bad.push(&too_long);
    bad.extend(uuids.iter().map(String::as_str));
    for name in bad {
        let says = if uuids.iter().any(|uuid| uuid == name) { "UUID" } else { "1 to 128" };
        let named = json!({"name": name});
        admin.post("/gateways", &named).await.invalid("name", &[says]);
        admin.patch(&path, &named).await.invalid("name", &[says]);
    }
    for name in INVISIBLE {
        let token = json!({"name": name, "scopes": ["read"]});
        admin.post("/access-tokens", &token).await.invalid("name", &["1 to 128", "format"]);
        for labels in [json!({name: "eu"}), json!({"region": name})] {
            let of = |labels: &Value| json!({"name": "two", "labels": labels});
            let refused = admin.post("/gateways", &of(&labels)).await.refusal(422, "invalid");
            let field = refused["errors"][0]["field"].as_str().expect("a field");
            let expected = ["labels.berlin", "labels.nilreb", "labels.region"];
            assert!(expected.contains(&field), "{field:?}");
            admin.patch(&path, &json!({"labels": labels})).await.refusal(422, "invalid");
        }
    }
    for name in PADDED {
        admin.patch(&path, &json!({"labels": {name: "eu"}})).await.refusal(422, "invalid");
    }
    for name in ["Zürich 2", "東京", "x", "0198c0de", &"x".repeat(128)] {
        admin.post("/gateways", &json!({"name": name})).await.success();
        let token = json!({"name": name, "scopes": ["read"]});
        admin.post("/access-tokens", &token).await.success();
        let labels = json!({"labels": {"where": name.get(..64).unwrap_or(name), "none": ""}});
        admin.patch(&path, &labels).await.success();
    }
    let register = ["gateway", "register", "be\u{202e}rlin"];
    let mut command = service.command("");
    let said = crate::support::command::run(command.args(register)).await;
    said.failed(1, &["name", "format character"]);
    let recover = ["token", "recover", "--name", "be\u{200b}rlin", "--data-dir"];
    let mut command = service.command("");
    let said = crate::support::command::run(command.args(recover).arg(service.directory())).await;
    said.failed(2, &["--name", "format character"]);
}

/// Names that an earlier version accepted stay, and what they name works.
async fn names_of_an_earlier_version_keep_working(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (other, _) = service.gateway("other").await;
    for (nth, name) in [&other, " padded ", "be\u{202e}rlin"].into_iter().enumerate() {
        let (id, key) = service.gateway(&format!("named-{nth}")).await;
        let path = format!("/gateways/{id}");
        backend
            .change(&service, &format!("update gateways set name = '{name}' where id = '{id}'"))
            .await;
        assert_eq!(admin.get(&path).await.success()["name"], name);
        let changed = admin.patch(&path, &json!({"labels": {"site": "a"}, "replicas": 2})).await;
        assert_eq!(changed.success()["name"], name);
        let mut socket = service.connected(&key).await;
        admin.post("/events", &deployed(&[&id], "d")).await.success();
        socket.expect(1..=1).await;
        let shown = service.run(&format!("gateway show {id}")).await;
        assert!(!shown.well().contains('\u{202e}'), "{shown:?}");
        let renamed = admin.patch(&path, &json!({"name": format!("renamed-{nth}")})).await;
        assert_eq!(renamed.success()["name"], format!("renamed-{nth}"));
    }
}

on_both! { names_of_an_earlier_version_keep_working }
