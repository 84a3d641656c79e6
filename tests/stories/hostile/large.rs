//! Large bodies: limits on memory, and fairness between publishers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::support::http::Caller;
use crate::support::{Service, deployed};

/// An event whose payload is larger by this many bytes.
fn sized(gateway: &str, bytes: usize) -> Value {
    let mut event = deployed(&[gateway], "d-1");
    event["payload"]["filler"] = json!("x".repeat(bytes));
    event
}

#[tokio::test]
async fn one_tokens_large_bodies_leave_memory_for_anothers() {
    let settings = [("SERVER__BODY_LIMIT", "1MiB"), ("SERVER__BODY_MEMORY", "2MiB")];
    let service = Service::start_with(&settings).await;
    let (id, _) = service.gateway("one").await;
    let (admin, other) = (service.admin(), service.scoped(&["publish"]).await);
    let head = format!(
        "POST /api/internal/v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: 1000000\r\n\r\n",
        service.token
    );
    let mut polls = tokio::time::interval(Duration::from_millis(20));
    let mut attempts = 0;
    let (slow, refused) = loop {
        // A body that arrives only in part. It is counted as it arrives; if the other body arrives
        // first, this is the one that is refused.
        let mut slow = service.tls(service.port).await;
        slow.write_all(head.as_bytes()).await.expect("sent");
        slow.write_all(&vec![b' '; 900_000]).await.expect("sent");
        slow.flush().await.expect("sent");
        polls.tick().await;
        let answer = admin.post("/events", &sized(&id, 500_000)).await;
        if answer.status != 202 {
            break (slow, answer);
        }
        attempts += 1;
        assert!(attempts < 200, "two large bodies of one token were never refused");
    };
    refused.refusal(503, "overloaded");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    admin.post("/events", &sized(&id, 1000)).await.success();
    other.post("/events", &sized(&id, 500_000)).await.success();
    drop(slow);
    loop {
        polls.tick().await;
        let answer = admin.post("/events", &sized(&id, 500_000)).await;
        if answer.status == 202 {
            break;
        }
        answer.refusal(503, "overloaded");
    }
    let metrics = service.metrics().await;
    assert!(metrics.contains("gateway_events_bodies_refused_total"), "{metrics}");
}

#[tokio::test]
async fn a_body_beyond_its_limit_is_refused_cleanly() {
    let service = Service::start_with(&[("SERVER__BODY_LIMIT", "1MiB")]).await;
    let admin = service.admin();
    let blanks = |length: usize| " ".repeat(length);
    for length in [(1 << 20) + 1, (2 << 20) - 1] {
        admin.publish(blanks(length)).await.refusal(413, "body_too_large");
    }
    // Without a declared length.
    let mut stream = service.tls(service.port).await;
    let head = format!(
        "POST /api/internal/v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        service.token
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = format!("100001\r\n{}\r\n0\r\n\r\n", blanks((1 << 20) + 1));
    stream.write_all(chunk.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
    let (id, _) = service.gateway("one").await;
    for length in [256 * 1024, 4 << 20] {
        let large = json!({"name": "x".repeat(length)});
        admin.post("/gateways", &large).await.refusal(413, "body_too_large");
        let path = format!("/gateways/{id}");
        admin.patch(&path, &large).await.refusal(413, "body_too_large");
    }
}

/// An object of 1.1 million members, and a batch of the fifteen largest events.
fn attacks(gateway: &str) -> [(&'static str, usize, String); 2] {
    let members: Vec<String> = (0..1_100_000).map(|nth| format!("\"k{nth:06}\":1")).collect();
    let batch = vec![sized(gateway, (1 << 20) - 1000); 15];
    [
        ("objects of 1.1 million members", 3, format!("{{{}}}", members.join(","))),
        ("batches of 15 x 1 MiB", 2, Value::Array(batch).to_string()),
    ]
}

async fn attack(caller: Caller, body: String, stop: CancellationToken) -> usize {
    let mut sent = 0;
    while !stop.is_cancelled() {
        let answer = caller.publish(body.clone()).await;
        assert!(matches!(answer.status, 202 | 422 | 503 | 507), "{answer:?}");
        sent += 1;
    }
    sent
}

async fn publish(caller: &Caller, gateway: &str, for_so_long: Duration) -> Vec<Duration> {
    let (begun, mut took) = (Instant::now(), Vec::new());
    let event = deployed(&[gateway], "d-1");
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while begun.elapsed() < for_so_long || took.len() < 20 {
        pace.tick().await;
        let asked = Instant::now();
        caller.post("/events", &event).await.success();
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    took
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures are shown with --nocapture")]
async fn large_bodies_of_one_publisher_do_not_stop_another() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let (target, _) = service.gateway("target").await;
    let bystander = service.scoped(&["publish"]).await;
    let (quiet, attacked) = (Duration::from_secs(1), Duration::from_secs(4));
    let took = publish(&bystander, &id, quiet).await;
    println!("alone: p50 {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    for (what, connections, body) in attacks(&target) {
        let stop = CancellationToken::new();
        let attacks: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(attack(service.admin(), body.clone(), stop.clone())))
            .collect();
        let took = publish(&bystander, &id, attacked).await;
        stop.cancel();
        let mut sent = 0;
        for attack in attacks {
            sent += attack.await.expect("each was answered");
        }
        let (p50, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{connections} x {what} ({sent} sent): p50 {p50:?}, longest {longest:?}");
    }
}
