//! `GET /events`, `GET /deliveries` and the commands that list events, deliveries and logs.

use std::collections::BTreeSet;

use gateway_events::clock::Timestamp;
use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    events_are_listed_by_each_filter
    pages_of_events_stay_correct_while_events_are_published
    deliveries_are_listed_by_state
}

fn ids(page: &Value) -> Vec<&str> {
    let list = page["list"].as_array().expect("a list");
    list.iter().map(|event| event["id"].as_str().expect("an id")).collect()
}

/// Five events: two about an API, one about a secret, and two without an artifact.
async fn publish(service: &Service, berlin: &str, tokyo: &str) {
    let admin = service.admin();
    let config = json!({"configType": "cache", "action": "update"});
    let deployment = json!({
        "apiId": "orders", "deploymentId": "d-1", "performedAt": "2026-01-31T09:30:00Z",
    });
    let secret = json!({"artifactUuid": "hub-1", "secretName": "s"});
    for (id, event_type, payload, target, user) in [
        ("e-1", "api.deployed", &deployment, json!({"gatewayIds": [berlin]}), "ana"),
        ("e-2", "api.undeployed", &deployment, json!({"all": true}), "ben"),
        ("e-3", "websub.hmacsecret.created", &secret, json!({"gatewayIds": [tokyo]}), "ana"),
        ("e-4", "gateway.config.updated", &config, json!({"labels": {"env": "prod"}}), "ben"),
        ("x-5", "gateway.config.updated", &config, json!({"gatewayIds": [tokyo, berlin]}), "ana"),
    ] {
        let event = json!({
            "id": id, "type": event_type, "payload": payload, "target": target, "userId": user,
            "correlationId": format!("c-{}", &id[..1]),
        });
        admin.post("/events", &event).await.success();
    }
}

async fn events_are_listed_by_each_filter(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (berlin, _) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    admin.patch(&format!("/gateways/{tokyo}"), &json!({"labels": {"env": "prod"}})).await.success();
    publish(&service, &berlin, &tokyo).await;
    for (query, expected) in [
        (String::new(), &["x-5", "e-4", "e-3", "e-2", "e-1"][..]),
        ("type=gateway.config.updated".to_owned(), &["x-5", "e-4"]),
        (format!("gatewayId={berlin}"), &["x-5", "e-2", "e-1"]),
        (format!("gatewayId={berlin}&userId=ana"), &["x-5", "e-1"]),
        (format!("gatewayId={tokyo}&artifactId=orders"), &["e-2"]),
        ("correlationId=c-e".to_owned(), &["e-4", "e-3", "e-2", "e-1"]),
        ("correlationId=c-e&userId=ben".to_owned(), &["e-4", "e-2"]),
        ("userId=ana".to_owned(), &["x-5", "e-3", "e-1"]),
        ("artifactId=orders".to_owned(), &["e-2", "e-1"]),
        ("artifactId=hub-1".to_owned(), &["e-3"]),
        ("deploymentId=d-1&type=api.deployed".to_owned(), &["e-1"]),
        ("idPrefix=e-".to_owned(), &["e-4", "e-3", "e-2", "e-1"]),
        ("idPrefix=e-3".to_owned(), &["e-3"]),
        ("idPrefix=nothing".to_owned(), &[]),
        ("to=2026-01-01T00:00:00Z".to_owned(), &[]),
        ("from=2999-01-01T00:00:00Z".to_owned(), &[]),
    ] {
        let page = admin.get(&format!("/events?{query}")).await.success();
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page["count"], expected.len());
    }
    let page = admin.get("/events").await.success();
    let of = |nth: usize, name: &str| page["list"][nth][name].clone();
    assert_eq!(of(0, "gatewayCount"), 2);
    let named: BTreeSet<&str> = page["list"][0]["target"]["gatewayIds"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|id| id.as_str().expect("an id"))
        .collect();
    assert_eq!(named, BTreeSet::from([berlin.as_str(), tokyo.as_str()]));
    assert_eq!(of(1, "target"), json!({"labels": {"env": "prod"}}));
    assert_eq!((of(3, "target"), of(3, "gatewayCount")), (json!({"all": true}), json!(2)));
    assert_eq!((of(4, "artifactId"), of(4, "deploymentId")), (json!("orders"), json!("d-1")));
    assert_eq!(page["list"][0].get("payload"), None);
    // The target stays as it was published.
    admin.patch(&format!("/gateways/{tokyo}"), &json!({"labels": {"env": null}})).await.success();
    let event = admin.get("/events/e-4").await.success();
    assert_eq!(event["target"], json!({"labels": {"env": "prod"}}));
    assert_eq!(event["gatewayCount"], 1);
    // A window in another zone: the start is included, the end is not.
    let at = |nth: usize| Timestamp::parse(of(nth, "appendedAt").as_str().expect("a time"));
    let (from, to) = (at(3).expect("a time"), at(1).expect("a time"));
    let zoned = from.to_string().replace('Z', "%2B00:00");
    let page = admin.get(&format!("/events?from={zoned}&to={to}")).await.success();
    assert_eq!(ids(&page), ["e-3", "e-2"]);
    let page =
        admin.get(&format!("/events?from={zoned}&to={to}&gatewayId={tokyo}")).await.success();
    assert_eq!(ids(&page), ["e-3", "e-2"]);
}

