//! Every page: its headers, what others wrote as text, filters and pages of lists.

use serde_json::json;

use super::visitor::{Page, Visitor};
use crate::support::{Service, deployed};

/// Pages, with what each must say.
const PAGES: [(&str, &str); 22] = [
    ("/console", "Overview"),
    ("/console/gateways", "Gateways by name"),
    ("/console/gateways/{gateway}", "Pending deliveries"),
    ("/console/gateways/{gateway}/log", "Entries of the log"),
    ("/console/events", "Events, newest first"),
    ("/console/events/{event}", "The event at each gateway"),
    ("/console/publish", "Event type"),
    ("/console/publish?type=api.deployed", "deploymentId (required)"),
    ("/console/failures", "Failed attempts of the window"),
    ("/console/failures?status=pending", "Pending deliveries, by gateway"),
    ("/console/dead-letters", "There are no dead letters"),
    ("/console/organisation", "Signed in as"),
    ("/console/publish?again={event}", "The form has the content of the event"),
    ("/console/inbox", "No row of the table"),
    ("/console/event-types", "Event types by name"),
    ("/console/event-types/api.deployed", "deploymentId"),
    ("/console/nodes", "Nodes, newest first"),
    ("/console/alerts", "Rules by id"),
    ("/console/alerts/rules/gateway-away", "Save the rule"),
    ("/console/alerts/new-rule", "Create the rule"),
    ("/console/alerts/new-destination", "Create the destination"),
    ("/console/access-tokens", "Access tokens, oldest first"),
];

async fn staged() -> (Service, Visitor, String, String) {
    let service = Service::start().await;
    let (gateway, _) = service.gateway("one").await;
    let event =
        service.api().post("/events", &deployed(&[&gateway], "d-1")).await.expect("accepted");
    let event = event["id"].as_str().expect("an id").to_owned();
    service.eventually("/deliveries", |list| list["count"] == 1).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    (service, visitor, gateway, event)
}

#[tokio::test]
async fn every_page_allows_nothing_inline_and_is_not_stored() {
    let (_service, visitor, gateway, event) = staged().await;
    let pages = PAGES.map(|(path, says)| {
        (path.replace("{gateway}", &gateway).replace("{event}", &event), says, 200)
    });
    let others = [
        ("/console/jobs".to_owned(), "No job is on record", 200),
        ("/console/audit".to_owned(), "Changes, newest first", 200),
        ("/console/nowhere".to_owned(), "Not found", 404),
        ("/console/events/unknown".to_owned(), "Not found", 404),
        ("/console/gateways/no-uuid".to_owned(), "Not found", 404),
        ("/console/events?from=yesterday".to_owned(), "is not an RFC 3339 time", 422),
    ];
    for (path, says, status) in pages.into_iter().chain(others) {
        let page = visitor.get(&path).await;
        assert_eq!(page.status, status, "{path}: {page:?}");
        assert!(page.says(says), "{path} does not say {says}: {}", page.body);
        assert_eq!(
            page.header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
            "{path}"
        );
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        assert_eq!(page.header("cache-control"), "no-store");
        for inline in
            [" style=", "<style", "javascript:", " onclick", " onload", "<script>", "http://"]
        {
            let found = page.body.replace("http://www.w3.org", "").contains(inline);
            assert!(!found, "{path} contains {inline}");
        }
        assert!(!page.says("gwa_") && !page.says("gwk_"), "{path} contains a secret");
    }
}

