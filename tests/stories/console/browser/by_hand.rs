//! Actions by keyboard alone, and the same actions without scripts: publishing an event, replaying a
//! part of a log, redriving dead letters, and creating an alert rule.

use serde_json::{Value, json};

use super::driver::Browser;
use crate::support::{Service, deployed};

const ENTER: &str = "\u{e007}";

/// How the operator works.
enum Hand {
    Keyboard(Browser),
    /// Clicks, in a browser that runs no scripts of pages.
    Pointer(Browser),
}

impl Hand {
    const fn browser(&self) -> &Browser {
        match self {
            Self::Keyboard(browser) | Self::Pointer(browser) => browser,
        }
    }

    async fn press(&self, selector: &str) {
        match self {
            Self::Keyboard(browser) => {
                browser.tab_to(selector).await;
                browser.keys(ENTER).await;
            }
            Self::Pointer(browser) => browser.click(selector).await,
        }
    }

    async fn fill(&self, selector: &str, text: &str) {
        match self {
            Self::Keyboard(browser) => {
                browser.tab_to(selector).await;
                browser.keys(text).await;
            }
            Self::Pointer(browser) => browser.type_into(selector, text).await,
        }
    }

    /// Chooses an option of a list. By keyboard, its text is typed.
    async fn choose(&self, selector: &str, value: &str) {
        match self {
            Self::Keyboard(browser) => {
                browser.tab_to(selector).await;
                browser.keys(value).await;
            }
            Self::Pointer(browser) => {
                browser.click(&format!("{selector} option[value='{value}']")).await;
            }
        }
    }

    async fn says(&self, text: &str) {
        self.browser().until_says(text).await;
    }
}

/// A service with a connected gateway, and one with two dead letters.
async fn staged() -> (Service, String, String) {
    let service = Service::start().await;
    let (berlin, key) = service.gateway("berlin").await;
    tokio::spawn(service.connected(&key).await.serve());
    let (tokyo, _) = service.gateway("tokyo").await;
    for deployment in ["d-1", "d-2"] {
        let event = deployed(&[&tokyo], deployment);
        service.api().post("/events", &event).await.expect("accepted");
    }
    for sequence in [1, 2] {
        let skip = json!({"sequence": sequence, "reason": "not now"});
        service.api().post(&format!("/gateways/{tokyo}/skip"), &skip).await.expect("skipped");
    }
    (service, berlin, tokyo)
}

/// A token that may do everything, for the session.
async fn token(service: &Service) -> String {
    let new = json!({"name": "operator", "scopes": ["read", "publish", "admin"]});
    let made = service.api().post("/access-tokens", &new).await.expect("created");
    made["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn everything_is_done_by_keyboard_alone() {
    let (service, berlin, tokyo) = staged().await;
    let hand = Hand::Keyboard(Browser::start(&service).await);
    all(&hand, &service, &berlin, &tokyo).await;
}

#[tokio::test]
async fn everything_is_done_without_scripts() {
    let (service, berlin, tokyo) = staged().await;
    let hand = Hand::Pointer(Browser::without_scripts(&service).await);
    all(&hand, &service, &berlin, &tokyo).await;
}

async fn all(hand: &Hand, service: &Service, berlin: &str, tokyo: &str) {
    hand.browser().go("/console/publish").await;
    hand.fill("#token", &token(service).await).await;
    hand.press("form.card button").await;
    hand.says("Publish an event").await;
    publish(hand, service, berlin).await;
    replay(hand, service, berlin).await;
    redrive(hand, service, tokyo).await;
    create_rule(hand, service).await;
    hand.browser().close().await;
}

async fn publish(hand: &Hand, service: &Service, berlin: &str) {
    hand.choose("#type", "gateway.config.updated").await;
    hand.press("form.inline button").await;
    hand.says("Publish gateway.config.updated").await;
    hand.fill("#member-0", "update").await;
    hand.fill("#member-1", "cache").await;
    hand.fill("#field-gateways", "berlin").await;
    hand.press("form.sheet button").await;
    hand.says("Nothing is published yet").await;
    hand.press("main form button.primary").await;
    hand.says("Rollout").await;
    service.eventually(&format!("/gateways/{berlin}"), |it| it["confirmed"] == 1).await;
}

async fn replay(hand: &Hand, service: &Service, berlin: &str) {
    hand.browser().go(&format!("/console/gateways/{berlin}")).await;
    hand.press(".actions details:has(#replay-from) summary").await;
    hand.fill("#replay-from", "1").await;
    hand.press("form[action$='/replay'] button").await;
    hand.says("1 event would be appended again").await;
    hand.press("main form button.primary").await;
    hand.says("1 event of sequences 1 to 1 appended again").await;
    service.eventually(&format!("/gateways/{berlin}"), |it| it["confirmed"] == 2).await;
}

async fn redrive(hand: &Hand, service: &Service, tokyo: &str) {
    hand.press("nav a[href='/console/dead-letters']").await;
    hand.says("Dead letters, newest failure first").await;
    hand.press("form.inline button").await;
    hand.says("2 deliveries would be appended again").await;
    hand.press("main form button.primary").await;
    hand.says("2 deliveries appended again").await;
    service.eventually(&format!("/gateways/{tokyo}"), |it| it["head"] == 4).await;
    hand.press("main .up a").await;
    hand.says("There are no dead letters").await;
}

async fn create_rule(hand: &Hand, service: &Service) {
    hand.press("nav a[href='/console/alerts']").await;
    hand.says("Rules by id").await;
    hand.press("main a[href='/console/alerts/new-rule']").await;
    hand.says("Create the rule").await;
    hand.fill("#field-id", "many-dead-letters").await;
    hand.choose("#field-kind", "dead_letters").await;
    hand.fill("#field-threshold", "5").await;
    hand.press("form.sheet button.primary").await;
    hand.says("Save the rule").await;
    let stored = |it: &Value| {
        let of = &it["definition"];
        of["kind"] == "dead_letters" && of["threshold"].as_f64() == Some(5.0)
    };
    service.eventually("/alerts/rules/many-dead-letters", stored).await;
}
