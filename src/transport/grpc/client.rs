//! The messages as the client library reads and writes them: the reverse of what the service does.

use std::fmt::Display;
use std::time::Duration;

use serde_json::value::RawValue;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::super::frames::cloud_event;
use super::super::frames::{
    Ack, Confirm, ConnectionAck, ConnectionDrain, ConnectionError, ConnectionResumed, Credit,
    DeliveryGap, DeliveryMark, Envelope, ErrorCode, EventFrame, FrameError, GapReason,
    GatewayFrame, Hello, Limits, Nack, NackCode, Progress, Resume, ResumeMode, ServerFrame,
};
use super::generated::gateway_frame::Frame as FromGateway;
use super::generated::server_frame::Frame as FromService;
use super::{generated, number, sequence};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId};

/// The time before the next attempt that a status contains.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// Reads a frame of the service; `None` if it is of a later version.
pub fn server_frame(message: generated::ServerFrame) -> Result<Option<ServerFrame>, FrameError> {
    let Some(frame) = message.frame else { return Ok(None) };
    Ok(Some(match frame {
        FromService::ConnectionAck(it) => ServerFrame::Ack(ack(it)?),
        FromService::ConnectionResumed(it) => ServerFrame::Resumed(ConnectionResumed {
            mode: match it.mode() {
                generated::ResumeMode::Replay => ResumeMode::Replay,
                _ => ResumeMode::Live,
            },
            from: sequence(it.from),
            head: sequence(it.head),
            epoch: epoch(&it.epoch)?,
            pending: it.pending,
            envelope: match it.envelope() {
                generated::Envelope::Unspecified => None,
                generated::Envelope::Native => Some(Envelope::Native),
                generated::Envelope::Cloudevents => Some(Envelope::CloudEvents),
            },
        }),
        FromService::Event(it) => ServerFrame::Event(Box::new(event(it)?)),
        FromService::DeliveryMark(it) => ServerFrame::Mark(DeliveryMark {
            sequence: sequence(it.sequence),
            head: sequence(it.head),
        }),
        FromService::DeliveryGap(it) => ServerFrame::Gap(gap(it)?),
        FromService::ConnectionDrain(it) => ServerFrame::Drain(ConnectionDrain {
            reason: it.reason,
            reconnect_after_ms: it.reconnect_after_ms,
            grace_ms: it.grace_ms,
        }),
        FromService::ConnectionError(it) => {
            ServerFrame::Error(ConnectionError { code: it.code, message: it.message })
        }
    }))
}

fn ack(ack: generated::ConnectionAck) -> Result<ConnectionAck, FrameError> {
    let generated::Limits { frame_bytes, window, window_bytes } =
        ack.limits.ok_or_else(|| invalid("limits", "is required"))?;
    let gateway_id = ack.gateway_id.parse::<GatewayId>();
    let connection_id = ack.connection_id.parse::<ConnectionId>();
    Ok(ConnectionAck {
        gateway_id: gateway_id.map_err(|error| invalid("gateway_id", error))?,
        connection_id: connection_id.map_err(|error| invalid("connection_id", error))?,
        timestamp: timestamp("timestamp", ack.timestamp)?,
        protocol: ack.protocol,
        epoch: epoch(&ack.epoch)?,
        head: sequence(ack.head),
        oldest: sequence(ack.oldest),
        heartbeat_ms: ack.heartbeat_ms,
        limits: Limits { frame_bytes, window, window_bytes },
    })
}

