//! Notifications: signed, in order, once, and again after failures.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::receiver::{Answer, Received, Receiver};
use super::{
    A_WHILE, Key, alert_in_state, destination, notifications, set_away, settings, start, watch,
    watched,
};
use crate::both_databases::{Backend, on_both};

on_both! {
    an_alert_and_its_end_are_one_signed_thread_for_many_gateways
    a_destination_that_fails_is_notified_in_order_later_and_delays_no_other
    what_is_never_accepted_is_given_up_on_record
    an_alert_that_fires_again_and_again_leaves_three_notifications_pending
    an_alert_is_sent_when_a_silence_ends_and_nothing_is_sent_again_after_a_restart
}

/// Verifies a message as Standard Webhooks specifies it.
pub(super) fn check_signature(received: &Received, secret: &str) {
    let key = secret.strip_prefix("whsec_").expect("the prefix");
    let key = BASE64.decode(key.as_bytes()).expect("Base64");
    let header = |name: &str| received.headers[name].clone();
    let signed =
        format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), received.body);
    let signature = header("webhook-signature");
    let tag = BASE64.decode(signature.strip_prefix("v1,").expect("version 1").as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    hmac::verify(&key, signed.as_bytes(), &tag.expect("Base64")).expect("a valid signature");
    assert_eq!(header("content-type"), "application/json");
}

async fn an_alert_and_its_end_are_one_signed_thread_for_many_gateways(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let receiver = Receiver::start(Answer::Status(204, "")).await;
    let created = destination(&service, "hook", "webhook", &receiver.url("/in")).await;
    let secret = created["secret"].as_str().expect("a generated key").to_owned();
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(watched(&service, &format!("eu-{number:02}"), "away", "eu").await);
    }
    watch(&service, "away", &["hook"]).await;
    let firing = alert_in_state(&service, "away/eu", "firing").await;
    assert_eq!(firing["notified"], json!(["hook"]));
    for id in &ids {
        set_away(&service, id, false).await;
    }
    alert_in_state(&service, "away/eu", "resolved").await;
    let is_end = |it: &Received| it.says() == "alert.resolved away/eu";
    receiver.until(|all| all.iter().any(is_end)).await;
    let messages = receiver.accepted("away");
    let [begin, end] = &messages[..] else { panic!("{messages:#?}") };
    assert_eq!(begin.says(), "alert.firing away/eu");
    assert_eq!(end.says(), "alert.resolved away/eu");
    for received in [begin, end] {
        check_signature(received, &secret);
        assert_eq!(received.path, "/in");
        let data = received.json()["data"].clone();
        assert_eq!(
            (&data["severity"], &data["owner"]),
            (&json!("critical"), &json!("team-gateways"))
        );
    }
    assert_ne!(begin.headers["webhook-id"], end.headers["webhook-id"]);
    let data = begin.json()["data"].clone();
    let named = data["gateways"].as_array().expect("a list").len();
    // Those that were registered by the first evaluation.
    assert!(data["count"].as_u64() <= Some(30) && named <= 20, "{data:#}");

    let overview = service
        .eventually("/alerts", |it| {
            let of_alert = notifications(it, "away/eu");
            of_alert.len() == 2 && of_alert.iter().all(|it| it["state"] == "delivered")
        })
        .await;
    for notification in notifications(&overview, "away/eu") {
        assert_eq!(notification["attemptCount"], 1);
        let attempt = &notification["attempts"][0];
        assert_eq!((&attempt["status"], &attempt["detail"]), (&json!(204), &json!("204")));
    }
    let listed = service.run("alert notifications").await;
    assert!(listed.well().contains("delivered"), "{}", listed.out);
    service
        .metrics_until(|text| {
            text.contains("gateway_events_alert_attempts_total{outcome=\"delivered\"}")
        })
        .await;
}

