//! Pages of lists that grow meanwhile.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::Caller;
use crate::support::{Service, deployed};

/// The value of a member in each row of a page.
fn column<'a>(page: &'a Value, name: &str) -> Vec<&'a str> {
    let rows = page["list"].as_array().expect("a list");
    rows.iter().map(|row| row[name].as_str().expect("a text")).collect()
}

/// Publishes this many events in one batch; returns their ids.
async fn publish(admin: &Caller, gateway: &str, count: usize) -> BTreeSet<String> {
    let batch: Vec<Value> =
        (0..count).map(|number| deployed(&[gateway], &format!("d-{number}"))).collect();
    let answer = admin.post("/events", &json!(batch)).await.success();
    let results = answer["results"].as_array().expect("results").iter();
    results.map(|result| result["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn pages_of_failures_are_one_snapshot_while_more_arrive() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("away").await;
    let there = publish(&admin, &id, 50).await;
    service.eventually("/deliveries", |page| page["count"] == 50).await;
    let filter = format!("gatewayId={id}&reason=not_connected");
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = String::new();
    for turn in 1.. {
        let page = admin.get(&format!("/deliveries?{filter}&limit=7{cursor}")).await.success();
        let ids = column(&page, "eventId");
        assert!(ids.len() <= 7 && page["pagination"]["limit"] == 7, "{page:#}");
        assert_eq!(page["count"], ids.len());
        seen.extend(ids.into_iter().map(str::to_owned));
        let Some(next) = page["pagination"]["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
        // More fail between the pages, and an older one fails again.
        publish(&admin, &id, 3).await;
        service.eventually("/deliveries?limit=1000", |page| page["count"] == 50 + 3 * turn).await;
        for other in ["", "reason=not_connected", "gatewayId=&"] {
            let foreign = admin.get(&format!("/deliveries?{other}{cursor}")).await;
            assert_eq!(foreign.status, 422, "{foreign:?}");
        }
        admin.get(&format!("/gateways?{}", &cursor[1..])).await.invalid("cursor", &["cursor"]);
    }
    assert_eq!(seen.len(), 50, "a row came twice, or not at all");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), there);
}

#[tokio::test]
async fn gateways_are_listed_by_name_page_after_page() {
    let service = Service::start().await;
    let admin = service.admin();
    let mut names: Vec<String> = (0..23).map(|number| format!("g-{number:02}")).collect();
    names.push("Ünïcödé / \"quoted\"".to_owned());
    for name in &names {
        service.gateway(name).await;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/gateways?limit=5{cursor}")).await.success();
        seen.extend(column(&page, "name").into_iter().map(str::to_owned));
        let Some(next) = page["pagination"]["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
        // It sorts before the cursor, so it is not listed.
        service.gateway(&format!("a-{}", seen.len())).await;
        admin.get(&format!("/deliveries?{}", &cursor[1..])).await.invalid("cursor", &["cursor"]);
    }
    assert_eq!(seen, names);
    let taken = admin.post("/gateways", &json!({"name": "g-00"})).await;
    taken.refusal(409, "conflict");
}
