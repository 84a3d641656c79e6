//! Requests that are refused before their bodies were read: the client gets the response, and no error
//! while it sends the rest, if that is small and arrives soon.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use hyper::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::http2::offering;
use crate::support::{Service, TEST_TIMEOUT};

/// For how long the service reads the rest of a body.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// How often a client tries to be in time.
const ATTEMPTS: usize = 5;
/// More than a client can send before the service has read 64 KiB of it.
const FAR_TOO_MUCH: usize = 2 * 1024 * 1024;

const EVENTS: &str = "/api/internal/v1/events";
const GRPC: &str = "/gateway_events.v1.Gateways/Connect";

/// A client that uses HTTP/2.
struct Client {
    requests: SendRequest<Bytes>,
    pings: PingPong,
    connection: JoinHandle<Result<(), h2::Error>>,
    origin: String,
}

/// A request that was refused while its body is sent.
struct Refused {
    status: u16,
    rest: SendStream<Bytes>,
}

impl Client {
    async fn connect(service: &Service) -> Self {
        let stream = offering(service, &["h2"]).await;
        let (requests, mut connection) = h2::client::handshake(stream).await.expect("a handshake");
        let pings = connection.ping_pong().expect("taken once");
        let origin = format!("https://localhost:{}", service.port);
        Self { requests, pings, connection: tokio::spawn(connection), origin }
    }

    /// Sends the head of a request, and reads the whole response.
    async fn refused(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Refused {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut requests = self.requests.clone().ready().await.expect("an open connection");
        let (response, rest) = requests.send_request(request, false).expect("sent");
        let response = timeout(TEST_TIMEOUT, response).await.expect("in time").expect("a response");
        let status = response.status().as_u16();
        read(response.into_body()).await;
        Refused { status, rest }
    }

    /// Waits until everything has arrived that the service has sent.
    async fn caught_up(&mut self) -> Result<(), h2::Error> {
        let pong = timeout(TEST_TIMEOUT, self.pings.ping(Ping::opaque()));
        pong.await.expect("in time").map(drop)
    }

    /// Ends the connection after what was sent.
    async fn ended(self) -> Result<(), h2::Error> {
        let Self { requests, pings, connection, .. } = self;
        drop((requests, pings));
        timeout(TEST_TIMEOUT, connection).await.expect("in time").expect("no panic")
    }
}

async fn read(mut body: RecvStream) {
    while let Some(data) = timeout(TEST_TIMEOUT, body.data()).await.expect("in time") {
        let length = data.expect("the whole body").len();
        body.flow_control().release_capacity(length).expect("released");
    }
}

impl Refused {
    /// Why the service has reset the stream, if it has.
    fn reset_already(&mut self) -> Option<Reason> {
        let reset = poll_fn(|context| self.rest.poll_reset(context)).now_or_never();
        reset.map(|reason| reason.expect("the connection works"))
    }

    /// Waits until the service resets the stream.
    async fn reset(&mut self) -> Reason {
        let reset = timeout(TEST_TIMEOUT, poll_fn(|context| self.rest.poll_reset(context)));
        reset.await.expect("in time").expect("a reset")
    }
}

/// A request's method, path and headers, and the status of its refusal.
type Case<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], u16);

#[tokio::test]
async fn a_small_body_of_a_refused_request_can_be_sent_to_its_end() {
    let service = Service::start().await;
    let bearer = format!("Bearer {}", service.token);
    let token = ("authorization", bearer.as_str());
    let length = ("content-length", "2");
    let text = ("content-type", "text/plain");
    let cases: [Case<'_>; 8] = [
        (Method::POST, EVENTS, &[], 401),
        (Method::POST, EVENTS, &[length], 401),
        (Method::POST, "/nowhere", &[length], 404),
        (Method::POST, "/nowhere", &[token, length], 404),
        (Method::PUT, EVENTS, &[token, length], 405),
        (Method::POST, EVENTS, &[token, length, text], 415),
        (Method::POST, EVENTS, &[token, length, ("content-encoding", "gzip")], 415),
        (Method::POST, GRPC, &[length, text], 415),
    ];
    for case in &cases {
        in_time(async || sends_rest(&service, case).await).await;
    }
}

/// A body was sent later than the service reads it.
struct TooLate;

