//! Rules: those that are there from the start, their lifecycle, silence, and what is refused.

use futures_util::future::join_all;
use gateway_events::clock::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

use super::{Key, alert_in_state, set_away, settings, start, watch, watched};
use crate::both_databases::{Backend, on_both};
use crate::console::visitor::Visitor;
use crate::support::Service;

on_both! {
    rules_are_there_from_the_start_and_can_be_replaced
    an_alert_fires_for_each_group_and_is_resolved
    alerts_are_listed_in_pages
    what_a_rule_selects_can_vanish
    conditions_about_deliveries_inbox_nodes_and_keys_are_found
    rules_and_destinations_are_limited
    concurrent_creations_of_an_id_store_the_one_that_was_answered_with_201
}

async fn rules_are_there_from_the_start_and_can_be_replaced(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let rules = admin.get("/alerts/rules").await.success();
    assert_eq!(rules["count"], 8);
    assert!(rules["list"].as_array().expect("a list").iter().all(|it| it["builtIn"] == true));
    let overview = admin.get("/alerts").await.success();
    assert_eq!(overview["rules"], rules["list"]);
    assert_eq!(overview["destinations"], json!([]));

    admin.get("/alerts/rules/no-such").await.refusal(404, "not_found");
    admin.delete("/alerts/rules/no-such").await.refusal(404, "not_found");
    admin.delete("/alerts/rules/dead-letters").await.refusal(409, "conflict");
    let off = json!({"kind": "dead_letters", "threshold": 1, "enabled": false});
    let reply = admin.put("/alerts/rules/dead-letters", &off).await;
    assert_eq!((reply.status, &reply.success()["definition"]["enabled"]), (200, &json!(false)));
    assert_eq!(reply.success()["builtIn"], true);
    assert_eq!(admin.delete("/alerts/rules/dead-letters").await.status, 204);
    let restored = admin.get("/alerts/rules/dead-letters").await.success();
    assert_eq!(restored["definition"].get("enabled"), None);

    let own = json!({"id": "mine", "kind": "inbox_rejected", "threshold": 3, "owner": "ops"});
    let reply = admin.post("/alerts/rules", &own).await;
    assert_eq!((reply.status, &reply.success()["id"]), (201, &json!("mine")));
    admin.post("/alerts/rules", &own).await.refusal(409, "conflict");
    admin
        .post(
            "/alerts/rules",
            &json!({"id": "dead-letters", "kind": "dead_letters", "threshold": 1}),
        )
        .await
        .refusal(409, "conflict");
    let unnamed =
        admin.post("/alerts/rules", &json!({"kind": "inbox_rejected", "threshold": 3})).await;
    assert_eq!(unnamed.success()["id"].as_str().map(str::len), Some(36));
    let other = json!({"id": "other", "kind": "inbox_rejected", "threshold": 4});
    admin.put("/alerts/rules/mine", &other).await.invalid("id", &["path"]);

    // A silence survives a change, and ends by itself or on request.
    let until = Timestamp::now().plus(Duration::from_hours(1));
    for rule in ["mine", "gateway-away"] {
        let path = format!("/alerts/rules/{rule}/silence");
        let silent = admin.put(&path, &json!({"until": until})).await.success();
        assert_eq!(
            (&silent["silencedUntil"], &silent["silencedBy"]),
            (&json!(until), &json!("first"))
        );
        admin
            .put(&path, &json!({"until": "9999-01-01T00:00:00Z"}))
            .await
            .invalid("until", &["year"]);
    }
    let changed = json!({"kind": "inbox_rejected", "threshold": 4});
    let changed = admin.put("/alerts/rules/mine", &changed).await.success();
    assert_eq!(changed["silencedUntil"], json!(until));
    let loud = admin.put("/alerts/rules/mine/silence", &json!({})).await.success();
    assert_eq!(loud.get("silencedUntil"), None);
    admin.put("/alerts/rules/none/silence", &json!({})).await.refusal(404, "not_found");
    refused(&service).await;
}

