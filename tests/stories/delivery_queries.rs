//! Queries of failed deliveries, compared with the failures that a test caused.

use gateway_events::clock::Timestamp;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::http::Caller;
use crate::support::{Service, deployed, failed_report};

/// A failed delivery that a test caused.
#[derive(Debug)]
struct CausedFailure {
    gateway: String,
    event_type: &'static str,
    reason: &'static str,
    event: String,
    correlation: String,
}

/// Three events for a gateway that is not connected, and one that another gateway could not apply.
async fn failures(service: &Service) -> Vec<CausedFailure> {
    let admin = service.admin();
    let (away, _) = service.gateway("away").await;
    let (failing, key) = service.gateway("failing").await;
    let mut made = Vec::new();
    let config = json!({"configType": "cache", "action": "update"});
    let deployment = deployed(&[], "d-1")["payload"].clone();
    for (number, gateway, event_type, payload, reason) in [
        (1, &away, "api.deployed", &deployment, "not_connected"),
        (2, &away, "gateway.config.updated", &config, "not_connected"),
        (3, &away, "gateway.config.updated", &config, "not_connected"),
        (4, &failing, "api.deployed", &deployment, "gateway_processing_error"),
    ] {
        let (event, correlation) = (format!("e-{number}"), format!("c-{}", number / 2));
        let body = json!({"id": event, "correlationId": correlation, "type": event_type,
            "gatewayIds": [gateway], "payload": payload});
        if reason == "not_connected" {
            admin.post("/events", &body).await.success();
        } else {
            let mut socket = service.connected(&key).await;
            admin.post("/events", &body).await.success();
            socket.expect(1..=1).await;
            socket.send(Message::text(failed_report("d-1"))).await;
            socket.serve();
        }
        made.push(CausedFailure {
            gateway: gateway.clone(),
            event_type,
            reason,
            event,
            correlation,
        });
    }
    service.eventually("/deliveries", |page| page["count"] == 4).await;
    made
}

