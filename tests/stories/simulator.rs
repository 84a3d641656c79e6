//! The simulated gateway behaves like deployed ones: when it stops, when it disconnects, and how
//! soon it reconnects.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gateway_events::client::CancellationToken;
use gateway_events::client::gateway::{
    AckPolicy, Backoff, Exit, Gateway, GatewayOptions, Handler, Notice, ReceivedEvent,
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::fake_service::FakeService;
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// Timeouts that are not under test are set to this.
const LONG: Duration = Duration::from_hours(1);

/// Forwards a gateway's notices.
struct NoticeForwarder(mpsc::UnboundedSender<Notice>);

#[async_trait]
impl Handler for NoticeForwarder {
    async fn handle(&self, _: ReceivedEvent) {}

    async fn notice(&self, notice: Notice) {
        // The test may have ended.
        let _ = self.0.send(notice);
    }
}

/// A running gateway of a fake service.
struct Simulated {
    notices: mpsc::UnboundedReceiver<Notice>,
    running: JoinHandle<Exit>,
    stop: CancellationToken,
}

impl Simulated {
    /// Starts a gateway whose timeouts are long, except those that are set.
    fn start(fake: &FakeService, set: impl FnOnce(&mut GatewayOptions)) -> Self {
        let (sender, notices) = mpsc::unbounded_channel();
        let mut options = options(fake, Arc::new(NoticeForwarder(sender)));
        options.announces = false;
        options.ping_timeout = LONG;
        options.ack_timeout = LONG;
        options.backoff = Backoff::new(LONG, LONG);
        set(&mut options);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let running = tokio::spawn(async move { Gateway::new(options).run(stopped).await });
        Self { notices, running, stop }
    }

    async fn notice(&mut self) -> Notice {
        let notice = tokio::time::timeout(TEST_TIMEOUT, self.notices.recv()).await;
        notice.expect("a notice in time").expect("it runs")
    }

    async fn exit(self) -> Exit {
        let exit = tokio::time::timeout(TEST_TIMEOUT, self.running).await;
        exit.expect("an end in time").expect("no panic")
    }
}

fn options(fake: &FakeService, handler: Arc<dyn Handler>) -> GatewayOptions {
    let tls = fake.trust().client_config().expect("a TLS client");
    GatewayOptions::new(fake.url(), SecretString::from("a-key"), tls, handler)
}

#[tokio::test]
async fn simulator_has_the_defaults_of_deployed_gateways() {
    let fake = FakeService::start().await;
    let (sender, _) = mpsc::unbounded_channel();
    let options = options(&fake, Arc::new(NoticeForwarder(sender)));
    assert_eq!(options.ping_timeout, Duration::from_secs(35));
    assert_eq!(options.ack_timeout, Duration::from_secs(5));
    assert!(options.announces);
    let waits = [1, 2, 3, 20].map(|failures| options.backoff.pause(failures, 0.5).as_secs());
    assert_eq!(waits, [2, 4, 8, 300]);
    assert_eq!(options.backoff.pause(1, 0.0), Duration::from_millis(1500));
}

#[tokio::test]
async fn simulator_disconnects_if_it_receives_no_ping() {
    const WATCHDOG: Duration = Duration::from_secs(1);
    let fake = FakeService::start().await;
    let gateway = Simulated::start(&fake, |options| options.ping_timeout = WATCHDOG);
    let mut peer = fake.welcome().await;
    // Pings keep the connection; each is answered after what was sent before it.
    let kept = Instant::now();
    let mut last_ping = kept;
    let mut ticks = tokio::time::interval(WATCHDOG / 4);
    while kept.elapsed() < 2 * WATCHDOG {
        ticks.tick().await;
        peer.event(1).await;
        last_ping = Instant::now();
        peer.send(Message::Ping("1".into())).await;
        assert_eq!(peer.next().await, Some(Message::Pong("1".into())));
    }
    loop {
        tokio::select! {
            biased;
            said = peer.next() => match said {
                Some(Message::Close(_)) | None => break,
                Some(_) => {}
            },
            // Events alone do not count as activity.
            _ = ticks.tick() => if !peer.still_sends(2).await { break },
        }
    }
    assert!(last_ping.elapsed() >= WATCHDOG, "hung up after {:?}", last_ping.elapsed());
    drop(peer);
    // It was acknowledged, so it reconnects at once.
    let _back = fake.welcome().await;
    gateway.stop.cancel();
    assert_eq!(gateway.exit().await, Exit::Cancelled);
}

#[tokio::test]
async fn simulator_reconnects_if_no_acknowledgement_arrives_in_time() {
    const ACK_TIMEOUT: Duration = Duration::from_millis(500);
    let fake = FakeService::start().await;
    let began = Instant::now();
    let mut gateway = Simulated::start(&fake, |options| options.ack_timeout = ACK_TIMEOUT);
    fake.upgrade().await.until_gone().await;
    assert!(began.elapsed() >= ACK_TIMEOUT, "left after {:?}", began.elapsed());
    let Notice::Failed { why, wait } = gateway.notice().await else {
        panic!("an acknowledgement that never came is a connect that failed");
    };
    assert!(why.contains("connection.ack"), "{why}");
    assert!(wait >= LONG.mul_f64(0.75));
    gateway.stop.cancel();
    assert_eq!(gateway.exit().await, Exit::Cancelled);
}

#[tokio::test]
async fn a_first_frame_that_is_not_an_acknowledgement_is_a_failed_connect() {
    let fake = FakeService::start().await;
    let mut gateway = Simulated::start(&fake, |options| {
        options.backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
    });
    let firsts = [
        Message::text("{\"type\":\"api.deployed\",\"payload\":{},\"correlationId\":\"c\"}"),
        Message::text("no JSON"),
        Message::binary(b"{\"type\":\"connection.ack\"}".as_slice()),
    ];
    for first in firsts {
        let mut peer = fake.upgrade().await;
        peer.send(first.clone()).await;
        peer.until_gone().await;
        let notice = gateway.notice().await;
        assert!(matches!(notice, Notice::Failed { .. }), "{first:?}: {notice:?}");
    }
    gateway.stop.cancel();
}

#[tokio::test]
async fn simulator_stops_on_permanent_statuses_and_retries_others() {
    let fake = FakeService::start().await;
    for status in [401, 403, 404, 409, 422] {
        let gateway = Simulated::start(&fake, |_| {});
        fake.refuse(status).await;
        assert_eq!(gateway.exit().await, Exit::Refused(status));
    }
    let mut gateway = Simulated::start(&fake, |options| {
        options.backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(80));
    });
    for (status, doubled) in [(400, 10), (426, 20), (429, 40), (500, 80), (503, 80)] {
        fake.refuse(status).await;
        assert_eq!(gateway.notice().await, Notice::Refused { status });
        let Notice::Failed { wait, .. } = gateway.notice().await else {
            panic!("{status} is a connect that failed");
        };
        let expected = Duration::from_millis(doubled);
        assert!(wait >= expected.mul_f64(0.75) && wait <= expected.mul_f64(1.25), "{wait:?}");
    }
    // After an acknowledged connection, the next failure counts as the first.
    fake.welcome().await.close(1000).await;
    fake.refuse(503).await;
    loop {
        if let Notice::Failed { wait, .. } = gateway.notice().await {
            assert!(wait <= Duration::from_micros(12_500), "{wait:?}");
            break;
        }
    }
    gateway.stop.cancel();
    assert_eq!(gateway.exit().await, Exit::Cancelled);
}

