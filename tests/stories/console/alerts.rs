//! Alerts in the console: what fires, and the test of a destination.

use super::visitor::Visitor;
use crate::alerts::{Key, alert_in_state, destination, start, watch, watched};
use crate::both_databases::Backend;

#[tokio::test]
async fn firing_alerts_are_on_the_overview_and_a_destination_can_be_tested() {
    let key = Key::new();
    let service = start(&Backend::Sqlite, &key).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let page = visitor.get("/console/alerts").await;
    assert!(page.says("Nothing fires") || page.says("disk-nearly-full"), "{page:?}");
    assert!(page.says("gateway-away") && page.says("there is no destination"), "{page:?}");

    // No one listens there.
    destination(&service, "hook", "slack", "http://127.0.0.1:9/very-secret").await;
    watched(&service, "<b>berlin</b>", "away", "eu").await;
    watch(&service, "away", &["hook"]).await;
    alert_in_state(&service, "away/eu", "firing").await;
    let overview = visitor.get("/console").await;
    assert!(overview.says("fire") && overview.says("away/eu"), "{overview:?}");
    assert!(overview.body.contains("&lt;b&gt;berlin") && !overview.body.contains("<b>berlin"));
    let page = visitor.get("/console/alerts").await;
    assert!(
        page.says("away/eu") && page.says("team-gateways") && page.says("http://127.0.0.1:9/…")
    );
    assert!(!page.body.contains("very-secret"));
    let path = "/console/alerts/destinations/hook/test";
    assert!(page.body.contains(path));
    let tested = visitor.submit(path, &[]).await;
    assert_eq!(tested.status, 200, "{tested:?}");
    assert!(tested.says("did not accept the message"), "{tested:?}");

    let reader = Visitor::scoped(&service, &["read"]).await;
    let page = reader.get("/console/alerts").await;
    assert!(page.says("away/eu") && !page.body.contains(path));
    assert_eq!(reader.submit(path, &[]).await.status, 403);
}
