//! The console over HTTP: sessions, forms, scopes, headers, hostile texts, errors. `browser` has what
//! needs a browser.

use gateway_events::clock::Timestamp;
use reqwest::Method;
use serde_json::json;

use crate::both_databases::{Backend, on_both};
use crate::server::Database;
use crate::support::{Service, TEST_TIMEOUT, deployed};

mod actions;
mod alerts;
mod browser;
mod changes;
mod dead_letters;
mod forms;
mod pages;
mod publish;
mod robustness;
mod selection;
mod tokens;
pub(crate) mod visitor;

use visitor::{Page, Visitor, encoded, from_here};

on_both! {
    a_session_ends_with_its_token
    a_session_ends_when_its_operator_signs_out
    a_token_has_ten_sessions_at_most
    expired_sessions_are_removed
}

#[tokio::test]
async fn a_token_signs_in_and_the_cookie_is_for_this_host_only() {
    let service = Service::start().await;
    let mut visitor = Visitor::new(&service);
    let page = visitor.get("/console/gateways?state=away").await;
    let to = "/console/sign-in?next=%2Fconsole%2Fgateways%3Fstate%3Daway";
    assert_eq!((page.status, page.header("location")), (303, to));

    for wrong in ["", "gwa_nonsense", &service.token.replace("gwa_", "gwk_")] {
        let refused = visitor.sign_in(wrong, "/console").await;
        assert_eq!(refused.status, 401, "{refused:?}");
        assert!(refused.says("not valid") && refused.header("set-cookie").is_empty());
        assert!(
            wrong.is_empty() || !refused.body.contains(wrong),
            "what was typed is not repeated"
        );
        assert_eq!(
            refused.says("This is a gateway's key"),
            wrong.starts_with("gwk_"),
            "{refused:?}"
        );
    }
    let id = service.token.split('_').nth(1).expect("a public id");
    let forged = gateway_events::token::issue(gateway_events::token::Kind::Access).expect("random");
    let forged = secrecy::ExposeSecret::expose_secret(&forged.key).to_owned();
    assert_eq!(visitor.sign_in(&forged, "/console").await.status, 401);
    service.logged(|log| log.contains("refused a credential")).await;

    let page = visitor.sign_in(&service.token, "/console/gateways?state=away").await;
    assert_eq!((page.status, page.header("location")), (303, "/console/gateways?state=away"));
    let cookie = page.header("set-cookie");
    let (name, rest) = cookie.split_once('=').expect("a value");
    let (secret, attributes) = rest.split_once("; ").expect("attributes");
    assert_eq!(name, "__Host-session");
    assert_eq!(attributes, "Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict");
    assert_eq!(secret.len(), 43, "256 bits");
    let page = visitor.get("/console/gateways?state=away").await;
    assert!(
        page.status == 200 && !page.body.contains(secret) && !page.body.contains(&service.token)
    );
    assert!(visitor.get("/console/sign-in").await.header("location") == "/console");

    service.logged(|log| log.contains("signed in to the console") && log.contains(id)).await;
    assert!(!service.log().contains(secret) && !service.log().contains(&service.token));
    let files = std::fs::read_dir(service.directory()).expect("a folder").flatten();
    for file in files.filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("readable");
        let holds = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!holds(secret) && !holds(&service.token), "{}", file.path().display());
    }
}

#[tokio::test]
async fn only_pages_of_the_console_are_opened_after_signing_in() {
    let service = Service::start().await;
    for next in ["https://evil.example/", "//evil.example", "/api/internal/v1/stats", ""] {
        let page = Visitor::new(&service).sign_in(&service.token, next).await;
        assert_eq!((page.status, page.header("location")), (303, "/console"), "{next}");
    }
}

#[tokio::test]
async fn a_link_from_another_site_leads_on_by_a_page_of_this_one() {
    let service = Service::start().await;
    let visitor = Visitor::new(&service);
    let request = visitor.request(Method::GET, "/console/events?type=a.b");
    let page = Page::of(request.header("sec-fetch-site", "cross-site")).await;
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains(r#"http-equiv="refresh" content="0; url=/console/events?type=a.b""#)
    );
}

async fn a_session_ends_with_its_token(backend: Backend) {
    let service = backend.start().await;
    let new = json!({"name": "guest", "scopes": ["read"]});
    let guest = service.api().post("/access-tokens", &new).await.expect("created");
    let (id, token) = (guest["id"].as_str().expect("an id"), guest["token"].as_str().expect("one"));
    let visitor = Visitor::signed_in(&service, token).await;
    assert_eq!(visitor.get("/console").await.status, 200);

    // Another node knows the session, too.
    if matches!(backend, Backend::Postgres(_)) {
        let other = service.another().await;
        assert_eq!(visitor.at(&other).get("/console").await.status, 200);
        service.api().delete(&format!("/access-tokens/{id}")).await.expect("revoked");
        visitor.at(&other).until("/console", |page| page.status == 303).await;
    } else {
        service.api().delete(&format!("/access-tokens/{id}")).await.expect("revoked");
    }
    assert_eq!(visitor.get("/console").await.status, 303, "at once where it was revoked");
    let page = visitor.submit("/console/sign-out", &[]).await;
    assert!(page.status == 401 && page.says("Your session has ended"), "{page:?}");

    let new = json!({"name": "short", "scopes": ["read"], "expiresInSeconds": 3});
    let short = service.api().post("/access-tokens", &new).await.expect("created");
    let visitor = Visitor::signed_in(&service, short["token"].as_str().expect("one")).await;
    visitor.until("/console", |page| page.status == 303).await;
}

