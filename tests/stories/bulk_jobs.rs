//! Replays, resends, and the jobs that redrive or replay many deliveries, as operators see them.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_events::event::{GatewayId, JobId};
use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::support::http::Caller;
use crate::support::{Service, deployed};

/// For jobs of thousands of deliveries on a busy machine.
const LONG: Duration = Duration::from_mins(5);

on_both! {
    a_rebuilt_gateway_gets_its_events_again
    an_invalid_replay_is_refused
    a_large_replay_survives_a_kill_and_appends_each_event_once
    an_aborted_replay_stays_where_it_was
    two_redrives_of_the_same_window_append_each_delivery_once
    a_job_is_started_shown_and_aborted_on_the_command_line
    an_event_is_resent_to_a_gateway_that_it_missed
    several_events_are_resent_in_the_order_of_their_publication
}

/// Publishes this many events for one gateway.
async fn fill(admin: &Caller, gateway: &str, count: usize) {
    const BATCH: usize = 1000;
    for first in (0..count).step_by(BATCH) {
        let batch: Vec<Value> = (first..count.min(first + BATCH))
            .map(|nth| deployed(&[gateway], &format!("d-{nth}")))
            .collect();
        admin.post("/events", &json!(batch)).await.success();
    }
}

/// The ids of a log's events, in order.
async fn log(admin: &Caller, gateway: &str) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("/gateways/{gateway}/log?after={after}&limit=1000");
        let page = admin.get(&path).await.success();
        let list = page["list"].as_array().expect("a list");
        let Some(end) = list.last() else { return ids };
        after = end["sequence"].as_i64().expect("a sequence");
        ids.extend(list.iter().map(|it| it["eventId"].as_str().expect("an id").to_owned()));
    }
}

/// Makes the first deliveries of a gateway dead letters, as if each had failed.
async fn give_up(backend: &Backend, service: &Service, gateway: &str, count: i64) {
    let node = GatewayId::new();
    let (now, node) = match backend {
        Backend::Sqlite => (
            "cast((julianday('now') - 2440587.5) * 86400000 as integer) * 1000".to_owned(),
            format!("'{node}'"),
        ),
        Backend::Postgres(_) => ("now()".to_owned(), format!("cast('{node}' as uuid)")),
    };
    let mut statements = format!(
        "update streams set dead_total = {count}, failed_total = failed_total + {count}, last_failure_at = {now},
            last_failure_reason = 'confirmation_timeout'
         where gateway = (select gateway from gateways where id = '{gateway}');"
    );
    for first in (1..=count).step_by(1000) {
        let last = count.min(first + 999);
        let inserts = format!(
            "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
                node, started_at, finished_at)
             select gateway, {first}, {last}, 'failed', 'confirmation_timeout', '', {node}, {now}, {now}
             from gateways where id = '{gateway}';
             insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
             select gateway, {first}, {last}, 'confirmation_timeout', {now}
             from gateways where id = '{gateway}';"
        );
        statements += &inserts;
    }
    backend.change(service, &statements).await;
}