async fn a_destination_that_fails_is_notified_in_order_later_and_delays_no_other(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let failing = Receiver::start(Answer::Status(500, "not today")).await;
    let hanging = Receiver::start(Answer::Hang).await;
    let healthy = Receiver::start(Answer::Status(200, "")).await;
    destination(&service, "failing", "webhook", &failing.url("/")).await;
    destination(&service, "hanging", "webhook", &hanging.url("/")).await;
    destination(&service, "healthy", "webhook", &healthy.url("/")).await;
    watch(&service, "away", &["failing", "hanging", "healthy"]).await;
    let mut ids = Vec::new();
    for region in 0..8 {
        ids.push(watched(&service, &format!("g-{region}"), "away", &format!("r{region}")).await);
    }
    // The hanging one has as many attempts in progress as it may have.
    let has_all = |all: &[Received]| {
        (0..8).all(|n| all.iter().any(|it| it.says() == format!("alert.firing away/r{n}")))
    };
    healthy.until(has_all).await;
    set_away(&service, &ids[0], false).await;
    healthy.until(|all| all.iter().any(|it| it.says() == "alert.resolved away/r0")).await;
    failing.until(|all| !all.is_empty()).await;
    assert!(failing.all().iter().all(|it| it.says().starts_with("alert.firing")), "in order");
    let overview = service
        .eventually("/alerts", |it| {
            let failed = |it: &Value| it["attempts"][0]["status"] == 500;
            notifications(it, "away/r0").iter().any(failed)
        })
        .await;
    let waiting = notifications(&overview, "away/r0");
    let waiting: Vec<_> = waiting.iter().filter(|it| it["destination"] == "failing").collect();
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|it| it["state"] == "pending" && it["endedAt"].is_null()));
    assert_eq!(waiting[0]["attempts"][0]["detail"], "500: not today");
    assert_eq!(waiting[1]["attemptCount"], 0, "the resolved notification waits for the firing one");

    for receiver in [&failing, &hanging] {
        receiver.answers(Answer::Status(200, ""));
        receiver
            .until(|all| has_all(all) && all.iter().any(|it| it.says() == "alert.resolved away/r0"))
            .await;
        let accepted: Vec<String> = receiver
            .accepted("away")
            .iter()
            .filter(|it| it.says().ends_with("/r0"))
            .map(Received::says)
            .collect();
        assert_eq!(accepted, ["alert.firing away/r0", "alert.resolved away/r0"]);
    }
    // Each attempt at a notification has the same id.
    let of_r0 = |it: &&Received| it.says() == "alert.firing away/r0";
    let all = failing.all();
    let tries: Vec<&Received> = all.iter().filter(of_r0).collect();
    assert!(tries.len() >= 2);
    assert!(tries.iter().all(|it| it.headers["webhook-id"] == tries[0].headers["webhook-id"]));
}

async fn what_is_never_accepted_is_given_up_on_record(backend: Backend) {
    let key = Key::new();
    let path = key.path();
    let all = [settings(&path).as_slice(), &[("ALERTS__GIVE_UP_AFTER", "5s")]].concat();
    let service = backend.start_with(&all).await;
    let receiver = Receiver::start(Answer::Status(503, "closed")).await;
    destination(&service, "hook", "webhook", &receiver.url("/")).await;
    watch(&service, "away", &["hook"]).await;
    let id = watched(&service, "one", "away", "eu").await;
    let overview = service
        .eventually("/alerts", |it| {
            notifications(it, "away/eu").iter().any(|it| it["state"] == "failed")
        })
        .await;
    let given_up = &notifications(&overview, "away/eu")[0];
    assert_eq!(given_up["attempts"][0]["detail"], "503: closed");
    assert!(given_up["endedAt"].is_string() && given_up["nextAttemptAt"].is_null());
    service.logged(|log| log.contains("failed to send a notification about an alert")).await;

    // What follows is sent nevertheless.
    receiver.answers(Answer::Status(200, ""));
    set_away(&service, &id, false).await;
    receiver.until(|all| all.iter().any(|it| it.says() == "alert.resolved away/eu")).await;

    // What waits for a deleted destination is given up, too.
    receiver.answers(Answer::Hang);
    set_away(&service, &id, true).await;
    receiver.until(|all| all.last().is_some_and(|it| it.says() == "alert.firing away/eu")).await;
    set_away(&service, &id, false).await;
    alert_in_state(&service, "away/eu", "resolved").await;
    service.admin().delete("/alerts/destinations/hook").await.success();
    service
        .eventually("/alerts", |it| {
            let deleted = |it: &Value| it["attempts"][0]["detail"] == "the destination was deleted";
            notifications(it, "away/eu").iter().any(deleted)
        })
        .await;
}

