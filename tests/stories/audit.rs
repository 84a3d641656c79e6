//! The audit log, as operators see it: each change with who made it, by the API and on the command
//! line, and verified afterwards.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::collections::BTreeSet;

use futures_util::future::join_all;
use gateway_events::client::BASE_PATH;
use gateway_events::event::{JobId, Reason, Sequence};
use gateway_events::http::openapi;
use gateway_events::store::postgres::verify;
use gateway_events::store::{
    AuditHead, GatewayChange, Health as _, LabelChange, Record, RedriveSelection, Target,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::conformance::{Fixture, chained, event, range};
use crate::server::Database;
use crate::store_postgres::{open, options};
use crate::support::http::reply;
use crate::support::terminal::run_on_terminal;
use crate::support::{Service, TEST_TIMEOUT, deployed, failed_report};

on_both! {
    each_route_that_changes_something_leaves_a_record
    changes_are_found_by_window_action_principal_and_object
    commands_that_change_the_database_are_recorded_as_local
    verify_finds_a_changed_record_and_compares_a_kept_head
    old_records_are_removed_and_the_rest_can_be_verified
}

/// Routes that change something and leave no record.
const EXEMPT: [(&str, &str, &str); 4] = [
    ("post", "/events", "the log is its record"),
    ("post", "/gateways/{id}/manifest", "a gateway's own request, which has no principal"),
    ("post", "/gateways/connections/{connectionId}/frames", "likewise"),
    ("post", "/gateways/events/instances/{instance}/frames", "likewise"),
];

/// A request that changes something, and the action that it must be recorded as.
struct Change {
    path: String,
    body: Value,
    action: &'static str,
}

fn change(path: impl Into<String>, body: Value, action: &'static str) -> Change {
    Change { path: path.into(), body, action }
}

/// The id of a new rejected row.
pub(crate) async fn rejected_row(backend: &Backend, service: &Service) -> i64 {
    let known =
        service.admin().get("/inbox/rejected?retried=true").await.success()["count"].clone();
    backend
        .change(service, "insert into inbox (type, payload) values ('no.such.type', '{}')")
        .await;
    let count = known.as_i64().unwrap() + 1;
    let found =
        service.eventually("/inbox/rejected?retried=true", |page| page["count"] == count).await;
    found["list"][0]["id"].as_i64().unwrap()
}

/// The id of a job of a newer version, which no node of this version works on.
pub(crate) async fn running_job(backend: &Backend, service: &Service) -> JobId {
    let id = JobId::new();
    let now = match backend {
        Backend::Sqlite => "unixepoch() * 1000000",
        Backend::Postgres(_) => "now()",
    };
    let insert = format!(
        r"insert into bulk_jobs (id, organisation, kind, parameters, principal, principal_name, source,
            request_id, state, position, done, total, counts, created_at, updated_at)
        values ('{id}', 1, 'of a newer version', '{{}}', 'p', 'n', '', '', 'running', '{{}}', 0, 900, '{{}}',
            {now}, {now})"
    );
    backend.change(service, &insert).await;
    id
}

/// A gateway whose first delivery is a dead letter.
async fn failed_gateway(service: &Service, name: &str) -> String {
    let (id, key) = service.gateway(name).await;
    let mut socket = service.connected(&key).await;
    service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    socket.expect(1..=1).await;
    socket.send(Message::text(failed_report("d-1"))).await;
    let path = format!("/deliveries?gatewayId={id}");
    service.eventually(&path, |page| page["list"][0]["state"] == "failed").await;
    id
}

