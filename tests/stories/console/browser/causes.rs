//! "These gateways did not get last night's deployments": six causes, each found in the console and
//! mended there, by its links, forms and buttons alone. The API shows that each event has arrived.

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::driver::Browser;
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed, failed_report};

on_both! {
    six_causes_are_found_and_mended_in_the_console
}

type Serving = JoinHandle<Vec<Value>>;

/// A service at 3 a.m. Each gateway has its own cause.
struct Night {
    service: Service,
    /// Was away when an event was published.
    tokyo: Gateway,
    /// Was away until an event had expired.
    lisbon: Gateway,
    expired: String,
    /// Lost a label; another event's label was mistyped.
    madrid: Gateway,
    missed: [String; 2],
    /// Its key was revoked.
    oslo: Gateway,
    oslo_event: String,
    /// A row of the inbox for it was rejected.
    rome: Gateway,
    /// Refused what it was sent.
    berlin: Gateway,
    serving: Vec<Serving>,
}

struct Gateway {
    id: String,
    key: String,
}

impl Gateway {
    async fn new(service: &Service, name: &str) -> Self {
        let (id, key) = service.gateway(name).await;
        Self { id, key }
    }

    fn path(&self) -> String {
        format!("/gateways/{}", self.id)
    }
}

async fn publish(service: &Service, event: &Value) -> String {
    let accepted = service.api().post("/events", event).await.expect("accepted");
    accepted["id"].as_str().expect("an id").to_owned()
}

fn for_region(region: &str) -> Value {
    json!({"type": "gateway.config.updated", "target": {"labels": {"region": region}},
        "payload": {"configType": "cache", "action": "update"}})
}

impl Night {
    async fn new(backend: &Backend) -> Self {
        let service = backend.start().await;
        let berlin = Gateway::new(&service, "berlin").await;
        let tokyo = Gateway::new(&service, "tokyo").await;
        let lisbon = Gateway::new(&service, "lisbon").await;
        let madrid = Gateway::new(&service, "madrid").await;
        let oslo = Gateway::new(&service, "oslo").await;
        let rome = Gateway::new(&service, "rome").await;
        let mut serving = vec![refusing(&service, &berlin).await];

        drop(service.connected(&tokyo.key).await);
        publish(&service, &deployed(&[&tokyo.id], "d-tokyo")).await;
        let mut event = deployed(&[&lisbon.id], "d-lisbon");
        event["ttlSeconds"] = json!(1);
        let expired = publish(&service, &event).await;
        let diagnosis = |gateway: &Gateway| format!("{}/diagnosis", gateway.path());
        service.eventually(&diagnosis(&lisbon), |it| it["deadLetters"] == 1).await;

        serving.push(service.connected(&madrid.key).await.serve());
        let relabel = async |labels: Value| {
            let change = json!({"labels": labels});
            service.api().patch(&madrid.path(), &change).await.expect("changed");
        };
        relabel(json!({"region": "eu-west", "env": "prod"})).await;
        relabel(json!({"region": null})).await;
        let missed = [
            publish(&service, &for_region("eu-west")).await,
            publish(&service, &for_region("eu-wset")).await,
        ];

        let socket = service.connected(&oslo.key).await.serve();
        let keys = format!("{}/tokens", oslo.path());
        let key = service.api().get(&keys).await.expect("an answer")["list"][0]["id"].clone();
        let key = format!("{keys}/{}", key.as_str().expect("an id"));
        service.api().delete(&key).await.expect("revoked");
        socket.await.expect("closed");
        assert!(service.connect(&oslo.key).await.is_err());
        let oslo_event = publish(&service, &deployed(&[&oslo.id], "d-oslo")).await;

        serving.push(service.connected(&rome.key).await.serve());
        let row = format!(
            "insert into inbox (type, payload, gateway_id) values ('plan.changed', '{{}}', '{}')",
            rome.id
        );
        backend.change(&service, &row).await;
        let is_found = |it: &Value| it["rejected"]["list"][0]["id"].is_i64();
        service.eventually(&diagnosis(&rome), is_found).await;
        let is_refused = |it: &Value| it["lastRefusal"]["cause"] == "key_revoked";
        service.eventually(&diagnosis(&oslo), is_refused).await;
        Self {
            service,
            tokyo,
            lisbon,
            expired,
            madrid,
            missed,
            oslo,
            oslo_event,
            rome,
            berlin,
            serving,
        }
    }

