//! A publisher's W3C trace context is passed on with its event.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::offline_database::OfflineDatabase;
use crate::support::http::{Caller, Reply, reply};
use crate::support::{Service, deployed};

on_both! {
    a_header_at_publish_reaches_the_gateway_and_is_shown
    a_member_of_the_body_overrides_the_header
    an_invalid_header_is_ignored_and_an_invalid_member_refused
    inbox_row_has_its_own_traceparent
}

const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

async fn publish(caller: &Caller, traceparents: &[&str], body: &Value) -> Reply {
    let request = caller.request(Method::POST, "/events").json(body);
    let request = traceparents.iter().fold(request, |it, value| it.header("traceparent", *value));
    reply(request).await
}

/// The `traceparent` of `GET /events/{id}`.
async fn shown(service: &Service, id: &Value) -> Value {
    let id = id.as_str().expect("an id");
    service.admin().get(&format!("/events/{id}")).await.success()["traceparent"].clone()
}

async fn a_header_at_publish_reaches_the_gateway_and_is_shown(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let admin = service.admin();
    // One is read from the log, the other is sent from memory.
    let first = publish(&admin, &[HEADER], &deployed(&[&id], "d-1")).await.success();
    let mut socket = service.connected(&key).await;
    assert_eq!(socket.expect(1..=1).await[0]["traceparent"], HEADER);
    publish(&admin, &[OTHER], &deployed(&[&id], "d-2")).await.success();
    assert_eq!(socket.expect(2..=2).await[0]["traceparent"], OTHER);
    let without = publish(&admin, &[], &deployed(&[&id], "d-3")).await.success();
    let frame = socket.expect(3..=3).await.remove(0);
    assert!(frame.get("traceparent").is_none(), "{frame}");
    assert_eq!(shown(&service, &first["id"]).await, HEADER);
    let said = service.run(&format!("event show {}", first["id"].as_str().expect("an id"))).await;
    assert!(said.well().contains(&format!("traceparent  {HEADER}\n")), "{said:?}");
    assert_eq!(shown(&service, &without["id"]).await, Value::Null);
    let log = admin.get(&format!("/gateways/{id}/log")).await.success();
    let listed: Vec<_> = (0..3).map(|nth| log["list"][nth]["traceparent"].clone()).collect();
    assert_eq!(listed, [json!(HEADER), json!(OTHER), Value::Null]);
}

async fn a_member_of_the_body_overrides_the_header(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let event = |deployment: &str, traceparent: Value| {
        let mut event = deployed(&[&id], deployment);
        event["traceparent"] = traceparent;
        event
    };
    let mut own = event("d-1", json!(OTHER));
    own["id"] = json!("e-1");
    let batch = json!([own, event("d-2", Value::Null), deployed(&[&id], "d-3")]);
    publish(&service.admin(), &[HEADER], &batch).await.success();
    let frames = socket.expect(1..=3).await;
    let traces: Vec<_> = frames.iter().map(|frame| frame["traceparent"].as_str()).collect();
    assert_eq!(traces, [Some(OTHER), Some(HEADER), Some(HEADER)]);
    // A repeat is another request, with another span, and changes nothing.
    own["traceparent"] = json!(HEADER);
    let repeat = publish(&service.admin(), &[], &own).await.success();
    assert_eq!(repeat["deliveries"][0]["sequence"], 1);
    assert_eq!(shown(&service, &json!("e-1")).await, OTHER);
}

async fn an_invalid_header_is_ignored_and_an_invalid_member_refused(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let admin = service.admin();
    let upper = HEADER.to_uppercase();
    let ignored: [&[&str]; 4] = [&["nonsense"], &[""], &[HEADER, OTHER], &[&upper]];
    for headers in ignored {
        let answer = publish(&admin, headers, &deployed(&[&id], "d-1")).await.success();
        assert_eq!(shown(&service, &answer["id"]).await, Value::Null, "{headers:?}");
    }
    for invalid in [json!("nonsense"), json!(""), json!(upper), json!(7)] {
        let mut event = deployed(&[&id], "d-1");
        event["traceparent"] = invalid;
        publish(&admin, &[HEADER], &event).await.invalid("traceparent", &[]);
    }
    // A later version's value is passed on as version 00.
    let later = HEADER.replacen("00-", "01-", 1) + "-more";
    let answer = publish(&admin, &[&later], &deployed(&[&id], "d-1")).await.success();
    assert_eq!(shown(&service, &answer["id"]).await, HEADER);
}