/// Prepares a change by a route; `None` if the route is not known here.
async fn prepared(
    backend: &Backend,
    service: &Service,
    method: &str,
    route: &str,
) -> Option<Change> {
    let nth = format!("{method} {route}").replace(['/', '{', '}', ' '], "-");
    let admin = service.admin();
    Some(match (method, route) {
        ("put", "/event-types/{name}") => {
            change("/event-types/walk.ed", json!({"description": "d"}), "event_type.registered")
        }
        ("delete", "/event-types/{name}") => {
            admin.put("/event-types/go.ne", &json!({"description": "d"})).await.success();
            change("/event-types/go.ne", Value::Null, "event_type.deleted")
        }
        ("post", "/gateways") => change(route, json!({"name": nth}), "gateway.registered"),
        ("patch", "/gateways/{id}") => {
            let (id, _) = service.gateway(&nth).await;
            change(format!("/gateways/{id}"), json!({"disabled": true}), "gateway.disabled")
        }
        ("delete", "/gateways/{id}") => {
            let (id, _) = service.gateway(&nth).await;
            change(format!("/gateways/{id}"), Value::Null, "gateway.deleted")
        }
        ("post", "/gateways/{id}/tokens") => {
            let (id, _) = service.gateway(&nth).await;
            change(format!("/gateways/{id}/tokens"), json!({}), "gateway_token.created")
        }
        ("delete", "/gateways/{id}/tokens/{token}") => {
            let (id, key) = service.gateway(&nth).await;
            let token = key.split('_').nth(1).unwrap();
            let path = format!("/gateways/{id}/tokens/{token}");
            change(path, Value::Null, "gateway_token.revoked")
        }
        ("delete", "/gateways/{id}/instances/{name}") => {
            let (id, _) = service.gateway(&nth).await;
            crate::instances::known(backend, service, &id, "east").await;
            change(format!("/gateways/{id}/instances/east"), Value::Null, "instance.forgotten")
        }
        ("post", "/gateways/{id}/resync") => {
            let (id, _) = service.gateway(&nth).await;
            crate::instances::known(backend, service, &id, "east").await;
            change(format!("/gateways/{id}/resync"), json!({}), "gateway.resync_requested")
        }
        ("post", "/access-tokens") => {
            change(route, json!({"name": nth, "scopes": ["read"]}), "access_token.created")
        }
        ("delete", "/access-tokens/{id}") => {
            let new = json!({"name": nth, "scopes": ["read"]});
            let made = admin.post("/access-tokens", &new).await.success();
            let path = format!("/access-tokens/{}", made["id"].as_str().unwrap());
            change(path, Value::Null, "access_token.revoked")
        }
        _ if route.starts_with("/alerts/") => return of_alerts(service, method, route, &nth).await,
        _ => return corrective_action(backend, service, method, route, &nth).await,
    })
}

/// Prepares a change of a rule or a destination of alerts.
async fn of_alerts(service: &Service, method: &str, route: &str, nth: &str) -> Option<Change> {
    let admin = service.admin();
    let id = nth.replace("--", "-");
    let (rule, hook) = (format!("/alerts/rules/{id}"), format!("/alerts/destinations/{id}"));
    let definition = json!({"kind": "dead_letters", "threshold": 2});
    let destination = json!({"kind": "slack", "url": "http://127.0.0.1:1/x"});
    Some(match (method, route) {
        ("post", "/alerts/rules") => change(route, definition, "alert_rule.created"),
        ("put", "/alerts/rules/{id}") => change(rule, definition, "alert_rule.created"),
        ("delete", "/alerts/rules/{id}") => {
            admin.put(&rule, &definition).await.success();
            change(rule, Value::Null, "alert_rule.deleted")
        }
        ("put", "/alerts/rules/{id}/silence") => {
            let body = json!({"until": null});
            change("/alerts/rules/dead-letters/silence", body, "alert_rule.silenced")
        }
        ("post", "/alerts/destinations") => change(route, destination, "alert_destination.created"),
        ("put", "/alerts/destinations/{id}") => {
            admin.put(&hook, &destination).await.success();
            let mut changed = destination;
            changed["description"] = json!("another one");
            change(hook, changed, "alert_destination.changed")
        }
        ("delete", "/alerts/destinations/{id}") => {
            admin.put(&hook, &destination).await.success();
            change(hook, Value::Null, "alert_destination.deleted")
        }
        ("post", "/alerts/destinations/{id}/test") => {
            admin.put(&hook, &destination).await.success();
            change(format!("{hook}/test"), Value::Null, "alert_destination.tested")
        }
        _ => return None,
    })
}

