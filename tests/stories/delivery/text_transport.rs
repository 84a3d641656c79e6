//! A transport that uses only the public contract.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines};

use super::*;
use crate::reference::text_transport;

/// The gateway's end of a connection.
struct Client {
    lines: Lines<BufReader<tokio::io::ReadHalf<DuplexStream>>>,
    write: tokio::io::WriteHalf<DuplexStream>,
}

impl Client {
    async fn line(&mut self) -> Option<String> {
        within(self.lines.next_line()).await.unwrap()
    }

    /// The sequence of the next event. Answers pings meanwhile.
    async fn event(&mut self) -> i64 {
        loop {
            let line = self.line().await.expect("connected");
            if let Some(event) = line.strip_prefix("EVENT ") {
                return event.split_once(' ').unwrap().0.parse().unwrap();
            }
            assert_eq!(line, "PROBE");
            self.send("ALIVE").await;
        }
    }

    async fn send(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
}

/// Connects with a stream that buffers this many bytes.
async fn connect(node: &Node, buffer: usize) -> Client {
    let (server, client) = tokio::io::duplex(buffer);
    let (lane, end) = transport::link();
    let session = node.session().await;
    let greeting = session.greeting();
    session.start(lane);
    tokio::spawn(text_transport::run(server, greeting, end, Duration::from_millis(300)));
    let (read, write) = tokio::io::split(client);
    let mut client = Client { lines: BufReader::new(read).lines(), write };
    assert!(client.line().await.unwrap().starts_with(&format!("HELLO {} ", node.id)));
    client
}

#[tokio::test]
async fn events_are_delivered_confirmed_and_resumed_after_a_reconnect() {
    let node = node(Options::default()).await;
    node.publish_all(1..=3).await;
    let mut client = connect(&node, 4096).await;
    for number in 1..=3 {
        assert_eq!(client.event().await, number);
    }
    client.send("ACK 2").await;
    client.send("ACK nonsense").await;
    client.send("ACK 99").await;
    drop(client);
    node.settled().await;
    assert_eq!(node.gateway().await.confirmed, Sequence(2));
    let mut client = connect(&node, 4096).await;
    assert_eq!(client.event().await, 3);
    node.publish_all(4..=4).await;
    assert_eq!(client.event().await, 4);
    client.send("ACK 4").await;
    drop(client);
    node.settled().await;
    assert_eq!(node.gateway().await.confirmed, Sequence(4));
    assert_eq!(node.delivery("e-4").await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn a_dead_peer_is_disconnected_at_the_heartbeat_timeout() {
    let options = Options {
        heartbeat_interval: Duration::from_millis(20),
        heartbeat_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let node = node(options).await;
    let mut client = connect(&node, 4096).await;
    let mut last = String::new();
    while let Some(line) = client.line().await {
        last = line;
    }
    assert_eq!(last, "CLOSE heartbeat_timeout");
    node.settled().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_disconnected_and_its_events_are_sent_again() {
    let node = node(Options::default()).await;
    let slow = connect(&node, 64).await;
    node.publish_all(1..=20).await;
    node.settled().await;
    let first = node.delivery("e-1").await;
    assert_eq!((first.state, first.reason), (DeliveryState::Pending, Some(Reason::WriteTimeout)));
    drop(slow);
    let mut client = connect(&node, 4096).await;
    for number in 1..=20 {
        assert_eq!(client.event().await, number);
    }
}
