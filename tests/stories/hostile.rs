//! JSON Schemas and payloads that would take exponential time or gigabytes: each is answered, by
//! the library and by the service, and delays nothing else.

use std::time::{Duration, Instant};

use gateway_events::event_types::{EventTypeInfo, Validator, check_schema};
use serde_json::{Value, json};

use crate::conformance::{InboxProgram as _, Row};
use crate::inbox_program::{Program, deployed};
use crate::support::http::{Caller, Reply};
use crate::support::{Service, TEST_TIMEOUT};

mod generator;
mod large;

use generator::Generator;

/// A schema, a payload for it, and its name.
struct Case {
    name: &'static str,
    schema: Value,
    payload: Value,
}

fn case(name: &'static str, schema: Value, payload: Value) -> Case {
    Case { name, schema, payload }
}

/// `{"c":{"c":…}}`, or `[[…]]`.
fn nested(levels: usize, wrap: impl Fn(Value) -> Value) -> Value {
    (0..levels).fold(json!(1), |inner, _| wrap(inner))
}

fn one_of_two_objects() -> Case {
    let arm = |required: &str| json!({"type": "object", "required": [required], "properties": {"c": {"$ref": "#/$defs/n"}}});
    let schema = json!({
        "$ref": "#/$defs/n",
        "$defs": {"n": {"oneOf": [arm("a"), arm("b")]}},
    });
    case("one_of.two_objects", schema, nested(58, |inner| json!({"c": inner})))
}

fn any_of_two_lists() -> Case {
    let arm =
        |least: usize| json!({"type": "array", "minItems": least, "items": {"$ref": "#/$defs/n"}});
    let schema = json!({
        "properties": {"l": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"anyOf": [arm(1), arm(0)]}},
    });
    case("any_of.two_lists", schema, json!({"l": nested(21, |inner| json!([inner]))}))
}

fn thirteen_levels() -> Case {
    let mut schema = json!({"$ref": "#/$defs/d0", "$defs": {"d13": {"type": "object"}}});
    for level in 0..13 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        schema["$defs"][format!("d{level}")] = json!({"allOf": vec![next; 30]});
    }
    case("all_of.thirteen_levels", schema, json!({}))
}

fn many_patterns() -> Case {
    let patterns: Vec<Value> =
        (0..1600).map(|nth| json!({"pattern": format!("[\\w\\s]{{1000}}{nth}")})).collect();
    case("patterns.many", json!({"properties": {"t": {"anyOf": patterns}}}), json!({"t": "x"}))
}

fn cases() -> [Case; 4] {
    [one_of_two_objects(), any_of_two_lists(), thirteen_levels(), many_patterns()]
}

fn event(gateway: &str, event_type: &str, payload: &Value) -> Value {
    json!({"type": event_type, "gatewayIds": [gateway], "payload": payload})
}

/// A registration that was accepted, or refused as an invalid schema.
fn registered(reply: &Reply) -> bool {
    if reply.status == 413 {
        reply.refusal(413, "body_too_large");
        return false;
    }
    if reply.status == 422 {
        assert_eq!(reply.refusal(422, "invalid")["errors"][0]["field"], "schema");
        return false;
    }
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    true
}

/// Whether an event was accepted; otherwise asserts that it was refused as invalid.
fn is_accepted(reply: &Reply) -> bool {
    if reply.status == 422 {
        reply.refusal(422, "invalid");
        return false;
    }
    assert_eq!(reply.status, 202, "{reply:?}");
    true
}

/// Polls readiness until it is cancelled; returns the longest time to an answer.
async fn watched(caller: Caller, stop: tokio_util::sync::CancellationToken) -> Duration {
    let mut longest = Duration::ZERO;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while !stop.is_cancelled() {
        ticks.tick().await;
        let started = Instant::now();
        assert_eq!(caller.root("/livez").await.status, 200);
        longest = longest.max(started.elapsed());
    }
    longest
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures are shown with --nocapture")]
async fn a_schema_that_would_block_a_node_or_its_payload_is_refused() {
    let mut service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let admin = service.admin();
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = tokio::spawn(watched(service.admin(), stop.clone()));
    for Case { name, schema, payload } in cases() {
        let started = Instant::now();
        let path = format!("/event-types/{name}");
        let is_registered = registered(&admin.put(&path, &json!({"schema": schema})).await);
        let registration = started.elapsed();
        if is_registered {
            let started = Instant::now();
            let answer = admin.post("/events", &event(&id, name, &payload)).await;
            println!(
                "{name}: registered in {registration:?}, validated in {:?}",
                started.elapsed()
            );
            answer.invalid("payload", &["takes too long", "simpler"]);
        } else {
            println!("{name}: refused in {registration:?}");
            assert!(matches!(name, "all_of.thirteen_levels" | "patterns.many"), "{name}");
        }
    }
    stop.cancel();
    println!("the longest answer to a bystander: {:?}", watching.await.expect("it lives"));
    assert_eq!(admin.get(&format!("/gateways/{id}")).await.success()["head"], 0);
    let metrics = service.metrics().await;
    assert!(metrics.contains("gateway_events_validations_stopped_total 2"), "{metrics}");
    assert_eq!(service.terminate().await, Some(0));
}

/// Events of a batch that each use up their budget: other requests are served between them.
#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_batch_of_costly_events() {
    let mut service = Service::start_with(&[("SHUTDOWN__GRACE", "1s")]).await;
    let (id, _) = service.gateway("one").await;
    let Case { name, schema, payload } = one_of_two_objects();
    let admin = service.admin();
    admin.put(&format!("/event-types/{name}"), &json!({"schema": schema})).await.success();
    let other = service.scoped(&["publish"]).await;
    let batch = Value::Array(vec![event(&id, name, &payload); 1000]);
    let publishing = tokio::spawn(async move {
        let request = admin.request(reqwest::Method::POST, "/events").json(&batch);
        request.send().await.map(|answer| answer.status().as_u16())
    });
    // An event of another token has its turn before the batch is complete.
    let answer = other.post("/events", &event(&id, name, &payload)).await;
    answer.invalid("payload", &["takes too long"]);
    assert!(!publishing.is_finished(), "the batch was done before the other event's turn");
    assert_eq!(service.terminate().await, Some(0));
    publishing.abort();
}

