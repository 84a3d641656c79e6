//! Bodies, parameters and options with values of the wrong kind: the answer names the field, and says
//! what it must be.

use serde_json::json;

use crate::support::Service;
use crate::support::command::{command, run};
use crate::support::http::{in_words_of_the_contract, reply};

#[tokio::test]
async fn a_field_of_the_wrong_kind_is_named_with_what_it_must_be() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    for (path, body, field, says) in [
        ("/gateways", json!({"name": 1}), "name", "must be a string, not 1"),
        (
            "/gateways",
            json!({"name": "a", "labels": {"a": 1}}),
            "labels/a",
            "must be a string, not 1",
        ),
        (
            "/gateways",
            json!({"name": "a", "labels": []}),
            "labels",
            "must be a JSON object, not an array",
        ),
        ("/gateways", json!({}), "name", "is required"),
        (
            "/access-tokens",
            json!({"name": "a", "scopes": "read"}),
            "scopes",
            "must be an array, not \"read\"",
        ),
        ("/access-tokens", json!({"name": "a", "scopes": ["all"]}), "scopes/0", "must be one of"),
        ("/access-tokens", json!({"name": "a", "scopes": [1]}), "scopes/0", "must be"),
        (
            "/deliveries/redrive",
            json!({"dryRun": "yes"}),
            "dryRun",
            "must be true or false, not \"yes\"",
        ),
        (
            "/deliveries/redrive",
            json!({"filter": {"reason": 1}}),
            "filter/reason",
            "must be a string, not 1",
        ),
        ("/gateways", json!([]), "body", "must be a JSON object, not an array"),
    ] {
        admin.post(path, &body).await.invalid(field, &[says]);
    }
    let path = format!("/gateways/{id}");
    admin
        .patch(&path, &json!({"replicas": "two"}))
        .await
        .invalid("replicas", &["must be a whole number, not \"two\""]);
    let skip = format!("{path}/skip");
    admin
        .post(&skip, &json!({"sequence": "1", "reason": "a"}))
        .await
        .invalid("sequence", &["must be a whole number from 0 to 9007199254740991, not \"1\""]);
    for (field, value, says) in [
        ("ttlSeconds", json!("1"), "must be a whole number from 0 to 9007199254740991, not \"1\""),
        ("ttlSeconds", json!(-1), "must be a whole number from 0 to 9007199254740991, not -1"),
        ("type", json!(7), "must be a string, not 7"),
        ("target", json!(7), "must be a JSON object, not 7"),
    ] {
        let mut event = crate::support::deployed(&[&id], "d");
        event[field] = value;
        admin.post("/events", &event).await.invalid(field, &[says]);
    }
    let mut event = crate::support::deployed(&[&id], "d");
    event["gatewayIds"] = json!([id, 7]);
    admin.post("/events", &event).await.invalid("gatewayIds/1", &["must be a UUID, not 7"]);
}

#[tokio::test]
async fn a_parameter_of_the_wrong_kind_is_named_with_what_it_must_be() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    for value in ["many", "-1", "1.5", "4294967296", ""] {
        let request = service
            .caller(None)
            .request(reqwest::Method::GET, &format!("/gateways/stream?window={value}"));
        reply(request.header("api-key", &key)).await.invalid(
            "window",
            &[&format!("must be a whole number from 0 to 4294967295, not {value:?}")],
        );
    }
    for (path, field, says) in [
        ("/gateways?limit=x", "limit", "must be a whole number from 1 to 1000, not \"x\""),
        ("/events?gatewayId=x", "gatewayId", "must be a gateway's id, a UUID, not \"x\""),
        ("/events?from=x", "from", "`x` is not an RFC 3339 time"),
        (&*format!("/gateways/{id}/log?after=x"), "after", "not \"x\""),
    ] {
        let refused = admin.get(path).await;
        refused.invalid(field, &[says]);
    }
}

#[tokio::test]
async fn an_option_of_the_wrong_kind_is_named_with_what_it_must_be() {
    for (arguments, says) in [
        ("event list --limit x", "invalid value 'x' for '--limit <LIMIT>': must be a whole number"),
        ("event list --limit=-1", "'--limit"),
        ("gateway log one --after x", "for '--after <SEQUENCE>': must be a whole number"),
        ("gateway log one --after 99999999999999999999", "must be a whole number"),
        ("gateway update one --replicas two", "must be a whole number"),
        ("gateway skip one x --reason a", "must be a whole number"),
        ("listen one --after x", "must be a whole number"),
        ("event list --since x", "invalid value 'x' for '--since <FROM>'"),
        ("event list --since=x", "invalid value 'x' for '--since <FROM>'"),
        ("event list --from x", "invalid value 'x' for '--from <FROM>'"),
        ("inbox retry 7 --since 1h", "'--since <FROM>'"),
        ("gateway replay one --since 1h --to-sequence 7", "'--since <FROM>'"),
        ("event show x --timeout x", "--timeout"),
    ] {
        let said = run(&mut command(arguments)).await;
        assert_eq!(said.code, Some(2), "{arguments}: {said:?}");
        assert!(said.err.contains(says), "{arguments}: {said:?}");
        in_words_of_the_contract(&said.err);
    }
}