async fn a_session_ends_when_its_operator_signs_out(backend: Backend) {
    let service = backend.start().await;
    let (one, other) = (
        Visitor::signed_in(&service, &service.token).await,
        Visitor::signed_in(&service, &service.token).await,
    );
    let page = one.submit("/console/sign-out", &[]).await;
    assert_eq!((page.status, page.header("location")), (303, "/console/sign-in"));
    assert!(page.header("set-cookie").starts_with("__Host-session=; Path=/; Max-Age=0;"));
    assert_eq!(one.get("/console").await.status, 303, "the id is of no use any more");
    assert_eq!(other.get("/console").await.status, 200, "the other session goes on");
}

async fn a_token_has_ten_sessions_at_most(backend: Backend) {
    let service = backend.start().await;
    let mut all = Vec::new();
    for _ in 0..12 {
        all.push(Visitor::signed_in(&service, &service.token).await);
    }
    let mut statuses = Vec::new();
    for visitor in &all {
        statuses.push(visitor.get("/console/nodes").await.status);
    }
    let expected: Vec<u16> = (0..12).map(|nth| if nth < 2 { 303 } else { 200 }).collect();
    assert_eq!(statuses, expected, "the oldest end");
}

async fn expired_sessions_are_removed(backend: Backend) {
    let service = backend.start_with(&[("RETENTION__INTERVAL", "1s")]).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    assert_eq!(visitor.get("/console/nodes").await.status, 200);
    let past = match backend {
        Backend::Sqlite => Timestamp::now().micros().to_string(),
        Backend::Postgres(_) => "now()".to_owned(),
    };
    let change = format!("update console_sessions set expires_at = {past}");
    backend.change(&service, &change).await;
    assert_eq!(visitor.get("/console/nodes").await.status, 303);
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    let mut polls = tokio::time::interval(std::time::Duration::from_millis(200));
    while count(&backend, &service).await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "the session is still there");
        polls.tick().await;
    }
}

/// The number of sessions in the database.
async fn count(backend: &Backend, service: &Service) -> i64 {
    use sqlx::{ConnectOptions as _, Connection as _};
    let text = "select count(*) from console_sessions";
    match backend {
        Backend::Sqlite => {
            let file = sqlx::sqlite::SqliteConnectOptions::new().filename(service.database());
            let mut database = file.connect().await.expect("the database");
            sqlx::query_scalar(text).fetch_one(&mut database).await.expect("a count")
        }
        Backend::Postgres(database) => {
            let mut database =
                sqlx::PgConnection::connect(&database.url()).await.expect("the database");
            sqlx::query_scalar(text).fetch_one(&mut database).await.expect("a count")
        }
    }
}

#[tokio::test]
async fn a_token_without_the_scope_read_can_not_sign_in() {
    let service = Service::start().await;
    let new = json!({"name": "publisher", "scopes": ["publish"]});
    let made = service.api().post("/access-tokens", &new).await.expect("created");
    let mut visitor = Visitor::new(&service);
    let page = visitor.sign_in(made["token"].as_str().expect("one"), "/console").await;
    assert!(page.status == 403 && page.says("lacks the scope `read`"), "{page:?}");
}

#[tokio::test]
async fn attempts_to_sign_in_are_limited_by_address() {
    let service = Service::start_with(&[("SERVER__TRUSTED_PROXIES", "127.0.0.1,::1")]).await;
    let visitor = Visitor::new(&service);
    let attempt = async |address: &str, token: &str| {
        let request = from_here(visitor.request(Method::POST, "/console/sign-in"));
        let request = request.header("x-forwarded-for", address.to_owned());
        Page::of(request.body(encoded(&[("token", token)]))).await
    };
    // A machine that is stopped for a minute would allow more attempts.
    let mut refused = None;
    for _ in 0..300 {
        let page = attempt("192.0.2.1", "gwa_wrong").await;
        if page.status != 401 {
            refused = Some(page);
            break;
        }
    }
    let refused = refused.expect("an attempt was refused");
    assert_eq!(refused.status, 429, "{refused:?}");
    let secs: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&secs), "{refused:?}");
    assert!(refused.says("too many attempts to sign in") && refused.says("id=\"token\""));
    let valid = attempt("192.0.2.1", &service.token).await;
    assert!(valid.status == 429 || valid.status == 303, "{valid:?}");
    // Other addresses, the API and sessions are not concerned.
    assert_eq!(attempt("192.0.2.2", &service.token).await.status, 303);
    assert_eq!(attempt("192.0.2.2", "gwa_wrong").await.status, 401);
    service.api().get("/gateways").await.expect("an answer");
}

#[tokio::test]
async fn a_page_says_that_the_database_is_unavailable_and_keeps_what_was_typed() {
    let backend = Backend::Postgres(Database::alone());
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let visitor = Visitor::signed_in(&service, &service.token).await;
    assert_eq!(visitor.get("/console/events").await.status, 200);
    let Backend::Postgres(database) = &backend else { unreachable!("it is Postgres") };
    database.control("stop -m immediate");

    let page = visitor.get("/console/events?type=api.deployed").await;
    assert_eq!(page.status, 503, "{page:?}");
    assert!(page.says("The database is not available") && !page.header("retry-after").is_empty());
    let path = format!("/console/gateways/{id}/pause");
    let typed = visitor.submit(&path, &[("reason", "upgrade <of> its host")]).await;
    assert_eq!(typed.status, 503, "{typed:?}");
    assert!(typed.body.contains("upgrade &lt;of&gt; its host") && typed.says("Submit again"));

    database.control("start");
    visitor.until("/console/events", |page| page.status == 200).await;
    let again = visitor.submit(&path, &[("reason", "upgrade <of> its host")]).await;
    assert_eq!(again.status, 303, "{again:?}");
    assert!(
        visitor.get(&format!("/console/gateways/{id}")).await.says("upgrade &lt;of&gt; its host")
    );
}
