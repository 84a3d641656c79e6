//! Counts of published events.

use serde_json::json;

use crate::both_databases::{Backend, on_both};
use crate::support::{deployed, get};

on_both! {
    published_events_are_counted_per_bucket
}

async fn published_events_are_counted_per_bucket(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("berlin").await;
    let api = service.api();
    let before = get(&api, "/stats/published").await.expect("counts");
    assert_eq!((&before["count"], &before["bucketSeconds"]), (&json!(0), &json!(3600)));
    for nth in 0..3 {
        let event = deployed(&[&id], &format!("d-{nth}"));
        service.admin().post("/events", &event).await.success();
    }
    // Also one that no gateway matches.
    let mut none = deployed(&[&id], "d-3");
    none.as_object_mut().expect("an object").remove("gatewayIds");
    none["target"] = json!({"labels": {"region": "nowhere"}});
    service.admin().post("/events", &none).await.success();
    let sum = |list: &serde_json::Value| -> i64 {
        let list = list["list"].as_array().expect("a list");
        list.iter().map(|row| row["count"].as_i64().expect("a number")).sum()
    };
    for bucket in ["1m", "1h", "7d"] {
        let counts = get(&api, &format!("/stats/published?bucket={bucket}")).await.expect("counts");
        assert_eq!(sum(&counts), 4, "{counts:#}");
    }
    let earlier = "/stats/published?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z";
    assert_eq!(sum(&get(&api, earlier).await.expect("counts")), 0);
    for (wrong, why) in [
        ("bucket=90s", "a whole number of minutes"),
        ("bucket=soon", "must be seconds, minutes, hours or days"),
        ("bucket=1m&from=2026-01-01T00:00:00Z", "more than 2000 buckets"),
        ("by=type", "by"),
    ] {
        let refused = service.admin().get(&format!("/stats/published?{wrong}")).await;
        assert_eq!(refused.status, 422, "{wrong}: {refused:?}");
        assert!(refused.body.contains(why), "{wrong}: {refused:?}");
    }
    let printed = service.run("event summary --since 2h --bucket 2h").await;
    let words: Vec<&str> = printed.well().split_whitespace().collect();
    assert!(words.contains(&"EVENTS") && words.contains(&"4"), "{printed:?}");
}
