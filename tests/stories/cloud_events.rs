//! CloudEvents 1.0: publishing in the content modes of their HTTP binding, and the envelope in which
//! gateways of reliable mode receive events.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer;
use crate::support::Service;
use crate::support::http::{Caller, Reply, reply};

mod envelope;
mod refusals;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";

on_both! {
    an_event_in_structured_mode_comes_out_as_it_went_in
    an_event_in_binary_mode_comes_out_as_it_went_in
    an_event_that_is_published_again_keeps_its_attributes
    a_batch_is_accepted_event_by_event
    an_event_is_a_repeat_in_whatever_mode
    an_idempotency_key_covers_the_headers_of_an_event
    the_attributes_select_the_gateways_and_the_expiry
    the_scenarios_of_the_conformance_suite_are_read
    the_examples_of_the_json_format_are_read_or_refused_by_name
}

/// An event for all gateways, with these members in addition.
fn event(id: &str, members: &Value) -> Value {
    let mut event = json!({
        "specversion": "1.0", "id": id, "source": "/platform/config",
        "type": "gateway.config.updated", "targetall": true,
        "data": {"configType": "cache", "action": "update"},
    });
    event.as_object_mut().expect("one").extend(members.as_object().expect("one").clone());
    event
}

/// Publishes a body of this media type.
async fn post(caller: &Caller, media_type: &str, body: impl Into<reqwest::Body>) -> Reply {
    let request = caller.request(Method::POST, "/events");
    reply(request.header(CONTENT_TYPE, media_type).body(body)).await
}

/// Publishes an event in binary mode.
pub(crate) async fn post_binary(caller: &Caller, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut request = caller.request(Method::POST, "/events").body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    reply(request).await
}

/// A gateway that receives CloudEvents.
async fn connected(service: &Service, key: &str) -> Peer {
    let mut peer = Peer::greet(service, key).await;
    peer.hello(json!({"envelope": "cloudevents"})).await;
    let resumed = peer.frame().await;
    assert_eq!(resumed["type"], "connection.resumed", "{resumed}");
    assert_eq!(resumed["envelope"], "cloudevents");
    peer
}

/// The next event as a CloudEvent, without the members that differ between deliveries.
async fn received(peer: &mut Peer, sequence: i64) -> Value {
    let mut event = peer.frame_of("gateway.config.updated").await;
    let members = event.as_object_mut().expect("an object");
    assert_eq!(members.remove("sequence"), Some(json!(format!("{sequence:016}"))));
    assert_eq!(members.remove("previous"), Some(json!(format!("{:016}", sequence - 1))));
    assert_eq!(members.remove("epoch"), Some(peer.ack["epoch"].clone()));
    assert_eq!(members.remove("attempt"), Some(json!(1)));
    event
}