#[tokio::test]
async fn every_link_of_every_page_leads_to_a_page() {
    let (_service, visitor, gateway, event) = staged().await;
    let mut seen = std::collections::BTreeSet::new();
    for (path, _) in PAGES {
        let path = path.replace("{gateway}", &gateway).replace("{event}", &event);
        let page = visitor.get(&path).await;
        for link in page.body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let link = link.replace("&amp;", "&");
            if link.starts_with('#') || !seen.insert(link.clone()) {
                continue;
            }
            let target = visitor.get(&link).await;
            assert_eq!(target.status, 200, "{path} links to {link}");
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[tokio::test]
async fn files_are_kept_by_browsers_because_their_names_change() {
    let (_service, visitor, ..) = staged().await;
    let page = visitor.get("/console").await;
    let files = page.body.split('"').filter(|text| text.starts_with("/console/assets/"));
    let files: std::collections::BTreeSet<&str> = files.collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let found = visitor.get(file).await;
        assert_eq!(found.status, 200, "{file}");
        assert_eq!(found.header("cache-control"), "public, max-age=31536000, immutable");
        let unknown = file.replace('.', ".0");
        assert_eq!(visitor.get(&unknown).await.status, 404, "{unknown}");
    }
}

#[tokio::test]
async fn what_others_wrote_is_text() {
    let service = Service::start().await;
    let hostile = "<script>alert(1)</script>";
    let labels = json!({"<b>label</b>": "\"><img src=x onerror=alert(1)>"});
    let new = json!({"name": hostile, "labels": labels});
    let gateway = service.api().post("/gateways", &new).await.expect("registered");
    let id = gateway["id"].as_str().expect("an id");
    let long = "w".repeat(10_000);
    let event = json!({
        "type": "gateway.config.updated", "gatewayIds": [id], "id": "e<'\"&>", "correlationId": "c<i>&\"",
        "userId": "u\u{202e}<u>", "payload": {"configType": "cache", "action": "update", "text": format!("</code>{hostile}\u{202e}{long}")},
    });
    service.api().post("/events", &event).await.expect("accepted");
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let reason = format!("{hostile}\u{202e}\u{7}");
    let paused =
        visitor.submit(&format!("/console/gateways/{id}/pause"), &[("reason", &reason)]).await;
    assert_eq!(paused.status, 303, "{paused:?}");
    for path in [
        "/console".to_owned(),
        "/console/gateways".to_owned(),
        "/console/gateways?q=%3Cscript%3Ealert%281%29%3C%2Fscript%3E".to_owned(),
        format!("/console/gateways/{id}"),
        format!("/console/gateways/{id}/log"),
        "/console/events".to_owned(),
        "/console/events?correlationId=%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E".to_owned(),
        "/console/events/e%3C%27%22%26%3E".to_owned(),
        "/console/failures?last=30d".to_owned(),
        "/console/failures?status=pending".to_owned(),
        "/console/dead-letters".to_owned(),
        "/console/organisation".to_owned(),
        "/console/event-types?register=%3Cscript%3Ealert%281%29".to_owned(),
        "/console/publish?again=e%3C%27%22%26%3E&gateway=%3Cscript%3Ealert%281%29".to_owned(),
        "/console/audit".to_owned(),
        "/console/sign-in?next=%22%3E%3Cscript%3E".to_owned(),
    ] {
        let page = visitor.get(&path).await;
        assert!([200, 303].contains(&page.status), "{path}: {page:?}");
        for markup in ["<script>alert", "<img src=x", "<b>label", "<i>&", "<u>"] {
            assert!(!page.says(markup), "{path} contains {markup}");
        }
        assert!(
            !page.says("\u{202e}") && !page.says("\u{7}"),
            "{path} contains a control character"
        );
    }
    let page = visitor.get("/console/gateways").await;
    assert!(page.says("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page:?}");
}

#[tokio::test]
async fn lists_have_filters_and_pages_in_their_address() {
    let service = Service::start().await;
    let api = service.api();
    for number in 0..120 {
        let region = if number % 10 == 0 { "eu" } else { "us" };
        let new = json!({"name": format!("gateway {number:03}"), "labels": {"region": region}});
        api.post("/gateways", &new).await.expect("registered");
    }
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let rows = |body: &str| body.matches("data-label=\"Gateway\"").count();
    let (mut path, mut counts) = ("/console/gateways".to_owned(), Vec::new());
    loop {
        let page = visitor.get(&path).await;
        counts.push(rows(&page.body));
        let Some((before, _)) = page.body.split_once("\">Next page") else { break };
        path = before.rsplit_once("href=\"").expect("a link").1.replace("&amp;", "&");
    }
    assert_eq!(counts, [50, 50, 20]);
    for (query, count) in [
        ("label=region%3Deu", 12),
        ("q=gateway+11", 10),
        ("q=EU", 12),
        ("state=away", 50),
        ("state=ok", 0),
        ("label=region%3Deu&q=gateway+00", 1),
        ("label=none", 0),
    ] {
        let page = visitor.get(&format!("/console/gateways?{query}")).await;
        assert_eq!(rows(&page.body), count, "{query}");
        assert_eq!(count == 0, page.says("No gateway matches"), "{query}");
    }
    let page = visitor.get("/console/gateways?label=region%3Deu").await;
    assert!(page.says("value=\"region=eu\""), "the filter is in the form");

    let all = json!({"type": "gateway.config.updated", "target": {"labels": {"region": "eu"}},
        "payload": {"configType": "cache", "action": "update"}});
    for _ in 0..60 {
        api.post("/events", &all).await.expect("accepted");
    }
    let events = |body: &str| body.matches("data-label=\"Event\"").count();
    let first = visitor.get("/console/events?type=gateway.config.updated&last=1h").await;
    assert_eq!(events(&first.body), 50);
    let (before, _) = first.body.split_once("\">Next page").expect("a next page");
    let next = before.rsplit_once("href=\"").expect("a link").1.replace("&amp;", "&");
    let second = visitor.get(&next).await;
    assert!(second.status == 200 && events(&second.body) == 10, "{next}: {second:?}");
    assert!(second.says("First page"));
}

#[tokio::test]
async fn a_filter_by_gateway_takes_its_name_or_id_and_shows_the_name() {
    let service = Service::start().await;
    let (berlin, _) = service.gateway("berlin (new)").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    for (id, deployment) in [(&berlin, "d-1"), (&tokyo, "d-2"), (&tokyo, "d-3")] {
        service.api().post("/events", &deployed(&[id], deployment)).await.expect("accepted");
    }
    service.eventually("/deliveries", |list| list["count"] == 3).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    for (path, label) in [
        ("/console/events?", "data-label=\"Event\""),
        ("/console/failures?", "data-label=\"Gateway\""),
        ("/console/failures?status=pending&", "data-label=\"Gateway\""),
    ] {
        for (filter, name, count) in [
            ("gateway=berlin+%28new%29".to_owned(), "berlin (new)", 1),
            (format!("gateway={berlin}"), "berlin (new)", 1),
            (format!("gatewayId={tokyo}"), "tokyo", 2),
            ("gateway=tokyo".to_owned(), "tokyo", 2),
        ] {
            let page = visitor.get(&format!("{path}{filter}")).await;
            assert_eq!(page.status, 200, "{path}{filter}: {page:?}");
            let shown = format!("name=\"gateway\" value=\"{name}\"");
            assert!(page.says(&shown), "{path}{filter}: {page:?}");
            assert_eq!(page.body.matches(label).count(), count, "{path}{filter}");
        }
        let page = visitor.get(&format!("{path}gateway=no%3Csuch")).await;
        assert!(
            page.status == 422 && page.says("no gateway is named &quot;no&lt;such&quot;"),
            "{page:?}"
        );
        assert!(page.says("name=\"gateway\" value=\"no&lt;such\""), "it is kept: {page:?}");
    }
    // The next page has the filter, too.
    let page = visitor.get("/console/events?gateway=tokyo&limit=1").await;
    let (before, _) = page.body.split_once("\">Next page").expect("a next page");
    let next = before.rsplit_once("href=\"").expect("a link").1.replace("&amp;", "&");
    let second = visitor.get(&next).await;
    assert!(second.status == 200 && second.says("name=\"gateway\" value=\"tokyo\""), "{second:?}");
    let gone = "01890a5d-ac96-774b-bcce-b302099a8057";
    let page = visitor.get(&format!("/console/events?gateway={gone}")).await;
    assert!(page.status == 404 && page.says("no such gateway"), "{page:?}");
}

#[tokio::test]
async fn a_browser_that_opens_the_root_is_led_to_the_console() {
    let service = Service::start().await;
    let visitor = Visitor::new(&service);
    let get = |accept: &'static str| {
        Page::of(visitor.request(reqwest::Method::GET, "/").header("accept", accept))
    };
    for accept in ["text/html", "text/html,application/xhtml+xml,*/*;q=0.8", "a/b, Text/HTML;q=1"] {
        let page = get(accept).await;
        assert_eq!((page.status, page.header("location")), (303, "/console"), "{accept}");
    }
    for accept in ["*/*", "application/json", ""] {
        let page = get(accept).await;
        assert!(page.status == 404 && page.says("not_found"), "{accept}: {page:?}");
    }
    let html =
        |method, path: &str| Page::of(visitor.request(method, path).header("accept", "text/html"));
    assert_eq!(html(reqwest::Method::GET, "/nothing").await.status, 404);
    assert_eq!(html(reqwest::Method::POST, "/").await.status, 404);
}