async fn pages_of_events_stay_correct_while_events_are_published(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (berlin, _) = service.gateway("berlin").await;
    let batch: Vec<Value> = (0..40).map(|it| deployed(&[&berlin], &format!("d-{it}"))).collect();
    admin.post("/events", &json!(batch)).await.success();
    let whole = admin.get("/events?limit=1000").await.success();
    let there: BTreeSet<String> = ids(&whole).into_iter().map(str::to_owned).collect();
    assert_eq!(there.len(), 40);
    for filter in ["type=api.deployed", &format!("gatewayId={berlin}"), "idPrefix=0"] {
        let first = admin.get(&format!("/events?{filter}&limit=1000")).await.success();
        let before: Vec<String> = ids(&first).into_iter().map(str::to_owned).collect();
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = admin.get(&format!("/events?{filter}&limit=7{cursor}")).await.success();
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            let Some(next) = page["pagination"]["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
            admin.post("/events", &deployed(&[&berlin], "later")).await.success();
            let foreign = admin.get(&format!("/events?type=api.deleted{cursor}")).await;
            foreign.invalid("cursor", &["different filters"]);
        }
        assert_eq!(seen, before, "{filter}");
    }
}

#[tokio::test]
async fn an_invalid_query_of_events_says_why() {
    let service = Service::start().await;
    let admin = service.admin();
    let long = format!("/events?idPrefix={}", "a".repeat(65));
    let user = format!("/events?userId={}", "a".repeat(257));
    for (query, field, says) in [
        ("/events?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from", "before"),
        ("/events?from=2026-01-01T00:00:00", "from", "offset"),
        ("/events?limit=0", "limit", "1 to 1000"),
        ("/events?limit=1000000000", "limit", "1 to 1000"),
        ("/events?idPrefix=", "idPrefix", "1 to 64"),
        ("/events?idPrefix=a%20b", "idPrefix", "1 to 64"),
        (&long, "idPrefix", "1 to 64"),
        (&user, "userId", "256 bytes"),
        ("/events?userId=a%00b", "userId", "control character"),
        ("/events?artifactId=", "artifactId", "empty"),
        ("/events?gatewayId=berlin", "gatewayId", "UUID"),
        ("/events?type=api", "type", "joined by dots"),
        ("/events?cursor=xyz", "cursor", "pagination.next"),
        ("/events?reason=expired", "reason", "not a parameter"),
        ("/events?limit=1&limit=2", "limit", "once"),
    ] {
        admin.get(query).await.invalid(field, &[says]);
    }
    let unknown = "/events?gatewayId=0198c0de-0000-7000-8000-000000000001";
    admin.get(unknown).await.refusal(404, "not_found");
    assert_eq!(admin.get("/events?artifactId=a%00b").await.success()["count"], 0);
}

