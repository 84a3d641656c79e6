//! An event whose target matches no gateway is accepted, with a warning.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::conformance::{InboxProgram as _, Row};
use crate::inbox_program::Program;
use crate::support::Service;
use crate::support::deployed;

on_both! {
    publish_warns_if_no_gateway_matches_also_when_repeated
}

fn labelled(value: &str) -> Value {
    let mut event = deployed(&[], "d-1");
    event.as_object_mut().expect("an event").remove("gatewayIds");
    event["target"] = json!({"labels": {"region": value}});
    event
}

fn warned(answer: &Value) -> bool {
    answer["warnings"][0]["code"] == "no_gateways_matched"
}

async fn publish_warns_if_no_gateway_matches_also_when_repeated(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let eu = json!({"name": "eu", "labels": {"region": "eu"}});
    admin.post("/gateways", &eu).await.success();
    let mut typo = labelled("ue");
    typo["id"] = json!("mine-1");
    for _ in 0..2 {
        let answer = admin.publish_once("k-1", &typo).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(warned(&answer.json()), "{answer:?}");
    }
    let by_id = admin.post("/events", &typo).await.success();
    assert!(warned(&by_id), "{by_id:#}");
    // A gateway that is registered later does not receive it, and the stored response stays.
    let late = json!({"name": "ue", "labels": {"region": "ue"}});
    admin.post("/gateways", &late).await.success();
    assert_eq!(admin.post("/events", &typo).await.success(), by_id);
    let batch = json!([labelled("eu"), labelled("us"), {"type": "api.deployed"}]);
    let answer = admin.post("/events", &batch).await.success();
    assert_eq!(answer["results"][0]["warnings"], Value::Null, "{answer:#}");
    assert!(warned(&answer["results"][1]), "{answer:#}");
    let counted = "gateway_events_unmatched_events_total{source=\"http\"} 5";
    let metrics = service.metrics().await;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn an_inbox_row_is_counted_and_logged() {
    let service = Service::start().await;
    let program = Program::start(&service.database()).await;
    let row = Row {
        event_type: "gateway.config.updated".to_owned(),
        payload: json!({"configType": "cache", "action": "update"}).to_string(),
        target: Some(json!({"labels": {"region": "ue"}}).to_string()),
        ..Row::default()
    };
    program.insert(&[row]).await;
    service.logged(|log| log.contains("no gateway matched the target of an inbox row")).await;
    let counted = "gateway_events_unmatched_events_total{source=\"inbox\"} 1";
    assert!(service.metrics().await.contains(counted));
}

#[tokio::test]
async fn publish_exits_with_3_if_no_gateway_matches() {
    let service = Service::start().await;
    let publish =
        r#"event publish gateway.config.updated {"configType":"cache","action":"update"}"#;
    let said = service.run(&format!("{publish} --label region=ue --id e-1")).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.out.contains("event e-1 is stored"), "{said:?}");
    assert!(said.err.contains("no gateway matched"), "{said:?}");
    let said = service.run(&format!("{publish} --label region=ue --id e-1 --json")).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let answer: Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(warned(&answer), "{answer:#}");
    service.gateway("one").await;
    service.run(&format!("{publish} --all")).await.well();
}