async fn refused(service: &Service) {
    let admin = service.admin();
    for (rule, field, says) in [
        (json!({"kind": "gateway_away"}), "windowSeconds", "required"),
        (json!({"kind": "gateway_away", "windowSeconds": 0}), "windowSeconds", "1 to"),
        (
            json!({"kind": "gateway_away", "windowSeconds": 5, "threshold": 5}),
            "threshold",
            "no meaning",
        ),
        (
            json!({"kind": "delivery_failures", "windowSeconds": 86_401, "threshold": 5}),
            "windowSeconds",
            "86400",
        ),
        (json!({"kind": "disk_space", "threshold": 100}), "threshold", "1 to 99"),
        (
            json!({"kind": "inbox_rejected", "threshold": 1, "groupBy": "region"}),
            "groupBy",
            "no meaning",
        ),
        (json!({"kind": "unexpected_address", "windowSeconds": 5}), "allowedNetworks", "1 to 64"),
        (
            json!({"kind": "unexpected_address", "windowSeconds": 5, "allowedNetworks": ["x"]}),
            "allowedNetworks",
            "10.0.0.0/8",
        ),
        (
            json!({"kind": "dead_letters", "threshold": 1, "forSeconds": 86_401}),
            "forSeconds",
            "86400",
        ),
        (
            json!({"kind": "dead_letters", "threshold": 1, "destinations": ["A b"]}),
            "destinations",
            "ids",
        ),
        (json!({"kind": "dead_letters", "threshold": 1, "id": "-x"}), "id", "hyphens"),
        (json!({"kind": "nothing"}), "kind", "gateway_away"),
    ] {
        admin.post("/alerts/rules", &rule).await.invalid(field, &[says]);
    }
    admin
        .put("/alerts/rules/A", &json!({"kind": "dead_letters", "threshold": 1}))
        .await
        .invalid("id", &["hyphens"]);
}