async fn verified(backend: &Backend, service: &Service) {
    let report = backend.verify(service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

async fn a_rebuilt_gateway_gets_its_events_again(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    fill(&admin, &id, 4).await;
    let mut socket = service.connected(&key).await;
    let first = socket.expect(1..=4).await;
    let path = format!("/gateways/{id}/replay");
    let body = json!({"fromSequence": 2, "dryRun": true});
    let dry = admin.post(&path, &body).await;
    assert_eq!(dry.status, 200);
    let expected = json!({
        "gatewayId": id, "fromSequence": 2, "toSequence": 4, "replayed": 3, "repeated": 0,
        "expired": 0, "eventRemoved": 0, "payloadPurged": 0, "firstNewSequence": null,
        "lastNewSequence": null, "job": null,
    });
    assert_eq!(dry.json(), expected);
    let done = admin.post(&path, &json!({"fromSequence": 2, "toSequence": 3})).await.success();
    assert_eq!((&done["firstNewSequence"], &done["lastNewSequence"]), (&json!(5), &json!(6)));
    let again = socket.expect(5..=6).await;
    for (first, again) in first[1..3].iter().zip(&again) {
        for member in ["eventId", "correlationId", "payload", "timestamp"] {
            assert_eq!(first[member], again[member]);
        }
    }
    let socket = socket.serve();
    // A window, in another zone.
    let appended = admin.get(&format!("/gateways/{id}/log?after=4")).await.success();
    let at = appended["list"][0]["appendedAt"].as_str().expect("a time");
    let zoned = chrono::DateTime::parse_from_rfc3339(at).expect("RFC 3339");
    let zone = chrono::FixedOffset::east_opt(9 * 3600).expect("an offset");
    let zoned = zoned.with_timezone(&zone).to_rfc3339();
    for from in [at, &zoned] {
        let window = json!({"from": from, "dryRun": true});
        let done = admin.post(&path, &window).await.success();
        let range = (&done["fromSequence"], &done["toSequence"], &done["replayed"]);
        assert_eq!(range, (&json!(5), &json!(6), &json!(2)), "{done:#}");
    }
    let nothing = json!({"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"});
    let done = admin.post(&path, &nothing).await.success();
    assert_eq!((&done["fromSequence"], &done["replayed"]), (&Value::Null, &json!(0)), "{done:#}");
    // A disabled gateway gets them when it is enabled.
    admin.patch(&format!("/gateways/{id}"), &json!({"disabled": true})).await.success();
    socket.await.expect("it ended");
    let done = admin.post(&path, &json!({"fromSequence": 1, "toSequence": 1})).await.success();
    assert_eq!(done["firstNewSequence"], 7);
    admin.patch(&format!("/gateways/{id}"), &json!({"disabled": false})).await.success();
    let mut socket = service.connected(&key).await;
    let event = socket.expect(7..=7).await;
    assert_eq!(event[0]["eventId"], first[0]["eventId"]);
    verified(&backend, &service).await;
}

async fn an_invalid_replay_is_refused(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, 3).await;
    let path = format!("/gateways/{id}/replay");
    for (body, field, says) in [
        (json!({}), "body", "fromSequence"),
        (json!({"toSequence": 3}), "body", "fromSequence"),
        (json!({"fromSequence": 1, "from": "2026-01-01T00:00:00Z"}), "body", "fromSequence"),
        (json!({"fromSequence": 0}), "fromSequence", "1 to 9007199254740991"),
        (json!({"fromSequence": -1}), "fromSequence", "1 to 9007199254740991"),
        (json!({"fromSequence": 1, "toSequence": 0}), "toSequence", "1 to"),
        (json!({"fromSequence": 3, "toSequence": 2}), "toSequence", "below fromSequence, 3"),
        (json!({"fromSequence": 4}), "fromSequence", "beyond the head of the log, 3"),
        (
            json!({"fromSequence": 1, "toSequence": 4}),
            "toSequence",
            "beyond the head of the log, 3",
        ),
        (json!({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}), "from", "before"),
        // The same instant, in two zones.
        (
            json!({"from": "2026-01-01T09:00:00+09:00", "to": "2026-01-01T00:00:00Z"}),
            "from",
            "before",
        ),
        (json!({"from": "2026-01-02T00:00:00"}), "from", "offset"),
        (json!({"fromSequence": 1, "dryrun": true}), "dryrun", "dryRun"),
    ] {
        admin.post(&path, &body).await.invalid(field, &[says]);
    }
    let body = json!({"fromSequence": 1});
    let unknown = format!("/gateways/{}/replay", GatewayId::new());
    admin.post(&unknown, &body).await.refusal(404, "not_found");
    let reader = service.scoped(&["read", "publish"]).await;
    let unknown = format!("/jobs/{}", JobId::new());
    reader.post(&path, &body).await.refusal(403, "insufficient_scope");
    reader.post("/events/e-1/resend", &json!({})).await.refusal(403, "insufficient_scope");
    reader.get("/jobs").await.refusal(403, "insufficient_scope");
    reader.post(&format!("{unknown}/abort"), &json!({})).await.refusal(403, "insufficient_scope");
    admin.get(&unknown).await.refusal(404, "not_found");
    admin.post(&format!("{unknown}/abort"), &json!({})).await.refusal(404, "not_found");
    admin.get("/jobs?state=paused").await.invalid("state", &["running"]);
    admin.get("/jobs?limit=0").await.invalid("limit", &["1 to 1000"]);
    let gateway = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(gateway["head"], 3, "nothing was appended");
}

/// Starts a replay of everything as a job.
async fn start_replay(admin: &Caller, gateway: &str) -> String {
    let started =
        admin.post(&format!("/gateways/{gateway}/replay"), &json!({"fromSequence": 1})).await;
    assert_eq!(started.status, 202, "{started:?}");
    let started = started.json();
    assert_eq!(started["job"]["state"], "running", "{started:#}");
    started["job"]["id"].as_str().expect("an id").to_owned()
}

fn is_under_way(job: &Value) -> bool {
    job["state"] == "running" && job["appended"].as_i64().is_some_and(|count| count > 0)
}

/// SQLite: the process is restarted. Postgres: another node takes over.
async fn a_large_replay_survives_a_kill_and_appends_each_event_once(backend: Backend) {
    const EVENTS: usize = 12_000;
    let mut service = backend.start().await;
    let other = match backend {
        Backend::Sqlite => None,
        Backend::Postgres(_) => Some(service.another().await),
    };
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, EVENTS).await;
    let old = log(&admin, &id).await;
    assert_eq!(old.len(), EVENTS);
    let job = start_replay(&admin, &id).await;
    let path = format!("/jobs/{job}");
    let killed = service.eventually(&path, is_under_way).await;
    service.kill().await;
    if other.is_none() {
        service.restart().await;
    }
    let left = other.as_ref().unwrap_or(&service);
    let done = left.eventually_within(LONG, &path, |job| job["state"] != "running").await;
    assert_eq!(done["state"], "done", "{done:#}");
    assert_eq!(done["appended"], EVENTS, "{done:#}");
    assert_eq!(done["progress"], json!({"done": EVENTS, "total": EVENTS}));
    assert_ne!(done["node"], killed["node"], "another process has finished it");
    let new = log(&left.admin(), &id).await;
    assert_eq!(new.len(), 2 * EVENTS);
    assert!(new[EVENTS..] == old[..], "each event once, in the old order");
    verified(&backend, left).await;
    let records = left.admin().get(&format!("/audit?object={job}")).await.success();
    let actions: Vec<_> = records["list"].as_array().expect("a list").iter().collect();
    let actions: Vec<_> = actions.iter().map(|record| record["action"].clone()).collect();
    assert_eq!(actions, ["job.ended", "job.started"]);
}

