//! What goes wrong between a browser and the console: forms that are sent twice or are too large,
//! addresses of forms that are opened, and queries that are not understood.

use reqwest::Method;
use serde_json::json;

use super::visitor::{Page, Visitor, encoded, from_here};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    a_form_that_is_sent_twice_creates_one_access_token
    a_rule_can_not_name_a_destination_that_does_not_exist
}

const TOKENS: &str = "/console/access-tokens";

/// The value of a field in a page.
fn value_of<'a>(page: &'a Page, name: &str) -> &'a str {
    let field = format!("name=\"{name}\" value=\"");
    let (_, rest) = page.body.split_once(&field).unwrap_or_else(|| panic!("{name}: {page:?}"));
    rest.split('"').next().expect("a value")
}

async fn tokens(service: &Service) -> usize {
    let tokens = service.api().get("/access-tokens").await.expect("an answer");
    tokens["list"].as_array().expect("a list").len()
}

async fn a_form_that_is_sent_twice_creates_one_access_token(backend: Backend) {
    let service = backend.start().await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let once = value_of(&visitor.get(TOKENS).await, "once").to_owned();
    let form = [("name", "deployer"), ("scopes", "read"), ("days", "30"), ("once", once.as_str())];
    let before = tokens(&service).await;
    // A refusal uses nothing up, and keeps the id.
    let refused = visitor.submit(TOKENS, &[&form[..1], &form[2..]].concat()).await;
    assert_eq!((refused.status, value_of(&refused, "once")), (422, once.as_str()));

    let (first, second) =
        tokio::join!(visitor.submit(TOKENS, &form), visitor.submit(TOKENS, &form));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{first:?} {second:?}");
    assert_eq!(tokens(&service).await, before + 1);
    let made = if first.status == 200 { &first } else { &second };
    let start = made.body.find("gwa_").expect("a token");
    let token: String =
        made.body[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    assert_eq!(Visitor::signed_in(&service, &token).await.get("/console").await.status, 200);

    // A reload of the answer sends the form again, also after a restart and to another session.
    let other = Visitor::signed_in(&service, &service.token).await;
    for visitor in [&visitor, &other] {
        let again = visitor.submit(TOKENS, &form).await;
        assert!(again.status == 409 && again.says("was sent twice"), "{again:?}");
        let id = token.split('_').nth(1).expect("an id");
        assert!(again.says(id) && !again.says(&token), "{again:?}");
        assert_ne!(value_of(&again, "once"), once, "the form is for another token");
    }
    assert_eq!(tokens(&service).await, before + 1);
    let another = visitor.get(TOKENS).await;
    let mut form = form;
    form[3] = ("once", value_of(&another, "once"));
    assert_eq!(visitor.submit(TOKENS, &form).await.status, 200);
    assert_eq!(tokens(&service).await, before + 2);
}

async fn a_rule_can_not_name_a_destination_that_does_not_exist(backend: Backend) {
    let service = backend.start().await;
    let rule = json!({"kind": "dead_letters", "threshold": 1, "destinations": ["no-such"]});
    service.admin().put("/alerts/rules/mine", &rule).await.invalid("destinations", &["no-such"]);
    service
        .admin()
        .post("/alerts/rules", &rule)
        .await
        .invalid("destinations", &["create it first"]);
    service.admin().get("/alerts/rules/mine").await.refusal(404, "not_found");
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let form = [
        ("kind", "dead_letters"),
        ("threshold", "1"),
        ("severity", "warning"),
        ("notify", "chosen"),
        ("destinations", "no-such"),
    ];
    let page = visitor.submit("/console/alerts/rules", &form).await;
    assert!(page.status == 422 && page.says("no destination has the id"), "{page:?}");
}

fn has_headers(page: &Page, path: &str) {
    for (name, begins) in [
        ("content-security-policy", "default-src 'none';"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert!(page.header(name).starts_with(begins), "{path}: {name}: {page:?}");
    }
}

#[tokio::test]
async fn the_address_of_a_form_leads_to_the_page_that_has_it() {
    let service = Service::start().await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (path, page) in [
        ("/console/", "/console"),
        ("/console/sign-out", "/console"),
        ("/console/gateways/selected", "/console/gateways"),
        ("/console/gateways/{id}/pause", "/console/gateways/{id}"),
        ("/console/gateways/{id}/labels", "/console/gateways/{id}"),
        ("/console/gateways/{id}/keys", "/console/gateways/{id}"),
        ("/console/gateways/{id}/keys/k/revoke", "/console/gateways/{id}"),
        ("/console/events/e-1/resend", "/console/events/e-1"),
        ("/console/failures/redrive", "/console/failures"),
        ("/console/failures/redrive-selected", "/console/failures"),
        ("/console/inbox/5/retry", "/console/inbox/5"),
        ("/console/jobs/{id}/abort", "/console/jobs"),
        ("/console/alerts/rules/mine/silence", "/console/alerts/rules/mine"),
        ("/console/alerts/destinations/d/test", "/console/alerts/destinations/d"),
        ("/console/access-tokens/t/revoke", "/console/access-tokens"),
    ] {
        let (path, page) = (path.replace("{id}", id), page.replace("{id}", id));
        let led = visitor.get(&path).await;
        assert_eq!((led.status, led.header("location")), (303, page.as_str()), "{path}");
        has_headers(&led, &path);
    }
    for (method, path, status, says) in [
        (Method::PUT, "/console/gateways", 405, "Method not allowed"),
        (Method::DELETE, "/console/access-tokens/t/revoke", 405, "Method not allowed"),
        (Method::POST, "/console", 405, "Method not allowed"),
        (Method::GET, "/console/nowhere", 404, "Not found"),
        (Method::GET, "/console/nowhere/at/all", 404, "Not found"),
        (Method::POST, "/console/nowhere", 404, "Not found"),
    ] {
        let page = Page::of(visitor.request(method.clone(), path)).await;
        assert_eq!(page.status, status, "{method} {path}: {page:?}");
        assert!(page.says(says) && page.header("content-type").starts_with("text/html"));
        has_headers(&page, path);
    }
    let signed_out = Visitor::new(&service).get("/console/nowhere").await;
    assert_eq!(signed_out.status, 303, "{signed_out:?}");
    has_headers(&signed_out, "/console/nowhere");
}

#[tokio::test]
async fn a_form_that_is_too_large_names_its_limit() {
    let service = Service::start_with(&[("SERVER__BODY_LIMIT", "1MiB")]).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let (id, _) = service.gateway("one").await;
    let path = format!("/console/gateways/{id}/pause");
    let page = visitor.submit(&path, &[("reason", &"x".repeat(70_000))]).await;
    assert!(page.status == 413 && page.says("larger than 64 KiB"), "{page:?}");
    assert!(!page.says("256 KiB") && page.says("back button"), "{page:?}");
    let large = "x".repeat(2 << 20);
    let page = visitor.submit("/console/publish", &[("payload", &large)]).await;
    assert!(page.status == 413 && page.says("server.body_limit (1048576 bytes)"), "{page:?}");

    // Fields beyond the most are not left out silently.
    let many: Vec<(String, String)> =
        (0..250).map(|nth| (format!("field-{nth}"), "x".to_owned())).collect();
    let many: Vec<(&str, &str)> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let page = visitor.submit(&path, &many).await;
    assert!(page.status == 400 && page.says("has 251 fields; the maximum is 200"), "{page:?}");
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway.get("paused"), None);
}

#[tokio::test]
async fn a_window_that_is_not_understood_is_an_error() {
    let service = Service::start().await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    for path in ["/console/events", "/console/failures", "/console/audit", "/console/dead-letters"]
    {
        for wrong in ["90d", "yesterday", "1", "-1h"] {
            let page = visitor.get(&format!("{path}?last={wrong}")).await;
            assert_eq!(page.status, 422, "{path} {wrong}: {page:?}");
            assert!(page.says("must be 15m, 1h, 24h, 7d or 30d"), "{path} {wrong}: {page:?}");
        }
        for valid in ["15m", "1h", "24h", "7d", "30d", ""] {
            let page = visitor.get(&format!("{path}?last={valid}")).await;
            assert_eq!(page.status, 200, "{path} {valid}: {page:?}");
        }
    }
}

#[tokio::test]
async fn a_form_from_the_same_host_without_tls_is_from_elsewhere() {
    let settings = [("SERVER__TRUSTED_PROXIES", "127.0.0.1,::1")];
    let service = Service::start_with(&settings).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let (id, _) = service.gateway("one").await;
    let path = format!("/console/gateways/{id}/resume");
    let submit = async |origin: &str, proto: Option<&str>| {
        let origin = format!("{origin}://localhost:{}", service.port);
        let mut request = visitor.request(Method::POST, &path).header("origin", origin);
        if let Some(proto) = proto {
            request = request.header("x-forwarded-proto", proto);
        }
        Page::of(request.body(encoded(&[("form_token", &visitor.form_token())]))).await.status
    };
    assert_eq!(submit("https", None).await, 303);
    assert_eq!(submit("http", None).await, 403);
    assert_eq!(submit("https", Some("https")).await, 303);
    assert_eq!(submit("http", Some("https")).await, 403);
    assert_eq!(submit("http", Some("http")).await, 303, "a proxy says that it is not encrypted");
    let own = from_here(visitor.request(Method::POST, &path));
    let own = own.body(encoded(&[("form_token", &visitor.form_token())]));
    assert_eq!(Page::of(own).await.status, 303);
}

#[tokio::test]
async fn what_was_refused_can_be_corrected_and_submitted_again() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let api = service.api();
    let type_path = "/event-types/plan.changed";
    api.put(type_path, &json!({"description": "first"})).await.expect("registered");

    let path = format!("/console/gateways/{id}");
    let shown = value_of(&visitor.get(&path).await, "shown").to_owned();
    let elsewhere = json!({"labels": {"region": "eu"}});
    api.patch(&format!("/gateways/{id}"), &elsewhere).await.expect("changed");
    let labels = format!("{path}/labels");
    let fields = [("labels", "region=us"), ("shown", shown.as_str())];
    let refused = visitor.submit(&labels, &fields).await;
    assert!(refused.status == 409 && refused.says("Stored now"), "{refused:?}");
    let fields = [("labels", "no label"), ("shown", value_of(&refused, "shown"))];
    let refused = visitor.submit(&labels, &fields).await;
    assert!(refused.status == 422 && refused.says("no label"), "{refused:?}");
    assert!(!refused.body.contains("readonly"), "it can be corrected");
    let fields = [("labels", "region=us"), ("shown", value_of(&refused, "shown"))];
    assert_eq!(visitor.submit(&labels, &fields).await.status, 303);
    let stored = api.get(&format!("/gateways/{id}")).await.expect("it exists");
    assert_eq!(stored["labels"], json!({"region": "us"}));

    let path = format!("/console{type_path}");
    let shown = value_of(&visitor.get(&path).await, "shown").to_owned();
    api.put(type_path, &json!({"description": "second"})).await.expect("changed");
    let typed = |schema: &'static str, shown: String| {
        [("description", "third".to_owned()), ("schema", schema.to_owned()), ("shown", shown)]
    };
    let mut answer = None;
    for (schema, status) in [("", 409), ("{\"type\":", 422), ("", 303)] {
        let shown =
            answer.as_ref().map_or_else(|| shown.clone(), |it| value_of(it, "shown").to_owned());
        let fields = typed(schema, shown);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let page = visitor.submit(&path, &fields).await;
        assert_eq!(page.status, status, "{page:?}");
        assert!(!page.body.contains("readonly"), "it can be corrected");
        answer = Some(page);
    }
    assert_eq!(api.get(type_path).await.expect("it exists")["description"], "third");
}

#[tokio::test]
async fn a_publishers_text_is_one_argument_of_a_command() {
    let service = Service::start().await;
    service.gateway("berlin").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let id = "e;$(touch${IFS}pwned)";
    let event = json!({"specversion": "1.0", "id": id, "source": "/x", "type": "api.deleted",
        "targetall": true, "myext": "v", "data": {"apiId": "x"}});
    let request = service.admin().request(Method::POST, "/events").body(event.to_string());
    let request = request.header("content-type", "application/cloudevents+json");
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    let page = visitor.get("/console/publish?again=e%3B%24%28touch%24%7BIFS%7Dpwned%29").await;
    assert!(page.says("event republish 'e;$(touch${IFS}pwned)'"), "{page:?}");
}