/// Repeats what must be done before the service gives up, which a busy machine may delay.
async fn in_time(attempt: impl AsyncFn() -> Result<(), TooLate>) {
    for _ in 0..ATTEMPTS {
        if attempt().await.is_ok() {
            return;
        }
    }
    panic!("too late in each of {ATTEMPTS} attempts");
}

/// Sends the rest of a request that was refused. Panics if the service resets the stream early.
async fn sends_rest(service: &Service, case: &Case<'_>) -> Result<(), TooLate> {
    let (method, path, headers, status) = case;
    let headers_sent: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let name = format!("{method} {path} {headers_sent:?}");
    let mut client = Client::connect(service).await;
    let since = Instant::now();
    let mut refused = client.refused(method.clone(), path, headers).await;
    assert_eq!(refused.status, *status, "{name}");
    let ended = if let Err(error) = client.caught_up().await {
        Err(error)
    } else if let Some(reason) = refused.reset_already() {
        Err(reason.into())
    } else {
        let sent = refused.rest.send_data(Bytes::from_static(b"{}"), true);
        drop(refused);
        let ended = client.ended().await;
        sent.and(ended)
    };
    match ended {
        Ok(()) => Ok(()),
        Err(_) if since.elapsed() >= TIME_LIMIT => Err(TooLate),
        Err(error) => panic!("{name}: {error}"),
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_waited_for_briefly() {
    let service = Service::start().await;
    let client = Client::connect(&service).await;
    let since = Instant::now();
    let mut refused = client.refused(Method::POST, EVENTS, &[("content-length", "2")]).await;
    assert_eq!(refused.reset().await, Reason::NO_ERROR);
    assert!(since.elapsed() >= TIME_LIMIT, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_large_body_of_a_refused_request_is_cut_off() {
    let service = Service::start().await;
    let client = Client::connect(&service).await;
    let mut refused = client.refused(Method::POST, EVENTS, &[]).await;
    let mut sent = 0;
    let sending = async {
        while sent < FAR_TOO_MUCH {
            refused.rest.reserve_capacity(16 * 1024);
            let Some(Ok(room)) = poll_fn(|context| refused.rest.poll_capacity(context)).await
            else {
                return;
            };
            if refused.rest.send_data(vec![b' '; room].into(), false).is_err() {
                return;
            }
            sent += room;
        }
    };
    timeout(TEST_TIMEOUT, sending).await.expect("in time");
    assert!(sent < FAR_TOO_MUCH, "{sent} bytes were accepted");
    assert_eq!(refused.reset().await, Reason::NO_ERROR);
}

#[tokio::test]
async fn over_http_1_the_connection_stays_usable_unless_the_client_waits_for_100() {
    let service = Service::start().await;
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n",
        service.token
    );
    in_time(async || keeps_connection(&service, &head).await).await;

    let mut waiting = service.tls(service.port).await;
    let head = format!("{head}Expect: 100-continue\r\n\r\n");
    waiting.write_all(head.as_bytes()).await.expect("it is open");
    let mut response = Vec::new();
    let ended = timeout(TEST_TIMEOUT, waiting.read_to_end(&mut response)).await.expect("in time");
    let response = String::from_utf8_lossy(&response);
    assert!(response.starts_with("HTTP/1.1 415 "), "{ended:?} {response}");
}

/// Sends the rest of a request that was refused, and another request on the same connection. Panics if
/// the service closes the connection early.
async fn keeps_connection(service: &Service, head: &str) -> Result<(), TooLate> {
    let mut kept = service.tls(service.port).await;
    let since = Instant::now();
    kept.write_all(format!("{head}\r\n").as_bytes()).await.expect("it is open");
    let mut response = Vec::new();
    while !response.ends_with(b"}") {
        let byte = timeout(TEST_TIMEOUT, kept.read_u8()).await.expect("in time");
        response.push(byte.expect("a response"));
    }
    assert!(response.starts_with(b"HTTP/1.1 415 "), "{}", String::from_utf8_lossy(&response));
    let next = async {
        kept.write_all(b"{}GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut response = [0; b"HTTP/1.1 200 ".len()];
        kept.read_exact(&mut response).await.map(|_| response)
    };
    match timeout(TEST_TIMEOUT, next).await.expect("in time") {
        Ok(response) => assert_eq!(&response, b"HTTP/1.1 200 "),
        Err(error) => {
            assert!(since.elapsed() >= TIME_LIMIT, "{error}");
            return Err(TooLate);
        }
    }
    Ok(())
}
