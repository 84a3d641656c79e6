//! Alerts in the console: what fires; rules and destinations, created, changed and deleted.

use gateway_events::clock::Timestamp;
use serde_json::json;

use super::visitor::{Page, Visitor};
use crate::alerts::{Key, alert_in_state, destination, start, watch, watched};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    a_rule_is_created_changed_silenced_and_deleted
    a_destination_is_created_changed_tested_and_deleted
    a_form_does_not_undo_what_another_tab_has_changed
}

#[tokio::test]
async fn firing_alerts_are_on_the_overview_and_a_destination_can_be_tested() {
    let key = Key::new();
    let service = start(&Backend::Sqlite, &key).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let page = visitor.get("/console/alerts").await;
    assert!(page.says("No alert is firing") || page.says("disk-nearly-full"), "{page:?}");
    assert!(page.says("gateway-away") && page.says("there is no destination"), "{page:?}");

    // No one listens there.
    destination(&service, "hook", "slack", "http://127.0.0.1:9/very-secret").await;
    watched(&service, "<b>berlin</b>", "away", "eu").await;
    watch(&service, "away", &["hook"]).await;
    alert_in_state(&service, "away/eu", "firing").await;
    let overview = visitor.get("/console").await;
    assert!(overview.says("firing alert") && overview.says("away/eu"), "{overview:?}");
    assert!(overview.body.contains("&lt;b&gt;berlin") && !overview.body.contains("<b>berlin"));
    let page = visitor.get("/console/alerts").await;
    assert!(
        page.says("away/eu") && page.says("team-gateways") && page.says("http://127.0.0.1:9/…")
    );
    assert!(!page.body.contains("very-secret"));
    let path = "/console/alerts/destinations/hook/test";
    assert!(page.body.contains(path));
    let tested = visitor.submit(path, &[]).await;
    assert_eq!(tested.status, 200, "{tested:?}");
    assert!(tested.says("did not accept the message"), "{tested:?}");

    let reader = Visitor::scoped(&service, &["read"]).await;
    let page = reader.get("/console/alerts").await;
    assert!(page.says("away/eu") && !page.body.contains(path));
    assert_eq!(reader.submit(path, &[]).await.status, 403);
}

/// The newest change, by the audit log.
async fn last_change(service: &Service) -> String {
    let audit = service.api().get("/audit").await.expect("an answer");
    audit["list"][0]["action"].as_str().unwrap_or_default().to_owned()
}

/// A service with destinations at which no one listens.
async fn with_destinations(backend: &Backend, ids: &[&str]) -> (Service, Key) {
    let key = Key::new();
    let service = start(backend, &key).await;
    for id in ids {
        destination(&service, id, "slack", "http://127.0.0.1:9/hook").await;
    }
    (service, key)
}

async fn a_rule_is_created_changed_silenced_and_deleted(backend: Backend) {
    let (service, _key) = with_destinations(&backend, &["on-call", "mail"]).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let rules = "/console/alerts/rules";
    assert!(visitor.get("/console/alerts").await.says("/console/alerts/new-rule"));
    for path in [rules, "/console/alerts/destinations"] {
        assert!(
            visitor.get(path).await.says("method=\"post\" action=\"/console/alerts/"),
            "{path}"
        );
    }
    let typed = [
        ("id", "payments-away"),
        ("kind", "gateway_away"),
        ("severity", "critical"),
        ("description", "Payment gateways must be connected.\r\nSee <the> manual."),
        ("owner", "team-payments"),
        ("enabled", "yes"),
        ("selector", "team=payments\r\ntier = one\r\n"),
        ("groupBy", "region"),
        ("windowSeconds", "120"),
        ("forSeconds", "60"),
        ("keepFiringSeconds", ""),
        ("notify", "chosen"),
        ("destinations", "on-call"),
        ("destinations", "mail"),
    ];
    // What the API refuses is shown beside the field, and what was typed is kept.
    let with = |name: &str, value: &'static str| {
        typed.map(|(other, typed)| if other == name { (other, value) } else { (other, typed) })
    };
    let refused = visitor.submit(rules, &with("id", "No Id")).await;
    assert!(refused.status == 422 && refused.says("lower-case letters"), "{refused:?}");
    assert!(
        refused.says("value=\"No Id\"") && refused.says("See &lt;the&gt; manual."),
        "{refused:?}"
    );
    assert!(refused.says("id=\"field-id-error\""), "{refused:?}");
    let refused = visitor.submit(rules, &with("windowSeconds", "soon")).await;
    assert!(refused.status == 422 && refused.says("value=\"soon\""), "{refused:?}");
    let refused = visitor.submit(rules, &with("selector", "payments")).await;
    assert!(refused.status == 422 && refused.says("name=value"), "{refused:?}");

    let created = visitor.submit(rules, &typed).await;
    let path = "/console/alerts/rules/payments-away";
    assert_eq!((created.status, created.header("location")), (303, path), "{created:?}");
    let rule = service.api().get("/alerts/rules/payments-away").await.expect("an answer");
    let expected = json!({
        "kind": "gateway_away", "severity": "critical", "owner": "team-payments",
        "description": "Payment gateways must be connected.\nSee <the> manual.",
        "selector": {"team": "payments", "tier": "one"}, "groupBy": "region",
        "windowSeconds": 120, "forSeconds": 60, "keepFiringSeconds": 0,
        "destinations": ["on-call", "mail"],
    });
    assert_eq!(rule["definition"], expected);
    let taken = visitor.submit(rules, &typed).await;
    assert!(taken.status == 409 && taken.says("value=\"payments-away\""), "{taken:?}");

    let page = visitor.get(path).await;
    assert!(page.says("team=payments\ntier=one") && page.says("Delete the rule"), "{page:?}");
    let changed = visitor.submit(path, &with("windowSeconds", "300")).await;
    assert_eq!((changed.status, changed.header("location")), (303, path), "{changed:?}");
    let refused = visitor.submit(path, &with("windowSeconds", "0")).await;
    assert!(refused.status == 422 && refused.says("value=\"0\""), "{refused:?}");
    let rule = service.api().get("/alerts/rules/payments-away").await.expect("an answer");
    assert_eq!(rule["definition"]["windowSeconds"], 300);

    // A destination that is deleted does not keep the rest of the rule from being changed.
    let mail = "/console/alerts/destinations/mail/delete";
    assert_eq!(visitor.submit(mail, &[]).await.status, 303);
    for (action, enabled) in [("disable", json!(false)), ("enable", json!(null))] {
        assert_eq!(visitor.submit(&format!("{path}/{action}"), &[]).await.status, 303);
        let rule = service.api().get("/alerts/rules/payments-away").await.expect("an answer");
        assert_eq!(rule["definition"]["enabled"], enabled);
        assert_eq!(rule["definition"]["windowSeconds"], 300, "the rest stays");
    }
    a_silence_begins_and_ends(&service, &visitor, path).await;
    assert_eq!(visitor.submit(&format!("{path}/delete"), &[]).await.status, 303);
    assert_eq!(last_change(&service).await, "alert_rule.deleted");
    assert_eq!(visitor.get(path).await.status, 404);
    a_built_in_rule_is_replaced_and_restored(&service, &visitor).await;
}

