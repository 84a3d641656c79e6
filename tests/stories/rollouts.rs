//! Rollouts: waiting until enough gateways have received or applied an event, by HTTP and by the
//! command line.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer;
use crate::server::Database;
use crate::support::command::run;
use crate::support::{Service, deployed, failed_report};

on_both! {
    a_wait_is_answered_when_enough_gateways_have_received_the_event
    a_wait_is_answered_when_gateways_report_that_they_applied_it
    a_wait_ends_when_it_can_not_be_reached_any_more
    invalid_wait_is_refused
    a_gateway_in_reliable_mode_applies_events_of_any_type
    the_command_line_waits_and_says_who_is_missing
}

/// A gateway's report that it has applied that deployment.
fn applied_report(deployment: &str) -> String {
    failed_report(deployment).replace("\"failed\"", "\"success\"")
}

async fn publish(service: &Service, event: &Value) -> String {
    let stored = service.admin().post("/events", event).await.success();
    stored["id"].as_str().expect("an id").to_owned()
}

async fn a_gateway_in_reliable_mode_applies_events_of_any_type(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    let publish = "event publish gateway.config.updated {\"configType\":\"cache\",\"action\":\"update\"} \
        --gateway one --wait applied --timeout 60s";
    let applies = async {
        peer.event(1).await;
        peer.applied(1).await;
    };
    let (published, ()) = futures_util::join!(service.run(publish), applies);
    // The progress is on standard error.
    assert_eq!(published.code, Some(0), "{published:?}");
    let log = service.admin().get(&format!("/gateways/{id}/log")).await.success();
    let event = log["list"][0]["eventId"].as_str().expect("an id");
    let wait = format!("/events/{event}?wait=applied&timeout=20s");
    let rollout = service.admin().get(&wait).await.success()["rollout"].clone();
    assert_eq!(rollout["reached"], true, "{rollout:#}");
}

async fn a_wait_is_answered_when_enough_gateways_have_received_the_event(backend: Backend) {
    let service = backend.start().await;
    let (one, key) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    let admin = service.admin();
    let id = publish(&service, &deployed(&[&one, &other], "d-1")).await;
    let plain = admin.get(&format!("/events/{id}")).await.success();
    assert_eq!(plain["verdict"]["state"], "pending", "{plain:#}");
    assert!(plain.get("rollout").is_none());
    let wait = format!("/events/{id}?wait=received&timeout=20s&quorum=");
    let (half, number) = (format!("{wait}50%25"), format!("{wait}1"));
    let (all, short) = (format!("{wait}all"), format!("/events/{id}?wait=received&timeout=0s"));
    let at_once = admin.get(&short).await.success()["rollout"].clone();
    assert_eq!((&at_once["reached"], &at_once["ended"]), (&json!(false), &json!("timeout")));
    assert_eq!(at_once["notConnected"], 2, "{at_once:#}");
    let connects = async {
        let socket = service.connected(&key).await.serve();
        service.eventually(&format!("/gateways/{one}"), |it| it["confirmed"] == 1).await;
        socket.abort_handle()
    };
    let (half, number, socket) =
        futures_util::join!(admin.get(&half), admin.get(&number), connects);
    for reply in [half, number] {
        let event = reply.success();
        let rollout = &event["rollout"];
        assert_eq!((&rollout["reached"], &rollout["needed"]), (&json!(true), &json!(1)));
        let counts = (&rollout["targets"], &rollout["received"], &rollout["notConnected"]);
        assert_eq!(counts, (&json!(2), &json!(1), &json!(1)), "{rollout:#}");
        assert_eq!(event["deliveries"][0]["state"], "delivered");
    }
    // The other one is deleted, so that it can't receive the event.
    let deleted = async {
        service.eventually(&format!("/gateways/{other}"), |it| it["head"] == 1).await;
        admin.delete(&format!("/gateways/{other}")).await.success();
    };
    let (all, ()) = futures_util::join!(admin.get(&all), deleted);
    let rollout = all.success()["rollout"].clone();
    assert_eq!((&rollout["reached"], &rollout["ended"]), (&json!(false), &json!("unreachable")));
    let gone = rollout["gateways"].as_array().expect("a list").iter();
    let gone: Vec<&Value> = gone.filter(|it| it["state"] == "failed").collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0]["reason"], "gateway_deleted");
    socket.abort();
}

async fn a_wait_is_answered_when_gateways_report_that_they_applied_it(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let mut event = deployed(&[&id], "d-1");
    event["correlationId"] = json!("release-7");
    publish(&service, &event).await;
    event["payload"]["deploymentId"] = json!("d-2");
    publish(&service, &event).await;
    let path = "/rollouts?correlationId=release-7";
    let rollout = service.admin().get(path).await.success();
    assert_eq!(rollout["rollout"]["targets"], 2, "{rollout:#}");
    assert_eq!(rollout["events"][0]["reported"], true);
    let wait = format!("{path}&wait=applied&timeout=20s");
    let admin = service.admin();
    let works = async {
        socket.expect(1..=2).await;
        socket.send(Message::text(applied_report("d-1"))).await;
        socket.send(Message::text(applied_report("d-2"))).await;
        socket.serve().abort_handle()
    };
    let (reply, socket) = futures_util::join!(admin.get(&wait), works);
    let rollout = reply.success()["rollout"].clone();
    assert_eq!((&rollout["reached"], &rollout["applied"]), (&json!(true), &json!(2)));
    // What was applied was received, too.
    let received = admin.get(&format!("{path}&wait=received")).await.success();
    assert_eq!(received["rollout"]["reached"], true);
    socket.abort();
}

