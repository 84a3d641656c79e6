//! gRPC: the frames of reliable mode as messages of `grpc/gateway_events.v1.proto`, on one stream in
//! each direction. The code for the messages and the service is [generated]; `.ci/generate-grpc`
//! writes and compares it.

use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::frames::{
    Ack, Confirm, ConnectionAck, ConnectionDrain, ConnectionError, ConnectionResumed, Credit,
    DeliveryGap, Envelope, ErrorCode, FrameError, FrameType as _, GatewayFrame, Hello, Nack,
    NackCode, Position, Progress, Resume, ResumeMode, no_sequence,
};
use super::push::Encoder;
use super::reliable::{Closing, Encoding};
use super::{Outgoing, OutgoingEvent};
use crate::clock::Timestamp;
use crate::event::{Epoch, EventId, EventType, Reason, Sequence};

#[rustfmt::skip]
#[allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "the generator has its own style"
)]
pub mod generated;

mod client;

pub use client::{gateway_message, retry_after, server_frame};

use generated::gateway_frame::Frame as FromGateway;
use generated::server_frame::Frame as FromService;

/// The transport's name in the database, the API and the logs.
pub const NAME: &str = "grpc";
/// The service's name in paths, and for health checks.
pub const SERVICE: &str = "gateway_events.v1.Gateways";
/// The descriptor of the `.proto`, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!("grpc/descriptor.bin");

/// What the stream to a gateway consists of.
pub type Item = Result<generated::ServerFrame, Status>;
/// Consecutive items of a stream.
pub type Batch = Vec<Item>;

/// Encodes frames as messages of gRPC.
#[derive(Debug)]
pub struct Messages {
    encoding: Encoding,
}

impl Messages {
    /// The messages of a connection.
    pub const fn new(encoding: Encoding) -> Self {
        Self { encoding }
    }
}

impl Encoder for Messages {
    type Item = Batch;

    fn messages(&mut self, outgoing: Vec<Outgoing>) -> Batch {
        outgoing.iter().map(|outgoing| Ok(server(self.message(outgoing)))).collect()
    }

    fn drain(&mut self, drain: ConnectionDrain) -> Batch {
        let ConnectionDrain { reason, reconnect_after_ms, grace_ms } = drain;
        let drain = generated::ConnectionDrain { reason, reconnect_after_ms, grace_ms };
        vec![Ok(server(FromService::ConnectionDrain(drain)))]
    }

    /// A message without a frame, which clients ignore. Pings of HTTP/2 are not enough: a proxy
    /// answers them itself.
    fn heartbeat(&mut self) -> Option<Batch> {
        Some(vec![Ok(generated::ServerFrame { frame: None })])
    }

    fn end(&mut self, Closing { reason, error }: Closing) -> Vec<Batch> {
        let status = status(reason, error.as_ref());
        let error = error.map(|ConnectionError { code, message }| {
            Ok(server(FromService::ConnectionError(generated::ConnectionError { code, message })))
        });
        error.into_iter().chain(status.map(Err)).map(|item| vec![item]).collect()
    }
}

impl Messages {
    fn message(&self, outgoing: &Outgoing) -> FromService {
        match outgoing {
            Outgoing::Event(event) => FromService::Event(self.event(event)),
            Outgoing::Resumed(resumed) => {
                FromService::ConnectionResumed(resumed_message(self.encoding.resumed(*resumed)))
            }
            Outgoing::Mark(mark) => FromService::DeliveryMark(generated::DeliveryMark {
                sequence: number(mark.sequence),
                head: number(mark.head),
            }),
            Outgoing::Gap(gap) => FromService::DeliveryGap(gap_message(gap.as_ref().into())),
        }
    }

    fn event(&self, outgoing: &OutgoingEvent) -> generated::Event {
        let event = &outgoing.event;
        let cloud_event = match self.encoding.envelope {
            None | Some(Envelope::Native) => None,
            Some(Envelope::CloudEvents) => Some(self.encoding.event_text(outgoing)),
        };
        let payload = match cloud_event {
            None => Bytes::copy_from_slice(event.payload.get().as_bytes()),
            Some(_) => Bytes::new(),
        };
        generated::Event {
            r#type: event.event_type.to_string(),
            payload,
            timestamp: Some(timestamp(event.occurred_at)),
            correlation_id: event.correlation_id.to_string(),
            user_id: event.user_id.clone(),
            event_id: event.id.to_string(),
            sequence: number(outgoing.sequence),
            previous: number(outgoing.previous),
            epoch: self.encoding.epoch.to_string(),
            attempt: outgoing.attempt,
            expires_at: event.expires_at.map(timestamp),
            traceparent: event.traceparent.map(|parent| parent.to_string()),
            cloud_event,
        }
    }
}