/// What a form of a page says that it shows.
fn shown(page: &Page) -> String {
    let (_, rest) = page.body.split_once("name=\"shown\" value=\"").expect("the field");
    rest.split('"').next().unwrap_or_default().to_owned()
}

async fn a_form_does_not_undo_what_another_tab_has_changed(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    destination(&service, "hook", "slack", "http://127.0.0.1:9/very-secret").await;
    let rule = json!({"kind": "dead_letters", "threshold": 1});
    service.admin().put("/alerts/rules/dead", &rule).await.success();
    let rule = ["/console/alerts/rules/dead", "kind", "dead_letters", "threshold", "50", "7"];
    let hook = ["/console/alerts/destinations/hook", "kind", "slack", "description", "one", "two"];
    for [path, kind, of_kind, field, first, second] in [rule, hook] {
        let opened = shown(&visitor.get(path).await);
        let enabled = ("enabled", "yes");
        let notify = ("notify", "all");
        let severity = ("severity", "warning");
        let typed = |value: &'static str, shown: &str| {
            let shown = ("shown".to_owned(), shown.to_owned());
            let fixed = [(kind, of_kind), (field, value), enabled, notify, severity];
            let fixed = fixed.map(|(name, value)| (name.to_owned(), value.to_owned()));
            fixed.into_iter().chain([shown]).collect::<Vec<_>>()
        };
        let submit = async |fields: Vec<(String, String)>| {
            let fields: Vec<_> = fields.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            visitor.submit(path, &fields).await
        };
        assert_eq!(submit(typed(first, &opened)).await.status, 303, "{path}");
        let refused = submit(typed(second, &opened)).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.says("nothing was stored") && refused.says(second), "{refused:?}");
        assert!(visitor.get(path).await.says(first), "{path}");
        // Submitted again, it replaces the change.
        assert_eq!(submit(typed(second, &shown(&refused))).await.status, 303, "{path}");

        let opened = shown(&visitor.get(path).await);
        assert_eq!(visitor.submit(&format!("{path}/delete"), &[]).await.status, 303);
        assert_eq!(submit(typed(first, &opened)).await.status, 404, "{path} is not created again");
    }
}

