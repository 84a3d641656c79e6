//! Events that instances of a gateway do not want are shown as filtered, never as received: in
//! rollouts and waits, in the event's verdict, its diagnosis and its deliveries, in the gateway's log,
//! and by the command line.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer;
use crate::support::{Service, deployed};

on_both! {
    a_gateway_that_filters_an_event_is_not_shown_as_having_received_it
    an_event_that_all_gateways_filter_is_not_waited_for
    one_instance_that_receives_an_event_outweighs_one_that_filters_it
    if_all_instances_must_confirm_only_those_that_want_the_event_have_to_apply_it
}

const DEPLOYMENTS: [&str; 1] = ["api.deployed"];
const OTHERS: [&str; 1] = ["gateway.config.updated"];

fn deleted_secret(gateway: &str) -> Value {
    json!({"type": "secret.deleted", "gatewayIds": [gateway], "payload": {"handle": "h", "revision": 4}})
}

async fn publish(service: &Service, event: &Value) -> String {
    let stored = service.admin().post("/events", event).await.success();
    stored["id"].as_str().expect("an id").to_owned()
}

/// Connects an instance that wants these types.
async fn instance(service: &Service, key: &str, name: &str, types: [&str; 1]) -> Peer {
    Peer::connect(service, key, json!({"instance": name, "types": types})).await
}

async fn confirmed(service: &Service, gateway: &str, position: i64) {
    service.eventually(&format!("/gateways/{gateway}"), |it| it["confirmed"] == position).await;
}

/// The rollout of an event, after the wait that this query asks for.
async fn rollout(service: &Service, event: &str, query: &str) -> Value {
    let path = format!("/rollouts?eventId={event}{query}");
    service.admin().get(&path).await.success()["rollout"].clone()
}

/// An event at one gateway.
async fn at_one(service: &Service, event: &str) -> (String, Value) {
    let gateway = rollout(service, event, "").await["gateways"][0].clone();
    (gateway["state"].as_str().expect("a state").to_owned(), gateway["filteredBy"].clone())
}

async fn a_gateway_that_filters_an_event_is_not_shown_as_having_received_it(backend: Backend) {
    let service = backend.start().await;
    let (berlin, berlin_key) = service.gateway("berlin").await;
    let (tokyo, tokyo_key) = service.gateway("tokyo").await;
    let mut wants = instance(&service, &berlin_key, "b-1", DEPLOYMENTS).await;
    let _filters = instance(&service, &tokyo_key, "t-1", OTHERS).await;
    let event = publish(&service, &deployed(&[&berlin, &tokyo], "d-1")).await;
    let works = async {
        wants.event(1).await;
        wants.applied(1).await;
    };
    let (waited, ()) =
        futures_util::join!(rollout(&service, &event, "&wait=applied&timeout=20s"), works);
    assert_eq!((&waited["reached"], &waited["needed"]), (&json!(true), &json!(1)), "{waited:#}");
    confirmed(&service, &tokyo, 1).await;

    let shown = rollout(&service, &event, "&wait=applied&quorum=100%25").await;
    let counts = (&shown["targets"], &shown["applied"], &shown["received"], &shown["filtered"]);
    assert_eq!(counts, (&json!(2), &json!(1), &json!(0), &json!(1)), "{shown:#}");
    assert_eq!((&shown["reached"], &shown["needed"]), (&json!(true), &json!(1)));
    let gateways = &shown["gateways"];
    assert_eq!(
        (&gateways[0]["state"], &gateways[0]["filteredBy"]),
        (&json!("applied"), &Value::Null)
    );
    assert_eq!(
        (&gateways[1]["state"], &gateways[1]["filteredBy"]),
        (&json!("filtered"), &json!(["t-1"]))
    );
    // A number of gateways stays that number.
    let two = rollout(&service, &event, "&wait=received&quorum=2&timeout=20s").await;
    assert_eq!((&two["ended"], &two["needed"]), (&json!("unreachable"), &json!(2)));

    let history = service.admin().get(&format!("/events/{event}")).await.success();
    let verdict = &history["verdict"];
    assert_eq!(verdict["state"], "delivered", "{verdict:#}");
    assert_eq!((&verdict["gateways"], &verdict["filtered"]), (&json!(1), &json!(1)));
    let summary = verdict["summary"].as_str().expect("a sentence");
    assert!(summary.starts_with("delivered to 1 of 2 gateways, the last at "), "{summary}");
    assert!(summary.ends_with("; filtered by 1"), "{summary}");
    let deliveries = history["deliveries"].as_array().expect("a list");
    let states: Vec<_> = deliveries.iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, ["delivered", "filtered"]);
    let log = service.admin().get(&format!("/gateways/{tokyo}/log")).await.success();
    assert_eq!(log["list"][0]["state"], "filtered");
    let delivered = service.admin().get("/deliveries?status=delivered").await.success();
    assert_eq!(
        (&delivered["count"], &delivered["list"][0]["gatewayId"]),
        (&json!(1), &json!(berlin))
    );

    let why = service.admin().get(&format!("/events/{event}/diagnosis")).await.success();
    assert_eq!(why["open"]["list"], json!([]));
    let filtered = why["filtered"]["list"].as_array().expect("a list");
    assert_eq!((filtered.len(), &filtered[0]["gatewayName"]), (1, &json!("tokyo")), "{why:#}");
    let why = service.run(&format!("why {event}")).await;
    for says in
        ["delivered to 1 of 2 gateways", "filtered", "at tokyo, sequence 1", "nothing to do"]
    {
        let text = why.well().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(says), "{says:?} is missing: {why:?}");
    }
    let shown = service.run(&format!("rollout --event {event}")).await;
    assert!(shown.well().starts_with("1 applied, 1 filtered of 2 gateways"), "{shown:?}");
    assert!(shown.out.contains("by t-1"), "{shown:?}");
    let log = service.run("gateway log tokyo").await;
    assert!(log.well().contains("filtered"), "{log:?}");
    let event = service.run(&format!("event show {event}")).await;
    assert!(event.well().contains("filtered"), "{event:?}");
}

