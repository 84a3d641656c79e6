//! JSON that can be read in two ways is refused.

use reqwest::Method;
use serde_json::json;

use crate::support::Service;

#[tokio::test]
async fn arrays_are_not_objects_and_duplicate_members_are_refused() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let payload = r#"{"configType":"a","action":"b"}"#;
    let event =
        |rest: &str| format!(r#"{{"type":"gateway.config.updated","payload":{payload},{rest}}}"#);
    let to_one = format!(r#""gatewayIds":["{id}"]"#);
    let refused = [
        ("POST", "/gateways", r#"["two",null,{}]"#.to_owned()),
        ("POST", "/gateways", r#"{"name":"two","name":"three"}"#.to_owned()),
        ("POST", "/gateways", r#"{"name":"two","labels":{"a":"1","a":"2"}}"#.to_owned()),
        ("PATCH", &*format!("/gateways/{id}"), r#"[null,{"a":"1"},null]"#.to_owned()),
        ("PATCH", &*format!("/gateways/{id}"), r#"{"labels":{"a":"1","a":"2"}}"#.to_owned()),
        ("POST", "/access-tokens", r#"["all",["admin"],null]"#.to_owned()),
        ("PUT", "/event-types/a.b", r#"["text",null]"#.to_owned()),
        ("POST", "/deliveries/redrive", r"[null,null,{},true]".to_owned()),
        ("POST", "/deliveries/redrive", r#"{"filter":[null],"dryRun":true}"#.to_owned()),
        ("POST", "/events", event(r#""target":[true,null]"#)),
        ("POST", "/events", event(r#""target":{"all":true,"all":true}"#)),
        ("POST", "/events", event(r#""target":{"labels":{"a":"1","a":"2"}}"#)),
        ("POST", "/events", event(&format!(r#"{to_one},"type":"api.deployed""#))),
        ("POST", "/events", event(&format!("{to_one},{to_one}"))),
    ];
    for (method, path, body) in refused {
        let method: Method = method.parse().expect("a method");
        let request = service.api().at_root(method, &format!("/api/internal/v1{path}"));
        let request =
            request.bearer_auth(&service.token).header("content-type", "application/json");
        let answer = request.body(body.clone()).send().await.expect("an answer");
        assert_eq!(answer.status(), 422, "{path} {body}");
    }
    // Payloads are passed on unchanged.
    let twice = r#"{"configType":"a","action":"b","action":"c"}"#;
    let body = event(&to_one).replace(payload, twice);
    let request = service.api().at_root(Method::POST, "/api/internal/v1/events");
    let request = request.bearer_auth(&service.token).header("content-type", "application/json");
    let answer = request.body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!((&gateway["labels"], &gateway["head"]), (&json!({}), &json!(1)));
}
