//! Destinations: their secrets, where they may be, and how they are tested.

use serde_json::{Value, json};

use super::mail_server::{self, MailServer};
use super::receiver::{Answer, Received, Receiver};
use super::{Key, destination, settings, start};
use crate::both_databases::{Backend, on_both};
use crate::fake_service::FakeService;
use crate::support::Service;

on_both! {
    secrets_are_encrypted_masked_and_kept
    a_stored_secret_is_sent_to_no_other_server
    secrets_that_a_destination_repeats_are_neither_stored_nor_shown
    the_audit_log_says_whether_secrets_were_replaced
    an_alertmanager_is_sent_a_firing_alert_again
}

/// Tests a destination; a test has no body.
async fn test_of(service: &Service, id: &str) -> Value {
    let path = format!("/alerts/destinations/{id}/test");
    let request = service.admin().request(reqwest::Method::POST, &path);
    crate::support::http::reply(request).await.success()
}

async fn secrets_are_encrypted_masked_and_kept(backend: Backend) {
    let key = Key::new();
    let mut service = start(&backend, &key).await;
    let receiver = Receiver::start(Answer::Status(200, "thanks")).await;
    let url = receiver.url("/hooks/very-secret-path");
    let created = destination(&service, "hook", "webhook", &url).await;
    let signing = created["secret"].as_str().expect("a generated key").to_owned();
    assert!(signing.starts_with("whsec_"));
    let shown = service.admin().get("/alerts/destinations/hook").await;
    assert_eq!(shown.success()["settings"]["address"], format!("{}/…", receiver.url("")));
    let listed = service.admin().get("/alerts/destinations").await;
    let overview = service.admin().get("/alerts").await;
    let audit = service.admin().get("/audit").await;
    assert!(audit.body.contains("alert_destination.created"));
    let files = std::fs::read_dir(service.directory()).expect("a folder").flatten();
    let files = files.filter(|file| file.path().is_file());
    // The service replaces some files by renaming others.
    let read = |file: std::fs::DirEntry| match std::fs::read(file.path()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.expect("readable")),
    };
    let files: Vec<Vec<u8>> = files.filter_map(read).collect();
    for secret in ["very-secret-path", signing.as_str()] {
        for reply in [&shown, &listed, &overview, &audit] {
            assert!(!reply.body.contains(secret), "{secret}: {}", reply.body);
        }
        let holds =
            |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!files.iter().any(holds), "{secret} is in a file");
    }
    assert_eq!(test_of(&service, "hook").await["detail"], "200: thanks");

    // A change without secrets keeps them.
    let change = json!({"kind": "webhook", "description": "another text"});
    let changed = service.admin().put("/alerts/destinations/hook", &change).await;
    assert_eq!((changed.status, changed.success().get("secret")), (200, None));
    assert_eq!(test_of(&service, "hook").await["delivered"], true);
    let all = receiver.all();
    let [first, second] = &all[..] else { panic!("{all:#?}") };
    for received in [first, second] {
        assert_eq!(received.path, "/hooks/very-secret-path");
        super::notifications::check_signature(received, &signing);
    }

    // With another key nothing can be read, and the error says what to do.
    assert_eq!(service.terminate().await, Some(0));
    key.replace();
    service.restart().await;
    let request = service.admin().request(reqwest::Method::POST, "/alerts/destinations/hook/test");
    let refused = crate::support::http::reply(request).await;
    let problem = refused.refusal(409, "alert_key_missing");
    assert!(problem["detail"].as_str().is_some_and(|it| it.contains("another key")), "{problem}");
    destination(&service, "hook", "webhook", &url).await;
    assert_eq!(test_of(&service, "hook").await["delivered"], true);
    assert_eq!(service.admin().delete("/alerts/destinations/hook").await.status, 204);
    service.admin().get("/alerts/destinations/hook").await.refusal(404, "not_found");
}

