//! Selecting rows of a list: by keyboard, while the list refreshes, and without scripts.

use serde_json::json;

use super::driver::{Browser, Look};
use crate::support::{Service, deployed};

/// How many rows are selected, as a script.
const SELECTED: &str = "document.querySelectorAll('#live tbody input:checked').length";

/// What is wrong with the page, in every look.
async fn problems(browser: &Browser, name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for look in Look::ALL {
        browser.look(look).await;
        problems.extend(browser.problems(name, look).await);
    }
    problems
}

/// A service with a gateway, two of whose deliveries are dead letters.
async fn with_dead_letters() -> Service {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    for nth in 1..=2 {
        let event = deployed(&[&id], &format!("d-{nth}"));
        service.api().post("/events", &event).await.expect("accepted");
    }
    service.eventually("/deliveries", |list| list["count"] == 2).await;
    for nth in 1..=2 {
        let skip = json!({"sequence": nth, "reason": "not now"});
        service.api().post(&format!("/gateways/{id}/skip"), &skip).await.expect("skipped");
    }
    service
}

#[tokio::test]
async fn gateways_are_selected_by_keyboard_and_stay_selected_while_the_list_refreshes() {
    let service = Service::start().await;
    let (berlin, _) = service.gateway("berlin").await;
    service.gateway("cologne").await;
    let browser = Browser::start(&service).await;
    browser.go("/console/gateways").await;
    browser.sign_in(&service.token).await;

    browser.tab_to("#select-all").await;
    browser.keys(" ").await;
    browser.until(&format!("return {SELECTED} === 2")).await;
    browser.keys(" ").await;
    browser.until(&format!("return {SELECTED} === 0")).await;
    browser.tab_to("#live tbody input").await;
    browser.keys(" ").await;
    browser.until("return document.getElementById('selected').textContent === '1 selected'").await;
    assert!(browser.holds("return document.getElementById('select-all').indeterminate").await);
    let mut problems_found = problems(&browser, "gateways-selected").await;

    // With the focus and the pointer elsewhere, the selection alone stops the list from moving.
    browser.tab_to("#action").await;
    browser.point_at(".brand").await;
    service.gateway("aachen").await;
    browser
        .until(
            "return document.getElementById('updates').textContent.includes('Updates are waiting')",
        )
        .await;
    let names = "return [...document.querySelectorAll('#live tbody th a')].map(it => it.textContent).join()";
    assert!(browser.holds(&format!("{names} === 'berlin,cologne'")).await, "it has not moved");
    browser.click("#updates button").await;
    browser.until(&format!("{names} === 'aachen,berlin,cologne'")).await;
    let selected = format!(
        "return document.querySelector('#live input[value=\"{berlin}\"]').checked && {SELECTED} === 1"
    );
    browser.until(&selected).await;

    browser.tab_to("#selection button").await;
    browser.keys("\u{e007}").await;
    browser.until("return document.querySelector('#field-reason') !== null").await;
    assert!(browser.text("main").await.contains("Nothing has been changed yet"));
    problems_found.extend(problems(&browser, "gateways-confirm").await);
    browser.tab_to("#field-reason").await;
    browser.keys("by keyboard\u{e007}").await;
    browser
        .until("return document.querySelector('h1')?.innerText.includes('result') === true")
        .await;
    assert!(browser.text("main .notice").await.contains("1 done."));
    problems_found.extend(problems(&browser, "gateways-result").await);
    assert!(problems_found.is_empty(), "{problems_found:#?}");
    let gateway = service.api().get(&format!("/gateways/{berlin}")).await.expect("an answer");
    assert_eq!(gateway["paused"]["reason"], "by keyboard");
    browser.close().await;
}

#[tokio::test]
async fn selected_failures_are_redriven_after_a_dry_run_that_fits() {
    let service = with_dead_letters().await;
    let browser = Browser::start(&service).await;
    browser.go("/console/failures").await;
    browser.sign_in(&service.token).await;
    browser.tab_to("#select-all").await;
    browser.keys(" ").await;
    browser.until(&format!("return {SELECTED} === 2")).await;
    let mut problems_found = problems(&browser, "failures-selected").await;
    browser.tab_to("#selection button").await;
    browser.keys("\u{e007}").await;
    browser.until("return document.querySelector('main button.primary') !== null").await;
    assert!(browser.text("main .notice").await.contains("2 deliveries would be appended again"));
    problems_found.extend(problems(&browser, "failures-dry-run").await);
    browser.tab_to("main button.primary").await;
    browser.keys("\u{e007}").await;
    browser
        .until("return document.querySelector('h1')?.innerText.includes('result') === true")
        .await;
    assert!(browser.text("main .notice").await.contains("2 done."));
    problems_found.extend(problems(&browser, "failures-result").await);
    assert!(problems_found.is_empty(), "{problems_found:#?}");
    browser.close().await;
}

#[tokio::test]
async fn rows_are_selected_without_scripts() {
    let service = with_dead_letters().await;
    let browser = Browser::without_scripts(&service).await;
    browser.go("/console/failures").await;
    browser.type_into("#token", &service.token).await;
    browser.click("form.card button").await;
    browser.until("return document.querySelector('#live tbody input') !== null").await;
    let hidden = "return document.querySelector('#select-all').checkVisibility() === false";
    assert!(browser.holds(hidden).await, "selecting a page needs scripts");
    browser.click("#live tbody input").await;
    browser.click("#selection button").await;
    browser.until_says("1 delivery would be appended again").await;
    browser.click("main button.primary").await;
    browser.until_says("1 done.").await;

    browser.go("/console/gateways").await;
    browser.click("#live tbody input").await;
    browser.click("#action option[value=disable]").await;
    browser.click("#selection button").await;
    browser.until_says("It can't connect until it is enabled").await;
    browser.click("main button.danger").await;
    browser.until_says("1 done.").await;
    browser.close().await;
}