#[tokio::test]
async fn events_are_listed_on_the_command_line() {
    let service = Service::start().await;
    let (berlin, _) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    publish(&service, &berlin, &tokyo).await;
    let mut event = deployed(&[&berlin], "d-2");
    event["userId"] = json!("\u{202e}ana");
    service.admin().post("/events", &event).await.success();
    let list = service.run("event list --since 2h --gateway berlin").await;
    let table = list.well();
    assert!(table.contains("TYPE") && table.contains("all gateways"), "{table}");
    assert!(table.contains("berlin") && !table.contains(&berlin), "{table}");
    assert!(!table.contains("e-3"), "{table}");
    assert!(table.contains("\u{fffd}ana") && !table.contains('\u{202e}'), "{table}");
    let page = service.run("event list --user ana --type api.deployed --json").await.json();
    assert_eq!(ids(&page), ["e-1"]);
    let page = service.run("event list --id-prefix e- --artifact orders --json").await.json();
    assert_eq!(ids(&page), ["e-2", "e-1"]);
    let few = service.run("event list --limit 2").await;
    assert!(few.well().contains("There are more: use --all"), "{few:?}");
    let all = service.run("event list --all --json").await.json();
    assert_eq!(all["count"], 6);
    let none = service.run("event list --to 2026-01-01T00:00:00Z").await;
    assert_eq!(none.well(), "no events in this window\n");
    service.run("event list --all --limit 3").await.failed(2, &["--limit"]);
    service.run("event list --gateway brlin").await.failed(1, &["did you mean \"berlin\""]);
}

async fn deliveries_are_listed_by_state(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (berlin, key) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    for number in 1..=4 {
        let event = deployed(&[&berlin, &tokyo], &format!("d-{number}"));
        admin.post("/events", &event).await.success();
    }
    let mut socket = service.connected(&key).await;
    socket.expect(1..=4).await;
    socket.serve();
    let delivered = format!("/deliveries?status=delivered&gatewayId={berlin}");
    service.eventually(&delivered, |page| page["count"] == 4).await;
    let listed = async |query: &str| {
        let page = admin.get(&format!("/deliveries?{query}")).await.success();
        let rows = page["list"].as_array().expect("a list").iter();
        let rows = rows.map(|row| {
            let gateway = row["gatewayName"].as_str().expect("a name").to_owned();
            (gateway, row["sequence"].as_i64().expect("a number"), row["state"].clone())
        });
        (rows.collect::<Vec<_>>(), page["pagination"]["next"].as_str().map(str::to_owned))
    };
    let row = |gateway: &str, sequence, state| (gateway.to_owned(), sequence, json!(state));
    let (pending, _) = listed("status=pending").await;
    let expected: Vec<_> = (1..=4).rev().map(|it| row("tokyo", it, "pending")).collect();
    assert_eq!(pending, expected);
    let (first, next) = listed("status=delivered&limit=3").await;
    let expected: Vec<_> = (2..=4).rev().map(|it| row("berlin", it, "delivered")).collect();
    assert_eq!(first, expected);
    let cursor = next.expect("a next page");
    let (rest, next) = listed(&format!("status=delivered&limit=3&cursor={cursor}")).await;
    assert_eq!((rest, next), (vec![row("berlin", 1, "delivered")], None));
    for other in ["status=pending", "status=failed", "status=delivered&type=api.deployed"] {
        let foreign = admin.get(&format!("/deliveries?{other}&cursor={cursor}")).await;
        assert_eq!(foreign.status, 422, "{other}");
    }
    let old = "status=pending&to=2026-01-01T00:00:00Z";
    assert!(listed(old).await.0.is_empty());
    let table = service.run("delivery list --status pending --gateway tokyo").await;
    assert!(table.well().contains("pending") && !table.out.contains("berlin"), "{table:?}");
    let page = service.run("delivery list --status delivered --all --json").await.json();
    assert_eq!(page["count"], 4);
    service.run("delivery list").await.failed(2, &["--status"]);
    let log = service.run("gateway log tokyo --limit 2").await;
    assert!(log.well().contains("pending"), "{log:?}");
    let page = service.run("gateway log berlin --limit 2 --json").await.json();
    let states: Vec<_> = page["list"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["sequence"].clone(), entry["state"].clone()))
        .collect();
    assert_eq!(states, [(json!(3), json!("delivered")), (json!(4), json!("delivered"))]);
    let page = service.run("gateway log berlin --all --json").await.json();
    assert_eq!(page["count"], 4);
    let more = service.run("gateway log berlin --after 0 --limit 1").await;
    assert!(more.well().contains("use --after 1"), "{more:?}");
}
