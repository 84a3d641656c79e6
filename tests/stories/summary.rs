//! `GET /deliveries/summary`: buckets are aligned to the clock for any window, and gateways are
//! named.

use gateway_events::clock::Timestamp;
use serde_json::Value;

use crate::both_databases::{Backend, on_both};
use crate::support::deployed;

on_both! {
    buckets_are_aligned_to_the_clock_and_gateways_are_named
}

async fn buckets_are_aligned_to_the_clock_and_gateways_are_named(backend: Backend) {
    let service = backend.start().await;
    let (admin, mut ids) = (service.admin(), Vec::new());
    for name in ["berlin", "tokyo"] {
        ids.push(service.gateway(name).await.0);
    }
    for number in 0..6 {
        let event = deployed(&[&ids[number % 2]], &format!("d-{number}"));
        admin.post("/events", &event).await.success();
    }
    service.eventually("/deliveries", |page| page["count"] == 6).await;
    let failures = admin.get("/deliveries").await.success();
    let failed_at: Vec<i64> = failures["list"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| instant(&row["lastFailureAt"]).micros())
        .collect();
    let earliest = *failed_at.iter().min().expect("a failure");
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let to = Timestamp::now();
    for bucket in ["1s", "7s", "1m", "1h", "1d", "7d"] {
        let (number, unit) = bucket.split_at(bucket.len() - 1);
        let secs = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => 24 * 3600,
        };
        let width = number.parse::<i64>().expect("a number") * secs * 1_000_000;
        // A start that is not aligned to a bucket.
        let from = Timestamp::from_micros(earliest - random.i64(1..1000 * 1_000_000));
        let query = format!("from={from}&to={to}&bucket={bucket}");
        let by_gateway =
            admin.get(&format!("/deliveries/summary?{query}&by=gateway")).await.success();
        let mut count = 0;
        for row in by_gateway["list"].as_array().expect("a list") {
            let begin = instant(&row["from"]).micros();
            assert_eq!(begin.rem_euclid(width), 0, "seed {seed}, {bucket}: {row}");
            let name = if row["key"] == ids[0].as_str() { "berlin" } else { "tokyo" };
            assert_eq!(row["gatewayName"], name, "{row}");
            count += row["count"].as_i64().expect("a count");
        }
        assert_eq!(count, 6, "seed {seed}, {bucket}: {by_gateway:#}");
        for by in ["reason", "type"] {
            let summary =
                admin.get(&format!("/deliveries/summary?{query}&by={by}")).await.success();
            let mut counted: Vec<(i64, i64)> = Vec::new();
            for row in summary["list"].as_array().expect("a list") {
                assert!(row.get("gatewayName").is_none(), "{row}");
                counted.push((
                    instant(&row["from"]).micros(),
                    row["count"].as_i64().expect("a count"),
                ));
            }
            let mut expected: Vec<(i64, i64)> = Vec::new();
            let mut sorted = failed_at.clone();
            sorted.sort_unstable();
            for at in sorted {
                let begin = at - at.rem_euclid(width);
                match expected.last_mut().filter(|(last, _)| *last == begin) {
                    Some((_, count)) => *count += 1,
                    None => expected.push((begin, 1)),
                }
            }
            assert_eq!(counted, expected, "seed {seed}, {bucket}, {by}");
        }
    }
}

fn instant(value: &Value) -> Timestamp {
    Timestamp::parse(value.as_str().expect("a time")).expect("a time")
}
