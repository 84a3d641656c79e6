//! HTTP/2 beside HTTP/1.1 on one port, and peers that misuse it. Every request here has an access
//! token, so that its connection stays open.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::{Method, Request};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::connections::Stream;
use crate::support::{Service, TEST_TIMEOUT};

/// TLS with a client that offers these protocols.
pub(crate) async fn offering(service: &Service, protocols: &[&str]) -> Stream {
    let mut config = service.trust().client_config().expect("a TLS client").as_ref().clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp =
        tokio::net::TcpStream::connect(("127.0.0.1", service.port)).await.expect("it listens");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    connector.connect(name, tcp).await.expect("TLS")
}

/// A client's end of a connection over HTTP/2.
struct Peer {
    requests: SendRequest<Bytes>,
    /// Ends with the connection.
    ended: JoinHandle<Result<(), h2::Error>>,
    origin: String,
    token: String,
}

impl Peer {
    /// A peer that lets the service send `window` bytes of each response.
    async fn connect(service: &Service, window: u32) -> Self {
        let stream = offering(service, &["h2"]).await;
        let builder = h2::client::Builder::new().initial_window_size(window).handshake(stream);
        let (requests, connection) = builder.await.expect("a handshake");
        Self {
            requests,
            ended: tokio::spawn(connection),
            origin: format!("https://localhost:{}", service.port),
            token: service.token.clone(),
        }
    }

    /// Sends a request, and its end if it `is_whole`.
    async fn send(
        &self,
        method: Method,
        path: &str,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin))
            .header("authorization", format!("Bearer {}", self.token))
            .body(())
            .expect("a request");
        self.requests.clone().ready().await?.send_request(request, is_whole)
    }

    /// The status and body of a `GET`.
    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let (response, _) = self.send(Method::GET, path, true).await.expect("sent");
        let response = timeout(TEST_TIMEOUT, response).await.expect("in time").expect("an answer");
        for name in ["connection", "upgrade", "keep-alive", "transfer-encoding"] {
            assert!(!response.headers().contains_key(name), "{name} is illegal in HTTP/2");
        }
        let (head, mut body) = response.into_parts();
        let body = timeout(TEST_TIMEOUT, read(&mut body)).await.expect("in time").expect("a body");
        (head.status.as_u16(), body)
    }

    /// Waits for the end of the connection.
    async fn cut(self) {
        drop(timeout(TEST_TIMEOUT, self.ended).await.expect("the connection ends"));
    }
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// A resource of more than a hundred bytes.
const LARGE: &str = "/api/internal/v1/event-types";
const EVENTS: &str = "/api/internal/v1/events";

#[tokio::test]
async fn the_protocol_is_chosen_by_alpn_and_websocket_stays_on_http_1() {
    let service = Service::start().await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = offering(&service, offered).await;
        let negotiated = stream.get_ref().1.alpn_protocol();
        assert_eq!(negotiated, chosen.map(str::as_bytes), "{offered:?}");
    }
    let peer = Peer::connect(&service, 65_535).await;
    assert_eq!(peer.get("/livez").await, (200, b"ok\n".to_vec()));
    let (status, body) = peer.get(LARGE).await;
    let over_http1 = service.admin().get("/event-types").await;
    assert_eq!((status, String::from_utf8(body).expect("text")), (200, over_http1.body));
    // A refusal ends the connection, unless another request on it had a valid credential: it may be
    // the one of a gateway's stream, or a proxy's for several clients.
    let refused = "/api/internal/v1/ws/gateways/connect";
    let unauthenticated = Peer::connect(&service, 65_535).await;
    assert_eq!(unauthenticated.get(refused).await.0, 401, "there is no key");
    unauthenticated.cut().await;
    assert_eq!(peer.get(refused).await.0, 401, "there is no key");
    assert_eq!(peer.get("/livez").await, (200, b"ok\n".to_vec()));
    let (_, key) = service.gateway("one").await;
    let stream = offering(&service, &["http/1.1"]).await;
    service.connect_over(stream, &key).await.expect("a gateway that offers HTTP/1.1 is admitted");
}

