//! One value that makes its statements fail, for a reason that no list knows, holds up
//! nothing else: it is set aside after a few attempts.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::server::Database;
use crate::support::{Service, TEST_TIMEOUT, deployed};

async fn start(database: &Database) -> Service {
    Service::start_with(&[("DATABASE__URL", &database.url())]).await
}

/// Makes inserts into a table fail with a SQLSTATE if a condition on the row holds.
fn refuse(database: &Database, table: &str, condition: &str, code: &str) {
    database.run(&format!(
        "create or replace function refuse() returns trigger language plpgsql as $$
         begin
             if {condition} then raise exception 'refused' using errcode = '{code}'; end if;
             return new;
         end $$;
         drop trigger if exists refuse on {table};
         create trigger refuse before insert on {table} for each row execute function refuse()"
    ));
}

#[tokio::test]
async fn unrecordable_outcome_does_not_delay_others() {
    let database = Database::new();
    let service = start(&database).await;
    let (poisoned, key) = service.gateway("poisoned").await;
    let poisoned_serves = service.connected(&key).await.serve();
    let (healthy, healthy_key) = service.gateway("healthy").await;
    let healthy_serves = service.connected(&healthy_key).await.serve();
    let condition = "new.gateway = (select gateway from gateways where name = 'poisoned')";
    // cardinality_violation, raise_exception, internal_error, check_violation.
    for (confirmed, code) in (1..).zip(["21000", "P0001", "XX000", "23514"]) {
        refuse(&database, "attempts", condition, code);
        for gateway in [&poisoned, &healthy] {
            service.admin().post("/events", &deployed(&[gateway], code)).await.success();
        }
        let path = format!("/gateways/{healthy}");
        service.eventually(&path, |gateway| gateway["confirmed"] == confirmed).await;
        let discarded = "\"message\":\"failed to record an outcome; it is discarded\"";
        service.logged(|log| log.matches(discarded).count() >= confirmed).await;
    }
    let counted = service.metrics().await;
    let series = "gateway_events_outcomes_discarded_total ";
    let discarded = counted.lines().find_map(|line| line.strip_prefix(series));
    assert!(discarded.is_some_and(|count| count != "0"), "{counted}");

    // What was not recorded is delivered again.
    database.run("drop trigger refuse on attempts");
    poisoned_serves.abort();
    service.connected(&key).await.expect(1..=4).await;
    healthy_serves.abort();
}

#[tokio::test]
async fn a_connection_whose_deliveries_can_not_be_recorded_is_recorded_as_closed() {
    let database = Database::new();
    let service = start(&database).await;
    // internal_error, check_violation.
    for code in ["XX000", "23514"] {
        let (id, key) = service.gateway(code).await;
        let mut socket = service.connected(&key).await;
        service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
        socket.next().await.expect("the event");
        let condition = "new.reason = 'connection_lost'";
        refuse(&database, "attempts", condition, code);
        drop(socket);
        // While it looked live, no failure would be recorded.
        service.admin().post("/events", &deployed(&[&id], "d-2")).await.success();
        let path = format!("/deliveries?gatewayId={id}&reason=not_connected");
        service.eventually(&path, |page| page["count"] == 2).await;
        let gateway = service.admin().get(&format!("/gateways/{id}")).await.success();
        assert_eq!(gateway["connections"], 0, "{gateway:#}");
        database.run("drop trigger refuse on attempts");
    }
}

/// The statement that finds the event of a report calls `substr` with its deployment's id.
fn refuse_reports(database: &Database, deployment: &str, code: &str) {
    database.run(&format!(
        "create or replace function public.substr(text, integer, integer) returns text
         language plpgsql immutable as $$
         begin
             if $1 = '{deployment}' then raise exception 'refused' using errcode = '{code}'; end if;
             return pg_catalog.substr($1, $2, $3);
         end $$"
    ));
}