async fn a_wait_ends_when_it_can_not_be_reached_any_more(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let (away, _) = service.gateway("away").await;
    let admin = service.admin();
    let mut expiring = deployed(&[&away], "d-1");
    expiring["ttlSeconds"] = json!(1);
    let expiring = publish(&service, &expiring).await;
    let ended = admin.get(&format!("/events/{expiring}?wait=received&timeout=20s")).await;
    let rollout = ended.success()["rollout"].clone();
    assert_eq!((&rollout["ended"], &rollout["failed"]), (&json!("unreachable"), &json!(1)));
    assert_eq!(rollout["gateways"][0]["reason"], "expired");

    let mut socket = service.connected(&key).await;
    let refused = publish(&service, &deployed(&[&id], "d-2")).await;
    let wait = format!("/events/{refused}?wait=applied&timeout=20s");
    let answers = async {
        socket.expect(1..=1).await;
        socket.send(Message::text(failed_report("d-2"))).await;
        socket.serve().abort_handle()
    };
    let (reply, socket) = futures_util::join!(admin.get(&wait), answers);
    let event = reply.success();
    assert_eq!(event["rollout"]["ended"], "unreachable", "{event:#}");
    let event = service
        .eventually(&format!("/events/{refused}"), |it| it["verdict"]["state"] == "failed")
        .await;
    let summary = event["verdict"]["summary"].as_str().expect("a sentence");
    assert!(summary.starts_with("failed at 1 of 1 gateway since "), "{summary}");
    assert!(summary.ends_with(": GATEWAY_PROCESSING_ERROR"), "{summary}");

    let none = json!({"type": "gateway.config.updated", "target": {"labels": {"no": "such"}},
        "payload": {"configType": "c", "action": "update"}});
    let none = publish(&service, &none).await;
    let unmatched = admin.get(&format!("/events/{none}?wait=received")).await.success();
    assert_eq!(unmatched["verdict"]["state"], "unmatched");
    assert_eq!(unmatched["rollout"]["ended"], "unreachable");
    socket.abort();
}

async fn invalid_wait_is_refused(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let admin = service.admin();
    let event = publish(&service, &deployed(&[&id], "d-1")).await;
    let get = async |query: &str| admin.get(&format!("/events/{event}?{query}")).await;
    for quorum in ["0", "-1", "0%25", "101%25", "some", "", "1.5"] {
        let reply = get(&format!("wait=received&quorum={quorum}")).await;
        reply.invalid("quorum", &["from 1% to 100%"]);
    }
    get("wait=received&quorum=2").await.invalid("quorum", &["is 2", "1 gateways"]);
    get("wait=soon").await.invalid("wait", &["received or applied"]);
    get("quorum=all").await.invalid("quorum", &["only with `wait`"]);
    get("timeout=1s").await.invalid("timeout", &["only with `wait`"]);
    for timeout in ["1h", "-1s", "x"] {
        let reply = get(&format!("wait=received&timeout={timeout}")).await;
        reply.invalid("timeout", &["at most 10m"]);
    }
    let config = json!({"type": "gateway.config.updated", "gatewayIds": [id],
        "payload": {"configType": "c", "action": "update"}});
    let config = publish(&service, &config).await;
    let applied = admin.get(&format!("/events/{config}?wait=applied")).await;
    applied.invalid("wait", &["gateway.config.updated", "wait for received"]);
    admin.get("/events/unknown?wait=received").await.refusal(404, "not_found");
    admin.get("/rollouts?correlationId=unknown").await.refusal(404, "not_found");
    admin.get("/rollouts").await.invalid("correlationId", &["eventId"]);

    // As many as may wait at the same time, and one more.
    let wait = format!("/rollouts?eventId={event}&wait=received&timeout=3s");
    let replies = join_all((0..70).map(|_| admin.get(&wait))).await;
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(!refused.is_empty() && refused.len() < 70, "{} were refused", refused.len());
    for reply in refused {
        reply.refusal(429, "too_many_waits");
        assert!(reply.headers.contains_key("retry-after"));
    }
}

