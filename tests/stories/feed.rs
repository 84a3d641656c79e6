//! `GET /feed` and `tail`: what happens, as it happens.

use std::time::Duration;

use gateway_events::api::{FeedGapReason, FeedKind, FeedMessage, FeedQuery, Outcome};
use gateway_events::client::feed::{FeedFollower, FeedItem};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::support::{Service, TEST_TIMEOUT, deployed, get};

/// A follower of the feed of a node.
pub(crate) struct Following(FeedFollower);

impl Following {
    /// Waits until the feed is open.
    pub(crate) async fn start(service: &Service, query: FeedQuery, after: Option<&str>) -> Self {
        let api = service.api().0;
        let mut follower = FeedFollower::new(api, query, after.map(str::to_owned));
        let first = tokio::time::timeout(TEST_TIMEOUT, follower.next()).await.expect("in time");
        assert!(matches!(first, Ok(FeedItem::Connected)), "{first:?}");
        Self(follower)
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> FeedMessage {
        let next = tokio::time::timeout(2 * TEST_TIMEOUT, async {
            loop {
                if let FeedItem::Message { message, .. } = self.0.next().await.expect("it goes on")
                {
                    return *message;
                }
            }
        });
        next.await.expect("a message in time")
    }

    /// The position after the last message.
    pub(crate) fn last_id(&self) -> String {
        self.0.last_id().expect("a position").to_owned()
    }

    /// Reads until an event with this id was published; returns the ids before it.
    async fn until(&mut self, id: &str) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            if let FeedMessage::Published(event) = self.next().await {
                if event.event_id.as_str() == id {
                    return ids;
                }
                ids.push(event.event_id.to_string());
            }
        }
    }
}

async fn publish(service: &Service, gateway: &str, id: &str) {
    let mut event = deployed(&[gateway], id);
    event["id"] = json!(id);
    service.admin().post("/events", &event).await.success();
}

fn only(kinds: &[FeedKind]) -> FeedQuery {
    FeedQuery { types: kinds.to_vec(), ..FeedQuery::default() }
}

#[tokio::test]
async fn a_feed_shows_what_happens_and_each_filter_selects_some_of_it() {
    let service = Service::start().await;
    let (berlin, key) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    let mut all = Following::start(&service, FeedQuery::default(), None).await;
    let of_tokyo = FeedQuery {
        gateway_id: vec![tokyo.parse().expect("an id")],
        ..only(&[FeedKind::Published])
    };
    let mut of_tokyo = Following::start(&service, of_tokyo, None).await;
    let failed = FeedQuery { outcome: vec![Outcome::Failed], ..FeedQuery::default() };
    let mut failed = Following::start(&service, failed, None).await;
    let of_type = FeedQuery {
        event_type: vec!["gateway.config.updated".parse().expect("a type")],
        ..only(&[FeedKind::Published, FeedKind::Attempt])
    };
    let mut of_type = Following::start(&service, of_type, None).await;

    publish(&service, &berlin, "e-1").await;
    let FeedMessage::Published(event) = all.next().await else { panic!("not published") };
    assert_eq!((event.event_id.as_str(), event.gateway_count), ("e-1", 1));
    let FeedMessage::Attempt(attempt) = all.next().await else { panic!("no attempt") };
    assert_eq!((attempt.outcome, attempt.gateway_name.as_str()), (Outcome::Failed, "berlin"));
    assert_eq!(attempt.event_id.map(|id| id.to_string()).as_deref(), Some("e-1"));
    let FeedMessage::Attempt(same) = failed.next().await else { panic!("no attempt") };
    assert_eq!(same.reason.map(|reason| reason.to_string()).as_deref(), Some("not_connected"));

    let mut socket = service.connected(&key).await;
    let FeedMessage::Connection(change) = all.next().await else { panic!("no connection") };
    assert_eq!((change.gateway_name.as_str(), change.reason), ("berlin", None));
    assert_eq!(serde_json::to_value(change.change).expect("JSON"), "opened");
    socket.expect(1..=1).await;
    let serving = socket.serve();
    let FeedMessage::Attempt(received) = all.next().await else { panic!("no attempt") };
    assert_eq!(received.outcome, Outcome::Received);
    serving.abort();
    let closed = loop {
        if let FeedMessage::Connection(change) = all.next().await {
            break change;
        }
    };
    assert_eq!(closed.connection_id, change.connection_id);
    assert!(closed.reason.is_some(), "{closed:?}");

    publish(&service, &tokyo, "e-2").await;
    let FeedMessage::Published(event) = of_tokyo.next().await else { panic!("not published") };
    assert_eq!(event.event_id.as_str(), "e-2");
    let config = json!({"type": "gateway.config.updated", "id": "e-3", "target": {"all": true},
        "payload": {"configType": "cache", "action": "update"}});
    service.admin().post("/events", &config).await.success();
    let FeedMessage::Published(event) = of_type.next().await else { panic!("not published") };
    assert_eq!((event.event_id.as_str(), event.gateway_count), ("e-3", 2));
    let FeedMessage::Published(event) = of_tokyo.next().await else { panic!("not published") };
    assert_eq!(event.event_id.as_str(), "e-3");

    for (query, field) in [
        ("types=publish", "types"),
        ("gatewayId=berlin", "gatewayId"),
        ("types=connection&outcome=failed", "outcome"),
        ("types=connection&type=api.deployed", "type"),
        ("outcome=lost", "outcome"),
        (&format!("type={}", ["api.deployed"; 21].join(",")), "type"),
        (&format!("gatewayId={berlin},00000000-0000-7000-8000-000000000000"), "gatewayId"),
        ("type=api.deployed,api.deploid", "type"),
    ] {
        service.admin().get(&format!("/feed?{query}")).await.invalid(field, &[]);
    }
    let unknown = "/feed?gatewayId=00000000-0000-7000-8000-000000000000";
    service.admin().get(unknown).await.invalid("gatewayId", &["00000000-0000-7000", "no gateway"]);
    let unknown = service.admin().get("/feed?type=api.deploid").await;
    unknown.invalid("type", &["api.deploid", "api.deployed"]);
    let metrics = service.metrics().await;
    assert!(metrics.contains("gateway_events_feeds 4"), "{metrics}");
}

