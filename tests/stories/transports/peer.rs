//! A connected gateway, frame by frame as the case says.

use std::ops::RangeInclusive;
use std::time::Duration;

use gateway_events::client::reliable::{
    Closed, ConnectError, DeliveryGap, EventFrame, Link, NackCode, Received,
};
use gateway_events::event::Sequence;
use gateway_events::transport::frames::{
    Ack, ConnectionAck, ConnectionResumed, Credit, GatewayFrame, Hello, Nack, Progress, ServerFrame,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::test_bed::{Kind, TestBed};
use crate::support::TEST_TIMEOUT;
use crate::support::streams::{check, check_sent};

/// How long nothing must come until a case says that nothing does.
const QUIET: Duration = Duration::from_millis(300);

pub(super) struct Peer {
    kind: Kind,
    link: Box<dyn Link>,
    /// `connection.ack`, if the transport has it.
    pub(super) ack: Option<ConnectionAck>,
    /// Where delivery starts, if the transport says it before the first event.
    pub(super) resumed: Option<ConnectionResumed>,
    /// The code of the last `connection.error`.
    error: Option<String>,
    /// A frame that was read and not returned.
    kept: Option<ServerFrame>,
}

/// The hello of the instance `a`, which confirms what it has applied, with these members in addition.
pub(super) fn hello(members: &Value) -> Hello {
    let mut hello = json!({
        "type": "connection.hello", "instance": "a", "resume": "server", "confirm": "applied",
    });
    hello.as_object_mut().expect("an object").extend(members.as_object().expect("one").clone());
    serde_json::from_value(hello).expect("a hello")
}

impl Peer {
    pub(super) async fn try_connect(bed: &TestBed, hello: Hello) -> Result<Self, ConnectError> {
        let transport = bed.transport();
        let link = timeout(TEST_TIMEOUT, transport.connect(&hello)).await.expect("in time")?;
        let (ack, resumed, error, kept) = (None, None, None, None);
        Ok(Self { kind: bed.kind, link, ack, resumed, error, kept })
    }

    pub(super) async fn connect(bed: &TestBed, hello: Hello) -> Self {
        let mut peer = Self::try_connect(bed, hello).await.expect("admitted");
        if !matches!(peer.kind, Kind::Plain | Kind::LongPoll) {
            match peer.frame().await {
                ServerFrame::Ack(ack) => peer.ack = Some(ack),
                other => panic!("the first frame is {other:?}"),
            }
            match peer.frame().await {
                ServerFrame::Resumed(resumed) => peer.resumed = Some(resumed),
                other => peer.kept = Some(other),
            }
        }
        peer
    }

    /// The channel in the document.
    const fn channel(&self) -> &'static str {
        match self.kind {
            Kind::Sse => "eventStream",
            Kind::Grpc => "grpc",
            // The frames of plain mode are completed to those of reliable mode, and compared before.
            Kind::Plain | Kind::WebSocket | Kind::LongPoll | Kind::Memory => "reliable",
        }
    }

    /// The next frame or the end.
    async fn next(&mut self) -> Result<ServerFrame, Closed> {
        if let Some(kept) = self.kept.take() {
            return Ok(kept);
        }
        loop {
            let received =
                timeout(TEST_TIMEOUT, self.link.receive()).await.expect("a frame in time")?;
            if let Received::Frame(frame) = &received {
                let text = frame.to_text();
                check(self.channel(), &serde_json::from_slice(&text).expect("JSON"));
            }
            match received {
                Received::Frame(ServerFrame::Error(error)) => self.error = Some(error.code),
                // Made by the link of long polling, of the first event.
                Received::Frame(ServerFrame::Resumed(_)) if self.kind == Kind::LongPoll => {}
                Received::Frame(frame) => return Ok(frame),
                Received::Alive => {}
            }
        }
    }

    pub(super) async fn frame(&mut self) -> ServerFrame {
        match self.next().await {
            Ok(frame) => frame,
            Err(closed) => panic!("{closed:?}, {:?}", self.error),
        }
    }

    /// The next frame but marks.
    async fn unmarked(&mut self) -> ServerFrame {
        loop {
            match self.frame().await {
                ServerFrame::Mark(_) => {}
                frame => return frame,
            }
        }
    }

    /// The next event, which must have this sequence.
    pub(super) async fn event(&mut self, sequence: i64) -> EventFrame {
        match self.unmarked().await {
            ServerFrame::Event(event) => {
                assert_eq!(event.sequence, Sequence(sequence), "{event:?}");
                *event
            }
            other => panic!("{other:?} instead of the event {sequence}"),
        }
    }

    /// The next events, each after the one before it.
    pub(super) async fn events(&mut self, sequences: RangeInclusive<i64>) {
        for sequence in sequences {
            assert_eq!(self.event(sequence).await.previous, Sequence(sequence - 1));
        }
    }

    pub(super) async fn gap(&mut self) -> DeliveryGap {
        match self.unmarked().await {
            ServerFrame::Gap(gap) => gap,
            other => panic!("{other:?} instead of a gap"),
        }
    }

    /// Waits for the mark of this sequence.
    pub(super) async fn mark(&mut self, sequence: i64) {
        loop {
            match self.frame().await {
                ServerFrame::Mark(mark) if mark.sequence == Sequence(sequence) => return,
                ServerFrame::Mark(mark) if mark.sequence < Sequence(sequence) => {}
                other => panic!("{other:?} instead of the mark {sequence}"),
            }
        }
    }

    /// Waits until the service asks for a reconnect, and returns the grace period.
    pub(super) async fn drain(&mut self) -> u64 {
        match self.unmarked().await {
            ServerFrame::Drain(drain) => drain.grace_ms,
            other => panic!("{other:?} instead of a drain"),
        }
    }

    /// Delivery must start after this sequence, with the next one if there is one. After a gap, the
    /// position is only said again.
    pub(super) async fn starts_after(&mut self, sequence: i64, next: Option<i64>) {
        if let Some(resumed) = &self.resumed {
            assert_eq!(resumed.from, Sequence(sequence), "{resumed:?}");
        }
        if let Some(next) = next {
            assert_eq!(self.event(next).await.previous, Sequence(sequence));
        }
    }

    /// Confirms the snapshot of a gap, and reads where delivery starts if the gap came before that.
    pub(super) async fn settle(&mut self, gap: &DeliveryGap) {
        self.applied(gap.resume_at.0).await;
        if self.ack.is_some() && self.resumed.is_none() {
            match self.unmarked().await {
                ServerFrame::Resumed(resumed) => assert_eq!(resumed.from, gap.resume_at),
                other => panic!("{other:?} instead of connection.resumed"),
            }
        }
    }

    /// Nothing but marks must come for a while.
    pub(super) async fn quiet(&mut self) {
        let waited = timeout(QUIET, async {
            loop {
                match self.next().await {
                    Ok(ServerFrame::Mark(_)) => {}
                    other => return other,
                }
            }
        });
        if let Ok(other) = waited.await {
            panic!("{other:?}");
        }
    }

    pub(super) async fn send(&mut self, frame: GatewayFrame) {
        check_sent("reliable", &serde_json::from_slice(&frame.to_text()).expect("JSON"));
        self.link.send(&[frame]).await.expect("it is open");
    }

    /// Sends a frame on a connection that may have ended.
    pub(super) async fn try_send(&mut self, frame: GatewayFrame) -> Result<(), Closed> {
        self.link.send(&[frame]).await
    }

    pub(super) async fn applied(&mut self, sequence: i64) {
        self.send(ack(None, Some(sequence))).await;
    }

    pub(super) async fn received(&mut self, sequence: i64) {
        self.send(ack(Some(sequence), None)).await;
    }

    /// Refuses an event, for good or until it is sent again after a time.
    pub(super) async fn nack(&mut self, sequence: i64, code: NackCode, retry_ms: Option<u64>) {
        self.send(GatewayFrame::Nack(Nack {
            sequence: Sequence(sequence),
            code,
            retryable: retry_ms.is_some(),
            retry_after_ms: retry_ms,
            detail: Some("the test says so".to_owned()),
        }))
        .await;
    }

    pub(super) async fn progress(&mut self, sequence: i64) -> Result<(), Closed> {
        let sequence = Sequence(sequence);
        self.try_send(GatewayFrame::Progress(Progress { sequence })).await
    }

    pub(super) async fn credit(&mut self, window: Option<u32>, window_bytes: Option<u64>) {
        self.send(GatewayFrame::Credit(Credit { window, window_bytes })).await;
    }

    /// Reads to the end, so that the link answers pings.
    pub(super) async fn live(mut self) {
        while self.link.receive().await.is_ok() {}
    }

    /// Ends the connection as a gateway does that stops.
    pub(super) async fn leave(mut self) {
        self.link.close().await;
    }

    /// Reads to the end; returns the close code and the code of the `connection.error` before it.
    pub(super) async fn closed(&mut self) -> (Option<u16>, Option<String>) {
        loop {
            if let Err(closed) = self.next().await {
                return (closed.code, self.error.clone());
            }
        }
    }
}

pub(super) fn ack(received: Option<i64>, applied: Option<i64>) -> GatewayFrame {
    GatewayFrame::Ack(Ack { received: received.map(Sequence), applied: applied.map(Sequence) })
}
