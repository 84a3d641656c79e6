//! Real sockets over loopback.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Message as Frame;
use uuid::Uuid;

use super::*;
use crate::event::{ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId};
use crate::transport::{
    Ended, InvalidMessage, LINK_MESSAGES, LaneEnd, Outgoing, OutgoingEvent, link,
};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);
const SETTINGS: Settings = Settings {
    write_timeout: Duration::from_secs(10),
    close_timeout: Duration::from_millis(200),
    confirmation_timeout: Duration::from_mins(1),
};
pub(super) const GREETING: Greeting = Greeting {
    gateway_id: GatewayId(Uuid::nil()),
    connection_id: ConnectionId(Uuid::nil()),
    epoch: Epoch(Uuid::nil()),
};

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    timeout(TEST_TIMEOUT, waiting).await.expect("in time")
}

/// An event with a payload slightly larger than this many bytes.
#[expect(clippy::unnecessary_box_returns, reason = "links take boxes")]
fn event(sequence: i64, bytes: usize) -> Box<Outgoing> {
    Box::new(Outgoing::Event(numbered(sequence, bytes)))
}

fn numbered(sequence: i64, bytes: usize) -> OutgoingEvent {
    let outgoing = outgoing(EventType::new("api.deployed").unwrap(), bytes);
    OutgoingEvent { sequence: Sequence(sequence), ..outgoing }
}

/// A small event of this type.
pub(super) fn event_of_type(event_type: EventType) -> OutgoingEvent {
    outgoing(event_type, 0)
}

fn outgoing(event_type: EventType, bytes: usize) -> OutgoingEvent {
    let payload = RawValue::from_string(format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes))).unwrap();
    let event = Event {
        id: EventId::new("e-1").unwrap(),
        event_type,
        payload,
        correlation_id: CorrelationId::new("c-1").unwrap(),
        user_id: None,
        occurred_at: Timestamp::from_micros(0),
        expires_at: None,
        traceparent: None,
        attributes: None,
    };
    OutgoingEvent {
        sequence: Sequence(1),
        previous: Sequence::ZERO,
        attempt: 1,
        event: Arc::new(event),
        own_receipt: false,
    }
}

fn sequence(frame: &Frame) -> Option<u64> {
    let Frame::Text(text) = frame else { return None };
    serde_json::from_str::<serde_json::Value>(text).unwrap()["sequence"].as_u64()
}