    async fn is_up_to_date(&self, gateway: &Gateway) {
        let is_done = |it: &Value| it["lag"]["events"] == 0 && it["verdict"]["state"] == "ok";
        self.service.eventually(&gateway.path(), is_done).await;
    }

    async fn is_delivered(&self, event: &str) {
        let is_done = |it: &Value| it["deliveries"][0]["state"] == "delivered";
        self.service.eventually(&format!("/events/{event}"), is_done).await;
    }
}

/// Connects a gateway that refuses two deployments, and accepts what it is sent later.
async fn refusing(service: &Service, gateway: &Gateway) -> Serving {
    let mut socket = service.connected(&gateway.key).await;
    for deployment in ["d-1", "d-2"] {
        publish(service, &deployed(&[&gateway.id], deployment)).await;
    }
    socket.expect(1..=2).await;
    for deployment in ["d-1", "d-2"] {
        socket.send(Message::text(failed_report(deployment))).await;
    }
    let serving = socket.serve();
    let is_failing = |it: &Value| it["verdict"]["failures"] == 2 && it["confirmed"] == 2;
    service.eventually(&gateway.path(), is_failing).await;
    serving
}

/// Opens the page of a gateway, as one finds it by its name.
async fn find(browser: &Browser, name: &str) {
    browser.follow("Gateways").await;
    browser.until("return location.pathname === '/console/gateways'").await;
    browser.type_into("#filter-q", name).await;
    browser.press("Show").await;
    browser.until("return location.search.startsWith('?q=')").await;
    browser.follow(name).await;
    let title = format!("return document.querySelector('h1')?.innerText === {name:?}");
    browser.until(&title).await;
}

async fn six_causes_are_found_and_mended_in_the_console(backend: Backend) {
    let mut night = Night::new(&backend).await;
    let made = json!({"name": "on call", "scopes": ["read", "publish", "admin"]});
    let made = night.service.api().post("/access-tokens", &made).await.expect("created");
    let browser = Browser::start(&night.service).await;
    browser.go("/console").await;
    browser.sign_in(made["token"].as_str().expect("a token")).await;
    browser.until_says("gateways need attention").await;
    failed_deployments(&browser, &night).await;
    away(&browser, &mut night).await;
    expired(&browser, &mut night).await;
    labels(&browser, &night).await;
    revoked_key(&browser, &mut night).await;
    rejected_row(&browser, &night).await;

    browser.follow("Overview").await;
    // The expired delivery stays a dead letter: it was replaced by a new event.
    browser.until_says("1 dead letter has not been redriven").await;
    let text = browser.text("main").await;
    assert!(!text.contains("attention."), "every gateway is up to date: {text}");
    browser.close().await;
    for socket in night.serving {
        socket.abort();
    }
}

/// Two deployments failed at Berlin. The fault is fixed at the gateway; then they are appended again.
async fn failed_deployments(browser: &Browser, night: &Night) {
    browser.follow("berlin").await;
    browser.until_says("2 deployments failed").await;
    browser.follow("Show the deliveries").await;
    browser.until_says("gateway_processing_error").await;
    browser.press("Redrive all matching…").await;
    browser.until_says("2 deliveries would be appended again").await;
    browser.press("Redrive 2 deliveries").await;
    browser.until_says("2 deliveries appended again").await;
    night.service.eventually(&night.berlin.path(), |it| it["confirmed"] == 4).await;
    night.is_up_to_date(&night.berlin).await;
}

/// Tokyo is away. The console shows since when, and what is pending; then tokyo is started.
async fn away(browser: &Browser, night: &mut Night) {
    find(browser, "tokyo").await;
    browser.until_says("away since").await;
    browser.follow("Show its connections").await;
    browser.until_says("api.deployed").await;
    night.serving.push(night.service.connected(&night.tokyo.key).await.serve());
    night.is_up_to_date(&night.tokyo).await;
    browser.point_at(".brand").await;
    browser.until("return document.querySelector('.verdict .state')?.textContent === 'ok'").await;
}

