//! Peers that hold connections without using them exclude no gateway, probe or admin, and a
//! gateway's HTTP requests leave no connections open. Every timeout that would free a place is set
//! to ten minutes, so that a test passes only if a connection was evicted.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connections::{Stream, cut, request_livez};
use crate::proxied::dial;
use crate::support::http::reply;
use crate::support::{Service, TEST_TIMEOUT};

const NO_DEADLINES: [(&str, &str); 4] = [
    ("SERVER__HANDSHAKE_TIMEOUT", "10m"),
    ("SERVER__HEADER_TIMEOUT", "10m"),
    ("SERVER__IDLE_TIMEOUT", "10m"),
    ("SERVER__REQUEST_TIMEOUT", "10m"),
];
const OTHER_ADDRESS: &str = "127.0.0.2";

async fn start(settings: &[(&str, &str)]) -> Service {
    // Each side of a connection needs a descriptor.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("raised");
    Service::start_with(&[&NO_DEADLINES, settings].concat()).await
}

async fn counted(service: &Service, name: &str) -> u64 {
    let metrics = service.metrics().await;
    let series = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    series.unwrap_or(0)
}

/// Peers that send nothing, and reconnect whenever they are disconnected.
async fn silent_peers(port: u16, count: usize) -> JoinSet<()> {
    let mut peers = JoinSet::new();
    let (connected, mut connections) = tokio::sync::mpsc::channel(count);
    for _ in 0..count {
        let connected = connected.clone();
        peers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(500));
            loop {
                pace.tick().await;
                let mut tcp = dial(OTHER_ADDRESS, port).await;
                // Full: all have been connected once.
                let _ = connected.try_send(());
                drop(tcp.read_u8().await);
            }
        });
    }
    for _ in 0..count {
        timeout(TEST_TIMEOUT, connections.recv()).await.expect("it accepts").expect("a connection");
    }
    peers
}

#[tokio::test]
async fn silent_reconnecting_peers_do_not_exclude_gateways() {
    let service = start(&[]).await;
    let (_, key) = service.gateway("one").await;
    let peers = silent_peers(service.port, 2000).await;
    for _ in 0..3 {
        timeout(TEST_TIMEOUT, service.connected(&key)).await.expect("a gateway is admitted");
    }
    assert!(counted(&service, "gateway_events_http_connections_evicted_total").await > 0);
    drop(peers);
}

#[tokio::test]
async fn silent_peers_behind_a_balancer_only_evict_their_own_connections() {
    let settings =
        [("SERVER__PROXY_PROTOCOL_FROM", "127.0.0.3/32"), ("SERVER__MAX_PENDING_HANDSHAKES", "10")];
    let service = start(&settings).await;
    let (_, key) = service.gateway("one").await;
    let on_behalf = async |client: &str| {
        let mut tcp = dial("127.0.0.3", service.port).await;
        let header = format!("PROXY TCP4 {client} 192.0.2.1 40000 8443\r\n");
        tcp.write_all(header.as_bytes()).await.expect("open");
        tcp
    };
    let gateway = on_behalf("203.0.113.8").await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(on_behalf("203.0.113.7").await);
    }
    // The first of them was closed, which shows that the limit was reached.
    drop(timeout(TEST_TIMEOUT, silent[0].read_u8()).await.expect("it ends"));
    let tls = service.tls_over(gateway).await.expect("the older connection is still there");
    service.connect_over(tls, &key).await.expect("admitted");
}

#[tokio::test]
async fn an_idle_connection_is_evicted_for_a_new_one_and_sockets_take_no_place() {
    let service = start(&[("SERVER__MAX_HTTP_CONNECTIONS", "20")]).await;
    let (_, key) = service.gateway("one").await;
    let mut sockets = Vec::new();
    for _ in 0..30 {
        sockets.push(service.connected(&key).await);
    }
    let mut idle: Vec<Stream> = Vec::new();
    for _ in 0..60 {
        let tls = service.tls_over(dial(OTHER_ADDRESS, service.port).await).await;
        let mut tls = tls.expect("a newcomer is accepted");
        request_livez(&mut tls).await;
        idle.push(tls);
    }
    cut(&mut idle[0]).await;
    let socket =
        timeout(TEST_TIMEOUT, service.connected(&key)).await.expect("a gateway is admitted");
    let stats = timeout(TEST_TIMEOUT, service.api().get("/stats")).await.expect("in time");
    assert_eq!(stats.expect("an admin is served")["gatewayConnections"]["totalActive"], 31);
    let newest = idle.last_mut().expect("some");
    request_livez(newest).await;
    drop((socket, sockets));
}