async fn a_stored_secret_is_sent_to_no_other_server(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let admin = service.admin();
    let own = Receiver::start(Answer::Status(200, "")).await;
    let foreign = Receiver::start(Answer::Status(200, "")).await;
    let (own_mail, foreign_mail) = (
        MailServer::start(mail_server::Kind::Accepting).await,
        MailServer::start(mail_server::Kind::Accepting).await,
    );
    let mail_url = |server: &MailServer| format!("smtp://127.0.0.1:{}", server.port);
    let mail = |url: &str, tls: &str| {
        json!({"kind": "email", "url": url, "tls": tls, "username": "alerts",
            "from": "alerts@gateways.example", "to": ["ops@example.com"]})
    };
    let hook = |url: &str| json!({"kind": "webhook", "url": url});
    let am = |url: &str| json!({"kind": "alertmanager", "url": url});
    let signing = format!("whsec_{}", "A".repeat(32));
    for (id, definition, secret) in [
        ("hook", hook(&own.url("/a")), signing.as_str()),
        ("am", am(&own.url("/a")), "bearer-1"),
        ("mail", mail(&mail_url(&own_mail), "none"), "pass-word-1"),
        ("safe-mail", mail(&mail_url(&own_mail), "starttls"), "pass-word-2"),
    ] {
        let mut definition = definition;
        definition["secret"] = json!(secret);
        admin.put(&format!("/alerts/destinations/{id}"), &definition).await.success();
    }
    // The signing key is neither sent elsewhere nor replaced by a generated one.
    for (id, definition) in [
        ("hook", hook(&foreign.url("/a"))),
        ("hook", hook(&own.url("/a").replace("http:", "https:"))),
        ("hook", hook(&own.url("/a").replace("127.0.0.1", "localhost"))),
        ("am", am(&foreign.url("/a"))),
        ("mail", mail(&mail_url(&foreign_mail), "none")),
        ("safe-mail", mail(&mail_url(&own_mail), "none")),
    ] {
        let reply = admin.put(&format!("/alerts/destinations/{id}"), &definition).await;
        reply.invalid("secret", &["required", "scheme, host or port"]);
    }
    for id in ["hook", "am", "mail"] {
        assert_eq!(test_of(&service, id).await["delivered"], true, "{id}");
    }
    assert!(foreign.all().is_empty());
    let all = own.all();
    let [signed, with_token] = &all[..] else { panic!("{all:#?}") };
    super::notifications::check_signature(signed, &signing);
    assert_eq!(with_token.headers["authorization"], "Bearer bearer-1");

    // Another path of the same server, and another server with a secret of its own.
    admin.put("/alerts/destinations/hook", &hook(&own.url("/b"))).await.success();
    assert_eq!(test_of(&service, "hook").await["delivered"], true);
    let last = own.all().pop().expect("a request");
    super::notifications::check_signature(&last, &signing);
    assert_eq!(last.path, "/b");
    let mut moved = am(&foreign.url("/a"));
    moved["secret"] = json!("bearer-2");
    admin.put("/alerts/destinations/am", &moved).await.success();
    assert_eq!(test_of(&service, "am").await["delivered"], true);
    assert_eq!(foreign.all()[0].headers["authorization"], "Bearer bearer-2");
}

async fn secrets_that_a_destination_repeats_are_neither_stored_nor_shown(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let receiver = Receiver::start(Answer::Repeat).await;
    destination(&service, "hook", "webhook", &receiver.url("/hooks/very-secret-path")).await;
    let alertmanager = json!({
        "kind": "alertmanager", "url": receiver.url("/secret-prefix"), "secret": "bearer-secret-1"
    });
    service.admin().put("/alerts/destinations/am", &alertmanager).await.success();
    for id in ["hook", "am"] {
        let tested = test_of(&service, id).await;
        let detail = tested["detail"].as_str().expect("a detail");
        assert!(detail.starts_with("404: Cannot POST …"), "{detail}");
    }
    super::watch(&service, "away", &["hook", "am"]).await;
    let id = super::watched(&service, "one", "away", "r1").await;
    let overview = service
        .eventually("/alerts", |it| {
            let all = super::notifications(it, "away/r1");
            all.len() == 2 && all.iter().all(|it| it["attempts"][0]["status"] == 404)
        })
        .await;
    let repeats = |it: &Received| it.path.contains("secret");
    assert!(receiver.all().iter().all(repeats), "of {id}");
    let files = std::fs::read_dir(service.directory()).expect("a folder").flatten();
    for secret in ["very-secret-path", "secret-prefix", "bearer-secret-1"] {
        assert!(!overview.to_string().contains(secret), "{overview:#}");
        assert!(!service.log().contains(secret), "{secret} is in the log");
    }
    for file in files.filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("readable");
        for secret in [&b"very-secret-path"[..], b"secret-prefix", b"bearer-secret-1"] {
            let holds = bytes.windows(secret.len()).any(|part| part == secret);
            assert!(!holds, "a secret is in {}", file.path().display());
        }
    }
}

