//! Frames for tests.

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId, Sequence};
use crate::transport::frames::{
    ConnectionAck, ConnectionResumed, DeliveryGap, DeliveryMark, EventFrame, GapReason, Limits,
    PROTOCOL, Position, ResumeMode, ServerFrame,
};

pub(super) fn epoch(log: u8) -> Epoch {
    Epoch(uuid::Uuid::from_u128(u128::from(log)))
}

pub(super) fn event(log: u8, sequence: i64, previous: i64, attempt: u32) -> Box<EventFrame> {
    Box::new(EventFrame {
        event_type: EventType::new("api.deployed").expect("a type"),
        payload: RawValue::from_string("{}".to_owned()).expect("JSON"),
        timestamp: Timestamp::from_micros(0),
        correlation_id: CorrelationId::new(format!("c-{sequence}")).expect("an id"),
        user_id: None,
        event_id: EventId::new(format!("e-{sequence}")).expect("an id"),
        sequence: Sequence(sequence),
        previous: Sequence(previous),
        epoch: epoch(log),
        attempt,
        expires_at: None,
        traceparent: None,
        attributes: None,
    })
}

pub(super) fn acknowledged(log: u8) -> ServerFrame {
    ServerFrame::Ack(ConnectionAck {
        gateway_id: GatewayId(uuid::Uuid::nil()),
        connection_id: ConnectionId(uuid::Uuid::nil()),
        timestamp: Timestamp::from_micros(0),
        protocol: PROTOCOL.to_owned(),
        epoch: epoch(log),
        head: Sequence(0),
        oldest: Sequence(1),
        heartbeat_ms: 10_000,
        limits: Limits { frame_bytes: 1 << 20, window: 64, window_bytes: 4 << 20 },
    })
}

pub(super) fn resumed(log: u8, from: i64) -> ServerFrame {
    ServerFrame::Resumed(ConnectionResumed {
        from: Sequence(from),
        head: Sequence(from + 100),
        epoch: epoch(log),
        mode: ResumeMode::Live,
        pending: 0,
        envelope: None,
    })
}

pub(super) fn gap(log: u8, to: i64) -> ServerFrame {
    ServerFrame::Gap(DeliveryGap {
        from: Sequence(1),
        to: Sequence(to),
        reason: GapReason::Retention,
        snapshot_url: None,
        resume_at: Sequence(to),
        epoch: epoch(log),
    })
}

pub(super) fn mark(sequence: i64) -> ServerFrame {
    ServerFrame::Mark(DeliveryMark { sequence: Sequence(sequence), head: Sequence(sequence) })
}

#[expect(clippy::unnecessary_wraps, reason = "clients start with or without a position")]
pub(super) fn at(log: u8, sequence: i64) -> Option<Position> {
    let event_id = Some(EventId::new(format!("e-{sequence}")).expect("an id"));
    Some(Position { epoch: epoch(log), sequence: Sequence(sequence), event_id })
}