#[tokio::test]
async fn a_feed_continues_after_any_message_and_says_when_it_can_not() {
    let service = Service::start().await;
    let (berlin, _) = service.gateway("berlin").await;
    let query = only(&[FeedKind::Published]);
    let mut feed = Following::start(&service, query.clone(), None).await;
    publish(&service, &berlin, "e-1").await;
    feed.until("e-1").await;
    let id = feed.last_id();
    drop(feed);
    for nth in 2..=9 {
        publish(&service, &berlin, &format!("e-{nth}")).await;
    }
    for _ in 0..2 {
        let mut again = Following::start(&service, query.clone(), Some(&id)).await;
        let ids = again.until("e-9").await;
        assert_eq!(ids, (2..=8).map(|nth| format!("e-{nth}")).collect::<Vec<_>>());
    }
    // More than a page, and live ones behind it without a gap.
    let batch: Vec<Value> = (0..1000)
        .map(|nth| {
            let mut event = deployed(&[&berlin], "d");
            event["id"] = json!(format!("b-{nth}"));
            event
        })
        .collect();
    service.admin().post("/events", &json!({"events": batch})).await.success();
    let mut again = Following::start(&service, query.clone(), Some(&id)).await;
    publish(&service, &berlin, "e-10").await;
    let ids = again.until("e-10").await;
    let expected: Vec<String> = (2..=9)
        .map(|nth| format!("e-{nth}"))
        .chain((0..1000).map(|nth| format!("b-{nth}")))
        .collect();
    assert_eq!(ids, expected);

    // An empty id is that of a client without one: the stream begins now, without a gap.
    let mut feed = Following::start(&service, query.clone(), Some("")).await;
    publish(&service, &berlin, "e-11").await;
    let FeedMessage::Published(event) = feed.next().await else { panic!("not published") };
    assert_eq!(event.event_id.as_str(), "e-11");
    drop(feed);

    // A position of another database, and something else.
    let beyond = data_encoding::BASE64URL_NOPAD.encode(b"1 1769851800000000 999999 999999 999999");
    for (unusable, reason) in [
        ("nonsense", FeedGapReason::UnknownId),
        (beyond.as_str(), FeedGapReason::UnknownId),
        (
            data_encoding::BASE64URL_NOPAD.encode(b"1 1769851800000000 1 0 0").as_str(),
            FeedGapReason::TooFarBehind,
        ),
    ] {
        let mut feed = Following::start(&service, query.clone(), Some(unusable)).await;
        let FeedMessage::Gap(gap) = feed.next().await else { panic!("no gap") };
        assert_eq!(gap.reason, reason);
        // What it names can be read.
        for list in &gap.lists {
            let path = list.strip_prefix("/api/internal/v1").expect("a path of the API");
            get(&service.api(), path).await.expect("a page");
        }
        publish(&service, &berlin, &format!("after-{}", unusable.len())).await;
        assert!(feed.until(&format!("after-{}", unusable.len())).await.is_empty());
    }
}

