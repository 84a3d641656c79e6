//! `PATCH /gateways/{id}` is a JSON merge patch (RFC 7396).

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use crate::both_databases::{Backend, on_both};
use crate::support::Service;
use crate::support::http::reply;

on_both! {
    labels_are_merged_as_rfc_7396_specifies
    concurrent_changes_keep_each_other
}

/// RFC 7396, section 2, for an object of strings.
fn merged(target: &mut Map<String, Value>, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    target.insert(name.clone(), value.clone());
                }
            }
        }
        _ => target.clear(),
    }
}

async fn labels_are_merged_as_rfc_7396_specifies(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("berlin").await;
    let path = format!("/gateways/{id}");
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut expected = Map::new();
    for round in 0..60 {
        let mut changes = Map::new();
        for name in ["a", "b", "c", "région"] {
            match random.u8(..4) {
                0 => drop(changes.insert(name.to_owned(), Value::Null)),
                1 => drop(changes.insert(name.to_owned(), json!(format!("v{round}")))),
                _ => {}
            }
        }
        let labels = if random.u8(..12) == 0 { Value::Null } else { Value::Object(changes) };
        merged(&mut expected, &labels);
        let request = service.admin().request(Method::PATCH, &path);
        let media = if random.bool() { "application/merge-patch+json" } else { "application/json" };
        let request =
            request.header(CONTENT_TYPE, media).body(json!({"labels": labels}).to_string());
        let answer = reply(request).await.success();
        assert_eq!(answer["labels"], Value::Object(expected.clone()), "seed {seed}: {labels}");
        assert_eq!(answer["name"], "berlin");
    }
}

async fn concurrent_changes_keep_each_other(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("berlin").await;
    let path = format!("/gateways/{id}");
    let changes = (0..24).map(|number| {
        let (admin, path) = (service.admin(), path.clone());
        async move {
            admin.patch(&path, &json!({"labels": {format!("l{number}"): "x"}})).await.success()
        }
    });
    futures_util::future::join_all(changes).await;
    let gateway = service.admin().get(&path).await.success();
    assert_eq!(gateway["labels"].as_object().expect("labels").len(), 24, "{gateway}");
}

#[tokio::test]
async fn an_invalid_patch_is_refused() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    let (admin, path) = (service.admin(), format!("/gateways/{id}"));
    for body in [
        json!({"name": null}),
        json!({"disabled": null}),
        json!({"labels": {"a": 1}}),
        json!({"labels": {"a": {"b": "c"}}}),
        json!({"labels": ["a"]}),
        json!({"labels": {"": "x"}}),
        json!({"colour": "red"}),
        json!([]),
    ] {
        assert_eq!(admin.patch(&path, &body).await.status, 422, "{body}");
    }
    let request = admin.request(Method::PATCH, &path);
    let request = request.header(CONTENT_TYPE, "application/json-patch+json").body("[]");
    let refused = reply(request).await;
    refused.refusal(415, "unsupported_media_type");
    assert!(refused.body.contains("application/merge-patch+json"), "{refused:?}");
    let many = |from: usize, to: usize| -> Value {
        let labels: Map<String, Value> =
            (from..to).map(|number| (format!("l{number}"), json!("x"))).collect();
        json!({ "labels": labels })
    };
    admin.patch(&path, &many(0, 64)).await.success();
    let refused = admin.patch(&path, &many(64, 65)).await.refusal(409, "conflict");
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("64")), "{refused}");
    let kept = admin.patch(&path, &json!({"labels": {"l0": null, "new": "x"}})).await.success();
    assert_eq!(kept["labels"].as_object().expect("labels").len(), 64);
    assert_eq!(admin.patch(&path, &json!({"labels": null})).await.success()["labels"], json!({}));
}