/// Prepares a corrective action.
async fn corrective_action(
    backend: &Backend,
    service: &Service,
    method: &str,
    route: &str,
    nth: &str,
) -> Option<Change> {
    let admin = service.admin();
    Some(match (method, route) {
        ("post", "/gateways/{id}/pause") => {
            let (id, _) = service.gateway(nth).await;
            change(format!("/gateways/{id}/pause"), json!({}), "gateway.paused")
        }
        ("post", "/gateways/{id}/resume") => {
            let (id, _) = service.gateway(nth).await;
            admin.post(&format!("/gateways/{id}/pause"), &json!({})).await.success();
            change(format!("/gateways/{id}/resume"), json!({}), "gateway.resumed")
        }
        ("post", "/gateways/{id}/skip") => {
            let (id, _) = service.gateway(nth).await;
            admin.post("/events", &deployed(&[&id], "d-1")).await.success();
            let body = json!({"sequence": 1, "reason": "r"});
            change(format!("/gateways/{id}/skip"), body, "delivery.skipped")
        }
        ("delete", "/events/{id}/payload") => {
            let (id, _) = service.gateway(nth).await;
            let made = admin.post("/events", &deployed(&[&id], "d-1")).await.success();
            let path = format!("/events/{}/payload", made["id"].as_str().unwrap());
            change(path, json!({"reason": "r"}), "event.purged")
        }
        ("patch", "/inbox/rejected/{id}") => {
            let id = rejected_row(backend, service).await;
            let body = json!({"version": 1, "userId": "u"});
            change(format!("/inbox/rejected/{id}"), body, "rejected_row.edited")
        }
        ("post", "/deliveries/redrive") => {
            let id = failed_gateway(service, nth).await;
            change(route, json!({"gatewayId": id, "sequence": 1}), "delivery.redriven")
        }
        ("post", "/gateways/{id}/replay") => {
            let (id, _) = service.gateway(nth).await;
            admin.post("/events", &deployed(&[&id], "d-1")).await.success();
            let body = json!({"fromSequence": 1});
            change(format!("/gateways/{id}/replay"), body, "gateway.replayed")
        }
        ("post", "/events/{id}/resend") => {
            let (id, _) = service.gateway(nth).await;
            let (other, _) = service.gateway(&format!("{nth}-other")).await;
            let event = admin.post("/events", &deployed(&[&id], "d-1")).await.success();
            let path = format!("/events/{}/resend", event["id"].as_str().unwrap());
            change(path, json!({"gatewayIds": [other]}), "event.resent")
        }
        ("post", "/jobs/{id}/abort") => {
            let id = running_job(backend, service).await;
            change(format!("/jobs/{id}/abort"), Value::Null, "job.aborted")
        }
        ("post", "/inbox/rejected/retry") => {
            rejected_row(backend, service).await;
            change(route, json!({"all": true}), "rejected_row.retried")
        }
        ("post", "/inbox/rejected/{id}/retry") => {
            let id = rejected_row(backend, service).await;
            change(format!("/inbox/rejected/{id}/retry"), Value::Null, "rejected_row.retried")
        }
        ("delete", "/inbox/rejected/{id}") => {
            let id = rejected_row(backend, service).await;
            change(format!("/inbox/rejected/{id}"), Value::Null, "rejected_row.deleted")
        }
        _ => return None,
    })
}