async fn an_event_in_structured_mode_comes_out_as_it_went_in(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut peer = connected(&service, &key).await;
    let sent = event(
        "A-1",
        &json!({
            "subject": "größe \"x\"", "time": "2026-01-31T10:30:00.001+01:00",
            "datacontenttype": "application/vnd.config+json; charset=utf-8",
            "dataschema": "https://example.com/schema?v=1", "correlationid": "c-1",
            "userid": "Jürgen", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "comexampleextension1": "value", "comexampleothervalue": 5, "flag": false,
            "unsetextension": null, "tracestate": "a=1,b=2",
        }),
    );
    let answer = post(&service.admin(), STRUCTURED, sent.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let delivery = json!({"gatewayId": id, "sequence": 1});
    assert_eq!(answer.json(), json!({"id": "A-1", "deliveries": [delivery]}));
    let mut expected = sent;
    let members = expected.as_object_mut().expect("an object");
    members.remove("targetall");
    members.remove("unsetextension");
    members.insert("time".to_owned(), json!("2026-01-31T09:30:00.001000Z"));
    assert_eq!(received(&mut peer, 1).await, expected);
    // The other columns have what the attributes say.
    let shown = service.admin().get("/events/A-1").await.success();
    assert_eq!(shown["correlationId"], "c-1");
    assert_eq!(shown["userId"], "Jürgen");
    assert_eq!(shown["occurredAt"], "2026-01-31T09:30:00.001000Z");
    assert_eq!(shown["attributes"]["comexampleothervalue"], 5, "{shown:#}");
    assert_eq!(shown["attributes"]["source"], "/platform/config");
}

async fn an_event_that_is_published_again_keeps_its_attributes(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let labels = json!({"labels": {"env": "prod", "zones": "a,b"}});
    service.admin().patch(&format!("/gateways/{id}"), &labels).await.success();
    let sent = event(
        "A-1",
        &json!({
            "subject": "s", "datacontenttype": "application/vnd.config+json", "number": 5,
            "correlationid": "c-1", "userid": "u", "collapsekey": "k", "ttlseconds": 900,
        }),
    );
    post(&service.admin(), STRUCTURED, sent.to_string()).await.success();
    for target in ["--gateway one", "--label env=prod", "--all"] {
        let said = service.run(&format!("event republish A-1 {target}")).await;
        assert!(said.well().contains("is stored"), "{said:?}");
    }
    let commas = service.run("event republish A-1 --label zones=a,b").await;
    commas.failed(1, &["zones", "comma", "--gateway"]);
    let mut peer = connected(&service, &key).await;
    // The key's older events may be superseded.
    let mut last = peer.frame_of("gateway.config.updated").await;
    while last["sequence"] != "0000000000000004" {
        last = peer.frame_of("gateway.config.updated").await;
    }
    let members = last.as_object_mut().expect("an object");
    assert_ne!(members["id"], "A-1");
    for varies in ["id", "time", "sequence", "previous", "epoch", "attempt", "expirytime"] {
        assert!(members.remove(varies).is_some(), "{varies}: {members:?}");
    }
    let mut expected = sent;
    let members = expected.as_object_mut().expect("an object");
    for published in ["id", "targetall", "ttlseconds", "collapsekey", "time"] {
        members.remove(published);
    }
    assert_eq!(last, expected);
}

async fn an_event_in_binary_mode_comes_out_as_it_went_in(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut peer = connected(&service, &key).await;
    let payload = "{ \"configType\" : \"cache\",\"action\":\"update\", \"n\": 1.10 }";
    let headers = [
        ("Ce-SpecVersion", "1.0"),
        ("ce-id", "B-1"),
        ("ce-source", "urn:example:config"),
        ("ce-type", "gateway.config.updated"),
        ("ce-subject", "Euro%20%E2%82%ac%20%F0%9F%98%80"),
        ("ce-gatewayids", id.as_str()),
        ("ce-quoted", r#""a \"b\" %25""#),
        ("ce-number", "5"),
        ("content-type", "application/json; charset=UTF-8"),
        ("x-other", "ignored"),
    ];
    let answer = post_binary(&service.admin(), &headers, &format!(" {payload}\n")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let event = received(&mut peer, 1).await;
    assert_eq!(event["subject"], "Euro € 😀");
    assert_eq!(event["quoted"], "a \"b\" %");
    assert_eq!(event["number"], "5");
    assert_eq!(event["source"], "urn:example:config");
    assert_eq!(event["datacontenttype"], "application/json; charset=UTF-8");
    assert!(event.get("gatewayids").is_none() && event.get("x-other").is_none(), "{event}");
    // Byte for byte.
    let shown = service.admin().get("/events/B-1").await;
    assert!(shown.body.contains(payload), "{}", shown.body);
}

async fn a_batch_is_accepted_event_by_event(backend: Backend) {
    let service = backend.start().await;
    let (_, key) = service.gateway("one").await;
    let mut peer = connected(&service, &key).await;
    let caller = service.admin();
    let batch = json!([event("C-1", &json!({"nth": 1})), event("C-2", &json!({"nth": 2}))]);
    let answer =
        post(&caller, "application/cloudevents-batch+json; charset=utf-8", batch.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    for sequence in 1..=2 {
        assert_eq!(received(&mut peer, sequence).await["nth"], sequence);
    }
    let batch = json!([event("C-3", &json!({"Bad": 1})), event("C-4", &json!({})), 7]);
    let answer = post(&caller, BATCHED, batch.to_string()).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let results = answer.json()["results"].clone();
    assert_eq!(results[0]["errors"][0]["field"], "Bad", "{results:#}");
    assert_eq!(results[1]["deliveries"][0]["sequence"], 3, "{results:#}");
    assert_eq!(results[2]["status"], 422, "{results:#}");
    // The largest batch, and one that is too large.
    let most: Vec<Value> = (0..1000).map(|nth| event(&format!("D-{nth}"), &json!({}))).collect();
    let answer = post(&caller, BATCHED, json!(most).to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let more: Vec<Value> = (0..1001).map(|nth| event(&format!("E-{nth}"), &json!({}))).collect();
    let answer = post(&caller, BATCHED, json!(more).to_string()).await;
    answer.invalid("body", &["1 to 1000 events"]);
    assert_eq!(caller.get("/events/E-0").await.status, 404);
}

async fn an_event_is_a_repeat_in_whatever_mode(backend: Backend) {
    let service = backend.start().await;
    service.gateway("one").await;
    let caller = service.admin();
    let data = r#"{"configType":"cache","action":"update"}"#;
    let members = r#""specversion":"1.0","id":"F-1","source":"/a","type":"gateway.config.updated""#;
    let structured =
        format!(r#"{{"data":{data},"number":5,{members},"targetall":true,"flag":true}}"#);
    let first = post(&caller, STRUCTURED, structured.clone()).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = post(&caller, STRUCTURED, structured.clone()).await;
    assert_eq!((again.status, again.json()), (202, first.json()));
    let batch = post(&caller, BATCHED, format!("[{structured}]")).await;
    assert_eq!(batch.json()["results"][0], first.json());
    let mut headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "F-1"),
        ("ce-source", "/a"),
        ("ce-type", "gateway.config.updated"),
        ("ce-targetall", "true"),
        ("ce-flag", "true"),
        ("ce-number", "5"),
        ("content-type", "application/json"),
    ];
    let binary = post_binary(&caller, &headers, data).await;
    assert_eq!((binary.status, binary.json()), (202, first.json()));
    // Another event with the same id is refused, whatever differs.
    headers[6] = ("ce-number", "6");
    post_binary(&caller, &headers, data).await.refusal(409, "event_id_taken");
    let other_source = structured.replace("\"/a\"", "\"/b\"");
    post(&caller, STRUCTURED, other_source).await.refusal(409, "event_id_taken");
}

async fn an_idempotency_key_covers_the_headers_of_an_event(backend: Backend) {
    let service = backend.start().await;
    service.gateway("one").await;
    let caller = service.admin();
    let data = r#"{"configType":"cache","action":"update"}"#;
    let mut headers = [
        ("idempotency-key", "k-1"),
        ("ce-specversion", "1.0"),
        ("ce-id", "G-1"),
        ("ce-source", "/a"),
        ("ce-type", "gateway.config.updated"),
        ("ce-targetall", "true"),
    ];
    let first = post_binary(&caller, &headers, data).await;
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(post_binary(&caller, &headers, data).await.json(), first.json());
    headers[2] = ("ce-id", "G-2");
    post_binary(&caller, &headers, data).await.refusal(422, "idempotency_key_reused");
}

async fn the_attributes_select_the_gateways_and_the_expiry(backend: Backend) {
    let service = backend.start().await;
    let caller = service.admin();
    let mut ids = Vec::new();
    for (name, labels) in
        [("one", json!({"env": "prod", "zone": "eu"})), ("two", json!({"env": "prod"}))]
    {
        let made =
            caller.post("/gateways", &json!({"name": name, "labels": labels})).await.success();
        ids.push(made["id"].as_str().expect("an id").to_owned());
    }
    let all = ids.join(", ");
    for (nth, (target, gateways)) in [
        (json!({"targetlabels": "env=prod,zone=eu"}), 1),
        (json!({"targetlabels": "env=prod"}), 2),
        (json!({"gatewayids": ids[0]}), 1),
        (json!({"gatewayids": all}), 2),
        (json!({"targetall": "true"}), 2),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("H-{nth}");
        let mut event = event(&id, &json!({"targetall": null, "ttlseconds": 60}));
        let members = event.as_object_mut().expect("an object");
        members.extend(target.as_object().expect("an object").clone());
        let answer = post(&caller, STRUCTURED, event.to_string()).await;
        let deliveries = answer.success()["deliveries"].as_array().expect("a list").len();
        assert_eq!(deliveries, gateways, "{event}");
        let shown = caller.get(&format!("/events/{id}")).await.success();
        assert!(shown["expiresAt"].is_string(), "{shown:#}");
        assert_eq!(shown["attributes"], json!({"source": "/platform/config"}));
    }
}

/// The event of the scenarios for HTTP in the conformance suite of CloudEvents.
async fn the_scenarios_of_the_conformance_suite_are_read(backend: Backend) {
    let service = backend.start().await;
    let (_, key) = service.gateway("one").await;
    let caller = service.admin();
    let described = json!({"description": "An example"});
    caller.put("/event-types/com.example.someevent", &described).await.success();
    let mut peer = connected(&service, &key).await;
    let (kind, time) = ("com.example.someevent", "2018-04-05T03:56:24Z");
    let data = json!({"message": "Hello World!"});
    for (nth, media_type) in
        ["application/json", "application/json; charset=utf-8"].into_iter().enumerate()
    {
        let id = format!("1234-1234-{nth}");
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-type", kind),
            ("ce-time", time),
            ("ce-id", &id),
            ("ce-source", "/mycontext/subcontext"),
            ("ce-targetall", "true"),
            ("content-type", media_type),
        ];
        let answer = post_binary(&caller, &headers, &data.to_string()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let event = peer.frame_of(kind).await;
        assert_eq!((&event["id"], &event["datacontenttype"]), (&json!(id), &json!(media_type)));
        assert_eq!(event["source"], "/mycontext/subcontext");
        assert_eq!(
            (&event["time"], &event["data"]),
            (&json!("2018-04-05T03:56:24.000000Z"), &data)
        );
    }
    for (nth, media_type) in
        [STRUCTURED, "application/cloudevents+json; charset=utf-8"].into_iter().enumerate()
    {
        let id = format!("1234-5678-{nth}");
        let sent = json!({
            "specversion": "1.0", "type": kind, "time": time, "id": id, "targetall": true,
            "source": "/mycontext/subcontext", "datacontenttype": "application/json", "data": data,
        });
        assert_eq!(post(&caller, media_type, sent.to_string()).await.status, 202);
        let event = peer.frame_of(kind).await;
        assert_eq!((&event["id"], &event["data"]), (&json!(id), &data), "{event}");
        assert_eq!(event["datacontenttype"], "application/json");
    }
}

/// The examples of the JSON format (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>,
/// sections 3.2 and 4.2), with the target that this service needs: what it accepts, and which member it
/// refuses because events must have a JSON object as data.
async fn the_examples_of_the_json_format_are_read_or_refused_by_name(backend: Backend) {
    let service = backend.start().await;
    let (_, key) = service.gateway("one").await;
    let caller = service.admin();
    for kind in ["com.example.someevent", "com.example.someotherevent"] {
        let described = json!({"description": "An example"});
        caller.put(&format!("/event-types/{kind}"), &described).await.success();
    }
    let example = |id: &str, more: Value| {
        let mut event = json!({
            "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "subject": null,
            "id": id, "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value",
            "comexampleothervalue": 5, "targetall": true,
        });
        let members = event.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        event
    };
    let object = json!({"appinfoA": "abc", "appinfoB": 123, "appinfoC": true});
    let with_object = json!({"datacontenttype": "application/json", "data": object});
    let base64 = json!({
        "datacontenttype": "application/vnd.apache.thrift.binary", "data_base64": "AAECAwQ=",
    });
    let xml = json!({"datacontenttype": "application/xml", "data": "<much wow=\"xml\"/>"});
    let number = json!({"datacontenttype": "application/json", "data": 1.5});
    for (id, more, refused) in [
        ("A234-1234-1234", xml, Some("datacontenttype")),
        ("B234-1234-1234", base64.clone(), Some("datacontenttype")),
        ("C234-1234-1234", with_object.clone(), None),
        ("D234-1234-1234", number, Some("data")),
    ] {
        let answer = post(&caller, STRUCTURED, example(id, more).to_string()).await;
        match refused {
            Some(member) => answer.invalid(member, &[]),
            None => assert_eq!(answer.status, 202, "{answer:?}"),
        }
    }
    let other = json!({"type": "com.example.someotherevent", "source": "/mycontext/9"});
    let mut second = example("C234-1234-1235", with_object);
    second.as_object_mut().expect("an object").extend(other.as_object().expect("one").clone());
    let batch = json!([example("B234-1234-1235", base64), second]);
    let answer = post(&caller, BATCHED, batch.to_string()).await.json();
    assert_eq!(answer["results"][0]["status"], 422, "{answer:#}");
    assert_eq!(answer["results"][1]["id"], "C234-1234-1235", "{answer:#}");
    assert_eq!(post(&caller, BATCHED, json!([second]).to_string()).await.status, 202);
    let mut peer = connected(&service, &key).await;
    for (kind, id) in [
        ("com.example.someevent", "C234-1234-1234"),
        ("com.example.someotherevent", "C234-1234-1235"),
    ] {
        let event = peer.frame_of(kind).await;
        assert_eq!((&event["id"], &event["data"]), (&json!(id), &object), "{event}");
        assert_eq!(event["comexampleextension1"], "value");
        assert_eq!(event["comexampleothervalue"], 5);
    }
}
