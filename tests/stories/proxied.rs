//! Behind a balancer that forwards TCP, a client's address is the one in the PROXY protocol header
//! (HAProxy's specification, versions 1 and 2), if the balancer is listed in the settings.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{Service, TEST_TIMEOUT};

/// A listed balancer, from which nothing else in a test connects.
const BALANCER: &str = "127.0.0.2";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

async fn behind(settings: &[(&str, &str)]) -> Service {
    let listed = [("SERVER__PROXY_PROTOCOL_FROM", "127.0.0.2/32, fd00::/8")];
    Service::start_with(&[&listed, settings].concat()).await
}

/// Connects from a local address.
pub(crate) async fn dial(from: &str, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("bound");
    let tcp = socket.connect(([127, 0, 0, 1], port).into()).await.expect("it listens");
    tcp.set_nodelay(true).expect("set");
    tcp
}

/// A header of version 2: command, family and protocol, then the addresses.
fn binary(command: u8, family: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, &body].concat()
}

fn text(header: &str) -> Vec<u8> {
    header.as_bytes().to_vec()
}

/// The balancer's connection for a client, with a header of version 1.
async fn on_behalf(service: &Service, client: &str) -> TcpStream {
    let mut tcp = dial(BALANCER, service.port).await;
    let header = format!("PROXY TCP4 {client} 192.0.2.1 40000 8443\r\n");
    tcp.write_all(header.as_bytes()).await.expect("open");
    tcp
}

#[tokio::test]
async fn the_client_is_the_one_that_the_balancer_names() {
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let ports = [40000_u16.to_be_bytes(), 8443_u16.to_be_bytes()].concat();
    let four = [203, 0, 113, 9, 192, 0, 2, 1];
    let six = [v6("2001:db8::9"), v6("2001:db8::1")].concat();
    // A TLV: the host name that the client requested (PP2_TYPE_AUTHORITY).
    let tlv = [&[2, 0, 9][..], b"localhost"].concat();
    let padding = [&[4, 4, 176][..], &[0; 1200]].concat();
    let named = [
        (text("PROXY TCP4 203.0.113.7 192.0.2.1 40000 8443\r\n"), "203.0.113.7"),
        (text("PROXY TCP6 2001:db8::7 2001:db8::1 40000 8443\r\n"), "2001:db8::7"),
        (text("PROXY UNKNOWN\r\n"), BALANCER),
        (binary(1, 0x11, &[&four, &ports]), "203.0.113.9"),
        (binary(1, 0x21, &[&six, &ports, &tlv]), "2001:db8::9"),
        (binary(1, 0x11, &[&four, &ports, &padding]), "203.0.113.9"),
        // A health check of the balancer itself.
        (binary(0, 0x00, &[]), BALANCER),
        (binary(0, 0x00, &[&tlv]), BALANCER),
    ];
    let service = behind(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    for (number, (header, address)) in named.iter().enumerate() {
        for byte_by_byte in [false, true] {
            let (id, key) = service.gateway(&format!("g-{number}-{byte_by_byte}")).await;
            let mut tcp = dial(BALANCER, service.port).await;
            if byte_by_byte {
                for byte in header {
                    tcp.write_all(&[*byte]).await.expect("open");
                    tokio::task::yield_now().await;
                }
            } else {
                tcp.write_all(header).await.expect("open");
            }
            let tls = service.tls_over(tcp).await.expect("TLS");
            let mut socket = service.connect_over(tls, &key).await.expect("admitted");
            assert_eq!(socket.next().await.expect("a frame")["type"], "connection.ack");
            let path = format!("/gateways/{id}/connections");
            let seen = service.api().get(&path).await.expect("an answer");
            assert_eq!(seen["list"][0]["remoteAddress"], *address, "{number}: {seen:#}");
        }
    }
}

#[tokio::test]
async fn attempts_are_limited_per_client_and_not_per_balancer() {
    let service = behind(&[("LIMITS__ATTEMPTS_PER_MINUTE", "3")]).await;
    let attempt = async |client: &str| {
        let tls = service.tls_over(on_behalf(&service, client).await).await.expect("TLS");
        service.connect_over(tls, "gwk_nonsense").await.err().expect("refused").0
    };
    for _ in 0..3 {
        assert_eq!(attempt("203.0.113.7").await, 401);
    }
    assert_eq!(attempt("203.0.113.7").await, 429);
    assert_eq!(attempt("203.0.113.8").await, 401, "another client");
    service.logged(|log| log.contains("203.0.113.8")).await;
}

/// What the service sends until it ends the connection.
async fn read_to_end(mut tcp: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end, too.
    drop(timeout(TEST_TIMEOUT, tcp.read_to_end(&mut said)).await.expect("it ends"));
    said
}

#[tokio::test]
async fn a_balancer_without_a_valid_header_is_disconnected_and_logged() {
    let service = behind(&[("SERVER__HANDSHAKE_TIMEOUT", "2s")]).await;
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let bad: [(&str, Vec<u8>); 7] = [
        ("TLS at once", hello.to_vec()),
        ("HTTP", text("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        ("no address", text("PROXY TCP4 nonsense 192.0.2.1 1 2\r\n")),
        ("a line without an end", text(&format!("PROXY UNKNOWN {}", "x".repeat(200)))),
        ("version 3", [SIGNATURE, &[0x31, 0x11, 0, 12], &[0; 12]].concat()),
        ("too short for its family", binary(1, 0x21, &[&[0; 12]])),
        ("too long", binary(1, 0x11, &[&vec![0; 60_000]])),
    ];
    let warnings = |log: &str| log.matches("make it send one").count();
    for (nth, (name, bytes)) in bad.into_iter().enumerate() {
        let mut tcp = dial(BALANCER, service.port).await;
        // The connection may end before everything is written.
        drop(tcp.write_all(&bytes).await);
        assert_eq!(read_to_end(tcp).await, b"", "{name}");
        service.logged(|log| warnings(log) == nth + 1).await;
    }
    // Half a header, and then nothing.
    let mut slow = dial(BALANCER, service.port).await;
    slow.write_all(b"PROXY TCP4 203.0").await.expect("open");
    assert_eq!(read_to_end(slow).await, b"");
    service.logged(|log| log.contains("the header did not arrive in time")).await;
    // A header, and then no TLS handshake: one deadline for both.
    assert_eq!(read_to_end(on_behalf(&service, "203.0.113.7").await).await, b"");
    // A check of the open port causes no warning.
    let before = warnings(&service.log());
    drop(dial(BALANCER, service.port).await);
    let tls = service.tls_over(on_behalf(&service, "203.0.113.7").await).await.expect("TLS");
    let (_, key) = service.gateway("one").await;
    service.connect_over(tls, &key).await.expect("others are not affected");
    assert_eq!(warnings(&service.log()), before, "{}", service.log());
}

#[tokio::test]
async fn a_header_from_another_peer_is_not_trusted() {
    let service = behind(&[]).await;
    let (id, key) = service.gateway("one").await;
    let mut untrusted = dial("127.0.0.3", service.port).await;
    untrusted.write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 8443\r\n").await.expect("open");
    assert!(service.tls_over(untrusted).await.is_err(), "it is no TLS");
    let tls = service.tls_over(dial("127.0.0.3", service.port).await).await.expect("TLS");
    service.connect_over(tls, &key).await.expect("admitted");
    let path = format!("/gateways/{id}/connections");
    let seen = service.eventually(&path, |page| page["count"] == 1).await;
    assert_eq!(seen["list"][0]["remoteAddress"], json!("127.0.0.3"), "{seen:#}");
}