/// The first message of a stream.
pub fn ack(ack: ConnectionAck) -> Item {
    let limits = generated::Limits {
        frame_bytes: ack.limits.frame_bytes,
        window: ack.limits.window,
        window_bytes: ack.limits.window_bytes,
    };
    Ok(server(FromService::ConnectionAck(generated::ConnectionAck {
        gateway_id: ack.gateway_id.to_string(),
        connection_id: ack.connection_id.to_string(),
        timestamp: Some(timestamp(ack.timestamp)),
        protocol: ack.protocol,
        epoch: ack.epoch.to_string(),
        head: number(ack.head),
        oldest: number(ack.oldest),
        heartbeat_ms: ack.heartbeat_ms,
        limits: Some(limits),
    })))
}

/// The status with which a stream ends; `None` if the gateway has ended it.
pub fn status(reason: Reason, error: Option<&ConnectionError>) -> Option<Status> {
    let is = |code: ErrorCode| error.is_some_and(|error| error.code == code.as_str());
    let message = error.map_or_else(|| reason.as_str(), |error| error.message.as_str());
    let code = match reason {
        Reason::ClosedByGateway => return None,
        Reason::TokenRevoked | Reason::GatewayDeleted => Code::Unauthenticated,
        Reason::GatewayDisabled => Code::PermissionDenied,
        Reason::Replaced => Code::Aborted,
        Reason::HeartbeatTimeout | Reason::ConfirmationTimeout | Reason::WriteTimeout => {
            Code::DeadlineExceeded
        }
        Reason::ProtocolError if is(ErrorCode::HelloTimeout) => Code::DeadlineExceeded,
        Reason::ProtocolError
            if is(ErrorCode::FrameTooLarge) || is(ErrorCode::TooManyInstances) =>
        {
            Code::ResourceExhausted
        }
        Reason::ProtocolError => Code::InvalidArgument,
        _ => return Some(unavailable(message, None)),
    };
    Some(Status::new(code, message))
}

/// `UNAVAILABLE`: the gateway connects again after a time, which is random if it is not given.
pub fn unavailable(message: &str, retry_after: Option<std::time::Duration>) -> Status {
    retry(Code::Unavailable, message, retry_after)
}

/// A status with the time of the next attempt.
pub fn retry(code: Code, message: &str, after: Option<std::time::Duration>) -> Status {
    let after =
        after.unwrap_or_else(|| std::time::Duration::from_millis(fastrand::u64(1_000..5_000)));
    Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(after)))
}

/// Reads and checks a frame of a gateway; `None` if it is of a later version.
pub fn frame(message: generated::GatewayFrame) -> Result<Option<GatewayFrame>, FrameError> {
    let Some(frame) = message.frame else { return Ok(None) };
    let frame = match frame {
        FromGateway::ConnectionHello(it) => GatewayFrame::Hello(hello(it)?),
        FromGateway::DeliveryAck(it) => GatewayFrame::Ack(Ack {
            received: it.received.map(|it| stated(Ack::TYPE, "received", it)).transpose()?,
            applied: it.applied.map(|it| stated(Ack::TYPE, "applied", it)).transpose()?,
        }),
        FromGateway::DeliveryNack(it) => GatewayFrame::Nack(nack(it)?),
        FromGateway::DeliveryProgress(it) => {
            let sequence = stated(Progress::TYPE, "sequence", it.sequence)?;
            GatewayFrame::Progress(Progress { sequence })
        }
        FromGateway::DeliveryCredit(it) => {
            GatewayFrame::Credit(Credit { window: it.window, window_bytes: it.window_bytes })
        }
    };
    frame.checked().map(Some)
}

fn hello(hello: generated::ConnectionHello) -> Result<Hello, FrameError> {
    use generated::connection_hello::Resume as RequestedResume;

    let invalid = |member, why: &str| FrameError::member(Hello::TYPE, member, why);
    let resume = match &hello.resume {
        Some(RequestedResume::Named(named)) => match generated::Named::try_from(*named) {
            Ok(generated::Named::Server) => Resume::Server,
            Ok(generated::Named::Latest) => Resume::Latest,
            Ok(generated::Named::Earliest) => Resume::Earliest,
            _ => {
                return Err(invalid(
                    "resume.named",
                    "must be NAMED_SERVER, NAMED_LATEST or NAMED_EARLIEST",
                ));
            }
        },
        Some(RequestedResume::Position(position)) => Resume::After(Position {
            epoch: Epoch(
                position.epoch.parse().map_err(|_| invalid("resume.epoch", "must be a UUID"))?,
            ),
            sequence: stated(Hello::TYPE, "resume.sequence", position.sequence)?,
            event_id: position
                .event_id
                .as_deref()
                .map(EventId::new)
                .transpose()
                .map_err(|error| invalid("resume.event_id", &error.to_string()))?,
        }),
        None => return Err(invalid("resume", "is required")),
    };
    let types: Result<Vec<EventType>, _> =
        hello.types.iter().map(|name| EventType::new(name.as_str())).collect();
    let types = types.map_err(|error| invalid("types", &error.to_string()))?;
    Ok(Hello {
        envelope: match generated::Envelope::try_from(hello.envelope) {
            Ok(generated::Envelope::Unspecified) => None,
            Ok(generated::Envelope::Native) => Some(Envelope::Native),
            Ok(generated::Envelope::Cloudevents) => Some(Envelope::CloudEvents),
            Err(_) => {
                return Err(invalid("envelope", "must be ENVELOPE_NATIVE or ENVELOPE_CLOUDEVENTS"));
            }
        },
        confirm: match hello.confirm() {
            generated::Confirm::Received => Confirm::Received,
            generated::Confirm::Applied => Confirm::Applied,
            generated::Confirm::Unspecified => {
                return Err(invalid("confirm", "must be CONFIRM_RECEIVED or CONFIRM_APPLIED"));
            }
        },
        instance: hello.instance,
        resume,
        window: hello.window,
        window_bytes: hello.window_bytes,
        types: Some(types).filter(|types| !types.is_empty()),
    })
}