async fn an_aborted_replay_stays_where_it_was(backend: Backend) {
    const EVENTS: usize = 12_000;
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, EVENTS).await;
    let job = start_replay(&admin, &id).await;
    let path = format!("/jobs/{job}");
    service.eventually(&path, is_under_way).await;
    let abort = format!("{path}/abort");
    let aborted = admin.post(&abort, &json!({})).await.success();
    assert_eq!(aborted["state"], "aborted", "{aborted:#}");
    let appended = aborted["appended"].as_u64().expect("a count");
    assert!((1..12_000).contains(&appended), "{aborted:#}");
    assert_eq!(admin.post(&abort, &json!({})).await.success(), aborted, "a repeat does nothing");
    let gateway = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(gateway["head"], 12_000 + appended);
    let listed = admin.get("/jobs?state=aborted").await.success();
    let mut job = aborted.clone();
    assert_eq!(job["left"], 12_000 - appended);
    for of_the_abort in ["dryRun", "left"] {
        job.as_object_mut().expect("an object").remove(of_the_abort);
    }
    assert_eq!(listed["list"], json!([job]));
    assert_eq!(admin.get("/jobs?state=running").await.success()["count"], 0);
    verified(&backend, &service).await;
}

async fn two_redrives_of_the_same_window_append_each_delivery_once(backend: Backend) {
    const DEAD_LETTERS: i64 = 1500;
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, 1500).await;
    give_up(&backend, &service, &id, DEAD_LETTERS).await;
    verified(&backend, &service).await;
    let filter = json!({"gatewayId": id, "reason": "confirmation_timeout"});
    let dry = json!({"filter": filter, "dryRun": true});
    let would = admin.post("/deliveries/redrive", &dry).await.success();
    assert_eq!((&would["total"], &would["more"]), (&json!(DEAD_LETTERS), &json!(true)));
    assert_eq!(would["redriven"].as_array().map(Vec::len), Some(1000));
    let body = json!({"filter": filter});
    let started = join_all([(); 2].map(|()| admin.post("/deliveries/redrive", &body))).await;
    let mut appended = 0;
    for started in started {
        assert_eq!(started.status, 202, "{started:?}");
        let started = started.json();
        assert_eq!((&started["redriven"], &started["more"]), (&json!([]), &json!(false)));
        let path = format!("/jobs/{}", started["job"]["id"].as_str().expect("an id"));
        let done = service.eventually_within(LONG, &path, |job| job["state"] != "running").await;
        assert_eq!(done["state"], "done", "{done:#}");
        let own = done["appended"].as_i64().expect("a count");
        assert_eq!(
            own + done["skipped"]["alreadyRedriven"].as_i64().expect("a count"),
            DEAD_LETTERS
        );
        appended += own;
    }
    assert_eq!(appended, DEAD_LETTERS);
    let gateway = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(gateway["head"], 2 * DEAD_LETTERS);
    let again = admin.post("/deliveries/redrive", &dry).await.success();
    assert_eq!(again["total"], 0);
    verified(&backend, &service).await;
}