/// The events of a page, sorted by id.
fn events(page: &Value) -> Vec<String> {
    let rows = page["list"].as_array().expect("a list");
    let mut ids: Vec<String> =
        rows.iter().map(|row| row["eventId"].as_str().expect("an id").to_owned()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn every_combination_of_filters_returns_exactly_the_matches() {
    let service = Service::start().await;
    let made = failures(&service).await;
    let admin = service.admin();
    let gateways = [None, Some(made[0].gateway.as_str()), Some(made[3].gateway.as_str())];
    let types = [None, Some("api.deployed"), Some("gateway.config.updated"), Some("no.such")];
    let reasons =
        [None, Some("not_connected"), Some("gateway_processing_error"), Some("heartbeat_timeout")];
    let (ids, correlations) = ([None, Some("e-2"), Some("nobody")], [None, Some("c-1")]);
    for gateway in gateways {
        for event_type in types {
            for reason in reasons {
                for event in ids {
                    for correlation in correlations {
                        let filters = [
                            ("gatewayId", gateway),
                            ("type", event_type),
                            ("reason", reason),
                            ("eventId", event),
                            ("correlationId", correlation),
                        ];
                        let query: Vec<String> = filters
                            .iter()
                            .filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)))
                            .collect();
                        let query = query.join("&");
                        let fits =
                            |filters: Option<&str>, is: &str| filters.is_none_or(|it| it == is);
                        let expected: Vec<&str> = made
                            .iter()
                            .filter(|one| {
                                fits(gateway, &one.gateway)
                                    && fits(event_type, one.event_type)
                                    && fits(reason, one.reason)
                                    && fits(event, &one.event)
                                    && fits(correlation, &one.correlation)
                            })
                            .map(|one| one.event.as_str())
                            .collect();
                        let page = admin.get(&format!("/deliveries?{query}")).await.success();
                        assert_eq!(events(&page), expected, "{query}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_window_includes_its_start_and_excludes_its_end() {
    let service = Service::start().await;
    failures(&service).await;
    let admin = service.admin();
    let all = admin.get("/deliveries?status=failed").await.success();
    let rows = all["list"].as_array().expect("a list");
    let times: Vec<Timestamp> = rows
        .iter()
        .map(|row| Timestamp::parse(row["lastFailureAt"].as_str().expect("a time")))
        .collect::<Result<_, _>>()
        .expect("times");
    assert!(times.windows(2).all(|pair| pair[0] >= pair[1]), "newest first: {times:?}");
    let moment = std::time::Duration::from_micros(1);
    let found = async |query: String| {
        let page = admin.get(&format!("/deliveries?{query}")).await.success();
        page["count"].as_u64().expect("a number")
    };
    for at in &times {
        let same = times.iter().filter(|other| *other == at).count() as u64;
        let later = times.iter().filter(|other| *other > at).count() as u64;
        assert_eq!(found(format!("from={at}&to={}", at.plus(moment))).await, same);
        assert_eq!(found(format!("from={}&to={at}", at.minus(moment))).await, 0);
        assert_eq!(found(format!("from={at}")).await, same + later);
        assert_eq!(found(format!("to={at}")).await, 4 - same - later);
    }
    // The same instant in another time zone.
    let to = "2026-01-31T10:30:00%2B01:00";
    assert_eq!(found(format!("from=2026-01-30T00:00:00-11:30&to={to}")).await, 0);
    assert_eq!(
        found("from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59.999999Z".to_owned()).await,
        4
    );
}

#[tokio::test]
async fn an_invalid_query_says_why() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let admin = service.admin();
    let of_gateway = format!("/gateways/{id}/connections");
    let long = format!(
        "/deliveries/summary?from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z&bucket={}",
        "1s"
    );
    for (question, field, says) in [
        ("/deliveries?from=2026-01-01T00:00:00", "from", ["2026-01-01T00:00:00", "offset"]),
        ("/deliveries?to=262143-01-01T00:00:00Z", "to", ["262143", "RFC 3339"]),
        ("/deliveries?from=yesterday", "from", ["yesterday", "RFC 3339"]),
        ("/deliveries?from=", "from", ["``", "RFC 3339"]),
        (
            "/deliveries?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            "from",
            ["2026-01-02", "before"],
        ),
        (
            "/deliveries?from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z",
            "from",
            ["2026-01-01", "before"],
        ),
        ("/deliveries/summary?from=2999-01-01T00:00:00Z", "from", ["2999-01-01", "before"]),
        ("/deliveries?limit=0", "limit", ["\"0\"", "1 to 1000"]),
        ("/deliveries?limit=1001", "limit", ["\"1001\"", "1 to 1000"]),
        ("/deliveries?limit=-1", "limit", ["\"-1\"", "1 to 1000"]),
        ("/deliveries?limit=99999999999999999999", "limit", ["9999", "1 to 1000"]),
        ("/deliveries?limit=", "limit", ["\"\"", "1 to 1000"]),
        ("/deliveries?status=lost", "status", ["lost", "one of failed, pending, delivered"]),
        ("/deliveries?status=pending&reason=expired", "reason", ["failed", "only"]),
        ("/deliveries?gatewayId=berlin", "gatewayId", ["berlin", "UUID"]),
        ("/deliveries?type=api", "type", ["\"api\"", "joined by dots"]),
        ("/deliveries?reason=bored", "reason", ["bored", "not_connected"]),
        ("/deliveries?eventId=", "eventId", ["\"\"", "1 to 64"]),
        ("/deliveries?correlationId=a%20b", "correlationId", ["a b", "without blanks"]),
        ("/deliveries?cursor=xyz", "cursor", ["pagination.next", "not a cursor"]),
        ("/deliveries?gatewayID=1", "gatewayID", ["gatewayID", "`gatewayId`"]),
        ("/deliveries?limit=1&limit=2", "limit", ["limit", "more than once"]),
        ("/deliveries/summary?bucket=0s", "bucket", ["\"0s\"", "1h"]),
        ("/deliveries/summary?bucket=1w", "bucket", ["\"1w\"", "1h"]),
        ("/deliveries/summary?bucket=5", "bucket", ["\"5\"", "1h"]),
        (&long, "bucket", ["2000", "longer"]),
        ("/deliveries/summary?by=colour", "by", ["colour", "reason, gateway, type"]),
        ("/deliveries/summary?from=x", "from", ["`x`", "RFC 3339"]),
        ("/deliveries/summary?reason=expired", "reason", ["`bucket`", "`by`"]),
        ("/connections?status=dead", "status", ["dead", "connected"]),
        ("/connections?limit=0", "limit", ["\"0\"", "1 to 1000"]),
        ("/connections?gateway=1", "gateway", ["`status`", "`limit`"]),
        (&format!("{of_gateway}?limit=many"), "limit", ["many", "1 to 1000"]),
        ("/gateways?limit=1001", "limit", ["1001", "1 to 1000"]),
        ("/gateways?cursor=xyz", "cursor", ["pagination.next", "not a cursor"]),
        ("/gateways?label=a", "label", ["`limit`", "`cursor`"]),
    ] {
        admin.get(question).await.invalid(field, &says);
    }
}

#[tokio::test]
async fn a_summary_counts_by_reason_gateway_and_type_in_buckets() {
    let service = Service::start().await;
    let made = failures(&service).await;
    let admin = service.admin();
    let counted = async |query: &str| summary(&admin, query).await;
    let by_reason = [("gateway_processing_error".to_owned(), 1), ("not_connected".to_owned(), 3)];
    assert_eq!(counted("").await, by_reason);
    assert_eq!(counted("?by=reason&bucket=1d").await, by_reason);
    let types = [("api.deployed".to_owned(), 2), ("gateway.config.updated".to_owned(), 2)];
    assert_eq!(counted("?by=type&bucket=7d").await, types);
    let mut gateways = [(made[0].gateway.clone(), 3), (made[3].gateway.clone(), 1)];
    gateways.sort_unstable();
    assert_eq!(counted("?by=gateway&bucket=3600s").await, gateways);
    // A bucket begins at a multiple of its width, and counts what the list contains.
    let from = Timestamp::now().minus(std::time::Duration::from_mins(1));
    let page = admin.get(&format!("/deliveries/summary?from={from}&bucket=1s")).await.success();
    assert_eq!((&page["bucketSeconds"], &page["by"]), (&json!(1), &json!("reason")));
    assert_eq!(page["from"], from.to_string());
    let mut total = 0;
    for row in page["list"].as_array().expect("a list") {
        let start = Timestamp::parse(row["from"].as_str().expect("a time")).expect("a time");
        assert_eq!(start.micros() % 1_000_000, 0, "{page:#}");
        let (reason, to) =
            (row["key"].as_str().expect("a key"), start.plus(std::time::Duration::from_secs(1)));
        let list = admin.get(&format!("/deliveries?from={start}&to={to}&reason={reason}")).await;
        assert_eq!(list.success()["count"], row["count"]);
        total += row["count"].as_u64().expect("a number");
    }
    assert_eq!(total, 4);
    let long_ago = "?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z&by=type";
    assert_eq!(counted(long_ago).await, []);
}

/// Counts by key over all buckets, sorted by key.
async fn summary(admin: &Caller, query: &str) -> Vec<(String, i64)> {
    let page = admin.get(&format!("/deliveries/summary{query}")).await.success();
    let mut counts = std::collections::BTreeMap::new();
    for row in page["list"].as_array().expect("a list") {
        let key = row["key"].as_str().expect("a key").to_owned();
        *counts.entry(key).or_default() += row["count"].as_i64().expect("a number");
    }
    counts.into_iter().collect()
}

#[tokio::test]
async fn failures_of_a_gateway_are_kept_when_it_is_deleted() {
    let service = Service::start().await;
    let made = failures(&service).await;
    let admin = service.admin();
    let away = &made[0].gateway;
    admin.delete(&format!("/gateways/{away}")).await.success();
    let all = admin.get("/deliveries").await.success();
    assert_eq!(all["count"], 4, "{all:#}");
    let of_it = admin.get(&format!("/deliveries?gatewayId={away}")).await.success();
    assert_eq!(of_it["count"], 3);
    for row in of_it["list"].as_array().expect("a list") {
        assert_eq!(
            (&row["gatewayName"], &row["reason"]),
            (&json!("away"), &json!("gateway_deleted"))
        );
    }
    assert_eq!(summary(&admin, "?by=gateway").await.len(), 2);
    // Nothing is pending for it, and nothing is appended to its log.
    assert_eq!(admin.get("/stats").await.success()["eventDelivery"]["pending"], 0);
    let redrive = json!({"gatewayId": away, "sequence": 1});
    let skipped = admin.post("/deliveries/redrive", &redrive).await.success();
    assert_eq!((&skipped["gatewayDeleted"], &skipped["redriven"]), (&json!(1), &json!([])));
}