#[tokio::test]
async fn many_requests_share_a_connection_which_ends_with_a_shutdown() {
    let mut service = Service::start().await;
    let peer = Peer::connect(&service, 65_535).await;
    let requests = (0..100).map(|_| peer.get(LARGE));
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|(status, body)| *status == 200 && *body == answers[0].1));
    assert_eq!(service.terminate().await, Some(0));
    peer.cut().await;
}

#[tokio::test]
async fn a_stream_whose_response_is_not_read_is_reset_and_harms_no_other() {
    let service = Service::start_with(&[("DELIVERY__WRITE_TIMEOUT", "1s")]).await;
    let peer = Peer::connect(&service, 100).await;
    let mut stuck = Vec::new();
    for _ in 0..100 {
        let (response, _) = peer.send(Method::GET, LARGE, true).await.expect("sent");
        stuck.push(response.await.expect("an answer").into_body());
    }
    let (status, body) = peer.get(LARGE).await;
    assert_eq!(status, 200);
    assert!(body.len() > 100);
    for mut response in stuck {
        let ended = timeout(TEST_TIMEOUT, async {
            // What fits into the window arrives; it is not released.
            while let Some(data) = response.data().await {
                data?;
            }
            Ok::<_, h2::Error>(())
        });
        let error = ended.await.expect("in time").expect_err("it is reset");
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
    }
    assert_eq!(peer.get(LARGE).await.0, 200);
}

#[tokio::test]
async fn a_peer_without_requests_is_disconnected() {
    const IDLE: Duration = Duration::from_secs(2);
    let service =
        Service::start_with(&[("SERVER__HEADER_TIMEOUT", "500ms"), ("SERVER__IDLE_TIMEOUT", "2s")])
            .await;
    // Not even the preface of HTTP/2.
    let mut silent = offering(&service, &["h2"]).await;
    timeout(TEST_TIMEOUT, silent.read_to_end(&mut Vec::new())).await.expect("it ends").ok();
    Peer::connect(&service, 100).await.cut().await;
    let used = Peer::connect(&service, 65_535).await;
    let since = Instant::now();
    used.get("/livez").await;
    used.cut().await;
    assert!(since.elapsed() >= IDLE, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_peer_that_opens_streams_to_reset_them_is_disconnected_and_harms_no_other() {
    let service = Service::start().await;
    let other = Peer::connect(&service, 65_535).await;
    let hostile = Peer::connect(&service, 65_535).await;
    let attack = async {
        for number in 0..10_000 {
            // The handler waits for the body.
            let Ok((response, mut body)) = hostile.send(Method::POST, EVENTS, false).await else {
                return number;
            };
            body.send_reset(h2::Reason::CANCEL);
            drop(response);
            tokio::task::yield_now().await;
        }
        panic!("10,000 streams were opened and reset");
    };
    let resets = timeout(TEST_TIMEOUT, attack).await.expect("in time");
    assert!(resets > 0);
    hostile.cut().await;
    assert_eq!(other.get(LARGE).await.0, 200);
}

#[tokio::test]
async fn a_peer_may_have_256_streams_open_and_its_requests_time_out() {
    let service = Service::start_with(&[("SERVER__REQUEST_TIMEOUT", "2s")]).await;
    let peer = Peer::connect(&service, 65_535).await;
    assert_eq!(peer.get("/livez").await.0, 200);
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(peer.send(Method::POST, EVENTS, false).await.expect("sent"));
    }
    // Waits until one of them has ended.
    let another = peer.send(Method::GET, LARGE, true);
    let (response, _) = timeout(TEST_TIMEOUT, another).await.expect("in time").expect("sent");
    assert_eq!(response.await.expect("an answer").status(), 200);
    let mut unavailable = 0;
    for (response, _body) in open {
        let response = timeout(TEST_TIMEOUT, response).await.expect("in time").expect("an answer");
        unavailable += usize::from(response.status() == 503);
    }
    assert_eq!(unavailable, 256);
}
