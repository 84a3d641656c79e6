//! During a rolling upgrade, the database contains names that a newer node has recorded and an older
//! one does not know. The older one shows them and keeps working. Conversely, rows of an older node
//! lack columns that a newer one fills.

use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed, get};

on_both! {
    records_of_a_newer_version_are_shown
    redrive_by_an_older_version_keeps_events_in_the_lists
}

/// The name that only a newer version knows.
const NEW: &str = "quota_exceeded";

/// Changes what was recorded so far to what a newer version would have recorded.
async fn record_as_newer_version(backend: &Backend, service: &Service) {
    let allow_outcomes = match backend {
        Backend::Sqlite => "pragma ignore_check_constraints = on",
        Backend::Postgres(_) => "alter table attempts drop constraint attempts_outcome_check",
    };
    let changes = format!(
        "{allow_outcomes};
         update attempts set reason = '{NEW}' where reason is not null;
         insert into attempts (gateway, first_sequence, last_sequence, outcome, instance, node,
             started_at, finished_at)
         select gateway, 1, 1, 'deferred', '', node, started_at, finished_at from attempts
         where first_sequence = 1 and outcome = 'failed';
         insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
         select gateway, 1, 3, '{NEW}', max(finished_at) from attempts
         where outcome = 'failed' group by gateway;
         update streams set dead_total = 3, last_failure_reason = '{NEW}', failing_count = 1,
             failing_since = last_failure_at, failing_reason = '{NEW}',
             left_at = last_failure_at, left_reason = '{NEW}'
         where last_failure_at is not null;
         update connections set close_reason = '{NEW}' where closed_at is not null;
         update inbox_rejected set reason = '{NEW}';
         update access_tokens set scopes = scopes || ' audit';
         update idempotency_keys set answer = replace(answer, 'UnknownGateways', 'QuotaExceeded');"
    );
    backend.change(service, &changes).await;
}

/// The dead letters with the new reason, in deliveries.
async fn dead_letters(backend: &Backend, service: &Service) -> i64 {
    let count = "select cast(coalesce(sum(last_sequence - first_sequence + 1), 0) as bigint)
        from dead_letters where reason = 'quota_exceeded'";
    match backend {
        Backend::Sqlite => {
            let file = SqliteConnectOptions::new().filename(service.database()).read_only(true);
            let mut database = file.connect().await.expect("the database");
            sqlx::query_scalar(count).fetch_one(&mut database).await.expect("a number")
        }
        Backend::Postgres(database) => {
            let mut database = PgConnection::connect(&database.url()).await.expect("a connection");
            sqlx::query_scalar(count).fetch_one(&mut database).await.expect("a number")
        }
    }
}