/// Walks all routes of the OpenAPI document that are not only read.
async fn each_route_that_changes_something_leaves_a_record(backend: Backend) {
    let key = crate::alerts::Key::new();
    let path = key.path();
    let settings =
        [("ALERTS__KEY_FILE", path.as_str()), ("ALERTS__ALLOWED_NETWORKS", "127.0.0.0/8")];
    let service = backend.start_with(&settings).await;
    let admin = service.admin();
    let document: Value = serde_json::from_str(&openapi::json()).unwrap();
    let (mut checked, mut exempt) = (0, BTreeSet::new());
    for (path, item) in document["paths"].as_object().unwrap() {
        let route = path.strip_prefix(BASE_PATH).unwrap_or(path);
        for method in item.as_object().unwrap().keys().filter(|method| *method != "get") {
            if EXEMPT.iter().any(|(verb, path, _)| verb == method && *path == route) {
                exempt.insert((method.clone(), route.to_owned()));
                continue;
            }
            let change = prepared(&backend, &service, method, route).await.unwrap_or_else(|| {
                panic!("{method} {route}: record what it changes, and add it here or to EXEMPT")
            });
            checked += 1;
            let request_id = format!("audited-{checked}");
            let verb: Method = method.to_uppercase().parse().unwrap();
            let request = admin.request(verb, &change.path).header("x-request-id", &request_id);
            let request = if change.body.is_null() { request } else { request.json(&change.body) };
            reply(request).await.success();
            let all = admin.get("/audit?limit=1000").await.success();
            let list = all["list"].as_array().unwrap();
            let own: Vec<_> = list.iter().filter(|it| it["requestId"] == *request_id).collect();
            let [record] = own[..] else { panic!("{method} {route} left {own:#?}") };
            assert_eq!(record["action"], change.action, "{record:#}");
            assert_eq!(record["source"], "127.0.0.1", "{record:#}");
            assert_eq!(record["principal"]["name"], "first", "{record:#}");
            assert!(!record.to_string().contains("digest"), "{record:#}");
        }
    }
    assert!(checked >= 12, "{checked}");
    assert_eq!(exempt.len(), EXEMPT.len(), "EXEMPT names a route that does not exist");
    let report = backend.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert!(report.audit_records >= checked, "{report:?}");
    let anybody = service.scoped(&["read", "publish"]).await;
    anybody.get("/audit").await.refusal(403, "insufficient_scope");
}