fn event(event: generated::Event) -> Result<EventFrame, FrameError> {
    if let Some(cloud_event) = event.cloud_event {
        return cloud_event::parse(&cloud_event);
    }
    let payload = String::from_utf8(event.payload.into());
    let payload = payload.map_err(|error| invalid("payload", error))?;
    let traceparent = event.traceparent.as_deref().map(str::parse).transpose();
    Ok(EventFrame {
        event_type: EventType::new(event.r#type).map_err(|error| invalid("type", error))?,
        payload: RawValue::from_string(payload).map_err(|error| invalid("payload", error))?,
        timestamp: timestamp("timestamp", event.timestamp)?,
        correlation_id: CorrelationId::new(event.correlation_id)
            .map_err(|error| invalid("correlation_id", error))?,
        user_id: event.user_id,
        event_id: EventId::new(event.event_id).map_err(|error| invalid("event_id", error))?,
        sequence: sequence(event.sequence),
        previous: sequence(event.previous),
        epoch: epoch(&event.epoch)?,
        attempt: event.attempt,
        expires_at: event.expires_at.map(|at| timestamp("expires_at", Some(at))).transpose()?,
        traceparent: traceparent.map_err(|error| invalid("traceparent", error))?,
        attributes: None,
    })
}

fn gap(gap: generated::DeliveryGap) -> Result<DeliveryGap, FrameError> {
    let reason = GapReason::ALL.into_iter().find(|reason| reason.as_str() == gap.reason);
    Ok(DeliveryGap {
        from: sequence(gap.from),
        to: sequence(gap.to),
        reason: reason.ok_or_else(|| invalid("reason", "is unknown"))?,
        snapshot_url: gap.snapshot_url,
        resume_at: sequence(gap.resume_at),
        epoch: epoch(&gap.epoch)?,
    })
}

/// The message of a frame of a gateway.
pub fn gateway_message(frame: &GatewayFrame) -> generated::GatewayFrame {
    let frame = match frame {
        GatewayFrame::Hello(it) => FromGateway::ConnectionHello(hello(it)),
        GatewayFrame::Ack(Ack { received, applied }) => {
            FromGateway::DeliveryAck(generated::DeliveryAck {
                received: received.map(number),
                applied: applied.map(number),
            })
        }
        GatewayFrame::Nack(it) => FromGateway::DeliveryNack(nack(it)),
        GatewayFrame::Progress(Progress { sequence }) => {
            FromGateway::DeliveryProgress(generated::DeliveryProgress {
                sequence: number(*sequence),
            })
        }
        GatewayFrame::Credit(Credit { window, window_bytes }) => {
            FromGateway::DeliveryCredit(generated::DeliveryCredit {
                window: *window,
                window_bytes: *window_bytes,
            })
        }
    };
    generated::GatewayFrame { frame: Some(frame) }
}

fn hello(hello: &Hello) -> generated::ConnectionHello {
    use generated::Named;
    use generated::connection_hello::Resume as RequestedResume;

    let resume = match &hello.resume {
        Resume::Server => RequestedResume::Named(Named::Server.into()),
        Resume::Latest => RequestedResume::Named(Named::Latest.into()),
        Resume::Earliest => RequestedResume::Named(Named::Earliest.into()),
        Resume::After(position) => RequestedResume::Position(generated::Position {
            epoch: position.epoch.to_string(),
            sequence: number(position.sequence),
            event_id: position.event_id.as_ref().map(ToString::to_string),
        }),
    };
    let confirm = match hello.confirm {
        Confirm::Received => generated::Confirm::Received,
        Confirm::Applied => generated::Confirm::Applied,
    };
    let types = hello.types.iter().flatten();
    generated::ConnectionHello {
        instance: hello.instance.clone(),
        resume: Some(resume),
        window: hello.window,
        window_bytes: hello.window_bytes,
        types: types.map(ToString::to_string).collect(),
        confirm: confirm.into(),
        envelope: super::envelope(hello.envelope).into(),
    }
}

fn nack(nack: &Nack) -> generated::DeliveryNack {
    let code = match nack.code {
        NackCode::ApplyFailed => generated::NackCode::ApplyFailed,
        NackCode::Invalid => generated::NackCode::Invalid,
        NackCode::Unsupported => generated::NackCode::Unsupported,
        NackCode::DependencyMissing => generated::NackCode::DependencyMissing,
        NackCode::Timeout => generated::NackCode::Timeout,
        NackCode::Overloaded => generated::NackCode::Overloaded,
        NackCode::Conflict => generated::NackCode::Conflict,
    };
    generated::DeliveryNack {
        sequence: number(nack.sequence),
        code: code.into(),
        retryable: nack.retryable,
        retry_after_ms: nack.retry_after_ms,
        detail: nack.detail.clone(),
    }
}

fn epoch(text: &str) -> Result<Epoch, FrameError> {
    text.parse().map(Epoch).map_err(|error| invalid("epoch", error))
}

fn timestamp(member: &str, at: Option<prost_types::Timestamp>) -> Result<Timestamp, FrameError> {
    let prost_types::Timestamp { seconds, nanos } =
        at.ok_or_else(|| invalid(member, "is required"))?;
    let micros =
        seconds.checked_mul(1_000_000).and_then(|it| it.checked_add((nanos / 1_000).into()));
    Ok(Timestamp::from_micros(micros.ok_or_else(|| invalid(member, "is out of range"))?))
}

fn invalid(member: &str, why: impl Display) -> FrameError {
    FrameError::new(ErrorCode::InvalidFrame, format!("{member}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::reliable::Encoding;
    use super::super::super::{Gap, GapReason, Mark, Outgoing, OutgoingEvent, Resumed};
    use super::super::{Messages, frame, server};
    use super::*;
    use crate::event::{Event, Sequence};
    use crate::transport::frames::Position;

    #[test]
    fn what_the_client_sends_is_what_the_service_reads() {
        let texts = [
            r#"{"type":"connection.hello","instance":"a","resume":"server","window":3,"windowBytes":7,"types":["api.deployed"],"confirm":"applied"}"#,
            r#"{"type":"connection.hello","resume":"latest","confirm":"received"}"#,
            r#"{"type":"connection.hello","resume":"earliest","confirm":"received"}"#,
            r#"{"type":"delivery.ack","received":3,"applied":2}"#,
            r#"{"type":"delivery.progress","sequence":9}"#,
            r#"{"type":"delivery.credit","window":0}"#,
        ];
        let frames = texts.map(|text| GatewayFrame::parse(text.as_bytes()).unwrap().unwrap());
        let nacks = NackCode::ALL.map(|code| {
            GatewayFrame::Nack(Nack {
                sequence: Sequence(4),
                code,
                retryable: true,
                retry_after_ms: Some(5),
                detail: Some("why".to_owned()),
            })
        });
        let resume = Resume::After(Position {
            epoch: Epoch(uuid::Uuid::from_u128(1)),
            sequence: Sequence(41),
            event_id: Some(EventId::new("e-41").unwrap()),
        });
        let (instance, types) = (None, None);
        let (window, window_bytes, confirm) = (None, None, Confirm::Applied);
        let envelope = Some(Envelope::CloudEvents);
        let hello = Hello { instance, resume, window, window_bytes, types, confirm, envelope };
        for sent in frames.into_iter().chain(nacks).chain([GatewayFrame::Hello(hello)]) {
            assert_eq!(frame(gateway_message(&sent)).unwrap(), Some(sent));
        }
    }

    #[test]
    fn what_the_service_sends_is_what_the_client_reads() {
        let epoch = Epoch(uuid::Uuid::from_u128(1));
        let event = Event {
            id: EventId::new("e-2").unwrap(),
            event_type: EventType::new("api.deployed").unwrap(),
            payload: RawValue::from_string(r#"{"a" : 1}"#.to_owned()).unwrap(),
            correlation_id: CorrelationId::new("c-2").unwrap(),
            user_id: Some("u".to_owned()),
            occurred_at: Timestamp::from_micros(-1),
            expires_at: Some(Timestamp::from_micros(1_700_000_000_000_001)),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok(),
            attributes: None,
        };
        let (sequence, previous) = (Sequence(2), Sequence(1));
        let (event, own_receipt, attempt) = (Arc::new(event), false, 3);
        let sent = OutgoingEvent { sequence, previous, attempt, event, own_receipt };
        let gap = Gap {
            from: Sequence(3),
            to: Sequence(4),
            reason: GapReason::Purged,
            snapshot_url: Some("https://platform.example".to_owned()),
            resume_at: Sequence(4),
            epoch,
        };
        let resumed = Resumed { from: Sequence(1), head: Sequence(5), epoch };
        let mark = Mark { sequence: Sequence(5), head: Sequence(5) };
        let encoding = Encoding { epoch, envelope: Some(Envelope::Native) };
        for outgoing in [
            Outgoing::Event(sent),
            Outgoing::Gap(Box::new(gap)),
            Outgoing::Resumed(resumed),
            Outgoing::Mark(mark),
        ] {
            let text = encoding.text(&outgoing);
            let message = server(Messages::new(encoding).message(&outgoing));
            let read = server_frame(message).unwrap().unwrap();
            assert_eq!(read.to_text(), text);
        }
    }
}
