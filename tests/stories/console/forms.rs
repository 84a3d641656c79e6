//! Every form: where it may come from, and who may submit it.

use reqwest::Method;

use super::visitor::{Page, Visitor, encoded, from_here};
use crate::support::{Service, deployed};

const RULE: &[(&str, &str)] =
    &[("kind", "dead_letters"), ("threshold", "1"), ("severity", "warning")];

/// Every path that takes a form of someone who is signed in, with fields that are valid.
const FORMS: [(&str, &[(&str, &str)]); 34] = [
    ("/console/sign-out", &[]),
    (
        "/console/gateways/selected",
        &[
            ("step", "confirmed"),
            ("action", "pause"),
            ("gateway", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ],
    ),
    ("/console/gateways/{gateway}/pause", &[("reason", "r")]),
    ("/console/gateways/{gateway}/resume", &[]),
    ("/console/gateways/{gateway}/labels", &[("labels", "region=eu-west")]),
    ("/console/gateways/{gateway}/disable", &[]),
    ("/console/gateways/{gateway}/enable", &[]),
    ("/console/gateways/{gateway}/skip", &[("sequence", "1"), ("reason", "r")]),
    ("/console/gateways/{gateway}/resync", &[]),
    ("/console/gateways/{gateway}/replay", &[("step", "confirmed"), ("from", "1")]),
    ("/console/gateways/{gateway}/keys", &[]),
    ("/console/gateways/{gateway}/keys/{key}/revoke", &[]),
    ("/console/events/{event}/resend", &[("step", "confirmed"), ("labels", "a=b")]),
    ("/console/publish", &[("step", "confirmed"), ("type", "api.deployed"), ("payload", "{}")]),
    ("/console/failures/redrive", &[("step", "confirmed"), ("from", "2020-01-01T00:00:00Z")]),
    (
        "/console/failures/redrive-selected",
        &[
            ("step", "confirmed"),
            ("key", "01890a5d-ac96-774b-bcce-b302099a8057"),
            ("delivery", "01890a5d-ac96-774b-bcce-b302099a8057:1"),
        ],
    ),
    ("/console/inbox/{row}/retry", &[]),
    ("/console/inbox/{row}/edit", &[("version", "1"), ("type", "t"), ("payload", "{}")]),
    ("/console/inbox/{row}/delete", &[]),
    ("/console/event-types", &[("name", "plan.changed")]),
    ("/console/event-types/api.deployed", &[("description", "changed")]),
    ("/console/jobs/01890a5d-ac96-774b-bcce-b302099a8057/abort", &[]),
    ("/console/alerts/rules", RULE),
    ("/console/alerts/rules/none", RULE),
    ("/console/alerts/rules/none/silence", &[("hours", "1")]),
    ("/console/alerts/rules/none/enable", &[]),
    ("/console/alerts/rules/none/disable", &[]),
    ("/console/alerts/rules/none/delete", &[]),
    ("/console/alerts/destinations", &[("kind", "slack")]),
    ("/console/alerts/destinations/none", &[("kind", "slack")]),
    ("/console/alerts/destinations/none/test", &[]),
    ("/console/alerts/destinations/none/delete", &[]),
    ("/console/access-tokens", &[("name", "n"), ("scopes", "read"), ("days", "30")]),
    ("/console/access-tokens/none/revoke", &[]),
];

/// A service with what the forms concern.
struct Stage {
    service: Service,
    gateway: String,
    key: String,
    event: String,
}

impl Stage {
    async fn new() -> Self {
        let service = Service::start().await;
        let (gateway, key) = service.gateway("one").await;
        let event = service.api().post("/events", &deployed(&[&gateway], "d-1")).await;
        let event = event.expect("accepted")["id"].as_str().expect("an id").to_owned();
        Self { service, gateway, key: key.split('_').nth(1).expect("an id").to_owned(), event }
    }

    fn path(&self, template: &str) -> String {
        template
            .replace("{gateway}", &self.gateway)
            .replace("{key}", &self.key)
            .replace("{event}", &self.event)
            .replace("{row}", "1")
    }

    /// The changes so far, by the audit log.
    async fn changes(&self) -> usize {
        let audit = self.service.api().get("/audit").await.expect("an answer");
        audit["list"].as_array().expect("a list").len()
    }
}

/// The source of the router lists the same paths.
#[test]
fn no_form_is_missing_here() {
    let router = include_str!("../../../src/http/console.rs");
    let posts = router.lines().filter(|line| line.contains("post("));
    let paths: Vec<&str> = posts.filter_map(|line| line.split('"').nth(1)).collect();
    // That of signing in comes before a session.
    assert_eq!(paths.len(), FORMS.len() + 1, "{paths:#?}");
}

#[tokio::test]
async fn a_form_from_elsewhere_changes_nothing() {
    let stage = Stage::new().await;
    let visitor = Visitor::signed_in(&stage.service, &stage.service.token).await;
    let before = stage.changes().await;
    let token = visitor.form_token();
    let foreign: [&[(&str, &str)]; 7] = [
        &[],
        &[("origin", "null")],
        &[("origin", "https://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", "https://localhost")],
        &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
        &[("sec-fetch-site", "none")],
    ];
    for (template, fields) in FORMS {
        let path = stage.path(template);
        let body = encoded(&[&[("form_token", token.as_str())][..], fields].concat());
        for headers in foreign {
            let mut request = visitor.request(Method::POST, &path).body(body.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let page = Page::of(request).await;
            assert_eq!(page.status, 403, "{path} {headers:?}: {page:?}");
            assert!(page.says("was sent by another site") && !page.says("<form"), "{path}");
        }
        let own = Page::of(
            from_here(visitor.request(Method::POST, &path))
                .body(encoded(&[&[("form_token", "guessed")][..], fields].concat())),
        )
        .await;
        assert!(own.status == 403 && own.says("Please submit the form again"), "{path}: {own:?}");
        for (name, value) in fields {
            assert!(
                own.says(&format!("name=\"{name}\"")) && own.says(value),
                "{path} keeps {name}"
            );
        }
        let signed_out = Visitor::new(&stage.service).submit(&path, fields).await;
        assert!(signed_out.status == 401 && signed_out.says("has ended"), "{path}: {signed_out:?}");
    }
    let sign_in =
        visitor.request(Method::POST, "/console/sign-in").header("origin", "https://evil.example");
    let page = Page::of(sign_in.body(encoded(&[("token", &stage.service.token)]))).await;
    assert!(page.status == 403 && page.header("set-cookie").is_empty());
    assert_eq!(stage.changes().await, before, "nothing was changed");
    assert_eq!(visitor.get("/console").await.status, 200, "it is still signed in");
}

#[tokio::test]
async fn a_form_may_prove_its_origin_instead() {
    let stage = Stage::new().await;
    let visitor = Visitor::signed_in(&stage.service, &stage.service.token).await;
    let path = stage.path("/console/gateways/{gateway}/pause");
    let origin = format!("https://localhost:{}", stage.service.port);
    let request = visitor.request(Method::POST, &path).header("origin", origin);
    let page = Page::of(request.body(encoded(&[("form_token", &visitor.form_token())]))).await;
    assert_eq!(page.status, 303, "{page:?}");
}

#[tokio::test]
async fn a_token_that_only_reads_sees_no_form_and_can_submit_none() {
    let stage = Stage::new().await;
    let visitor = Visitor::scoped(&stage.service, &["read"]).await;
    let before = stage.changes().await;
    for path in [
        "/console",
        "/console/gateways",
        "/console/gateways/{gateway}",
        "/console/gateways/{gateway}/log",
        "/console/events/{event}",
        "/console/failures?last=30d",
        "/console/dead-letters",
        "/console/organisation",
        "/console/event-types",
        "/console/event-types/api.deployed",
        "/console/alerts",
        "/console/alerts/rules/gateway-away",
    ] {
        let page = visitor.get(&stage.path(path)).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let forms = page.body.matches(r#"method="post""#).count();
        assert_eq!(forms, 1, "{path}: only that of signing out");
        assert!(!page.says("type=\"checkbox\""), "{path}: nothing can be selected");
        for hidden in
            ["/console/publish", "/console/jobs", "/console/audit", "/console/access-tokens"]
        {
            assert!(!page.says(&format!("href=\"{hidden}\"")), "{path} links to {hidden}");
        }
    }
    for path in [
        "/console/jobs",
        "/console/audit",
        "/console/access-tokens",
        "/console/alerts/new-rule",
        "/console/alerts/new-destination",
    ] {
        let page = visitor.get(path).await;
        assert!(page.status == 403 && page.says("lacks the scope `admin`"), "{path}: {page:?}");
    }
    for (template, fields) in FORMS.into_iter().filter(|(path, _)| *path != "/console/sign-out") {
        let page = visitor.submit(&stage.path(template), fields).await;
        let needed = if template == "/console/publish" { "publish" } else { "admin" };
        let says = format!("lacks the scope `{needed}`");
        assert!(page.status == 403 && page.says(&says), "{template}: {page:?}");
    }
    assert_eq!(stage.changes().await, before, "nothing was changed");
}

#[tokio::test]
async fn a_form_is_bounded() {
    let stage = Stage::new().await;
    let visitor = Visitor::signed_in(&stage.service, &stage.service.token).await;
    let path = stage.path("/console/gateways/{gateway}/pause");
    let page = visitor.submit(&path, &[("reason", &"x".repeat(70_000))]).await;
    assert_eq!(page.status, 413, "{page:?}");
    let page = visitor.submit(&path, &[("reason", &"x".repeat(600))]).await;
    assert!(page.status == 422 && page.says("must be 1 to 500 characters"), "{page:?}");
    assert!(page.says(&"x".repeat(600)), "what was typed is kept");
    let gateway = stage.service.api().get(&format!("/gateways/{}", stage.gateway)).await;
    assert_eq!(gateway.expect("an answer").get("paused"), None);
    let path = stage.path("/console/gateways/{gateway}/skip");
    let page = visitor.submit(&path, &[("sequence", "none"), ("reason", "r")]).await;
    assert!(page.status == 422 && page.says("must be a whole number"), "{page:?}");
}
