//! Authorisation: every route with every kind of credential. A route that is added to
//! the router has to be added to this table.

use std::collections::BTreeSet;

use gateway_events::client::BASE_PATH;
use gateway_events::http::openapi;
use gateway_events::token;
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::Service;
use crate::support::http::{Caller, Reply, reply};

/// The credential that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Publish,
    Read,
    Admin,
    /// A gateway's key in the header `api-key`.
    Key,
    Nothing,
}

use Needs::{Admin, Key, Nothing, Publish, Read};

/// Method, path, required credential, body, and the status for a caller with that credential.
/// Nothing that the paths name exists.
const ROUTES: [(&str, &str, Needs, &str, u16); 76] = [
    ("POST", "/events", Publish, "{}", 422),
    ("GET", "/events", Read, "", 200),
    ("GET", "/events/{id}", Read, "", 404),
    ("POST", "/events/{id}/resend", Admin, r#"{"target":{"all":true}}"#, 404),
    ("DELETE", "/events/{id}/payload", Admin, r#"{"reason":"r"}"#, 404),
    ("GET", "/events/{id}/diagnosis", Read, "", 404),
    ("GET", "/gateways/{id}/diagnosis", Read, "", 404),
    ("GET", "/rollouts", Read, "", 422),
    ("GET", "/event-types", Read, "", 200),
    ("GET", "/event-types/{name}", Read, "", 404),
    ("PUT", "/event-types/{name}", Admin, "[]", 422),
    ("DELETE", "/event-types/{name}", Admin, "", 404),
    ("GET", "/gateways", Read, "", 200),
    ("POST", "/gateways", Admin, "{}", 422),
    ("GET", "/gateways/{id}", Read, "", 404),
    ("PATCH", "/gateways/{id}", Admin, "{}", 404),
    ("DELETE", "/gateways/{id}", Admin, "", 404),
    ("POST", "/gateways/{id}/pause", Admin, "", 404),
    ("POST", "/gateways/{id}/resume", Admin, "", 404),
    ("POST", "/gateways/{id}/skip", Admin, r#"{"sequence":1,"reason":"r"}"#, 404),
    ("POST", "/gateways/{id}/resync", Admin, r#"{"reason":"r"}"#, 404),
    ("POST", "/gateways/{id}/manifest", Key, "{}", 401),
    ("POST", "/gateways/{id}/replay", Admin, r#"{"fromSequence":1}"#, 404),
    ("GET", "/gateways/{id}/tokens", Read, "", 404),
    ("POST", "/gateways/{id}/tokens", Admin, "{}", 404),
    ("DELETE", "/gateways/{id}/tokens/{token}", Admin, "", 404),
    ("GET", "/gateways/{id}/connections", Read, "", 404),
    ("GET", "/gateways/{id}/instances", Read, "", 404),
    ("DELETE", "/gateways/{id}/instances/{name}", Admin, "", 404),
    ("GET", "/gateways/{id}/log", Read, "", 404),
    ("GET", "/connections", Read, "", 200),
    ("GET", "/audit", Admin, "", 200),
    ("GET", "/nodes", Read, "", 200),
    ("GET", "/access-tokens", Admin, "", 200),
    ("POST", "/access-tokens", Admin, "{}", 422),
    ("DELETE", "/access-tokens/{id}", Admin, "", 404),
    ("GET", "/stats", Read, "", 200),
    ("GET", "/stats/published", Read, "", 200),
    ("GET", "/alerts", Read, "", 200),
    ("GET", "/alerts/rules", Read, "", 200),
    ("POST", "/alerts/rules", Admin, "{}", 422),
    ("GET", "/alerts/rules/{id}", Read, "", 404),
    ("PUT", "/alerts/rules/{id}", Admin, "{}", 422),
    ("DELETE", "/alerts/rules/{id}", Admin, "", 404),
    ("PUT", "/alerts/rules/{id}/silence", Admin, "{}", 404),
    ("GET", "/alerts/destinations", Read, "", 200),
    ("POST", "/alerts/destinations", Admin, "{}", 422),
    ("GET", "/alerts/destinations/{id}", Read, "", 404),
    ("PUT", "/alerts/destinations/{id}", Admin, "{}", 422),
    ("DELETE", "/alerts/destinations/{id}", Admin, "", 404),
    ("POST", "/alerts/destinations/{id}/test", Admin, "", 404),
    ("GET", "/feed", Read, "", 422),
    ("GET", "/deliveries", Read, "", 200),
    ("GET", "/deliveries/summary", Read, "", 200),
    ("POST", "/deliveries/redrive", Admin, "{}", 422),
    ("GET", "/jobs", Admin, "", 200),
    ("GET", "/jobs/{id}", Admin, "", 404),
    ("POST", "/jobs/{id}/abort", Admin, "", 404),
    ("GET", "/inbox/rejected", Read, "", 200),
    ("POST", "/inbox/rejected/retry", Admin, r#"{"all":true}"#, 202),
    ("GET", "/inbox/rejected/{id}", Read, "", 404),
    ("PATCH", "/inbox/rejected/{id}", Admin, r#"{"version":1}"#, 404),
    ("DELETE", "/inbox/rejected/{id}", Admin, "", 404),
    ("POST", "/inbox/rejected/{id}/retry", Admin, "", 404),
    ("GET", "/ws/gateways/connect", Key, "", 426),
    ("GET", "/gateways/stream", Key, "", 401),
    ("POST", "/gateways/connections/{connectionId}/frames", Key, "[]", 401),
    ("GET", "/gateways/events", Key, "", 401),
    ("POST", "/gateways/events/instances/{instance}/frames", Key, "[]", 401),
    ("GET", "/livez", Nothing, "", 200),
    ("GET", "/readyz", Nothing, "", 200),
    ("GET", "/metrics", Nothing, "", 200),
    ("GET", "/openapi.json", Nothing, "", 200),
    ("GET", "/asyncapi.json", Nothing, "", 200),
    ("GET", "/docs", Nothing, "", 200),
    ("GET", "/docs/{file}", Nothing, "", 404),
];

const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";

fn filled(path: &str) -> String {
    if path == "/feed" {
        // Otherwise the response has no end.
        return "/feed?types=none".to_owned();
    }
    let id = if path.starts_with("/inbox/") { "7" } else { UNKNOWN };
    path.replace("{id}", id)
        .replace("{name}", "no.such")
        .replace("{token}", "aaaaaaaaaaaa")
        .replace("{file}", "no.such")
}

async fn send(caller: &Caller, route: &(&str, &str, Needs, &'static str, u16)) -> Reply {
    let (method, path, needs, body, _) = *route;
    if needs == Nothing {
        return caller.root(&filled(path)).await;
    }
    let method: Method = method.parse().expect("a method");
    let request = caller.request(method, &filled(path));
    let request = if body.is_empty() { request } else { request.body(body) };
    reply(request.header("content-type", "application/json")).await
}

/// Every route is in the OpenAPI document: the router accepts no others.
#[test]
fn the_table_and_the_document_have_the_same_routes_and_scopes() {
    let document: Value = serde_json::from_str(&openapi::json()).expect("JSON");
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let security = &operation["security"][0];
            let needs = match operation["x-required-scope"].as_str() {
                Some("publish") => Publish,
                Some("read") => Read,
                Some("admin") => Admin,
                Some(other) => panic!("{path} needs {other}"),
                None if security["gateway_key"].is_array() => Key,
                None => Nothing,
            };
            if let Some(scope) = operation["x-required-scope"].as_str() {
                assert_eq!(security["access_token"], json!([scope]), "{path}");
            }
            let path = path.strip_prefix(BASE_PATH).unwrap_or(path);
            documented.insert((method.to_uppercase(), path.to_owned(), format!("{needs:?}")));
        }
    }
    let listed: BTreeSet<_> = ROUTES
        .iter()
        .map(|(method, path, needs, ..)| {
            ((*method).to_owned(), (*path).to_owned(), format!("{needs:?}"))
        })
        .collect();
    assert_eq!(documented, listed);
    let router = include_str!("../../src/http.rs");
    assert!(!router.contains(".route("), "add routes with `routes!`, which documents them");
}

#[tokio::test]
async fn a_route_is_open_to_its_scope_and_to_no_other() {
    let service = Service::start().await;
    let (publisher, reader, admin) = (
        service.scoped(&["publish"]).await,
        service.scoped(&["read"]).await,
        service.scoped(&["admin"]).await,
    );
    for route in &ROUTES {
        let (_, path, needs, _, allowed) = *route;
        for (scope, caller, name) in
            [(Publish, &publisher, "publish"), (Read, &reader, "read"), (Admin, &admin, "admin")]
        {
            let answer = send(caller, route).await;
            if needs == Nothing || needs == scope {
                assert_eq!(answer.status, allowed, "{path} with {name}: {answer:?}");
            } else if needs == Key {
                answer.refusal(401, "unauthorized");
            } else {
                let refusal = answer.refusal(403, "insufficient_scope");
                let lacks = format!("`{needs:?}`").to_lowercase();
                assert!(refusal["detail"].as_str().is_some_and(|text| text.contains(&lacks)));
                // A browser would prompt for a password.
                assert!(!answer.headers.contains_key("www-authenticate"), "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn requests_without_a_valid_token_get_the_same_answer_everywhere() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let (id, key) = service.gateway("one").await;
    let all = json!(["publish", "read", "admin"]);
    let make = async |lifetime: Value| {
        let new = json!({"name": "short", "scopes": all, "expiresInSeconds": lifetime});
        service.admin().post("/access-tokens", &new).await.success()
    };
    let expiring = make(json!(1)).await;
    let revoked = make(Value::Null).await;
    let path = format!("/access-tokens/{}", revoked["id"].as_str().expect("an id"));
    assert_eq!(service.admin().delete(&path).await.status, 204);
    let forged = token::issue(token::Kind::Access).expect("a well-formed one");
    let expired = service.caller(expiring["token"].as_str());
    // The test waits until it has expired.
    let ended = async { while expired.get("/stats").await.status != 401 {} };
    tokio::time::timeout(crate::support::TEST_TIMEOUT, ended).await.expect("it expires");
    let mut bodies = BTreeSet::new();
    for caller in [
        service.caller(None),
        service.caller(Some("nonsense")),
        service.caller(Some(forged.key.expose_secret())),
        service.caller(Some(&key)),
        service.caller(revoked["token"].as_str()),
        expired,
    ] {
        for route in ROUTES.iter().filter(|route| route.2 != Nothing) {
            let answer = send(&caller, route).await;
            answer.refusal(401, "unauthorized");
            let challenge = answer.headers["www-authenticate"].to_str().expect("text");
            assert_eq!(challenge, if route.2 == Key { "ApiKey" } else { "Bearer" });
            bodies.insert(answer.body);
        }
    }
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    // A key gives access to its own gateway's routes; an access token to none of them.
    let with_key = |key: &str, path: &str| {
        let request = service.caller(None).request(Method::POST, path).header("api-key", key);
        reply(request.body("{}"))
    };
    let manifest = format!("/gateways/{id}/manifest");
    assert_eq!(with_key(&key, &manifest).await.status, 204);
    with_key(&key, &format!("/gateways/{UNKNOWN}/manifest")).await.refusal(400, "bad_request");
    with_key(&key, "/gateways/nonsense/manifest").await.refusal(400, "bad_request");
    with_key(&service.token, &manifest).await.refusal(401, "unauthorized");
    let connect = service.caller(None).request(Method::GET, "/ws/gateways/connect");
    let upgrade = reply(connect.header("api-key", &key)).await;
    upgrade.refusal(426, "upgrade_required");
    assert_eq!(upgrade.headers["upgrade"], "websocket");
}

#[tokio::test]
async fn an_unknown_path_or_method_is_a_problem_document() {
    let service = Service::start().await;
    let admin = service.admin();
    for path in ["/nothing", "/secrets", "/deployments", "/apis/1", "/subscription-plans", "/"] {
        admin.get(path).await.refusal(404, "not_found");
    }
    admin.root("/internal/gateway/.well-known").await.refusal(404, "not_found");
    admin.get("/gateways/nonsense").await.refusal(404, "not_found");
    admin.delete("/access-tokens/%00").await.refusal(404, "not_found");
    let wrong_method = admin.delete("/deliveries/redrive").await;
    wrong_method.refusal(405, "method_not_allowed");
    assert_eq!(wrong_method.headers["allow"], "POST");
}
