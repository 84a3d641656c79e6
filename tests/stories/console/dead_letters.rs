//! The list of dead letters: what is in it, its filters, and redriving from it.

use super::visitor::Visitor;
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    dead_letters_are_listed_filtered_and_redriven
    a_redrive_leads_back_to_the_list_that_it_began_in
}

const PATH: &str = "/console/dead-letters";

/// A service with two gateways. Each has a pending delivery with a failed attempt, and `one` has two
/// dead letters before it.
async fn staged(backend: &Backend) -> (Service, String) {
    let service = backend.start().await;
    let (one, _) = service.gateway("one").await;
    let (two, _) = service.gateway("two").await;
    for (gateway, deployment) in [(&one, "d-1"), (&one, "d-2"), (&one, "d-3"), (&two, "d-4")] {
        let event = deployed(&[gateway], deployment);
        service.api().post("/events", &event).await.expect("accepted");
    }
    service.eventually("/deliveries", |list| list["count"] == 4).await;
    for sequence in [1, 2] {
        let skip = serde_json::json!({"sequence": sequence, "reason": "not now"});
        service.api().post(&format!("/gateways/{one}/skip"), &skip).await.expect("skipped");
    }
    (service, one)
}

async fn dead_letters_are_listed_filtered_and_redriven(backend: Backend) {
    let (service, one) = staged(&backend).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let rows = |body: &str| body.matches("data-label=\"Sequence\"").count();
    let page = visitor.get(PATH).await;
    assert_eq!((page.status, rows(&page.body)), (200, 2), "{page:?}");
    assert!(page.says("skipped") && page.says(&format!("{one}:1")), "{page:?}");
    assert!(page.says("/deliveries?limit=50") && page.says("/deliveries/redrive"), "{page:?}");
    assert_eq!(rows(&visitor.get("/console/failures").await.body), 4, "failures are more");
    for (query, count) in [
        ("gateway=one", 2),
        ("gateway=two", 0),
        ("reason=skipped&last=1h", 2),
        ("reason=expired", 0),
        ("type=api.deployed", 2),
        ("type=other.type", 0),
    ] {
        let page = visitor.get(&format!("{PATH}?{query}")).await;
        assert_eq!((page.status, rows(&page.body)), (200, count), "{query}: {page:?}");
        assert_eq!(page.says("No dead letter matches"), count == 0, "{query}");
    }
    let wrong = visitor.get(&format!("{PATH}?reason=no-such")).await;
    assert!(wrong.status == 422 && wrong.says("filter-reason"), "{wrong:?}");

    let form = [
        ("page", "dead-letters"),
        ("step", "dry-run"),
        ("from", "1970-01-01T00:00:00Z"),
        ("gatewayId", &one),
    ];
    let planned = visitor.submit("/console/failures/redrive", &form).await;
    assert!(planned.says("2 deliveries would be appended again"), "{planned:?}");
    let confirmed =
        form.map(|(name, value)| (name, if name == "step" { "confirmed" } else { value }));
    let done = visitor.submit("/console/failures/redrive", &confirmed).await;
    assert!(done.says("2 deliveries appended again"), "{done:?}");
    let page = visitor.get(PATH).await;
    assert!(page.says("There are no dead letters") && rows(&page.body) == 0, "{page:?}");
    assert!(!page.says("Redrive all matching"), "{page:?}");
}

async fn a_redrive_leads_back_to_the_list_that_it_began_in(backend: Backend) {
    let (service, one) = staged(&backend).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let page = visitor.get(&format!("{PATH}?gateway=one")).await;
    assert!(page.says("name=\"page\" value=\"dead-letters\""), "{page:?}");
    let chosen = format!("{one}:1");
    for (list, path) in
        [("dead-letters", PATH), ("failures", "/console/failures"), ("", "/console/failures")]
    {
        let fields = [
            ("page", list),
            ("step", "dry-run"),
            ("list", "gateway=one"),
            ("delivery", chosen.as_str()),
        ];
        let planned = visitor.submit("/console/failures/redrive-selected", &fields).await;
        assert_eq!(planned.status, 200, "{planned:?}");
        let back = format!("href=\"{path}?gateway=one\"");
        assert!(planned.says(&back) && planned.says("Cancel"), "{list}: {planned:?}");
        let current = format!("href=\"{path}\" aria-current=\"page\"");
        assert!(planned.says(&current), "{list}: {planned:?}");
    }
    // A token that only reads sees the list, and no form.
    let reader = Visitor::scoped(&service, &["read"]).await;
    let page = reader.get(PATH).await;
    assert!(page.says("skipped") && !page.says("Redrive"), "{page:?}");
}
