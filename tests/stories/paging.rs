//! Pages of lists that grow meanwhile.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
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

on_both! {
    gateways_are_found_by_name_and_by_the_beginning_of_their_ids
}

async fn gateways_are_found_by_name_and_by_the_beginning_of_their_ids(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let id = |last: &str| format!("0198c0de-0000-7000-8000-0000000000{last}");
    for (name, last) in [("berlin", "a1"), ("tokyo", "a2"), ("lima", "b1")] {
        let gateway = json!({"name": name, "id": id(last)});
        admin.post("/gateways", &gateway).await.success();
    }
    service.gateway("other").await;
    for (filter, expected) in [
        ("name=tokyo".to_owned(), &["tokyo"][..]),
        ("name=Tokyo".to_owned(), &[]),
        ("idPrefix=0198c0de-0000".to_owned(), &["berlin", "lima", "tokyo"]),
        (format!("idPrefix={}", &id("a1")[..35]), &["berlin", "tokyo"]),
        (format!("idPrefix={}", id("b1")), &["lima"]),
        (format!("idPrefix={}&name=tokyo", id("b1")), &[]),
    ] {
        let page = admin.get(&format!("/gateways?{filter}")).await.success();
        assert_eq!(column(&page, "name"), expected, "{filter}");
    }
    let first = admin.get("/gateways?idPrefix=0198c0de&limit=2").await.success();
    let next = first["pagination"]["next"].as_str().expect("a next page").to_owned();
    let rest = admin.get(&format!("/gateways?idPrefix=0198c0de&cursor={next}")).await.success();
    assert_eq!(column(&rest, "name"), ["tokyo"]);
    admin.get(&format!("/gateways?cursor={next}")).await.invalid("cursor", &["different filters"]);
    for bad in ["", "0198C", "x", "0198c0de0", "0198-"] {
        let refused = admin.get(&format!("/gateways?idPrefix={bad}")).await;
        refused.invalid("idPrefix", &["the beginning of a UUID"]);
    }
    let shown = service.run(&format!("gateway show {}", &id("b1")[..35])).await;
    assert!(shown.well().contains("lima"), "{shown:?}");
    let several = service.run("why 0198c0de").await;
    several.failed(1, &["several", "berlin", "tokyo"]);
    service.run("gateway show tokio").await.failed(1, &["did you mean \"tokyo\""]);
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
