//! Real sockets over loopback. Named after what goes wrong.

use tokio_tungstenite::tungstenite::Message as Frame;

use super::*;
use crate::socket::{LINK_FRAMES, LaneEnd, link};

const PATIENCE: Duration = Duration::from_secs(20);
const LIMITS: Limits =
    Limits { write_timeout: Duration::from_secs(10), close_timeout: Duration::from_millis(200) };

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    timeout(PATIENCE, waiting).await.expect("in time")
}

fn event(sequence: i64, bytes: usize) -> EventFrame {
    let text = vec![b'x'; bytes].into();
    EventFrame { sequence: Sequence(sequence), text, ping_before: PingBefore::Between }
}

/// What the lane is told at last, and all before it.
async fn ended(lane: &mut LaneEnd) -> (Reason, Vec<Incoming>) {
    let mut before = Vec::new();
    loop {
        match within(lane.incoming.recv()).await.expect("a last word") {
            Incoming::Ended { reason, .. } => {
                let more = within(lane.incoming.recv()).await;
                assert!(more.is_none(), "{more:?} came after the last word");
                return (reason, before);
            }
            said => before.push(said),
        }
    }
}

#[tokio::test]
async fn each_event_is_followed_by_its_number_and_the_echo_is_a_receipt() {
    let (mut lane, transport) = link();
    for sequence in 1..=3 {
        lane.events.send(Box::new(event(sequence, 10))).await.unwrap();
    }
    let mut client = served(transport, LIMITS).await;
    let mut frames = Vec::new();
    for _ in 0..7 {
        frames.push(within(client.next()).await.unwrap().unwrap());
    }
    assert_eq!(frames[0], Frame::text("first"));
    for sequence in 1..=3 {
        assert_eq!(frames[2 * sequence - 1], Frame::text("xxxxxxxxxx"));
        assert_eq!(frames[2 * sequence], Frame::Ping(sequence.to_string().into()));
    }
    client.flush().await.unwrap();
    let mut last = Sequence::ZERO;
    while last < Sequence(3) {
        match within(lane.incoming.recv()).await.unwrap() {
            Incoming::Receipt(sequence) => {
                assert!(sequence > last);
                last = sequence;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn pings_stand_where_the_lane_wants_them_and_after_the_last_event() {
    use PingBefore::{Always, Between, Unneeded};
    let (lane, transport) = link();
    let plan = [Always, Unneeded, Unneeded, Between, Always, Unneeded];
    for (sequence, ping_before) in (1..).zip(plan) {
        lane.events
            .send(Box::new(EventFrame { ping_before, ..event(sequence, 10) }))
            .await
            .unwrap();
    }
    let mut client = served(transport, LIMITS).await;
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::text("first"));
    let mut seen = String::new();
    while !seen.ends_with("(6)") {
        match within(client.next()).await.unwrap().unwrap() {
            Frame::Ping(payload) => {
                seen.push('(');
                seen.push_str(str::from_utf8(&payload).unwrap());
                seen.push(')');
            }
            _ => seen.push('e'),
        }
    }
    assert_eq!(seen, "()eee(3)e(4)ee(6)");
}

#[tokio::test]
async fn a_ping_before_any_event_and_other_pongs_confirm_nothing() {
    let (mut lane, transport) = link();
    let mut client = served(transport, LIMITS).await;
    lane.control.send(Control::Ping).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::text("first"));
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::Ping(Bytes::new()));
    for payload in ["", "01", "-1", "+1", "0", "9007199254740992", "99999999999999999999", "x"] {
        client.send(Frame::Pong(payload.into())).await.unwrap();
    }
    client.close(None).await.unwrap();
    let (reason, before) = ended(&mut lane).await;
    assert_eq!(reason, Reason::ClosedByGateway);
    assert!(before.iter().all(|said| matches!(said, Incoming::Alive)), "{before:?}");
}

#[tokio::test]
async fn a_message_too_large_is_told_so() {
    let (mut lane, transport) = link();
    let mut client = served(transport, LIMITS).await;
    client.send(Frame::binary(vec![0; 10])).await.unwrap();
    client.send(Frame::text("y".repeat(2000))).await.unwrap();
    let (reason, before) = ended(&mut lane).await;
    assert_eq!(reason, Reason::ProtocolError);
    assert!(matches!(before[..], [Incoming::Malformed(_)]), "{before:?}");
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::text("first"));
    let Some(Ok(Frame::Close(Some(close)))) = within(client.next()).await else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(close.code), close_code::SIZE);
}

#[tokio::test]
async fn a_close_from_either_side_is_answered() {
    let (mut lane, transport) = link();
    let mut client = served(transport, LIMITS).await;
    client.close(None).await.unwrap();
    let rest: Vec<_> = within(client.collect()).await;
    assert!(rest.iter().all(Result::is_ok), "the close was unclean: {rest:?}");
    assert_eq!(ended(&mut lane).await.0, Reason::ClosedByGateway);

    for (reason, code) in [(Reason::Shutdown, 1001), (Reason::TokenRevoked, 1008)] {
        let (mut lane, transport) = link();
        let client = served(transport, LIMITS).await;
        lane.control.send(Control::Close(reason)).await.unwrap();
        let rest: Vec<_> = within(client.collect()).await;
        let Some(Ok(Frame::Close(Some(close)))) = rest.last() else {
            panic!("no close frame: {rest:?}");
        };
        assert_eq!(u16::from(close.code), code);
        assert_eq!(ended(&mut lane).await.0, reason);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_lost() {
    let (mut lane, transport) = link();
    drop(served(transport, LIMITS).await);
    assert_eq!(ended(&mut lane).await.0, Reason::ConnectionLost);
}

/// More than the kernel takes in for a peer that does not read.
async fn clog(lane: &LaneEnd) {
    for sequence in 1..=i64::try_from(LINK_FRAMES).unwrap() {
        lane.events.send(Box::new(event(sequence, 1 << 20))).await.unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_parted_with() {
    let (mut lane, transport) = link();
    clog(&lane).await;
    let limits = Limits { write_timeout: Duration::from_millis(200), ..LIMITS };
    let _client = served(transport, limits).await;
    assert_eq!(ended(&mut lane).await.0, Reason::WriteTimeout);
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_write() {
    let (mut lane, transport) = link();
    clog(&lane).await;
    let limits = Limits { write_timeout: PATIENCE, ..LIMITS };
    let _client = served(transport, limits).await;
    // Room in the link means that the first write is under way.
    drop(within(lane.events.reserve()).await.unwrap());
    lane.control.send(Control::Close(Reason::TokenRevoked)).await.unwrap();
    assert_eq!(ended(&mut lane).await.0, Reason::TokenRevoked);
}

#[tokio::test]
async fn a_lane_that_does_not_listen_stops_no_writing() {
    let (lane, transport) = link();
    let mut client = served(transport, LIMITS).await;
    for _ in 0..4 * LINK_FRAMES {
        client.send(Frame::text("{}")).await.unwrap();
    }
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::text("first"));
    lane.events.send(Box::new(event(1, 1))).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Frame::text("x"));
}

#[tokio::test]
async fn a_lane_that_is_gone_means_that_the_node_goes_down() {
    let (lane, transport) = link();
    let client = served(transport, LIMITS).await;
    drop(lane);
    let rest: Vec<_> = within(client.collect()).await;
    let Some(Ok(Frame::Close(Some(close)))) = rest.last() else {
        panic!("no close frame: {rest:?}");
    };
    assert_eq!(u16::from(close.code), close_code::AWAY);
}