/// A request whose body the service waits for.
async fn busy(service: &Service) -> Stream {
    let mut tls = service.tls(service.port).await;
    let request = format!(
        "POST /api/internal/v1/events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
         Content-Length: 100\r\nAuthorization: Bearer {}\r\n\r\n",
        service.token
    );
    tls.write_all(request.as_bytes()).await.expect("open");
    // The handler asks for the body.
    let mut interim = [0; 25];
    timeout(TEST_TIMEOUT, tls.read_exact(&mut interim)).await.expect("in time").expect("100");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    tls
}

#[tokio::test]
async fn a_reserve_is_kept_for_probes_and_admins_while_all_connections_are_in_use() {
    let service = start(&[("SERVER__MAX_HTTP_CONNECTIONS", "3")]).await;
    let (_, key) = service.gateway("one").await;
    let reader = service.scoped(&["read"]).await;
    let in_use = [busy(&service).await, busy(&service).await, busy(&service).await];
    reader.get("/gateways").await.refusal(503, "http_connection_limit");
    let connect = service.caller(None).request(reqwest::Method::GET, "/ws/gateways/connect");
    reply(connect.header("api-key", &key)).await.refusal(503, "http_connection_limit");
    for probe in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(reader.root(probe).await.status, 200, "{probe}");
    }
    service.admin().get("/gateways").await.success();
    drop(in_use);
    let mut tries = tokio::time::interval(Duration::from_millis(20));
    let again = timeout(TEST_TIMEOUT, async {
        while reader.get("/gateways").await.status != 200 {
            tries.tick().await;
        }
    });
    again.await.expect("a place that is given up is free");
    service.connected(&key).await;
}

/// Sends a request and reads until the connection ends; `None` if it stays open.
async fn to_the_end(service: &Service, request: &str) -> Option<String> {
    let mut tls: tokio_rustls::client::TlsStream<TcpStream> = service.tls(service.port).await;
    tls.write_all(request.as_bytes()).await.expect("open");
    let mut answer = Vec::new();
    let mut is_complete = false;
    while !is_complete {
        answer.push(tls.read_u8().await.expect("an answer"));
        is_complete = answer.ends_with(b"\r\n\r\n");
    }
    let head = String::from_utf8(answer).expect("text").to_ascii_lowercase();
    if !head.contains("\r\nconnection: close\r\n") {
        return None;
    }
    let mut rest = Vec::new();
    drop(timeout(TEST_TIMEOUT, tls.read_to_end(&mut rest)).await.expect("it ends"));
    Some(head + &String::from_utf8_lossy(&rest))
}

#[tokio::test]
async fn a_gateways_http_requests_leave_no_connection_open() {
    let service = start(&[]).await;
    let (id, key) = service.gateway("one").await;
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
    };
    let base = "/api/internal/v1";
    for path in
        ["/internal/gateway/.well-known", &format!("{base}/secrets"), &format!("{base}/apis/a")]
    {
        let answer = to_the_end(&service, &get(path, &format!("api-key: {key}\r\n"))).await;
        assert!(answer.expect("closed").starts_with("http/1.1 404 "), "{path}");
    }
    let manifest = format!(
        "POST {base}/gateways/{id}/manifest HTTP/1.1\r\nHost: localhost\r\n\
         api-key: {key}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let answer = to_the_end(&service, &manifest).await.expect("closed");
    assert!(answer.starts_with("http/1.1 204 "), "{answer}");
    let bearer = format!("Authorization: Bearer {}\r\n", service.token);
    let answer = to_the_end(&service, &get(&format!("{base}/stats"), &bearer)).await;
    assert_eq!(answer, None, "publishers and admins keep theirs");
    assert_eq!(to_the_end(&service, &get("/livez", "")).await, None);
    let answer = to_the_end(&service, &get(&format!("{base}/stats"), "")).await.expect("closed");
    assert!(answer.starts_with("http/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_request_pipelined_after_a_refused_upgrade_is_not_served() {
    let service = start(&[]).await;
    let upgrade = "GET /api/internal/v1/ws/gateways/connect HTTP/1.1\r\nHost: localhost\r\n\
         Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\napi-key: gwk_nonsense\r\n\r\n";
    let pipelined = format!("{upgrade}GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answers = to_the_end(&service, &pipelined).await.expect("closed");
    assert!(answers.starts_with("http/1.1 401 "), "{answers}");
    assert_eq!(answers.to_ascii_lowercase().matches("http/1.1").count(), 1, "{answers}");
}