async fn the_audit_log_says_whether_secrets_were_replaced(backend: Backend) {
    let key = Key::new();
    let mut service = start(&backend, &key).await;
    let (one, two) = (format!("whsec_{}", "A".repeat(32)), format!("whsec_{}", "B".repeat(32)));
    let url = "http://127.0.0.1:1/x";
    for (definition, is_replaced) in [
        (json!({"kind": "webhook", "url": url, "secret": one}), true),
        (json!({"kind": "webhook", "description": "another text"}), false),
        (json!({"kind": "webhook", "url": url, "secret": one}), false),
        (json!({"kind": "webhook", "secret": two}), true),
        (json!({"kind": "webhook", "url": "http://127.0.0.1:1/y"}), true),
        (json!({"kind": "webhook", "url": "http://127.0.0.1:1/y", "description": "d"}), false),
        (json!({"kind": "slack", "url": "http://127.0.0.1:1/y"}), true),
    ] {
        service.admin().put("/alerts/destinations/hook", &definition).await.success();
        assert_eq!(secrets_replaced(&service).await, json!(is_replaced), "{definition}");
    }

    // What changes nothing is not recorded.
    let count = records(&service).await;
    let same = json!({"kind": "slack"});
    let kept = service.admin().get("/alerts/destinations/hook").await.success();
    let put = service.admin().put("/alerts/destinations/hook", &same).await;
    assert_eq!((put.status, &put.success()["updatedAt"]), (200, &kept["updatedAt"]));
    destination(&service, "hook", "slack", "http://127.0.0.1:1/y").await;
    assert_eq!(records(&service).await, count);

    // With another key they are encrypted again.
    assert_eq!(service.terminate().await, Some(0));
    key.replace();
    service.restart().await;
    destination(&service, "hook", "slack", "http://127.0.0.1:1/y").await;
    assert_eq!(secrets_replaced(&service).await, json!(true));
}

/// The number of records of a destination.
async fn records(service: &Service) -> usize {
    let audit = service.admin().get("/audit?object=hook").await.success();
    audit["list"].as_array().expect("a list").len()
}

/// What the newest record of a stored destination says about its secrets.
async fn secrets_replaced(service: &Service) -> Value {
    let audit = service.admin().get("/audit?object=hook").await.success();
    let record = &audit["list"][0];
    assert_eq!(record["object"]["kind"], "alert_destination", "{record}");
    record["after"]["secretsReplaced"].clone()
}

async fn an_alertmanager_is_sent_a_firing_alert_again(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let alertmanager = Receiver::start(Answer::Status(200, "")).await;
    let hook = Receiver::start(Answer::Status(200, "")).await;
    destination(&service, "am", "alertmanager", &alertmanager.url("/")).await;
    destination(&service, "hook", "webhook", &hook.url("/")).await;
    super::watch(&service, "away", &["am", "hook"]).await;
    let id = super::watched(&service, "berlin", "away", "eu").await;
    hook.until(|all| !all.is_empty()).await;
    alertmanager.until(|all| !all.is_empty()).await;
    // As if it had been sent eleven days ago.
    let earlier = match &backend {
        Backend::Sqlite => "notified_at - 950400000000",
        Backend::Postgres(_) => "notified_at - interval '11 days'",
    };
    backend.change(&service, &format!("update alerts set notified_at = {earlier}")).await;
    let all = alertmanager.until(|all| all.len() >= 2).await;
    let [first, again] = [all[0].json()[0].clone(), all[1].json()[0].clone()];
    assert_eq!((&first["labels"], &first["startsAt"]), (&again["labels"], &again["startsAt"]));
    assert!(first["endsAt"].as_str() < again["endsAt"].as_str(), "{first} {again}");
    super::set_away(&service, &id, false).await;
    let received = hook.until(|all| all.len() >= 2).await;
    let received: Vec<String> = received.iter().map(Received::says).collect();
    assert_eq!(received, ["alert.firing away/eu", "alert.resolved away/eu"], "it is sent once");
    let all = alertmanager.until(|all| all.len() >= 3).await;
    let end = all[2].json()[0].clone();
    assert!(all.len() == 3 && end["endsAt"].as_str() < first["endsAt"].as_str(), "{end}");
}

