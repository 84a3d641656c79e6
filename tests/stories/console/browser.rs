//! The console in headless Chromium, driven over the WebDriver protocol: every page at two widths and
//! in both themes, by keyboard alone, without scripts, and live.

use serde_json::json;

use crate::both_databases::Backend;
use crate::support::{Service, deployed};

mod by_hand;
mod causes;
mod driver;
mod each_action;
mod screenshots;
mod selection;

use driver::{Browser, Look};

/// A service with a gateway of each kind, events, and something wrong.
struct Stage {
    service: Service,
    away: String,
    event: String,
}

impl Stage {
    async fn new() -> Self {
        let key = crate::alerts::Key::new();
        let service = crate::alerts::start(&Backend::Sqlite, &key).await;
        let api = service.api();
        let pager = json!({"kind": "webhook", "url": "http://127.0.0.1:9/hook", "description": "The pager of the platform team"});
        api.put("/alerts/destinations/pager", &pager).await.expect("stored");
        let labels = json!({"region": "eu-west", "env": "prod"});
        let new = json!({"name": "tokyo", "labels": labels});
        let away = api.post("/gateways", &new).await.expect("registered");
        let away = away["id"].as_str().expect("an id").to_owned();
        let long = json!({"name": "n".repeat(128), "labels": {"l".repeat(64): "v".repeat(256)}});
        api.post("/gateways", &long).await.expect("registered");
        let event = json!({
            "type": "gateway.config.updated", "target": {"all": true}, "userId": "u".repeat(256),
            "payload": {"configType": "cache", "action": "update", "word": "w".repeat(10_000)},
        });
        let event = api.post("/events", &event).await.expect("accepted");
        let event = event["id"].as_str().expect("an id").to_owned();
        let row = "insert into inbox (type, payload, gateway_id) values ('no.such', '{}', 'g')";
        Backend::Sqlite.change(&service, row).await;
        service.eventually("/deliveries", |list| list["count"] == 2).await;
        service.eventually("/inbox/rejected", |rows| rows["count"] == 1).await;
        Self { service, away, event }
    }

    /// The path of every page.
    async fn pages(&self) -> Vec<String> {
        let rows = self.service.api().get("/inbox/rejected").await.expect("an answer");
        let (away, event, row) = (&self.away, &self.event, &rows["list"][0]["id"]);
        let pages = [
            "",
            "/gateways",
            "/gateways?state=ok",
            "/gateways/{away}",
            "/gateways/{away}/log",
            "/events",
            "/events/{event}",
            "/publish",
            "/publish?type=api.deployed",
            "/failures",
            "/failures?status=pending",
            "/dead-letters",
            "/organisation",
            "/publish?again={event}",
            "/inbox",
            "/inbox/{row}",
            "/event-types",
            "/event-types/api.deployed",
            "/nodes",
            "/alerts",
            "/alerts/rules/gateway-away",
            "/alerts/new-rule",
            "/alerts/destinations/pager",
            "/alerts/new-destination",
            "/jobs",
            "/audit",
            "/access-tokens",
            "/nowhere",
        ];
        let filled = pages.map(|page| {
            let page = page.replace("{away}", away).replace("{event}", event);
            format!("/console{}", page.replace("{row}", &row.to_string()))
        });
        filled.to_vec()
    }
}