async fn an_event_that_all_gateways_filter_is_not_waited_for(backend: Backend) {
    let service = backend.start().await;
    let (tokyo, key) = service.gateway("tokyo").await;
    let _filters = instance(&service, &key, "t-1", OTHERS).await;
    let event = publish(&service, &deployed(&[&tokyo], "d-1")).await;
    let waited = rollout(&service, &event, "&wait=applied&timeout=20s").await;
    assert_eq!((&waited["reached"], &waited["ended"]), (&json!(false), &json!("filtered")));
    assert_eq!((&waited["needed"], &waited["filtered"]), (&json!(0), &json!(1)), "{waited:#}");
    let history = service.admin().get(&format!("/events/{event}")).await.success();
    assert_eq!(history["verdict"]["state"], "filtered");
    let summary = history["verdict"]["summary"].as_str().expect("a sentence");
    assert!(summary.starts_with("filtered by 1 gateway, the last at "), "{summary}");
    let why = service.run(&format!("why {event}")).await;
    for says in ["was filtered by 1 gateway", "events of type api.deployed", "event resend"] {
        let words = why.well().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(says), "{says:?} is missing: {why:?}");
    }
    let payload =
        "{\"apiId\":\"a-1\",\"deploymentId\":\"d-2\",\"performedAt\":\"2026-01-31T09:30:00.001Z\"}";
    let publish = format!("event publish api.deployed {payload} --gateway tokyo --wait received");
    let waited = service.run(&publish).await;
    assert_eq!(waited.code, Some(1), "{waited:?}");
    assert!(waited.out.starts_with("not reached: all gateways filtered it"), "{waited:?}");
    assert!(waited.err.contains("tokyo  filtered: by t-1"), "{waited:?}");
}

async fn one_instance_that_receives_an_event_outweighs_one_that_filters_it(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    let _filters = instance(&service, &key, "east", OTHERS).await;
    let mut wants = instance(&service, &key, "west", DEPLOYMENTS).await;
    let event = publish(&service, &deployed(&[&id], "d-1")).await;
    confirmed(&service, &id, 1).await;
    wants.event(1).await;
    // The other instance is connected and may still receive it, so a wait goes on.
    assert_eq!(at_one(&service, &event).await, ("filtered".to_owned(), json!(["east"])));
    let short = rollout(&service, &event, "&wait=received&timeout=0s").await;
    assert_eq!((&short["ended"], &short["needed"]), (&json!("timeout"), &json!(1)), "{short:#}");
    let (waited, ()) = futures_util::join!(
        rollout(&service, &event, "&wait=received&timeout=20s"),
        wants.applied(1)
    );
    assert_eq!(waited["reached"], true, "{waited:#}");
    assert_eq!(at_one(&service, &event).await, ("applied".to_owned(), json!(["east"])));
    let history = service.admin().get(&format!("/events/{event}")).await.success();
    assert_eq!(history["deliveries"][0]["state"], "delivered");

    // If both filter the next one, it is filtered.
    let secret = publish(&service, &deleted_secret(&id)).await;
    confirmed(&service, &id, 2).await;
    let waited = rollout(&service, &secret, "&wait=received&timeout=20s").await;
    assert_eq!(waited["ended"], "filtered", "{waited:#}");
}

async fn if_all_instances_must_confirm_only_those_that_want_the_event_have_to_apply_it(
    backend: Backend,
) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    let all = json!({"confirmation": "all"});
    service.api().patch(&format!("/gateways/{id}"), &all).await.expect("changed");
    let mut wants = instance(&service, &key, "west", DEPLOYMENTS).await;
    let _filters = instance(&service, &key, "east", OTHERS).await;
    let event = publish(&service, &deployed(&[&id], "d-1")).await;
    wants.event(1).await;
    let instances = format!("/gateways/{id}/instances");
    service.eventually(&instances, |it| it["list"][0]["lag"] == 0).await;
    assert_eq!(at_one(&service, &event).await.0, "pending", "one has not passed it");
    let (waited, ()) = futures_util::join!(
        rollout(&service, &event, "&wait=applied&timeout=20s"),
        wants.applied(1)
    );
    assert_eq!(waited["reached"], true, "{waited:#}");
    assert_eq!(at_one(&service, &event).await, ("applied".to_owned(), json!(["east"])));
    let secret = publish(&service, &deleted_secret(&id)).await;
    let waited = rollout(&service, &secret, "&wait=received&timeout=20s").await;
    assert_eq!(waited["ended"], "filtered", "{waited:#}");
    assert_eq!(waited["gateways"][0]["filteredBy"], json!(["east", "west"]));
}