async fn a_job_is_started_shown_and_aborted_on_the_command_line(backend: Backend) {
    const DEAD_LETTERS: i64 = 1200;
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, 1200).await;
    give_up(&backend, &service, &id, DEAD_LETTERS).await;
    assert!(service.run("job list").await.well().contains("no jobs"));
    let redrive = "delivery redrive --gateway berlin";
    let asked = service.run(redrive).await;
    asked.failed(1, &["1200 dead letters will be appended again", "--yes"]);
    let done = service.run(&format!("{redrive} --yes")).await;
    for text in ["redrive", "berlin", "done", "1200 of 1200"] {
        assert!(done.well().contains(text), "{text}: {done:?}");
    }
    let replay = "gateway replay berlin --from-sequence 1";
    let dry = service.run(&format!("{replay} --dry-run")).await;
    assert!(dry.well().contains("1200 of the sequences 1 to 2400 would be"), "{dry:?}");
    assert!(dry.out.contains("1200 skipped: the event occurs again"), "{dry:?}");
    service.run(replay).await.failed(1, &["berlin gets 1200 events again", "--yes"]);
    let small = service.run(&format!("{replay} --to-sequence 2400 --yes --no-wait --json")).await;
    let job = small.json();
    let job = job["id"].as_str().expect("an id");
    let shown = service.run(&format!("job show {job} --wait")).await;
    assert!(shown.well().contains("berlin, sequences 1 to 2400"), "{shown:?}");
    assert!(shown.out.contains("2400 of 2400"), "{shown:?}");
    let aborted = service.run(&format!("job abort {job}")).await;
    assert!(aborted.well().contains("done"), "it has ended, and stays as it is: {aborted:?}");
    let listed = service.run("job list --state done").await;
    assert!(listed.well().contains(job) && listed.out.contains("redrive"), "{listed:?}");
    let few = service.run("gateway replay berlin --from-sequence 3 --to-sequence 4 --yes").await;
    assert!(few.well().contains("2 of the sequences 3 to 4 were appended again"), "{few:?}");
    service.run("gateway replay berlin").await.failed(2, &["--from-sequence"]);
    service.run("gateway replay berlin --from-sequence 0").await.failed(1, &["fromSequence"]);
    let shown = service.run(&format!("job show {}", &job[..job.len() - 6])).await;
    assert!(shown.well().contains(job), "by the beginning of its id: {shown:?}");
    service.run("job show 0000ffff").await.failed(1, &["begins with", "job list"]);
    let unknown = format!("job show {}", JobId::new());
    service.run(&unknown).await.failed(1, &["no such job"]);
}