async fn records_of_a_newer_version_are_shown(backend: Backend) {
    let service = backend.start().await;
    let (admin, api) = (service.admin(), service.api());
    let (id, key) = service.gateway("one").await;
    let (other, other_key) = service.gateway("other").await;
    let other_serves = service.connected(&other_key).await.serve();
    drop(service.connected(&key).await);
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["connections"] == 0).await;
    for deployment in ["d-1", "d-2", "d-3"] {
        admin.post("/events", &deployed(&[&id], deployment)).await.success();
    }
    let failed = format!("/deliveries?gatewayId={id}");
    let rows = service.eventually(&failed, |page| page["count"] == 3).await;
    let event = rows["list"][2]["eventId"].as_str().expect("an id").to_owned();
    let unknown = "00000000-0000-0000-0000-000000000000";
    // Nothing fails at the other gateway.
    let batch = json!([deployed(&[&other], "d-4"), deployed(&[unknown], "d-5")]);
    let first = admin.publish_once("k-1", &batch).await;
    let misfit =
        format!("insert into inbox (type, payload, gateway_id) values ('no.type', '{{}}', '{id}')");
    backend.change(&service, &misfit).await;
    service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    record_as_newer_version(&backend, &service).await;

    let page = get(&api, &failed).await.expect("a page");
    assert_eq!(page["count"], 3, "{page:#}");
    for row in page["list"].as_array().expect("a list") {
        assert_eq!((&row["reason"], &row["state"]), (&json!(NEW), &json!("failed")), "{row:#}");
    }
    let shown = get(&api, &format!("/events/{event}")).await.expect("the event");
    let attempts = shown["deliveries"][0]["attempts"].as_array().expect("attempts");
    let outcomes: Vec<_> = attempts.iter().map(|attempt| &attempt["outcome"]).collect();
    assert!(outcomes.contains(&&json!("unknown")), "{shown:#}");
    let gateway = get(&api, &format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(gateway["verdict"]["reason"], NEW, "{gateway:#}");
    let stats = get(&api, "/stats").await.expect("totals");
    assert_eq!(stats["eventDelivery"]["lastFailureReason"], NEW, "{stats:#}");
    let connections = get(&api, &format!("/gateways/{id}/connections?status=all")).await;
    let connections = connections.expect("a page");
    assert_eq!(connections["list"][0]["closeReason"], NEW, "{connections:#}");
    let rejected = get(&api, "/inbox/rejected").await.expect("a page");
    assert_eq!(rejected["list"][0]["reason"], NEW, "{rejected:#}");
    let summary = get(&api, "/deliveries/summary?by=reason").await.expect("counts");
    assert_eq!(summary["list"][0]["key"], NEW, "{summary:#}");
    let tokens = get(&api, "/access-tokens").await.expect("a list");
    assert!(
        tokens["list"][0]["scopes"].as_array().is_some_and(|all| !all.is_empty()),
        "{tokens:#}"
    );
    let again = admin.publish_once("k-1", &batch).await;
    assert_eq!(again.status, first.status);
    assert_eq!(again.json()["results"][0], first.json()["results"][0]);
    assert_ne!(again.json()["results"][1], first.json()["results"][1]);

    // Requests must name known reasons.
    for path in [format!("{failed}&reason={NEW}"), format!("/inbox/rejected?reason={NEW}")] {
        let refused = get(&api, &path).await.expect_err("an unknown reason");
        assert_eq!(refused.status(), Some(422), "{path}");
    }
    let unknown = json!({"filter": {"reason": NEW}});
    let refused = api.post("/deliveries/redrive", &unknown).await.expect_err("an unknown reason");
    assert!(refused.status().is_some_and(|status| (400..500).contains(&status)), "{refused}");

    for command in ["delivery failed --since 1h", "inbox rejected"] {
        let said = service.run(command).await;
        assert!(said.out.contains(NEW), "{command}: {said:?}");
    }

    // The range of dead letters is split, and keeps its reason.
    let redrive = json!({"gatewayId": id, "sequence": 2});
    api.post("/deliveries/redrive", &redrive).await.expect("redriven");
    assert_eq!(dead_letters(&backend, &service).await, 3);
    // Such a dead letter may be a failure that the gateway reported, so a receipt keeps it.
    let mut socket = service.connected(&key).await;
    socket.expect(1..=4).await;
    let serves = socket.serve();
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 4).await;
    assert_eq!(dead_letters(&backend, &service).await, 3);
    serves.abort();
    other_serves.abort();
}

/// An older node does not record which delivery a redrive repeats. The event may be older than the
/// window of a list, but those before it in the log need not be.
async fn redrive_by_an_older_version_keeps_events_in_the_lists(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    for deployment in ["d-1", "d-2", "d-3"] {
        admin.post("/events", &deployed(&[&id], deployment)).await.success();
    }
    let days_ago = match backend {
        Backend::Sqlite => "appended_at - 10 * 86400000000",
        Backend::Postgres(_) => "appended_at - interval '10 days'",
    };
    let (now, gateway) =
        ("(select max(appended_at) from events)", "(select min(gateway) from streams)");
    let given_up = format!(
        "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
         values ({gateway}, 1, 1, 'expired', {now});
         update streams set dead_total = 1;"
    );
    backend.change(&service, &given_up).await;
    admin.post("/deliveries/redrive", &json!({"gatewayId": id, "sequence": 1})).await.success();
    let by_older_version = format!(
        "update outbox set repeats = null;
         update events set appended_at = {days_ago}
         where event = (select event from outbox where sequence = 1);"
    );
    backend.change(&service, &by_older_version).await;
    let listed = async |path: &str| {
        let page = admin.get(&format!("{path}&gatewayId={id}")).await.success();
        page["list"].as_array().expect("rows").len()
    };
    assert_eq!(listed("/events?limit=100").await, 2, "those of the last 24 hours");
    assert_eq!(listed("/deliveries?status=pending").await, 3);
}