#[tokio::test]
async fn simulator_stops_on_a_permanently_refused_manifest() {
    let fake = FakeService::start().await;
    let gateway = Simulated::start(&fake, |options| options.announces = true);
    let _peer = fake.welcome().await;
    // The well-known page, which does not exist, and then the manifest.
    fake.refuse(404).await;
    fake.refuse(401).await;
    assert_eq!(gateway.exit().await, Exit::Refused(401));
}

#[tokio::test]
async fn simulator_reconnects_at_once_after_an_acknowledged_connection() {
    let fake = FakeService::start().await;
    // Any pause would be an hour.
    let mut gateway = Simulated::start(&fake, |_| {});
    for code in [1000, 1001, 1008, 1011, 1013, 4500] {
        fake.welcome().await.close(code).await;
        assert!(matches!(gateway.notice().await, Notice::Connected { .. }));
        let Notice::Disconnected { why } = gateway.notice().await else {
            panic!("{code} is the end of a connection");
        };
        assert!(why.contains(&code.to_string()), "{why}");
    }
    drop(fake.welcome().await);
    drop(fake.welcome().await);
    gateway.stop.cancel();
}

#[tokio::test]
async fn a_deployment_is_reported_once_however_often_it_is_sent() {
    let fake = FakeService::start().await;
    let gateway = Simulated::start(&fake, |options| options.ack = AckPolicy::Success);
    let mut peer = fake.welcome().await;
    peer.event(1).await;
    let Some(Message::Text(report)) = peer.next().await else {
        panic!("no report");
    };
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["type"], "deployment.ack");
    assert_eq!(report["payload"]["status"], "success");
    drop(peer);
    let mut peer = fake.welcome().await;
    peer.event(1).await;
    peer.send(Message::Ping("1".into())).await;
    assert_eq!(peer.next().await, Some(Message::Pong("1".into())));
    gateway.stop.cancel();
}

/// The command prints events, and ends with an error with advice when it is refused permanently.
#[tokio::test]
async fn listen_prints_events_and_stops_when_it_is_refused() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let listen = |key: &str| {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_gateway-events"))
            .args(["listen", "--as-gateway", "--yes", "--json"])
            .args(["--url", &format!("https://localhost:{}", service.port)])
            .arg("--ca-file")
            .arg(service.certificate())
            .env("GATEWAY_EVENTS_KEY", key)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts")
    };
    let refused = listen("gwk_nobody").wait_with_output();
    let refused =
        tokio::time::timeout(TEST_TIMEOUT, refused).await.expect("an end").expect("output");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("token create"), "{said}");
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let mut listening = listen(&key);
    let lines = tokio::io::BufReader::new(listening.stdout.take().expect("a pipe"));
    let mut lines = tokio::io::AsyncBufReadExt::lines(lines);
    let line = tokio::time::timeout(TEST_TIMEOUT, lines.next_line()).await.expect("a line in time");
    let event: Value = serde_json::from_str(&line.expect("text").expect("a line")).expect("JSON");
    assert_eq!(event["payload"]["deploymentId"], "d-1");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    service
        .api()
        .patch(&format!("/gateways/{id}"), &serde_json::json!({"disabled": true}))
        .await
        .expect("disabled");
    let ended = tokio::time::timeout(TEST_TIMEOUT, listening.wait()).await.expect("an end");
    assert_eq!(ended.expect("a status").code(), Some(1));
}