async fn a_silence_begins_and_ends(service: &Service, visitor: &Visitor, path: &str) {
    let silence = format!("{path}/silence");
    let api = path.trim_start_matches("/console").to_owned();
    let until = async || service.api().get(&api).await.expect("an answer")["silencedUntil"].clone();
    assert_eq!(visitor.submit(&silence, &[("hours", "4"), ("until", "")]).await.status, 303);
    assert!(until().await.is_string());
    assert!(visitor.get(path).await.says("End its silence"));
    let typed = [("hours", "1"), ("until", "2001-01-01T00:00")];
    let refused = visitor.submit(&silence, &typed).await;
    assert!(refused.status == 422 && refused.says("a time in the future"), "{refused:?}");
    assert!(
        refused.says("value=\"2001-01-01T00:00\"") && refused.says("details open"),
        "{refused:?}"
    );
    let day = Timestamp::now().plus(std::time::Duration::from_hours(48)).to_string();
    let minute = day.get(..16).expect("a minute");
    assert_eq!(visitor.submit(&silence, &[("hours", "1"), ("until", minute)]).await.status, 303);
    assert!(until().await.as_str().is_some_and(|until| until.starts_with(minute)));
    assert_eq!(visitor.submit(&silence, &[("hours", "0")]).await.status, 303);
    assert_eq!(until().await, json!(null));
    assert_eq!(last_change(service).await, "alert_rule.silenced");
}

async fn a_built_in_rule_is_replaced_and_restored(service: &Service, visitor: &Visitor) {
    let path = "/console/alerts/rules/dead-letters";
    assert!(!visitor.get(path).await.says("Restore the built-in rule"));
    let typed =
        [("kind", "dead_letters"), ("threshold", "50"), ("severity", "info"), ("enabled", "yes")];
    assert_eq!(visitor.submit(path, &typed).await.status, 303);
    let rule = service.api().get("/alerts/rules/dead-letters").await.expect("an answer");
    assert_eq!(rule["definition"]["threshold"], 50);
    assert_eq!(rule["definition"].get("destinations"), None, "all are notified");
    assert!(visitor.get(path).await.says("Restore the built-in rule"));
    let restored = visitor.submit(&format!("{path}/delete"), &[]).await;
    assert_eq!((restored.status, restored.header("location")), (303, path), "{restored:?}");
    let rule = service.api().get("/alerts/rules/dead-letters").await.expect("an answer");
    assert_eq!(rule["definition"]["threshold"], 1);
    let again = visitor.submit(&format!("{path}/delete"), &[]).await;
    assert!(again.status == 409 && again.says("built-in rule"), "{again:?}");
}

async fn a_destination_is_created_changed_tested_and_deleted(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let all = "/console/alerts/destinations";
    let path = "/console/alerts/destinations/on-call";
    let typed = [
        ("id", "on-call"),
        ("kind", "webhook"),
        ("description", "The <pager>"),
        ("url", "http://127.0.0.1:9/very-secret-path"),
        ("secret", "very-short"),
    ];
    let refused = visitor.submit(all, &typed).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(
        refused.says("The &lt;pager&gt;") && refused.says("type them once more"),
        "{refused:?}"
    );
    assert!(!refused.says("very-"), "secrets are not output: {refused:?}");
    // Without a key, one is generated and shown once.
    let created = visitor.submit(all, &typed[..4]).await;
    assert_eq!((created.status, created.header("cache-control")), (200, "no-store"), "{created:?}");
    assert!(created.says("whsec_") && created.says("only time"), "{created:?}");
    let page = visitor.get(path).await;
    assert!(page.says("http://127.0.0.1:9/…") && page.says("The &lt;pager&gt;"), "{page:?}");
    assert!(!page.says("very-") && !page.says("whsec_"), "{page:?}");

    // An empty URL and an empty secret stay as they are.
    let change = [("kind", "webhook"), ("description", "Another"), ("url", ""), ("secret", "")];
    let changed = visitor.submit(path, &change).await;
    assert_eq!((changed.status, changed.header("location")), (303, path), "{changed:?}");
    let audit = service.admin().get("/audit?object=on-call").await.success();
    assert_eq!(audit["list"][0]["after"]["secretsReplaced"], false, "{audit:#}");
    let moved = [("kind", "webhook"), ("url", "http://127.0.0.1:10/very-secret-path")];
    let refused = visitor.submit(path, &moved).await;
    assert!(refused.status == 422 && refused.says("is required when"), "{refused:?}");
    assert!(!refused.says("very-"), "{refused:?}");
    let tested = visitor.submit(&format!("{path}/test"), &[]).await;
    assert!(tested.status == 200 && tested.says("did not accept the message"), "{tested:?}");

    // A form of a session that has ended has no secret either, and asks for it.
    let ended = Visitor::new(&service).submit(all, &typed).await;
    assert!(ended.status == 401 && ended.says("must be typed again"), "{ended:?}");
    assert!(!ended.says("very-"), "{ended:?}");

    let mail = [
        ("id", "mail"),
        ("kind", "email"),
        ("url", "smtp://127.0.0.1:9"),
        ("from", "alerts@example.com"),
        ("to", "one@example.com\r\ntwo@example.com\r\n"),
        ("tls", "none"),
    ];
    assert_eq!(visitor.submit(all, &mail).await.status, 303);
    let stored = service.api().get("/alerts/destinations/mail").await.expect("an answer");
    assert_eq!(stored["settings"]["to"], json!(["one@example.com", "two@example.com"]));
    assert_eq!(visitor.submit(&format!("{path}/delete"), &[]).await.status, 303);
    assert_eq!(last_change(&service).await, "alert_destination.deleted");
    assert_eq!(visitor.get(path).await.status, 404);
}