async fn an_event_is_resent_to_a_gateway_that_it_missed(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (berlin, _) = service.gateway("berlin").await;
    let (tokyo, key) = service.gateway("tokyo").await;
    let event = admin.post("/events", &deployed(&[&berlin], "d-1")).await.success();
    let event = event["id"].as_str().expect("an id").to_owned();
    let path = format!("/events/{event}/resend");
    for (body, field) in [
        (json!({}), "target"),
        (json!({"gatewayIds": []}), "target"),
        (json!({"gatewayIds": [tokyo], "target": {"all": true}}), "target"),
        (json!({"target": {"labels": {}}}), "target"),
        (json!({"target": {}}), "target"),
        (json!({"gatewayIds": ["tokyo"]}), "gatewayIds/0"),
    ] {
        admin.post(&path, &body).await.invalid(field, &[]);
    }
    let unknown = GatewayId::new();
    let refused = admin.post(&path, &json!({"gatewayIds": [tokyo, unknown]})).await;
    let refused = refused.refusal(404, "unknown_gateways");
    assert_eq!(refused["gatewayIds"], json!([unknown]));
    let to_tokyo = json!({"gatewayIds": [tokyo]});
    admin.post("/events/no-such/resend", &to_tokyo).await.refusal(404, "not_found");
    let none = json!({"target": {"labels": {"env": "none"}}});
    let none = admin.post(&path, &none).await.success();
    assert_eq!(none["warnings"][0]["code"], "no_gateways_matched");

    let mut socket = service.connected(&key).await;
    let all = json!({"target": {"all": true}, "dryRun": true});
    let dry = admin.post(&path, &all).await.success();
    assert_eq!(dry["deliveries"], json!([{"gatewayId": tokyo, "sequence": null}]));
    assert_eq!(dry["alreadyInLog"], json!([{"gatewayId": berlin, "sequence": 1}]));
    let said = service.run(&format!("event resend {event} --gateway tokyo")).await;
    assert!(said.well().contains("tokyo") && !said.well().contains("--force"), "{said:?}");
    assert_eq!(socket.expect(1..=1).await[0]["eventId"], json!(event));
    let again = admin.post(&path, &to_tokyo).await.success();
    assert_eq!(again["deliveries"], json!([]), "a repeat does nothing");
    let left_out = service.run(&format!("event resend {event} --gateway tokyo")).await;
    assert!(left_out.well().contains("--force"), "{left_out:?}");
    let forced = format!("event resend {event} --gateway tokyo --force");
    service.run(&forced).await.failed(1, &["1 gateway", "--yes"]);
    service.run(&format!("{forced} --yes")).await.well();
    let second = socket.expect(2..=2).await;
    assert_eq!(second[0]["eventId"], json!(event));
    socket.serve().abort();
    let label = format!("event resend {event} --label env=none");
    let unmatched = service.run(&label).await;
    assert_eq!(unmatched.code, Some(3), "{unmatched:?}");
    let expired = json!({
        "type": "api.deployed", "gatewayIds": [berlin], "ttlSeconds": 1,
        "payload": {"apiId": "a", "deploymentId": "d", "performedAt": "2026-01-31T09:30:00.001Z"},
    });
    let expired = admin.post("/events", &expired).await.success();
    let expired = expired["id"].as_str().expect("an id").to_owned();
    let reason = format!("/deliveries?eventId={expired}&reason=expired");
    service.eventually(&reason, |page| page["count"] == 1).await;
    let late = admin.post(&format!("/events/{expired}/resend"), &to_tokyo).await;
    late.refusal(409, "conflict");
    verified(&backend, &service).await;
}

async fn several_events_are_resent_in_the_order_of_their_publication(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (berlin, _) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    let mut events = Vec::new();
    for deployment in ["d-1", "d-2", "d-3"] {
        let event = admin.post("/events", &deployed(&[&berlin], deployment)).await.success();
        events.push(event["id"].as_str().expect("an id").to_owned());
    }
    let [first, second, third] = &events[..] else { unreachable!() };
    service.run(&format!("event resend {second} --gateway tokyo")).await.well();
    let several = format!("event resend {third} {second} {first} --gateway tokyo");
    service.run(&several).await.failed(1, &["2 events", "--yes"]);
    let said = service.run(&format!("{several} --yes")).await;
    assert!(said.well().contains("left out"), "{said:?}");
    let log = admin.get(&format!("/gateways/{tokyo}/log")).await.success();
    let at = |sequence: i64| {
        let mut rows = log["list"].as_array().expect("a list").iter();
        let row = rows.find(|row| row["sequence"] == sequence).expect("a row");
        row["eventId"].as_str().expect("an id").to_owned()
    };
    assert_eq!([at(2), at(3)], [first.clone(), third.clone()], "{log:#}");
    service.run("event resend --gateway tokyo").await.failed(2, &["<ID|--missed-by"]);

    // One that can't be resent does not stop the others.
    let purge = format!("event purge {first} --reason test --yes");
    service.run(&purge).await.well();
    let (osaka, _) = service.gateway("osaka").await;
    let said = service.run(&format!("event resend {first} {third} --gateway osaka --yes")).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains(first), "{said:?}");
    assert_eq!(admin.get(&format!("/gateways/{osaka}")).await.success()["head"], 1);
    verified(&backend, &service).await;
}