#[tokio::test]
async fn unmatchable_report_does_not_delay_others() {
    let database = Database::new();
    database.run(
        "do $$ begin
             execute format('alter database %I set search_path = public, pg_catalog', current_database());
         end $$",
    );
    let service = start(&database).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    // cardinality_violation, character_not_in_repertoire.
    for (first, code) in [(1, "21000"), (3, "22021")] {
        refuse_reports(&database, &format!("poison-{code}"), code);
        for name in ["poison", "good"] {
            let event = deployed(&[&id], &format!("{name}-{code}"));
            service.admin().post("/events", &event).await.success();
        }
        let events = socket.expect(first..=first + 1).await;
        for event in &events {
            let ack = json!({"type": "deployment.ack", "payload": {
                "deploymentId": event["payload"]["deploymentId"], "artifactId": "a-1",
                "resourceType": "api", "action": "deploy", "status": "success",
                "performedAt": event["payload"]["performedAt"]}});
            socket.send(Message::text(ack.to_string())).await;
        }
        let good = events[1]["eventId"].as_str().expect("an id");
        let applied = |event: &serde_json::Value| {
            let attempts = event["deliveries"][0]["attempts"].as_array();
            attempts.is_some_and(|all| all.iter().any(|one| one["outcome"] == "applied"))
        };
        service.eventually(&format!("/events/{good}"), applied).await;
    }
    let discarded = "\"message\":\"failed to match a report; it is discarded\"";
    service.logged(|log| log.matches(discarded).count() == 2).await;
    let metrics = service.metrics().await;
    assert!(metrics.contains("gateway_events_outcomes_discarded_total 2"), "{metrics}");
    let unknown = service.invalid_messages("unknown_deployment").await;
    assert_eq!(unknown, 0, "its event was not looked for in vain");
}

#[tokio::test]
async fn unappendable_inbox_row_does_not_delay_others() {
    let database = Database::new();
    let service = start(&database).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    refuse(&database, "events", "new.id like 'poison-%'", "21000");
    database.run(&format!(
        "insert into inbox (type, payload, gateway_id, event_id)
         select 'gateway.config.updated', '{{\"configType\":\"c\",\"action\":\"update\"}}', '{id}', name
         from unnest(array['poison-1', 'good-1', 'poison-2', 'good-2']) name"
    ));
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["head"] == 2).await;
    let events = socket.expect(1..=2).await;
    let ids: Vec<_> = events.iter().map(|event| &event["eventId"]).collect();
    assert_eq!(ids, [&json!("good-1"), &json!("good-2")]);
    let page = service.eventually("/inbox/rejected", |page| page["count"] == 2).await;
    for row in page["list"].as_array().expect("a list") {
        assert_eq!(row["reason"], "internal", "{row:#}");
    }
}

/// More failures of a job than outcomes and rows are given that cause them alone.
async fn fails(service: &Service, job: &str) {
    let count_of = |metrics: &str| -> u64 {
        let series = format!("gateway_events_job_failures_total{{task=\"{job}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(series.as_str()));
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    let before = count_of(&service.metrics().await);
    let mut polls = tokio::time::interval(Duration::from_millis(50));
    let failed = tokio::time::timeout(3 * TEST_TIMEOUT, async {
        loop {
            polls.tick().await;
            if count_of(&service.metrics().await) >= before + 9 {
                break;
            }
        }
    });
    failed.await.unwrap_or_else(|_| panic!("{job} never failed that often:\n{}", service.log()));
}

#[tokio::test]
async fn a_privilege_that_is_missing_for_a_while_loses_no_outcome() {
    let database = Database::new();
    let service = start(&database).await;
    let (id, key) = service.gateway("one").await;
    let serves = service.connected(&key).await.serve();
    refuse(&database, "attempts", "true", "42501");
    service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    fails(&service, "recorder").await;
    let metrics = service.metrics().await;
    assert!(metrics.contains("gateway_events_outcomes_discarded_total 0"), "{metrics}");
    database.run("drop trigger refuse on attempts");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    serves.abort();
}

#[tokio::test]
async fn a_table_that_accepts_no_row_for_a_while_rejects_no_row_of_the_inbox() {
    let database = Database::new();
    let service = start(&database).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    // insufficient_privilege, and one that rows may cause as well.
    for (code, numbers) in [("42501", 1..=3), ("21000", 4..=6)] {
        refuse(&database, "events", "true", code);
        database.run(&format!(
            "insert into inbox (type, payload, gateway_id, event_id)
             select 'gateway.config.updated', '{{\"configType\":\"c\",\"action\":\"update\"}}', '{id}', nr
             from unnest(array['{}', '{}', '{}']) nr",
            numbers.start(),
            numbers.start() + 1,
            numbers.end()
        ));
        fails(&service, "inbox_drain").await;
        let rejected = service.admin().get("/inbox/rejected").await;
        assert_eq!(rejected.success()["count"], 0);
        database.run("drop trigger refuse on events");
        for event in socket.expect(numbers).await {
            assert_eq!(event["eventId"], json!(event["sequence"].to_string()), "in order");
        }
    }
}