async fn an_alert_that_fires_again_and_again_leaves_three_notifications_pending(backend: Backend) {
    let key = Key::new();
    let service = start(&backend, &key).await;
    let receiver = Receiver::start(Answer::Status(503, "closed")).await;
    destination(&service, "hook", "webhook", &receiver.url("/")).await;
    watch(&service, "away", &["hook"]).await;
    let id = watched(&service, "one", "away", "eu").await;
    for _ in 0..3 {
        alert_in_state(&service, "away/eu", "firing").await;
        set_away(&service, &id, false).await;
        alert_in_state(&service, "away/eu", "resolved").await;
        set_away(&service, &id, true).await;
    }
    alert_in_state(&service, "away/eu", "firing").await;
    let overview = service.admin().get("/alerts").await.success();
    let all = notifications(&overview, "away/eu");
    let states: Vec<(&str, &str)> = all
        .iter()
        .map(|it| (it["event"].as_str().expect("a text"), it["state"].as_str().expect("a text")))
        .collect();
    assert_eq!(
        states,
        [
            ("firing", "pending"),
            ("resolved", "pending"),
            ("firing", "superseded"),
            ("resolved", "superseded"),
            ("firing", "superseded"),
            ("resolved", "superseded"),
            ("firing", "pending"),
        ]
    );
    for superseded in &all[2..6] {
        assert_eq!((&superseded["attemptCount"], &superseded["attempts"]), (&json!(0), &json!([])));
        assert!(superseded["endedAt"].is_string() && superseded["nextAttemptAt"].is_null());
    }

    // The destination receives that it fired, that it was resolved, and that it fires.
    receiver.answers(Answer::Status(200, ""));
    receiver.until(|all| all.iter().filter(|it| it.is_accepted).count() >= 3).await;
    set_away(&service, &id, false).await;
    receiver.until(|all| all.iter().filter(|it| it.is_accepted).count() >= 4).await;
    let accepted: Vec<String> = receiver.accepted("away").iter().map(Received::says).collect();
    let [begin, end] = ["alert.firing away/eu", "alert.resolved away/eu"];
    assert_eq!(accepted, [begin, end, begin, end]);
}

async fn an_alert_is_sent_when_a_silence_ends_and_nothing_is_sent_again_after_a_restart(
    backend: Backend,
) {
    let key = Key::new();
    let mut service = start(&backend, &key).await;
    let receiver = Receiver::start(Answer::Status(200, "")).await;
    destination(&service, "hook", "webhook", &receiver.url("/")).await;
    watch(&service, "away", &["hook"]).await;
    let path = "/alerts/rules/away/silence";
    let silence = json!({"until": gateway_events::clock::Timestamp::now().plus(A_WHILE * 100)});
    service.admin().put(path, &silence).await.success();
    watched(&service, "one", "away", "eu").await;
    let silent = alert_in_state(&service, "away/eu", "firing").await;
    assert_eq!((&silent["silenced"], &silent["notified"]), (&json!(true), &json!([])));
    assert!(receiver.accepted("away").is_empty());
    service.admin().put(path, &json!({"until": null})).await.success();
    receiver.until(|all| all.iter().any(|it| it.says() == "alert.firing away/eu")).await;

    assert_eq!(service.terminate().await, Some(0));
    service.restart().await;
    // Once a notification of another alert has arrived, the first one has been evaluated again.
    watched(&service, "two", "away", "us").await;
    receiver.until(|all| all.iter().any(|it| it.says() == "alert.firing away/us")).await;
    let messages: Vec<String> = receiver.accepted("away").iter().map(Received::says).collect();
    assert_eq!(messages, ["alert.firing away/eu", "alert.firing away/us"]);
}