async fn the_command_line_waits_and_says_who_is_missing(backend: Backend) {
    let service = backend.start().await;
    let (_, key) = service.gateway("berlin").await;
    service.gateway("tokyo").await;
    let socket = service.connected(&key).await.serve();
    let payload = "{\"configType\":\"cache\",\"action\":\"update\"}";
    let publish = format!("event publish gateway.config.updated {payload}");
    let reached = service.run(&format!("{publish} --gateway berlin --wait received")).await;
    assert_eq!(reached.code, Some(0), "{reached:?}");
    assert!(reached.out.starts_with("reached: received by 1 of 1 gateways"), "{reached:?}");
    // Standard error is no terminal: a line per change.
    assert!(reached.err.contains("berlin  received"), "{reached:?}");

    let half = format!("{publish} --all --wait received --quorum 50% --json");
    let half = service.run(&half).await;
    assert_eq!(half.code, Some(0), "{half:?}");
    let half: Value = serde_json::from_str(&half.out).expect("JSON");
    assert_eq!(half["rollout"]["reached"], true);
    let missing = service.run(&format!("{publish} --all --wait received --timeout 1s")).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    for says in
        ["not reached in time: received by 1 of 2 gateways, 2 needed", "tokyo", "not connected"]
    {
        assert!(missing.out.contains(says), "{says:?} is missing: {missing:?}");
    }
    let row = missing.out.lines().last().expect("a row");
    let event = row.split_whitespace().last().expect("an id").to_owned();

    let shown = service.run(&format!("event show {event} --wait received --timeout 0s")).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(shown.out.contains("pending at 1 of 2 gateways"), "{shown:?}");
    let shown = service.run(&format!("event show {event} --wait received --quorum 1 --json")).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let rollout = service.run(&format!("rollout --event {event}")).await;
    assert!(rollout.well().starts_with("1 received, 1 not connected of 2 gateways"), "{rollout:?}");
    let correlated = service.run(&format!("rollout --correlation-id {event} --json")).await;
    assert_eq!(correlated.json()["rollout"]["targets"], 2);

    service
        .run(&format!("{publish} --all --wait received --quorum 3"))
        .await
        .failed(1, &["quorum", "is 3"]);
    let bad = service.run(&format!("{publish} --all --wait received --quorum 101%")).await;
    bad.failed(2, &["1% to 100%"]);
    service
        .run(&format!("{publish} --all --wait applied"))
        .await
        .failed(1, &["reliable mode", "received"]);
    service.run(&format!("{publish} --all --quorum 1")).await.failed(2, &["--wait"]);
    service.run(&format!("{publish} --all --wait received --quorum 0")).await.failed(2, &["1 on"]);
    // What can't be reached is refused before anything is published.
    let count = async || service.admin().get("/events").await.success()["count"].clone();
    let before = count().await;
    for (arguments, says) in [
        ("--all --wait received --quorum 3", "matches 2 gateways"),
        ("--gateway berlin --gateway tokyo --wait received --quorum 3", "matches 2 gateways"),
        ("--gateway berlin --gateway berlin --wait received --quorum 2", "matches 1 gateway"),
        ("--gateway berlin --wait applied", "not gateway.config.updated"),
        ("--all --wait applied --quorum 1", "--wait received"),
    ] {
        let refused = service.run(&format!("{publish} {arguments}")).await;
        refused.failed(1, &[says, "nothing was published"]);
    }
    assert_eq!(count().await, before, "nothing was published");
    let unmatched = service.run(&format!("{publish} --label no=such --wait received")).await;
    assert_eq!(unmatched.code, Some(3), "{unmatched:?}");
    socket.abort();
}

/// The node that held the gateway's connection is lost; the gateway connects to the node that holds
/// the wait.
#[tokio::test]
async fn a_wait_outlives_the_node_of_the_gateway() {
    let database = Database::new();
    let url = database.url();
    let settings = [("DATABASE__URL", url.as_str())];
    let waits = Service::start_with(&settings).await;
    let mut lost = waits.another().await;
    let (id, key) = waits.gateway("one").await;
    let socket = lost.connected(&key).await;
    waits.eventually(&format!("/gateways/{id}"), |it| it["connected"] == true).await;
    let event = publish(&waits, &deployed(&[&id], "d-1")).await;
    // It reads nothing, so it confirms nothing.
    let path = format!("/events/{event}?wait=received&timeout=20s");
    let admin = waits.admin();
    let moves = async {
        let rollout = format!("/rollouts?eventId={event}");
        waits.eventually(&rollout, |it| it["rollout"]["pending"] == 1).await;
        lost.kill().await;
        drop(socket);
        waits.connected(&key).await.serve().abort_handle()
    };
    let (reply, socket) = futures_util::join!(admin.get(&path), moves);
    let rollout = reply.success()["rollout"].clone();
    assert_eq!((&rollout["reached"], &rollout["received"]), (&json!(true), &json!(1)));
    socket.abort();

    // A command that waits at a node that is lost goes on at the next one behind the address.
    let next = publish(&waits, &deployed(&[&id], "d-2")).await;
    let mut command =
        waits.command(&format!("rollout --event {next} --wait received --timeout 20s"));
    let mut waits = waits;
    let restarts = async {
        waits.kill().await;
        waits.restart().await;
        waits.connected(&key).await.serve().abort_handle()
    };
    let (output, socket) = futures_util::join!(run(&mut command), restarts);
    assert_eq!(output.code, Some(0), "{output:?}");
    socket.abort();
}