async fn an_alert_fires_for_each_group_and_is_resolved(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let eu: Vec<String> = {
        let mut ids = Vec::new();
        for number in 0..3 {
            ids.push(watched(&service, &format!("eu-{number}"), "away", "eu").await);
        }
        ids
    };
    watched(&service, "us-0", "away", "us").await;
    watch(&service, "away", &[]).await;
    let alert = alert_in_state(&service, "away/eu", "firing").await;
    assert_eq!(
        (&alert["severity"], &alert["owner"]),
        (&json!("critical"), &json!("team-gateways"))
    );
    assert_eq!(alert["notified"], json!([]));
    // Those that were registered later follow.
    let counts = async |count: i64| {
        service
            .eventually("/alerts", |it| {
                let all = it["alerts"].as_array().expect("a list");
                all.iter().any(|it| it["key"] == "away/eu" && it["found"]["count"] == count)
            })
            .await;
    };
    counts(3).await;
    alert_in_state(&service, "away/us", "firing").await;
    set_away(&service, &eu[0], false).await;
    counts(2).await;
    for id in &eu[1..] {
        set_away(&service, id, false).await;
    }
    let resolved = alert_in_state(&service, "away/eu", "resolved").await;
    assert!(resolved["resolvedAt"].is_string());
    alert_in_state(&service, "away/us", "firing").await;
    service
        .metrics_until(|text| {
            text.contains("gateway_events_alerts_firing{severity=\"critical\"} 1")
        })
        .await;
    // A connected gateway is not away, either.
    set_away(&service, &eu[0], true).await;
    alert_in_state(&service, "away/eu", "firing").await;
    let token = service.admin().post(&format!("/gateways/{}/tokens", eu[0]), &json!({})).await;
    let token = token.success()["token"].as_str().expect("a key").to_owned();
    let socket = service.connected(&token).await;
    alert_in_state(&service, "away/eu", "resolved").await;
    drop(socket);

    let listed = service.run("alert list").await;
    assert!(listed.well().contains("away/us"), "{}", listed.out);
    let json = service.run("alert list --json").await.json();
    assert!(json["count"].as_i64() > Some(1), "{json}");
    service.run("alert rule silence away --for 1h").await.well();
    assert!(service.run("alert rule show away").await.well().contains("silent until"));
    service.run("alert rule silence away --end").await.well();
    assert!(service.run("alert rule list").await.well().contains("gateway_away"));
    service.run("alert rule silence away").await.failed(2, &["--for"]);
    service.run("alert rule delete away --yes").await.well();
    let gone = alert_in_state(&service, "away/us", "resolved").await;
    assert_eq!(gone["found"]["summary"], "The rule was deleted or disabled.");
    let file = service.directory().join("rule.json");
    std::fs::write(&file, r#"{"kind": "dead_letters", "threshold": 7}"#).expect("written");
    let put = service.run(&format!("alert rule put mine --file {}", file.display())).await;
    assert!(put.well().contains("threshold    7"), "{}", put.out);
}

async fn alerts_are_listed_in_pages(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let regions = 0..7;
    for number in regions.clone() {
        watched(&service, &format!("g-{number}"), "away", &format!("r-{number}")).await;
    }
    watch(&service, "away", &[]).await;
    let is_firing = |it: &Value| {
        let all = it["alerts"].as_array().expect("a list").iter();
        all.filter(|it| it["rule"] == "away" && it["state"] == "firing").count() == 7
    };
    let whole = service.eventually("/alerts", is_firing).await;
    let keys = |page: &Value| -> Vec<String> {
        let all = page["alerts"].as_array().expect("a list").iter();
        all.map(|it| it["key"].as_str().expect("a key").to_owned()).collect()
    };
    // Only alerts that don't change meanwhile are compared.
    let of_rule = |keys: Vec<String>| -> Vec<String> {
        keys.into_iter().filter(|key| key.starts_with("away/")).collect()
    };
    let (mut found, mut path) = (Vec::new(), "/alerts?limit=3".to_owned());
    loop {
        let page = service.admin().get(&path).await.success();
        let on_page = keys(&page);
        assert!(on_page.len() <= 3 && page["pagination"]["limit"] == 3, "{page:#}");
        assert!(page["counts"]["firing"].as_i64() >= Some(7), "{page:#}");
        found.extend(on_page);
        let Some(next) = page["pagination"]["next"].as_str() else { break };
        path = format!("/alerts?limit=3&cursor={next}");
    }
    assert_eq!(of_rule(found), of_rule(keys(&whole)));
    assert_eq!(of_rule(keys(&whole)).len(), regions.len());
    service.admin().get("/alerts?cursor=nonsense").await.refusal(422, "invalid");
    service.admin().get("/alerts?limit=0").await.refusal(422, "invalid");
    let listed = service.run("alert list").await;
    for number in regions {
        assert!(listed.well().contains(&format!("away/r-{number}")), "{}", listed.out);
    }
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let page = visitor.get("/console/alerts?limit=3").await;
    assert!(page.says(" firing, ") && page.says("Next page"), "{page:?}");
    assert_eq!(page.body.matches("data-label=\"What was found\"").count(), 3, "{page:?}");
}

async fn what_a_rule_selects_can_vanish(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let id = watched(&service, "only", "away", "eu").await;
    let rule = json!({"kind": "gateway_away", "windowSeconds": 1, "selector": {"watched": "away"},
        "keepFiringSeconds": 86_400});
    service.admin().put("/alerts/rules/away", &rule).await.success();
    alert_in_state(&service, "away", "firing").await;
    let relabelled = json!({"labels": {"watched": null}});
    service.admin().patch(&format!("/gateways/{id}"), &relabelled).await.success();
    let resolved = alert_in_state(&service, "away", "resolved").await;
    let summary = resolved["found"]["summary"].as_str().expect("a text");
    assert!(summary.contains("No gateway matches"), "although it keeps firing: {summary}");
}

async fn conditions_about_deliveries_inbox_nodes_and_keys_are_found(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let admin = service.admin();
    for (id, rule) in [
        (
            "failed",
            json!({"kind": "delivery_failures", "threshold": 1, "windowSeconds": 3600,
            "reason": "not_connected", "eventType": "api.deployed"}),
        ),
        (
            "failed-otherwise",
            json!({"kind": "delivery_failures", "threshold": 1,
            "windowSeconds": 3600, "reason": "write_timeout"}),
        ),
        ("rejected", json!({"kind": "inbox_rejected", "threshold": 1})),
        ("disk", json!({"kind": "disk_space", "threshold": 99})),
        ("keys", json!({"kind": "expiry", "windowSeconds": 7200})),
        (
            "strangers",
            json!({"kind": "unexpected_address", "windowSeconds": 3600,
            "allowedNetworks": ["192.0.2.0/24"]}),
        ),
        (
            "friends",
            json!({"kind": "unexpected_address", "windowSeconds": 3600,
            "allowedNetworks": ["127.0.0.0/8", "::1"]}),
        ),
        ("behind", json!({"kind": "gateway_behind", "threshold": 1})),
    ] {
        admin.put(&format!("/alerts/rules/{id}"), &rule).await.success();
    }
    let (away, _) = service.gateway("away").await;
    for number in 0..2 {
        let event = crate::support::deployed(&[&away], &format!("d-{number}"));
        admin.post("/events", &event).await.success();
    }
    backend
        .change(&service, "insert into inbox (type, payload) values ('no.such.type', '{}')")
        .await;
    // With no other key, which would be valid for longer.
    let one = admin.post("/gateways", &json!({"name": "one"})).await.success();
    let id = one["id"].as_str().expect("an id").to_owned();
    let token =
        admin.post(&format!("/gateways/{id}/tokens"), &json!({"expiresInSeconds": 3600})).await;
    let token = token.success()["token"].as_str().expect("a key").to_owned();
    let socket = service.connected(&token).await;
    for number in 0..2 {
        let event = crate::support::deployed(&[&id], &format!("e-{number}"));
        admin.post("/events", &event).await.success();
    }
    for (key, says) in [
        ("failed", "failed with not_connected"),
        ("rejected", "1 row of the inbox"),
        ("disk", "are free on the disk of"),
        ("keys", "of gateway one expires"),
        ("strangers", "unexpected addresses: one"),
        ("behind", "1 gateway is behind by more than 1 events: one"),
    ] {
        let alert = alert_in_state(&service, key, "firing").await;
        let summary = alert["found"]["summary"].as_str().expect("a text");
        assert!(summary.contains(says), "{key}: {summary}");
    }
    let overview = admin.get("/alerts").await.success();
    let keys: Vec<&Value> =
        overview["alerts"].as_array().expect("a list").iter().map(|it| &it["key"]).collect();
    assert!(!keys.contains(&&json!("friends")) && !keys.contains(&&json!("failed-otherwise")));
    drop(socket);
}

async fn rules_and_destinations_are_limited(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let fill = |table: &str, columns: &str, values: &str, most: i64| {
        format!(
            "with recursive n (n) as (select 1 union all select n + 1 from n where n < {most})
            insert into {table} (organisation, id, created_at, updated_at{columns})
            select 1, 'x' || n, {at}, {at}{values} from n",
            at = match &backend {
                Backend::Sqlite => "0",
                Backend::Postgres(_) => "now()",
            }
        )
    };
    let blob = match &backend {
        Backend::Sqlite => "x'00'",
        Backend::Postgres(_) => "'\\x00'::bytea",
    };
    let rules = r#", '{"kind":"dead_letters","threshold":1,"enabled":false}'"#;
    backend.change(&service, &fill("alert_rules", ", definition", rules, 1000)).await;
    let settings =
        format!(r#", '{{"kind":"slack","address":"https://a.example/…"}}', {blob}, 'k'"#);
    let columns = ", definition, sealed, sealed_by";
    backend.change(&service, &fill("alert_destinations", columns, &settings, 100)).await;
    let rule = json!({"kind": "dead_letters", "threshold": 1});
    service.admin().post("/alerts/rules", &rule).await.refusal(409, "conflict");
    service.admin().put("/alerts/rules/x7", &rule).await.success();
    let slack = json!({"kind": "slack", "url": "https://127.0.0.1/x"});
    service.admin().post("/alerts/destinations", &slack).await.refusal(409, "conflict");
    service.admin().put("/alerts/destinations/x7", &slack).await.success();
}

async fn concurrent_creations_of_an_id_store_the_one_that_was_answered_with_201(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let admin = service.admin();
    let url = "http://127.0.0.1:1/x";
    for round in 0..5 {
        let id = format!("same-{round}");
        for (path, definition) in [
            ("/alerts/rules", json!({"kind": "inbox_rejected", "threshold": 1})),
            ("/alerts/destinations", json!({"kind": "slack", "url": url})),
        ] {
            let admin = &admin;
            let all = join_all((0..8).map(|number| {
                let mut definition = definition.clone();
                definition["id"] = json!(id);
                definition["description"] = json!(format!("number {number}"));
                async move { admin.post(path, &definition).await }
            }));
            let (created, refused): (Vec<_>, Vec<_>) =
                all.await.into_iter().partition(|reply| reply.status == 201);
            let [created] = &created[..] else { panic!("{path}: {created:?}") };
            assert_eq!(refused.len(), 7, "{path}");
            for reply in refused {
                let problem = reply.refusal(409, "conflict");
                assert!(problem["detail"].as_str().is_some_and(|it| it.contains(&id)), "{problem}");
            }
            let stored = admin.get(&format!("{path}/{id}")).await.success();
            assert_eq!(stored, created.success(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_expires_soon_fires_an_alert() {
    let (key, directory) = (Key::new(), tempfile::tempdir().expect("a directory"));
    let [certificate, private] = ["c.pem", "k.pem"].map(|name| directory.path().join(name));
    let in_three_days = Timestamp::now().plus(Duration::from_hours(72)).to_string();
    let mut date = in_three_days.split(['-', 'T']).map(|part| part.parse::<i32>().unwrap_or(0));
    let mut next = || date.next().expect("a date");
    let (year, month, day) = (next(), next(), next());
    let pair = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let small = |number: i32| u8::try_from(number).expect("a small number");
    params.not_after = rcgen::date_time_ymd(year, small(month), small(day));
    let made = params.self_signed(&pair).expect("signed");
    std::fs::write(&certificate, made.pem()).expect("written");
    std::fs::write(&private, pair.serialize_pem()).expect("written");
    let [certificate, private] = [certificate, private].map(|path| path.display().to_string());
    let path = key.path();
    let own =
        [("SERVER__CERTIFICATE", certificate.as_str()), ("SERVER__PRIVATE_KEY", private.as_str())];
    let service = Service::start_with(&[settings(&path).as_slice(), &own].concat()).await;
    std::fs::copy(&certificate, service.certificate()).expect("copied");
    let alert = alert_in_state(&service, "certificate-or-key-expiring", "firing").await;
    let summary = alert["found"]["summary"].as_str().expect("a text");
    assert!(summary.contains("certificate of ") && summary.contains("expires"), "{summary}");
}