fn nack(nack: generated::DeliveryNack) -> Result<Nack, FrameError> {
    let code = match nack.code() {
        generated::NackCode::ApplyFailed => NackCode::ApplyFailed,
        generated::NackCode::Invalid => NackCode::Invalid,
        generated::NackCode::Unsupported => NackCode::Unsupported,
        generated::NackCode::DependencyMissing => NackCode::DependencyMissing,
        generated::NackCode::Timeout => NackCode::Timeout,
        generated::NackCode::Overloaded => NackCode::Overloaded,
        generated::NackCode::Conflict => NackCode::Conflict,
        generated::NackCode::Unspecified => {
            let why = "must be a value of NackCode other than NACK_CODE_UNSPECIFIED";
            return Err(FrameError::member(Nack::TYPE, "code", why));
        }
    };
    Ok(Nack {
        sequence: stated(Nack::TYPE, "sequence", nack.sequence)?,
        code,
        retryable: nack.retryable,
        retry_after_ms: nack.retry_after_ms,
        detail: nack.detail,
    })
}

/// What a failed read of the stream means: a violation, or the end of the connection.
pub fn unreadable(status: &Status) -> Option<FrameError> {
    match status.code() {
        // tonic's status for a message that exceeds the limit.
        Code::OutOfRange | Code::ResourceExhausted => {
            Some(FrameError::new(ErrorCode::FrameTooLarge, "a frame may have at most 16 KiB"))
        }
        Code::Internal | Code::Unimplemented | Code::InvalidArgument => {
            Some(FrameError::new(ErrorCode::MalformedFrame, "a message is not a GatewayFrame"))
        }
        _ => None,
    }
}

fn resumed_message(resumed: ConnectionResumed) -> generated::ConnectionResumed {
    let mode = match resumed.mode {
        ResumeMode::Replay => generated::ResumeMode::Replay,
        ResumeMode::Live => generated::ResumeMode::Live,
    };
    generated::ConnectionResumed {
        from: number(resumed.from),
        head: number(resumed.head),
        epoch: resumed.epoch.to_string(),
        mode: mode.into(),
        pending: resumed.pending,
        envelope: envelope(resumed.envelope).into(),
    }
}

fn envelope(envelope: Option<Envelope>) -> generated::Envelope {
    match envelope {
        None => generated::Envelope::Unspecified,
        Some(Envelope::Native) => generated::Envelope::Native,
        Some(Envelope::CloudEvents) => generated::Envelope::Cloudevents,
    }
}

fn gap_message(gap: DeliveryGap) -> generated::DeliveryGap {
    generated::DeliveryGap {
        from: number(gap.from),
        to: number(gap.to),
        reason: gap.reason.as_str().to_owned(),
        snapshot_url: gap.snapshot_url,
        resume_at: number(gap.resume_at),
        epoch: gap.epoch.to_string(),
    }
}

fn server(frame: FromService) -> generated::ServerFrame {
    generated::ServerFrame { frame: Some(frame) }
}

/// The sequence in a frame of a gateway, as far as it is one: [`GatewayFrame::checked`] checks that it is
/// not too high.
fn stated(frame_type: &str, member: &str, number: u64) -> Result<Sequence, FrameError> {
    let sequence = i64::try_from(number).map(Sequence);
    sequence.map_err(|_| no_sequence(frame_type, member, number))
}

/// The sequence in a frame of the service.
fn sequence(number: u64) -> Sequence {
    Sequence(i64::try_from(number).unwrap_or(i64::MAX))
}

fn number(sequence: Sequence) -> u64 {
    u64::try_from(sequence.0).unwrap_or_default()
}

fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.micros();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default();
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}