/// The event was appended before the window of the gap, and delivered in it.
#[tokio::test]
async fn the_lists_of_a_gap_contain_what_was_missed() {
    let service = Service::start().await;
    let (id, key) = service.gateway("berlin").await;
    publish(&service, &id, "e-1").await;
    let mut feed = Following::start(&service, only(&[FeedKind::Attempt]), None).await;
    let socket = service.connected(&key).await.serve();
    let received = |message: &FeedMessage| matches!(message, FeedMessage::Attempt(attempt) if attempt.outcome == Outcome::Received);
    let at = loop {
        let message = feed.next().await;
        if received(&message) {
            let FeedMessage::Attempt(attempt) = message else { panic!("no attempt") };
            break attempt.at;
        }
    };
    let mut other = Following::start(&service, only(&[FeedKind::Attempt]), Some("nonsense")).await;
    let FeedMessage::Gap(gap) = other.next().await else { panic!("no gap") };
    assert_eq!(gap.lists.len(), 1, "{gap:?}");
    let list = gap.lists[0].strip_prefix("/api/internal/v1").expect("a path of the API");
    assert!(list.contains("windowOf=outcome"), "{list}");
    // The window that a client which has read until just before the attempt would receive.
    let page = get(&service.api(), &format!("{list}&from={at}")).await.expect("a page");
    assert_eq!(page["count"], 1, "{page:#}");
    assert_eq!(page["list"][0]["eventId"], "e-1");
    socket.abort();
}

#[tokio::test]
async fn feeds_are_limited_and_end_with_their_token() {
    let service = Service::start().await;
    let made = service.run("token create --access console --scope read --json").await.json();
    let token = made["token"].as_str().expect("a token");
    let watcher = service.api_with(token).0;
    let mut feeds = Vec::new();
    for _ in 0..16 {
        let mut feed = FeedFollower::new(watcher.clone(), FeedQuery::default(), None);
        assert!(matches!(feed.next().await, Ok(FeedItem::Connected)));
        feeds.push(feed);
    }
    let refused = watcher.feed(&FeedQuery::default(), None).await.expect_err("refused");
    assert_eq!(refused.status(), Some(429), "{refused}");
    let other = Following::start(&service, FeedQuery::default(), None).await;
    drop(feeds.pop());
    // A place is free as soon as the service notices.
    let mut polls = tokio::time::interval(Duration::from_millis(100));
    let again = tokio::time::timeout(TEST_TIMEOUT, async {
        while watcher.feed(&FeedQuery::default(), None).await.is_err() {
            polls.tick().await;
        }
    });
    again.await.expect("a place is free");
    let id = made["id"].as_str().expect("an id");
    service.run(&format!("token revoke {id} --yes")).await.well();
    let mut last = feeds.pop().expect("a feed");
    let why = loop {
        match tokio::time::timeout(TEST_TIMEOUT, last.next()).await.expect("in time") {
            Ok(FeedItem::Disconnected { why, .. }) => break why,
            other => drop(other.expect("it goes on")),
        }
    };
    assert!(why.contains("token is not valid"), "{why}");
    let refused = loop {
        if let Err(refused) = last.next().await {
            break refused;
        }
    };
    assert_eq!(refused.status(), Some(401));
    drop(other);
    let without_scope = service.run("token create --access p --scope publish --json").await.json();
    let publisher = service.api_with(without_scope["token"].as_str().expect("a token")).0;
    let refused = publisher.feed(&FeedQuery::default(), None).await.expect_err("refused");
    assert_eq!(refused.status(), Some(403));
}