async fn inbox_row_has_its_own_traceparent(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let payload = r#"{"configType": "cache", "action": "update"}"#;
    let insert = |traceparent: &str| {
        format!(
            "insert into inbox (type, payload, gateway_id, event_id, traceparent)
             values ('gateway.config.updated', '{payload}', '{id}', '{traceparent}', '{traceparent}')"
        )
    };
    backend.change(&service, &insert(HEADER)).await;
    assert_eq!(socket.expect(1..=1).await[0]["traceparent"], HEADER);
    assert_eq!(shown(&service, &json!(HEADER)).await, HEADER);
    backend.change(&service, &insert("nonsense")).await;
    let page = service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    let row = &page["list"][0];
    assert_eq!((&row["reason"], &row["traceparent"]), (&json!("invalid"), &json!("nonsense")));
    assert!(row["detail"].as_str().is_some_and(|it| it.starts_with("traceparent: ")), "{row}");
    // It is kept when the row is put back into the inbox.
    service.admin().post("/inbox/rejected/retry", &json!({"all": true})).await.success();
    let page = service.eventually("/inbox/rejected", |page| page["list"][0]["id"] == 2).await;
    assert_eq!(page["list"][0]["traceparent"], "nonsense");
    if matches!(backend, Backend::Postgres(_)) {
        let call = format!(
            "select publish_event('gateway.config.updated', '{payload}', '{id}', traceparent => '{OTHER}')"
        );
        backend.change(&service, &call).await;
        assert_eq!(socket.expect(2..=2).await[0]["traceparent"], OTHER);
    }
}

#[tokio::test]
async fn the_postgres_function_keeps_its_grants() {
    let database = OfflineDatabase::new(Backend::postgres());
    database.theirs("run --target-version 14").await.well();
    let restricted = "
        create role gateway_events_caller;
        create role gateway_events_stranger;
        grant usage on schema public to gateway_events_caller, gateway_events_stranger;
        grant insert (organisation, type, payload, gateway_id, target, event_id,
            correlation_id, user_id, expires_at) on inbox to gateway_events_caller, gateway_events_stranger;
        grant select (event_id) on inbox to gateway_events_caller;
        revoke execute on function publish_event from public;
        grant execute on function publish_event to gateway_events_caller;";
    database.change(restricted).await;
    database.ours("migrate").await.well();
    let call = |role: &str, arguments: &str| {
        format!(
            "do $$
            begin
                set local role {role};
                perform publish_event('gateway.config.updated', '{{}}'{arguments});
            end $$;"
        )
    };
    let refused = |role: &str, arguments: &str, right: &str| {
        format!(
            "do $$
            begin
                set local role {role};
                perform publish_event('gateway.config.updated', '{{}}'{arguments});
                raise exception 'it was allowed';
            exception when insufficient_privilege then
                assert sqlerrm like '%{right}%', sqlerrm;
            end $$;"
        )
    };
    let traced = format!(", traceparent => '{HEADER}'");
    database.change(&call("gateway_events_caller", "")).await;
    database.change(&call("gateway_events_caller", ", null, '{\"all\": true}'")).await;
    database.change(&refused("gateway_events_stranger", "", "publish_event")).await;
    // The new column needs its own grant, like every column.
    database.change(&refused("gateway_events_caller", &traced, "inbox")).await;
    database.change("grant insert (traceparent) on inbox to gateway_events_caller").await;
    database.change(&call("gateway_events_caller", &traced)).await;
}