#[tokio::test]
async fn every_page_fits_and_is_accessible_at_both_widths_and_in_both_themes() {
    let stage = Stage::new().await;
    let mut pages = stage.pages().await;
    let browser = Browser::start(&stage.service).await;
    let mut problems = Vec::new();
    for look in Look::ALL {
        browser.look(look).await;
        browser.go("/console/sign-in").await;
        problems.extend(browser.problems("/console/sign-in", look).await);
    }
    browser.sign_in(&stage.service.token).await;
    // With the forms of actions open, too.
    pages.push(format!("/console/gateways/{}#open", stage.away));
    for path in &pages {
        browser.go(path).await;
        for look in Look::ALL {
            browser.look(look).await;
            if path.ends_with("#open") {
                browser
                    .run("for (const it of document.querySelectorAll('details')) it.open = true")
                    .await;
            }
            problems.extend(browser.problems(path, look).await);
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    browser.close().await;
}

#[tokio::test]
async fn an_operator_signs_in_and_finds_a_gateway_by_keyboard_alone() {
    let stage = Stage::new().await;
    let browser = Browser::start(&stage.service).await;
    browser.go("/console").await;
    browser.tab_to("#token").await;
    browser.keys(&format!("{}\u{e007}", stage.service.token)).await;
    browser.until("return location.pathname === '/console'").await;

    // The first stop of each page skips the navigation.
    browser.keys("\u{e004}\u{e007}").await;
    browser.until("return location.hash === '#main' && document.activeElement.id === 'main'").await;
    browser.go("/console").await;
    browser.tab_to("nav a[href='/console/gateways']").await;
    assert!(
        browser
            .holds("return getComputedStyle(document.activeElement).outlineStyle !== 'none'")
            .await
    );
    browser.keys("\u{e007}").await;
    browser.until("return location.pathname === '/console/gateways'").await;
    browser.tab_to("#filter-q").await;
    browser.keys("tokyo\u{e007}").await;
    browser.until("return location.search.includes('q=tokyo')").await;
    browser.tab_to("tbody a").await;
    browser.keys("\u{e007}").await;
    let gateway = format!("return location.pathname === '/console/gateways/{}'", stage.away);
    browser.until(&gateway).await;

    // It is paused with a reason, and resumed; no stop is a trap.
    browser.tab_to(".actions details summary").await;
    browser.keys("\u{e007}").await;
    browser.tab_to("#pause-reason").await;
    browser.keys("by keyboard\u{e007}").await;
    browser.until("return document.body.innerText.includes('by keyboard')").await;
    browser.tab_to(".actions button").await;
    browser.keys("\u{e007}").await;
    browser.until("return document.body.innerText.includes('Pause delivery')").await;
    browser.tab_around().await;
    browser.tab_to(".who button").await;
    browser.keys("\u{e007}").await;
    browser.until("return location.pathname === '/console/sign-in'").await;
    browser.close().await;
}

#[tokio::test]
async fn everything_but_live_updates_works_without_scripts() {
    let stage = Stage::new().await;
    let browser = Browser::without_scripts(&stage.service).await;
    browser.go("/console/failures").await;
    assert!(browser.holds("return typeof htmx === 'undefined'").await, "scripts are off");
    browser.type_into("#token", &stage.service.token).await;
    browser.click("form.card button").await;
    browser.until("return location.pathname === '/console/failures'").await;
    browser.click("form.inline button").await;
    browser.until_says("Redrive: preview").await;
    browser.go(&format!("/console/gateways/{}", stage.away)).await;
    browser.click(".actions details summary").await;
    browser.type_into("#pause-reason", "without scripts").await;
    browser.click(".actions details button").await;
    browser.until_says("without scripts").await;
    browser.click(".actions button").await;
    browser.until_says("Pause delivery").await;
    browser.click("nav a[href='/console/events']").await;
    browser.until("return location.pathname === '/console/events'").await;
    browser.click("tbody a").await;
    browser.until_says("\"configType\": \"cache\"").await;
    browser.click(".who button").await;
    browser.until("return location.pathname === '/console/sign-in'").await;
    browser.close().await;
}

#[tokio::test]
async fn an_event_is_published_after_a_refusal_and_a_preview_that_both_fit() {
    let stage = Stage::new().await;
    let browser = Browser::start(&stage.service).await;
    browser.go("/console/publish").await;
    browser.sign_in(&stage.service.token).await;
    browser.click("#type option[value='gateway.config.updated']").await;
    browser.click("form.inline button").await;
    browser.until("return location.search === '?type=gateway.config.updated'").await;
    browser.until("return document.querySelector('form.sheet button') !== null").await;
    browser.type_into("#member-0", "update").await;
    browser.type_into("#field-gateways", "nowhere").await;
    browser.type_into("#field-payload", "{\"word\": [1.50]}").await;
    browser.click("form.sheet button").await;
    browser.until("return document.querySelector('#field-gateways-error') !== null").await;
    assert!(browser.text("#field-gateways-error").await.contains("no gateway is named"));
    let mut problems = Vec::new();
    for look in Look::ALL {
        browser.look(look).await;
        problems.extend(browser.problems("publish-refused", look).await);
    }
    browser.type_into("#member-1", "cache").await;
    browser.click("input[name=to][value=all]").await;
    browser.click("form.sheet button").await;
    browser
        .until("return document.querySelector('h1')?.innerText.includes('preview') === true")
        .await;
    for look in Look::ALL {
        browser.look(look).await;
        problems.extend(browser.problems("publish-preview", look).await);
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(browser.text("main").await.contains("tokyo"));
    // By keyboard.
    browser.tab_to("main form button.primary").await;
    browser.keys("\u{e007}").await;
    browser
        .until("return location.pathname.startsWith('/console/events/') && document.querySelector('#payload-pretty') !== null")
        .await;
    let payload = browser.text("#payload-pretty").await;
    assert!(payload.contains("\"action\": \"update\"") && payload.contains("1.50"), "{payload}");
    browser.close().await;
}

#[tokio::test]
async fn a_deployment_is_watched_from_publish_to_applied_at_three_gateways() {
    let service = Service::start().await;
    let (mut ids, mut sockets) = (Vec::new(), Vec::new());
    for name in ["berlin", "tokyo", "denver"] {
        let (id, key) = service.gateway(name).await;
        sockets.push(service.connected(&key).await);
        ids.push(id);
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let event = service.api().post("/events", &deployed(&ids, "d-1")).await.expect("accepted");
    let browser = Browser::start(&service).await;
    browser.go("/console").await;
    browser.sign_in(&service.token).await;
    browser.go(&format!("/console/events/{}", event["id"].as_str().expect("an id"))).await;
    browser.run("window.wasNeverReloaded = true").await;
    let states = |word: &str| {
        format!(
            "return [...document.querySelectorAll('#live tbody .state')].filter(it => it.textContent === '{word}').length"
        )
    };
    browser.until(&format!("{} === 3", states("pending"))).await;
    let mut applying = Vec::new();
    for (nth, mut socket) in sockets.into_iter().enumerate() {
        socket.expect(1..=1).await;
        socket.send(tokio_tungstenite::tungstenite::Message::text(applied("d-1"))).await;
        applying.push(socket.serve());
        let marks = "document.querySelectorAll('.time-line rect.good').length";
        let applied = format!(
            "{} === {}",
            states("applied").replace("#live tbody", "section[aria-labelledby=rollout] tbody"),
            nth + 1
        );
        browser.until(&applied).await;
        browser.until(&format!("return {marks} === {}", nth + 1)).await;
    }
    browser
        .until("return document.querySelector('.verdict .state').textContent === 'delivered'")
        .await;
    assert!(browser.holds("return window.wasNeverReloaded === true").await);
    browser.close().await;
    drop(service);
    for socket in applying {
        socket.await.expect("closed");
    }
}

/// A gateway's report that it has applied a deployment.
fn applied(deployment: &str) -> String {
    json!({"type": "deployment.ack", "payload": {
        "deploymentId": deployment, "artifactId": "a-1", "resourceType": "api", "action": "deploy",
        "status": "success", "performedAt": "2026-01-31T09:30:00.001Z"}})
    .to_string()
}

#[tokio::test]
async fn a_page_does_not_move_under_the_pointer() {
    let service = Service::start().await;
    service.gateway("berlin").await;
    let browser = Browser::start(&service).await;
    browser.go("/console").await;
    browser.sign_in(&service.token).await;
    browser.go("/console/gateways").await;
    browser.point_at("#live tbody").await;
    service.gateway("aachen").await;
    browser
        .until(
            "return document.getElementById('updates').textContent.includes('Updates are waiting')",
        )
        .await;
    let names = "return [...document.querySelectorAll('#live tbody th a')].map(it => it.textContent).join()";
    assert!(browser.holds(&format!("{names} === 'berlin'")).await, "the rows have not moved");
    browser.click("#updates button").await;
    browser.until(&format!("{names} === 'aachen,berlin'")).await;
    browser.until("return document.getElementById('updates').textContent === ''").await;

    // Elsewhere, they appear by themselves.
    browser.point_at(".brand").await;
    service.gateway("cologne").await;
    browser.until(&format!("{names} === 'aachen,berlin,cologne'")).await;
    browser.close().await;
}

/// The overview is expensive to read, so it is read again when something has happened.
#[tokio::test]
async fn an_overview_follows_what_happens_instead_of_polling() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    let browser = Browser::start(&service).await;
    browser.go("/console").await;
    browser.sign_in(&service.token).await;
    let reads = "performance.getEntriesByType('resource').filter(it => it.initiatorType === 'xmlhttprequest').length";
    browser.until("return performance.now() > 22000").await;
    // Once after the stream was opened, and every 30 s. Polling reads it every 5 s.
    let most = "1 + performance.now() / 30000";
    assert!(browser.holds(&format!("return {reads} <= {most}")).await, "it polls");
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    browser
        .until("return document.querySelector('#live').textContent.includes('api.deployed')")
        .await;
    browser.close().await;
}

#[tokio::test]
async fn a_page_says_since_when_it_is_not_updated() {
    let mut service = Service::start().await;
    let browser = Browser::start(&service).await;
    browser.go("/console").await;
    browser.sign_in(&service.token).await;
    browser.go("/console/nodes").await;
    service.kill().await;
    let notice = "return document.getElementById('updates').textContent";
    let says = "startsWith('Not updated since ')";
    browser.until(&format!("{notice}.{says}")).await;
    service.restart().await;
    browser.until(&format!("{notice} === ''")).await;
    browser.close().await;
}

#[tokio::test]
async fn a_page_that_is_open_leads_to_the_sign_in_page_when_the_token_is_revoked() {
    let service = Service::start().await;
    let new = json!({"name": "guest", "scopes": ["read"]});
    let guest = service.api().post("/access-tokens", &new).await.expect("created");
    let browser = Browser::start(&service).await;
    browser.go("/console").await;
    browser.sign_in(guest["token"].as_str().expect("a token")).await;
    browser.go("/console/nodes").await;
    let id = guest["id"].as_str().expect("an id");
    service.api().delete(&format!("/access-tokens/{id}")).await.expect("revoked");
    browser.until("return location.pathname === '/console/sign-in'").await;
    assert!(
        browser
            .holds("return document.querySelector('[name=next]').value === '/console/nodes'")
            .await
    );
    browser.close().await;
}