/// Schemas of an earlier release, which had no limits, are in the database.
#[tokio::test]
async fn the_inbox_continues_after_rows_that_would_block_it_also_across_a_restart() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let program = Program::start(&service.database()).await;
    for Case { name, schema, .. } in cases() {
        sqlx::query(
            "insert into event_types (organisation, name, schema, description, created_at, updated_at)
             select organisation, $1, $2, '', 0, 0 from organisations",
        )
        .bind(name)
        .bind(schema.to_string())
        .execute(&mut *program.connection().await)
        .await
        .expect("registered");
    }
    let rows = || {
        let row = |case: Case| Row {
            event_type: case.name.to_owned(),
            payload: case.payload.to_string(),
            ..deployed(&id, "d")
        };
        let mut rows: Vec<Row> = cases().map(row).into();
        rows.push(deployed(&id, "d-1"));
        rows
    };
    program.insert(&rows()).await;
    socket.expect(1..=1).await;
    // Likewise over HTTP.
    let over = json!({"payload": one_of_two_objects().payload})["payload"].clone();
    let answer = service.admin().post("/events", &event(&id, "one_of.two_objects", &over)).await;
    answer.invalid("payload", &["takes too long"]);
    let answer = service.admin().post("/events", &event(&id, "patterns.many", &over)).await;
    answer.invalid("type", &["can't be used", "PUT /api/internal/v1/event-types/patterns.many"]);
    drop(socket);
    service.kill().await;
    program.insert(&rows()).await;
    service.restart().await;
    let mut socket = service.connected(&key).await;
    socket.expect(1..=2).await;
    let page = service.eventually("/inbox/rejected", |page| page["count"] == 8).await;
    for row in page["list"].as_array().expect("a list") {
        assert_eq!(row["reason"], "invalid", "{row:#}");
        let says = match row["type"].as_str().expect("a type") {
            "one_of.two_objects" | "any_of.two_lists" => "takes too long",
            "all_of.thirteen_levels" => "keywords to one value",
            _ => "patterns",
        };
        assert!(row["detail"].as_str().expect("a text").contains(says), "{row:#}");
    }
}

fn seed() -> u64 {
    let given = std::env::var("STORY_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

#[test]
#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
fn a_thousand_hostile_schemas_and_payloads_are_each_answered() {
    // The same stack size as the compute threads of the service.
    let checking = || {
        let seed = seed();
        println!("STORY_SEED={seed}");
        let mut generator = Generator::new(seed);
        let (mut usable, mut valid, mut stopped) = (0, 0, 0);
        let mut slowest = Duration::ZERO;
        for nth in 0..1000 {
            let (schema, payload) = generator.case();
            let text = schema.to_string();
            let begun = Instant::now();
            let raw = serde_json::value::RawValue::from_string(text.clone()).expect("JSON");
            let refusal = check_schema(&raw).err();
            let info = EventTypeInfo {
                name: "hostile.type".to_owned(),
                description: String::new(),
                schema: Some(raw),
                ttl_secs: None,
                barrier: false,
            };
            let errors = Validator::default().check(&info, &payload.to_string()).err();
            let took = begun.elapsed();
            assert!(took < TEST_TIMEOUT, "STORY_SEED={seed}, case {nth} took {took:?}: {text}");
            slowest = slowest.max(took);
            let said = format!("{refusal:?} {errors:?}");
            assert!(
                !said.contains("service's log"),
                "STORY_SEED={seed}, case {nth}: {said}: {text}"
            );
            usable += usize::from(refusal.is_none());
            valid += usize::from(errors.is_none());
            stopped += usize::from(said.contains("takes too long"));
        }
        println!("{usable} usable, {valid} valid, {stopped} stopped; the slowest {slowest:?}");
        assert!(usable > 100 && valid > 20 && stopped > 20, "the cases test nothing");
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(checking);
    thread.expect("a thread").join().expect("each was answered");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
async fn hostile_schemas_and_payloads_are_answered_over_http() {
    let seed = seed();
    println!("STORY_SEED={seed}");
    let mut generator = Generator::new(seed);
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let admin = service.admin();
    let mut accepted = 0;
    for nth in 0..60 {
        let (schema, payload) = generator.case();
        let name = format!("hostile.type{nth}");
        if registered(&admin.put(&format!("/event-types/{name}"), &json!({"schema": schema})).await)
        {
            let answer = admin.post("/events", &event(&id, &name, &payload)).await;
            accepted += i64::from(is_accepted(&answer));
        }
    }
    let good = admin.post("/events", &crate::support::deployed(&[&id], "d-1")).await;
    good.success();
    let mut socket = service.connected(&key).await;
    socket.expect(1..=accepted + 1).await;
    assert_eq!(service.terminate().await, Some(0));
}