#[tokio::test]
async fn without_a_key_no_destination_is_stored_and_a_malformed_one_prevents_the_start() {
    let service = Service::start_with(&[("ALERTS__ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    let slack = json!({"kind": "slack", "url": "http://127.0.0.1:1/x"});
    let refused = service.admin().post("/alerts/destinations", &slack).await;
    let problem = refused.refusal(409, "alert_key_missing");
    assert!(
        problem["detail"].as_str().is_some_and(|it| it.contains("alerts.key_file")),
        "{problem}"
    );

    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("key");
    for content in [None, Some("too short")] {
        if let Some(content) = content {
            std::fs::write(&file, content).expect("written");
        }
        let arguments =
            format!("serve --listen 127.0.0.1:0 --data-dir {}", directory.path().display());
        let mut command = crate::support::command::command(&arguments);
        command.env("GATEWAY_EVENTS__ALERTS__KEY_FILE", &file);
        let output = crate::support::command::run(&mut command).await;
        output.failed(1, &["alerts.key_file", file.to_str().expect("UTF-8")]);
    }
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_unless_allowed() {
    let key = Key::new();
    let path = key.path();
    let service = Service::start_with(&[("ALERTS__KEY_FILE", &path)]).await;
    for url in [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/x",
        "https://0x7f000001/x",
        "https://2130706433/x",
    ] {
        let hook = json!({"kind": "webhook", "url": url});
        let reply = service.admin().post("/alerts/destinations", &hook).await;
        reply.invalid("url", &["not a public one", "alerts.allowed_networks"]);
    }
    let mail = json!({"kind": "email", "url": "smtp://127.0.0.1:25", "from": "a@b.example",
        "to": ["c@d.example"]});
    service.admin().post("/alerts/destinations", &mail).await.invalid("url", &["not a public one"]);
}

#[tokio::test]
async fn a_test_shows_how_a_destination_answers() {
    let key = Key::new();
    let service = start(&Backend::Sqlite, &key).await;
    let receiver = Receiver::start(Answer::Status(500, "out of order <b>\u{1b}[31m")).await;
    destination(&service, "hook", "slack", &receiver.url("/x")).await;
    let test = test_of(&service, "hook").await;
    assert_eq!((&test["delivered"], &test["status"]), (&json!(false), &json!(500)));
    let detail = test["detail"].as_str().expect("a text");
    assert!(detail.starts_with("500: out of order") && !detail.contains('\u{1b}'), "{detail}");

    // Another destination, which would be reached by following it.
    let other = Receiver::start(Answer::Status(200, "")).await;
    receiver.answers(Answer::Redirect(other.url("/stolen")));
    let test = test_of(&service, "hook").await;
    assert!(test["delivered"] == false && other.all().is_empty(), "{test}");
    assert!(test["detail"].as_str().is_some_and(|it| it.contains("redirects are not followed")));

    receiver.answers(Answer::Endless);
    let test = test_of(&service, "hook").await;
    assert_eq!(test["status"], 500);
    receiver.answers(Answer::Hang);
    let test = test_of(&service, "hook").await;
    assert_eq!(
        (&test["status"], &test["detail"]),
        (&Value::Null, &json!("no response within 5 s"))
    );
    let shown = service.run("alert destination test hook").await;
    assert_eq!(shown.code, Some(1));
    assert!(shown.out.contains("no response within 5 s"), "{}", shown.out);

    // A certificate that nobody trusts.
    let wrong = FakeService::start().await;
    destination(&service, "wrong", "webhook", wrong.url().as_str()).await;
    let test = tested_while_accepting(&service, &wrong).await;
    let detail = test["detail"].as_str().expect("a text");
    assert!(test["delivered"] == false && detail.contains("certificate"), "{detail}");
    assert!(!detail.contains("localhost:"), "the URL is not in it: {detail}");

    receiver.answers(Answer::Status(204, ""));
    let shown = service.run("alert destination test hook").await;
    assert!(shown.well().contains("delivered after"), "{}", shown.out);
    assert!(service.run("alert destination list").await.well().contains("slack"));
    let slack = receiver.all().pop().expect("a request").json();
    let said = slack["text"].as_str().expect("a text");
    assert!(said.contains("[TEST] test/hook: This tests the destination hook."), "{said}");
}

async fn tested_while_accepting(service: &Service, wrong: &FakeService) -> Value {
    tokio::select! {
        test = test_of(service, "wrong") => test,
        () = wrong.accept_handshakes() => unreachable!("it accepts forever"),
    }
}

#[tokio::test]
async fn a_mail_server_gets_one_thread_per_alert() {
    let key = Key::new();
    let service = Service::start_with(&settings(&key.path())).await;
    let server = MailServer::start(mail_server::Kind::Accepting).await;
    let mail = json!({"kind": "email", "url": format!("smtp://127.0.0.1:{}", server.port),
        "tls": "none", "username": "alerts", "secret": "pass-word-1",
        "from": "alerts@gateways.example", "to": ["ops@example.com", "two@example.com"]});
    let created = service.admin().put("/alerts/destinations/mail", &mail).await;
    assert!(!created.body.contains("pass-word-1"));
    let test = test_of(&service, "mail").await;
    assert_eq!((&test["delivered"], &test["status"]), (&json!(true), &json!(250)), "{test}");

    super::watch(&service, "away", &["mail"]).await;
    let id = super::watched(&service, "berlin", "away", "eu").await;
    super::alert_in_state(&service, "away/eu", "firing").await;
    super::set_away(&service, &id, false).await;
    let emails = server.until(3).await;
    let header = |email: &str, name: &str| -> String {
        let line = email.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name}: {email}")).to_owned()
    };
    for (email, subject) in emails.iter().zip([
        "Subject: [TEST]",
        "Subject: [CRITICAL] away/eu",
        "Subject: [RESOLVED] away/eu",
    ]) {
        assert!(header(email, "Subject: ").starts_with(subject), "{email}");
        for part in ["RCPT TO:<ops@example.com>", "RCPT TO:<two@example.com>", "AUTH PLAIN"] {
            assert!(email.contains(part), "{email}");
        }
        assert_eq!(header(email, "Auto-Submitted: "), "Auto-Submitted: auto-generated");
    }
    let thread = |email: &str| header(email, "References: ");
    assert_eq!(thread(&emails[1]), thread(&emails[2]));
    assert_ne!(thread(&emails[0]), thread(&emails[1]));
    assert_ne!(header(&emails[1], "Message-ID: "), header(&emails[2], "Message-ID: "));

    for (kind, says) in
        [(mail_server::Kind::Refusing, "no such mailbox"), (mail_server::Kind::Endless, "too much")]
    {
        let server = MailServer::start(kind).await;
        let mut mail = mail.clone();
        mail["url"] = json!(format!("smtp://127.0.0.1:{}", server.port));
        service.admin().put("/alerts/destinations/other", &mail).await.success();
        let test = test_of(&service, "other").await;
        let detail = test["detail"].as_str().expect("a text");
        assert!(test["delivered"] == false && detail.contains(says), "{kind:?}: {detail}");
    }
    // TLS is required unless it is disabled, and the server offers none.
    let mut mail = mail;
    mail["tls"] = json!("starttls");
    service.admin().put("/alerts/destinations/other", &mail).await.success();
    let test = test_of(&service, "other").await;
    assert!(test["delivered"] == false && server.until(3).await.len() == 3, "{test}");
}

#[tokio::test]
async fn an_alertmanager_gets_the_same_labels_when_an_alert_fires_and_when_it_is_resolved() {
    let key = Key::new();
    let service = Service::start_with(&settings(&key.path())).await;
    let receiver = Receiver::start(Answer::Status(200, "")).await;
    let url = receiver.url("/am/");
    let definition = json!({"kind": "alertmanager", "url": url, "secret": "bearer-1"});
    service.admin().put("/alerts/destinations/am", &definition).await.success();
    super::watch(&service, "away", &["am"]).await;
    let id = super::watched(&service, "berlin", "away", "eu").await;
    super::alert_in_state(&service, "away/eu", "firing").await;
    receiver.until(|all| !all.is_empty()).await;
    super::set_away(&service, &id, false).await;
    let all = receiver.until(|all| all.len() >= 2).await;
    for received in &all {
        assert_eq!(received.path, "/am/api/v2/alerts");
        assert_eq!(received.headers["authorization"], "Bearer bearer-1");
    }
    let [begin, end] = [all[0].json()[0].clone(), all[1].json()[0].clone()];
    assert_eq!(begin["labels"], end["labels"]);
    assert_eq!(begin["labels"]["alertname"], "away");
    assert_eq!(begin["labels"]["group"], "eu");
    assert_eq!(begin["startsAt"], end["startsAt"]);
    assert!(begin["endsAt"].as_str() > end["endsAt"].as_str(), "{begin} {end}");
}