async fn assert_greeted(client: &mut tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>) {
    let Frame::Text(text) = within(client.next()).await.unwrap().unwrap() else {
        panic!("no text")
    };
    assert!(text.starts_with(r#"{"type":"connection.ack""#), "{text}");
}

/// How the connection ended, and the messages before that.
async fn ended(lane: &mut LaneEnd) -> (Ended, Vec<Incoming>) {
    let mut before = Vec::new();
    loop {
        match within(lane.incoming.recv()).await.expect("an end") {
            Incoming::Ended(ended) => {
                let more = within(lane.incoming.recv()).await;
                assert!(more.is_none(), "{more:?} came after the end");
                return (*ended, before);
            }
            other => before.push(other),
        }
    }
}

#[tokio::test]
async fn each_event_is_followed_by_its_number_and_the_echo_is_a_receipt() {
    let (mut lane, transport) = link();
    for sequence in 1..=3 {
        lane.events.send(event(sequence, 10)).await.unwrap();
    }
    let mut client = served(transport, SETTINGS).await;
    assert_greeted(&mut client).await;
    // Nothing was sent before: a ping precedes the first event.
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::Ping(Bytes::new()));
    let mut frames = Vec::new();
    for _ in 0..6 {
        frames.push(within(client.next()).await.unwrap().unwrap());
    }
    for (number, frames) in (1..).zip(frames.chunks(2)) {
        assert_eq!(sequence(&frames[0]), Some(number));
        assert_eq!(frames[1], Frame::Ping(number.to_string().into()));
    }
    client.flush().await.unwrap();
    let mut last = Sequence::ZERO;
    while last < Sequence(3) {
        match within(lane.incoming.recv()).await.unwrap() {
            Incoming::Receipt(sequence) => {
                assert!(sequence > last);
                last = sequence;
            }
            Incoming::Alive => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Sends events and returns the pings between them, once the last of both has arrived.
async fn pings(
    lane: &LaneEnd,
    client: &mut tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>,
    events: impl IntoIterator<Item = Box<Outgoing>>,
) -> String {
    let mut last = 0;
    for event in events {
        let Outgoing::Event(OutgoingEvent { sequence, .. }) = &*event else { panic!("{event:?}") };
        last = sequence.0;
        lane.events.send(event).await.unwrap();
    }
    let mut seen = String::new();
    while !seen.ends_with(&format!("({last})")) {
        match within(client.next()).await.unwrap().unwrap() {
            Frame::Ping(payload) => {
                seen.push('(');
                seen.push_str(str::from_utf8(&payload).unwrap());
                seen.push(')');
            }
            _ => seen.push('e'),
        }
    }
    client.flush().await.unwrap();
    seen
}

#[tokio::test]
async fn events_that_are_handled_quickly_share_a_ping_unless_they_need_a_receipt_of_their_own() {
    let (mut lane, transport) = link();
    let mut client = served(transport, SETTINGS).await;
    assert_greeted(&mut client).await;
    // Enough evidence for groups of eight, if the machine is not very busy.
    for sequence in 1..=200 {
        pings(&lane, &mut client, [event(sequence, 10)]).await;
        while !matches!(within(lane.incoming.recv()).await, Some(Incoming::Receipt(it)) if it.0 == sequence)
        {
        }
    }
    let own = Outgoing::Event(OutgoingEvent { own_receipt: true, ..numbered(204, 10) });
    let events = [event(201, 10), event(202, 10), event(203, 10), Box::new(own), event(205, 10)];
    let seen = pings(&lane, &mut client, events).await;
    assert!(seen.contains("(203)e"), "the event before it has a ping: {seen}");
    assert!(!seen.contains("(201)") || !seen.contains("(202)"), "some share a ping: {seen}");
}

#[tokio::test]
async fn the_end_names_the_events_that_shared_a_ping() {
    let (mut lane, transport) = link();
    let mut client = served(transport, SETTINGS).await;
    assert_greeted(&mut client).await;
    for sequence in 1..=200 {
        pings(&lane, &mut client, [event(sequence, 10)]).await;
        while !matches!(within(lane.incoming.recv()).await, Some(Incoming::Receipt(it)) if it.0 == sequence)
        {
        }
    }
    // One write, which the client does not read.
    for sequence in 201..=204 {
        lane.events.try_send(event(sequence, 10)).unwrap();
    }
    // Waits until all of them are written.
    lane.control.send(Control::Close(Reason::TokenRevoked)).await.unwrap();
    let (Ended { shared, .. }, _) = ended(&mut lane).await;
    assert!(shared.iter().all(|it| (201..204).contains(&it.0)), "{shared:?}");
}

#[tokio::test]
async fn a_ping_before_any_event_and_other_pongs_confirm_nothing() {
    let (mut lane, transport) = link();
    let mut client = served(transport, SETTINGS).await;
    lane.control.send(Control::Probe).await.unwrap();
    assert_greeted(&mut client).await;
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::Ping(Bytes::new()));
    for payload in ["", "01", "-1", "+1", "0", "9007199254740992", "99999999999999999999", "x"] {
        client.send(Frame::Pong(payload.into())).await.unwrap();
    }
    client.close(None).await.unwrap();
    let (Ended { reason, .. }, before) = ended(&mut lane).await;
    assert_eq!(reason, Reason::ClosedByGateway);
    assert!(before.iter().all(|it| matches!(it, Incoming::Alive)), "{before:?}");
}

#[tokio::test]
async fn a_message_that_is_too_large_has_a_close_code() {
    let (mut lane, transport) = link();
    let mut client = served(transport, SETTINGS).await;
    client.send(Frame::binary(vec![0; 10])).await.unwrap();
    client.send(Frame::text("y".repeat(2000))).await.unwrap();
    let (Ended { reason, .. }, before) = ended(&mut lane).await;
    assert_eq!(reason, Reason::ProtocolError);
    assert!(matches!(before[..], [Incoming::Invalid(InvalidMessage::Binary)]), "{before:?}");
    assert_greeted(&mut client).await;
    let Some(Ok(Frame::Close(Some(close)))) = within(client.next()).await else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(close.code), close_code::SIZE);
}

#[tokio::test]
async fn a_close_from_either_side_is_answered() {
    let (mut lane, transport) = link();
    let mut client = served(transport, SETTINGS).await;
    client.close(None).await.unwrap();
    let rest: Vec<_> = within(client.collect()).await;
    assert!(rest.iter().all(Result::is_ok), "the close was unclean: {rest:?}");
    assert_eq!(ended(&mut lane).await.0.reason, Reason::ClosedByGateway);

    for (reason, code) in [(Reason::Shutdown, 1001), (Reason::TokenRevoked, 1008)] {
        let (mut lane, transport) = link();
        let client = served(transport, SETTINGS).await;
        lane.control.send(Control::Close(reason)).await.unwrap();
        let rest: Vec<_> = within(client.collect()).await;
        let Some(Ok(Frame::Close(Some(close)))) = rest.last() else {
            panic!("no close frame: {rest:?}");
        };
        assert_eq!(u16::from(close.code), code);
        assert_eq!(ended(&mut lane).await.0.reason, reason);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_lost() {
    let (mut lane, transport) = link();
    drop(served(transport, SETTINGS).await);
    assert_eq!(ended(&mut lane).await.0.reason, Reason::ConnectionLost);
}

/// Fills the kernel's buffers for a peer that does not read.
async fn clog(lane: &LaneEnd) {
    for sequence in 1..=i64::try_from(LINK_MESSAGES).unwrap() {
        lane.events.send(event(sequence, 1 << 20)).await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_disconnected() {
    let (mut lane, transport) = link();
    clog(&lane).await;
    let settings = Settings { write_timeout: Duration::from_millis(200), ..SETTINGS };
    let _client = served(transport, settings).await;
    assert_eq!(ended(&mut lane).await.0.reason, Reason::WriteTimeout);
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_write() {
    let (mut lane, transport) = link();
    clog(&lane).await;
    let settings = Settings { write_timeout: TEST_TIMEOUT, ..SETTINGS };
    let _client = served(transport, settings).await;
    // Room in the link means that the first write is in progress.
    drop(within(lane.events.reserve()).await.unwrap());
    lane.control.send(Control::Close(Reason::TokenRevoked)).await.unwrap();
    assert_eq!(ended(&mut lane).await.0.reason, Reason::TokenRevoked);
}

#[tokio::test]
async fn a_lane_that_takes_no_messages_does_not_stop_writing() {
    let (lane, transport) = link();
    let mut client = served(transport, SETTINGS).await;
    for _ in 0..4 * LINK_MESSAGES {
        client.send(Frame::text("{}")).await.unwrap();
    }
    assert_greeted(&mut client).await;
    lane.events.send(event(1, 1)).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::Ping(Bytes::new()));
    assert_eq!(sequence(&within(client.next()).await.unwrap().unwrap()), Some(1));
}

#[tokio::test]
async fn a_lane_that_is_gone_means_that_the_node_goes_down() {
    let (lane, transport) = link();
    let client = served(transport, SETTINGS).await;
    drop(lane);
    let rest: Vec<_> = within(client.collect()).await;
    let Some(Ok(Frame::Close(Some(close)))) = rest.last() else {
        panic!("no close frame: {rest:?}");
    };
    assert_eq!(u16::from(close.code), close_code::AWAY);
}