async fn changes_are_found_by_window_action_principal_and_object(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    service.gateway("tokyo").await;
    let ops = json!({"name": "ops", "scopes": ["admin"]});
    let ops = admin.post("/access-tokens", &ops).await.success();
    let other = service.caller(ops["token"].as_str());
    let patch = json!({"labels": {"region": "eu"}, "disabled": true});
    other.patch(&format!("/gateways/{id}"), &patch).await.success();
    // Changes nothing.
    other.patch(&format!("/gateways/{id}"), &patch).await.success();

    let found = async |query: &str| -> Vec<String> {
        let page = admin.get(&format!("/audit?{query}")).await.success();
        let actions = page["list"].as_array().unwrap().iter();
        actions.map(|record| record["action"].as_str().unwrap().to_owned()).collect()
    };
    let ours = ["gateway.disabled", "gateway.labelled"];
    for query in ["principal=ops".to_owned(), format!("principal={}", ops["id"].as_str().unwrap())]
    {
        assert_eq!(found(&query).await, ours, "{query}");
    }
    let of_berlin = [&ours[..], &["gateway_token.created", "gateway.registered"]].concat();
    assert_eq!(found("object=berlin").await, of_berlin);
    assert_eq!(found(&format!("object={id}")).await.len(), 3);
    assert_eq!(found("action=gateway.registered").await.len(), 2);
    assert_eq!(found("action=gateway.registered&object=tokyo").await.len(), 1);
    let all = found("limit=1000").await;
    assert_eq!(all.last().map(String::as_str), Some("access_token.created"));

    // Page by page, while more changes are made.
    let (mut paged, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let at = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = admin.get(&format!("/audit?limit=2{at}")).await.success();
        let list = page["list"].as_array().unwrap();
        paged.extend(list.iter().map(|it| it["action"].as_str().unwrap().to_owned()));
        service.gateway(&format!("later-{}", paged.len())).await;
        cursor = page["pagination"]["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, all);

    let record = admin.get("/audit?action=gateway.labelled").await.success()["list"][0].clone();
    let at = record["recordedAt"].as_str().unwrap();
    assert_eq!(found(&format!("from={at}&object=berlin")).await, ours);
    assert_eq!(found(&format!("to={at}&object=berlin")).await.len(), 2);
    assert_eq!(
        (&record["before"], &record["after"]),
        (&json!({}), &json!({"labels.region": "eu"}))
    );
    let text = admin.get("/audit?limit=1000").await.body;
    let secret = key.rsplit('_').next().unwrap();
    assert!(!text.contains(secret) && !text.contains(&service.token), "a secret is recorded");

    admin.get(&format!("/audit?from={at}&to={at}")).await.invalid("from", &["before"]);
    admin.get("/audit?action=gateway").await.invalid("action", &["unknown", "gateway.disabled"]);
    for (parameter, value) in [("principal", ""), ("object", "a%00b"), ("object", "%E2%80%AE")] {
        let refused = admin.get(&format!("/audit?{parameter}={value}")).await;
        refused.invalid(parameter, &["1 to 256"]);
    }
    admin.get("/audit?limit=0").await.invalid("limit", &["1 to 1000"]);
    admin.get("/audit?cursor=x").await.invalid("cursor", &["not a cursor"]);
}

async fn commands_that_change_the_database_are_recorded_as_local(backend: Backend) {
    let service = backend.start().await;
    let mut recover = crate::support::command::command("token recover --name night-shift");
    recover.arg("--data-dir").arg(service.directory());
    if let Backend::Postgres(database) = &backend {
        recover.env("GATEWAY_EVENTS__DATABASE__URL", database.url());
    }
    crate::support::command::run(&mut recover).await.well();
    let page = service.admin().get("/audit?principal=local").await.success();
    let list = page["list"].as_array().unwrap();
    let [recovered, first] = &list[..] else { panic!("{page:#}") };
    assert_eq!(recovered["action"], "access_token.recovered");
    assert_eq!(recovered["object"]["name"], "night-shift");
    assert_eq!(first["action"], "access_token.created");
    assert_eq!(first["object"]["name"], "first");
    for record in [recovered, first] {
        let user = record["principal"]["name"].as_str().unwrap();
        assert!(!user.is_empty() && record["requestId"].is_null(), "{record:#}");
        assert_eq!(record["after"]["scopes"], json!(["publish", "read", "admin"]));
    }
    assert!(backend.verify(&service).await.problems.is_empty());
}

async fn verify_finds_a_changed_record_and_compares_a_kept_head(backend: Backend) {
    let service = backend.start().await;
    service.gateway("berlin").await;
    let verify = async |arguments: &str| {
        let mut verify = crate::support::command::command(&format!("verify {arguments}"));
        verify.arg("--data-dir").arg(service.directory());
        if let Backend::Postgres(database) = &backend {
            verify.env("GATEWAY_EVENTS__DATABASE__URL", database.url());
        }
        crate::support::command::run(&mut verify).await
    };
    let shown = verify("").await;
    let head = shown.well().lines().skip_while(|line| *line != "audit head:").nth(1);
    let head = head.unwrap().trim().to_owned();
    let json = verify("--json").await.json();
    assert_eq!((&json["auditHead"], &json["auditRecords"]), (&json!(head), &json!(3)));
    service.gateway("tokyo").await;
    verify(&format!("--audit-head {head}")).await.well();
    let of_record = service.admin().get("/audit?object=berlin").await.success();
    let newest = &of_record["list"][0];
    assert_eq!(head, format!("{}:{}", newest["sequence"], newest["hash"].as_str().unwrap()));

    let other = format!("{}:{}", head.split_once(':').unwrap().0, "0".repeat(64));
    let refused = verify(&format!("--audit-head {other}")).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.contains("record 3 has the hash"), "{refused:?}");
    verify("--audit-head 3:0").await.failed(2, &["--audit-head"]);

    backend
        .change(&service, "update audit set principal_name = 'someone else' where sequence = 2")
        .await;
    let refused = verify("").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.contains("audit log: record 2 (\"gateway.registered\""), "{refused:?}");
}

async fn old_records_are_removed_and_the_rest_can_be_verified(backend: Backend) {
    let service =
        backend.start_with(&[("RETENTION__AUDIT", "1s"), ("RETENTION__INTERVAL", "1s")]).await;
    service.gateway("berlin").await;
    service.eventually("/audit", |page| page["count"] == 0).await;
    service.gateway("tokyo").await;
    let report = backend.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert!(report.audit_records <= 2 && report.audit_head.sequence == 5, "{report:?}");
}