#[tokio::test]
async fn a_slow_reader_receives_a_gap_and_delays_no_other() {
    let service = Service::start().await;
    let mut quick = Following::start(&service, only(&[FeedKind::Published]), None).await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(128 * 1024).expect("a small buffer");
    let address = format!("127.0.0.1:{}", service.port).parse().expect("an address");
    let tcp = socket.connect(address).await.expect("it listens");
    let mut slow = service.tls_over(tcp).await.expect("TLS");
    let request = format!(
        "GET /api/internal/v1/feed HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        service.token
    );
    slow.write_all(request.as_bytes()).await.expect("sent");
    let mut head = [0; 1024];
    let read = slow.read(&mut head).await.expect("a response");
    let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
    for expected in ["200 ok", "content-type: text/event-stream", "x-accel-buffering: no"] {
        assert!(head.contains(expected), "{head}");
    }
    assert!(!head.contains("content-encoding"), "{head}");
    let batch: Vec<Value> = (0..1000)
        .map(|_| {
            json!({"type": "gateway.config.updated", "target": {"labels": {"no": "where"}},
                "userId": "u".repeat(256), "payload": {"configType": "cache", "action": "update"}})
        })
        .collect();
    let mut buffer = vec![0; 128 * 1024];
    // More than the kernel and the feed keep for a reader.
    for _ in 0..22 {
        service.admin().post("/events", &json!({"events": batch})).await.success();
        for _ in 0..batch.len() {
            let message = quick.next().await;
            assert!(matches!(message, FeedMessage::Published(_)), "{message:?}");
        }
        // A fraction, so that it does not count as stalled.
        slow.read_exact(&mut buffer).await.expect("it goes on");
    }
    let mut text = String::new();
    let gap = tokio::time::timeout(2 * TEST_TIMEOUT, async {
        while !text.contains("\"reason\":\"lagged\"") {
            let read = slow.read(&mut buffer).await.expect("it goes on");
            assert!(read > 0, "it ended");
            // The beginning of a message may be in the previous part.
            text = text.split_off(text.len().saturating_sub(64));
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    });
    gap.await.expect("a gap");
}

#[tokio::test]
async fn a_feed_ends_with_a_message_when_its_node_shuts_down() {
    let mut service = Service::start().await;
    let stream = service.api().0.feed(&FeedQuery::default(), None).await.expect("open");
    let reading = tokio::spawn(async move { stream.text().await.expect("a whole answer") });
    assert_eq!(service.terminate().await, Some(0), "{}", service.log());
    let text = reading.await.expect("read");
    assert!(text.contains("event: end\n") && text.contains("\"reason\":\"shutdown\""), "{text}");
}

/// A running `tail`.
struct Tail {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Tail {
    async fn start(mut command: Command) -> Self {
        let mut process = command.spawn().expect("it starts");
        let out = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let err = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let mut tail = Self { process, out, err };
        let message = tail.error_line().await;
        assert!(message.contains("following the feed"), "{message}");
        tail
    }

    async fn line(&mut self) -> String {
        let line =
            tokio::time::timeout(2 * TEST_TIMEOUT, self.out.next_line()).await.expect("in time");
        line.expect("text").expect("a line")
    }

    async fn error_line(&mut self) -> String {
        let line = tokio::time::timeout(TEST_TIMEOUT, self.err.next_line()).await.expect("in time");
        line.expect("text").expect("a line on standard error")
    }
}

#[tokio::test]
async fn tail_prints_the_feed_survives_a_restart_and_ends_with_the_interrupt() {
    let mut service = Service::start().await;
    let (berlin, _) = service.gateway("berlin").await;
    let mut text = Tail::start(service.command("tail --gateway berlin")).await;
    let mut failed = Tail::start(service.command("tail --failed")).await;
    let mut json = Tail::start(service.command("tail --json --kind published")).await;
    publish(&service, &berlin, "e-1").await;
    let line = text.line().await;
    for part in ["published", "api.deployed", "e-1", "1 gateway"] {
        assert!(line.contains(part), "{line}");
    }
    for line in [text.line().await, failed.line().await] {
        for part in ["failed", "berlin", "#1", "not_connected", "e-1"] {
            assert!(line.contains(part), "{line}");
        }
    }
    let message: Value = serde_json::from_str(&json.line().await).expect("JSON");
    assert_eq!((&message["kind"], &message["eventId"]), (&json!("published"), &json!("e-1")));

    service.kill().await;
    assert!(json.error_line().await.contains("connecting again"));
    service.restart().await;
    publish(&service, &berlin, "e-2").await;
    let again: Value = serde_json::from_str(&json.line().await).expect("JSON");
    assert_eq!(again["eventId"], "e-2");
    // A later command continues after a message.
    let after = message["id"].as_str().expect("an id");
    let command = service.command(&format!("tail --json --kind published --after {after}"));
    let mut later = Tail::start(command).await;
    let again: Value = serde_json::from_str(&later.line().await).expect("JSON");
    assert_eq!(again["eventId"], "e-2");
    for tail in [&mut text, &mut failed, &mut json, &mut later] {
        let pid = i32::try_from(tail.process.id().expect("it runs")).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, Signal::INT).expect("it can be signalled");
        let ended = tokio::time::timeout(TEST_TIMEOUT, tail.process.wait()).await.expect("in time");
        assert_eq!(ended.expect("it ends").code(), Some(0));
    }
    service.run("tail --gateway nowhere").await.failed(1, &["nowhere"]);
    service.run("tail --output csv").await.failed(1, &["jsonl"]);
}