/// Lisbon was away until an event had expired. It is published again, and Lisbon is started.
async fn expired(browser: &Browser, night: &mut Night) {
    find(browser, "lisbon").await;
    browser.until_says("expired before the gateway received the event").await;
    browser.follow("Show the deliveries").await;
    browser.until("return location.search.includes('reason=expired')").await;
    browser.click("#live tbody a.id").await;
    browser.until_says("It expired before lisbon received it").await;
    browser.follow("Publish it again").await;
    browser.until_says("The form has the content of the event").await;
    browser.press("Preview").await;
    browser.until_says("It would be appended to the log of 1 gateway").await;
    browser.press("Publish for 1 gateway").await;
    browser.until("return location.pathname.startsWith('/console/events/')").await;
    night.serving.push(night.service.connected(&night.lisbon.key).await.serve());
    let old = night.service.api().get(&format!("/events/{}", night.expired)).await.expect("it");
    let correlation = old["correlationId"].as_str().expect("an id");
    let both = format!("/events?correlationId={correlation}");
    let both = night.service.eventually(&both, |list| list["count"] == 2).await;
    let new = both["list"][0]["id"].as_str().expect("an id");
    assert_ne!(new, night.expired);
    night.is_delivered(new).await;
    night.is_up_to_date(&night.lisbon).await;
}

/// Madrid lost a label, and another event's label was mistyped. The label is set, and both are sent.
async fn labels(browser: &Browser, night: &Night) {
    find(browser, "madrid").await;
    browser.until_says("it had region=eu-west until").await;
    browser.until_says("region=eu-west is similar, so one of them may be mistyped").await;
    browser.follow("Change its labels").await;
    browser.unfold("Change its labels").await;
    browser.type_into("#field-labels", "\nregion=eu-west").await;
    browser.press("Save the labels").await;
    let labelled = |it: &Value| it["labels"] == json!({"env": "prod", "region": "eu-west"});
    night.service.eventually(&night.madrid.path(), labelled).await;
    for event in &night.missed {
        find(browser, "madrid").await;
        browser.click(&format!("#missed ~ div a[href*='{event}']")).await;
        browser.press("Resend…").await;
        browser.until_says("It would be appended for 1 gateway").await;
        browser.press("Resend it to 1 gateway").await;
        browser.until_says("It was appended for 1 gateway").await;
        night.is_delivered(event).await;
    }
}

/// Oslo's key was revoked. It gets a new one.
async fn revoked_key(browser: &Browser, night: &mut Night) {
    find(browser, "oslo").await;
    browser.until_says("last refusal: key revoked").await;
    browser.follow("Create a key").await;
    browser.press("Create a key").await;
    browser.until_says("the only time that the key is shown").await;
    let key = browser.text("#key").await;
    night.serving.push(night.service.connected(&key).await.serve());
    night.is_delivered(&night.oslo_event).await;
    night.is_up_to_date(&night.oslo).await;
}

/// A row for Rome has an unknown type. The type is registered, and the row is put back.
async fn rejected_row(browser: &Browser, night: &Night) {
    find(browser, "rome").await;
    browser.follow("Show the rejected rows").await;
    browser.click("#rejected ~ div tbody a").await;
    browser.until_says("unknown_event_type").await;
    browser.follow("Register its type").await;
    browser.until("return document.getElementById('field-name')?.value === 'plan.changed'").await;
    browser.press("Register the type").await;
    browser.until("return location.pathname === '/console/event-types/plan.changed'").await;
    browser.follow("Rejected rows").await;
    browser.click("#live tbody a").await;
    browser.press("Put it back into the inbox").await;
    browser.until_says("Put back").await;
    let events = "/events?type=plan.changed";
    let events = night.service.eventually(events, |list| list["count"] == 1).await;
    night.is_delivered(events["list"][0]["id"].as_str().expect("an id")).await;
    night.is_up_to_date(&night.rome).await;
}