/// Nodes change the same gateways while they publish to them, in opposite orders.
#[tokio::test]
async fn concurrent_changes_on_two_nodes_form_one_chain_and_never_deadlock() {
    const ROUNDS: usize = 30;
    let database = Database::new();
    let (first, second) = tokio::join!(open(&database), open(&database));
    let (first, second) = (first.unwrap(), second.unwrap());
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    let mut gateways = Vec::new();
    for _ in 0..4 {
        let gateway = here.gateway(&[]).await;
        here.fill(&gateway, 3).await;
        let (connection, _, _) = here.open(&gateway).await;
        let skipped = Record::Skipped {
            gateway: gateway.key,
            connection,
            instance: "".into(),
            range: range(1, 3),
            reason: Reason::Expired,
            advance_to: None,
            at: gateway.created_at,
        };
        here.record(vec![skipped]).await;
        gateways.push(gateway);
    }
    let backward: Vec<_> = gateways.iter().rev().cloned().collect();
    let rounds = (0..ROUNDS).flat_map(|nth| [(nth, here, &gateways), (nth, there, &backward)]);
    let working = join_all(rounds.map(|(nth, node, gateways)| async move {
        let ids: Vec<_> = gateways.iter().map(|gateway| gateway.id).collect();
        let publishing = node.publish(vec![event(Target::Gateways(ids.clone()))]);
        let changing = async {
            let actor = node.actor();
            let id = ids[nth % ids.len()];
            let set = [("round".to_owned(), Some(nth.to_string()))];
            let labels = Some(LabelChange::Merge(set.into()));
            let change =
                GatewayChange { labels, disabled: Some(nth % 2 == 0), ..GatewayChange::default() };
            node.store.update_gateway(&actor, id, change).await.unwrap();
            if nth < 3 {
                let sequence = Sequence(i64::try_from(nth).unwrap() + 1);
                for id in &ids {
                    let one = RedriveSelection::One(*id, sequence);
                    node.store.redrive(&actor, one, false).await.unwrap();
                }
            }
        };
        tokio::join!(publishing, changing);
    }));
    tokio::time::timeout(3 * TEST_TIMEOUT, working).await.expect("no deadlock");
    let records = here.audit().await;
    let redriven = records.iter().filter(|record| record.action == "delivery.redriven").count();
    assert_eq!(redriven, 12, "each delivery was redriven once, by one of the nodes");
    let head = chained(AuditHead::START, &records);
    assert_eq!(there.audit().await, records);
    for node in [&first, &second] {
        node.close().await;
    }
    let report = verify(&options(&database)).await.unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert_eq!(report.audit_head, head);
}

#[tokio::test]
async fn the_command_line_lists_changes_in_eighty_columns_and_shows_hostile_names_inert() {
    let service = Service::start().await;
    let (id, _) = service.gateway("amsterdam-production-1").await;
    let path = format!("/gateways/{id}");
    let labels = json!({"labels": {"environment": "production", "region": "europe-west"}});
    service.admin().patch(&path, &labels).await.success();
    let description = json!({"description": "\u{1b}[2J\u{202e}evil\nline"});
    service.admin().put("/event-types/some.type", &description).await.success();
    // An earlier version accepted such names.
    let name = "be\u{202e}rlin\u{1b}]0;x\u{7}";
    Backend::Sqlite
        .change(&service, &format!("update gateways set name = '{name}' where id = '{id}'"))
        .await;
    service.admin().patch(&path, &json!({"disabled": true})).await.success();

    let (code, on_terminal) = run_on_terminal(service.command("audit list"), "").await;
    assert_eq!(code, Some(0), "{on_terminal}");
    let in_pipe = service.run("audit list").await;
    for text in [on_terminal.as_str(), in_pipe.well()] {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?} is too wide");
        }
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text:?}");
        for word in ["gateway.labelled", "amsterdam-production-1", "first", "127.0.0.1"] {
            assert!(text.split_whitespace().any(|one| one == word), "{word}:\n{text}");
        }
        assert!(text.contains("disabled: false -> true"), "{text}");
    }
    let listed = service.run("audit list --since 1h --object amsterdam-production-1 --json").await;
    assert_eq!(listed.json()["count"], 3);
    let listed = service.run("audit list --action gateway.disabled --principal first --json").await;
    assert_eq!(listed.json()["list"][0]["object"]["id"], json!(id));
    assert!(service.run("audit list --to 1h").await.well().contains("no changes"));
    service.run("audit list --action nonsense").await.failed(1, &["unknown action"]);
}
