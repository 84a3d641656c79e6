//! `POST /gateways/connections/{connectionId}/frames`: what a gateway says about a stream that goes
//! one way only. The stream is found in the memory of the node that it comes from.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use dashmap::DashMap;

use super::auth;
use super::extract::{Bytes, Path};
use super::listener::Peer;
use super::openapi::{Frames, Keyed, Problems};
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::api::Code;
use crate::event::{ConnectionId, GatewayId};
use crate::transport::frames::{ErrorCode, FrameError, GatewayFrame};
use crate::transport::push::{Inbound, NotAccepted};

/// The live streams of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<DashMap<ConnectionId, (GatewayId, Inbound)>>);

/// A stream that is listed until this is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    streams: Streams,
    id: ConnectionId,
}

impl Streams {
    /// Lists a stream.
    pub(super) fn list(&self, gateway: GatewayId, id: ConnectionId, inbound: Inbound) -> Listed {
        self.0.insert(id, (gateway, inbound));
        Listed { streams: self.clone(), id }
    }

    /// A stream of this gateway.
    fn find(&self, gateway: GatewayId, id: ConnectionId) -> Option<Inbound> {
        let stream = self.0.get(&id)?;
        let (owner, inbound) = stream.value();
        (*owner == gateway).then(|| inbound.clone())
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.streams.0.remove(&self.id);
    }
}

/// Confirm or reject events of a stream.
///
/// The body is a frame of the protocol `gateway-events.v1`, or an array of at most 256 frames:
/// `delivery.ack`, `delivery.nack`, `delivery.progress` or `delivery.credit`. They count in this
/// order. If one of them can't be read, none counts, and the stream ends with `connection.error`, as
/// does one whose frames contradict what was sent. Send them to the node that the stream comes from;
/// over HTTP/2 they can share its connection.
#[utoipa::path(
    post, path = "/gateways/connections/{connectionId}/frames", tag = "for gateways",
    operation_id = "sendFrames",
    params(("connectionId" = ConnectionId, Path, description = "`connectionId` of the stream's first frame.")),
    request_body(content = Object, description = "A frame, or an array of frames; at most 256 KiB.",
        example = json!({"type": "delivery.ack", "applied": 42})),
    responses(
        (status = 204, description = "The frames count."),
        Problems<(Keyed, Frames)>,
    ),
    security(("gateway_key" = [])),
)]
pub(super) async fn send(
    State(streams): State<Streams>,
    Extension(peer): Extension<Peer>,
    // First, so that the body of an unauthenticated request is not read.
    auth::Gateway(credential): auth::Gateway,
    Query(()): Query<()>,
    Path(id): Path<String>,
    body: Result<Bytes, Problem>,
) -> HandlerResult<StatusCode> {
    peer.slot.authenticated();
    peer.keep();
    let stream = id.parse().ok().and_then(|id| streams.find(credential.gateway_id, id));
    let stream = stream.ok_or_else(gone)?;
    let Bytes(body) = body?;
    accept(&stream, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Passes one frame or an array of frames on. An error ends the connection.
pub(super) async fn accept(to: &Inbound, body: &[u8]) -> HandlerResult<()> {
    let frames = match GatewayFrame::parse_batch(body) {
        Ok(frames) => frames,
        Err(error) => {
            let problem = invalid(&error);
            to.fail(error).map_err(|_| gone())?;
            return Err(problem);
        }
    };
    to.accept(frames).await.map_err(|error| match error {
        NotAccepted::Gone(_) => gone(),
        NotAccepted::Invalid(error) => invalid(&error),
    })
}

/// There is no connection that takes frames.
pub(super) fn gone() -> Problem {
    Problem::new(
        Code::ConnectionGone,
        "This node has no such stream of this gateway. Connect again; what was not confirmed is sent again.",
    )
}

/// The refusal of a frame.
fn invalid(error: &FrameError) -> Problem {
    let code = match error.code {
        ErrorCode::MalformedFrame => Code::MalformedFrame,
        ErrorCode::FrameTooLarge => Code::FrameTooLarge,
        _ => Code::InvalidFrame,
    };
    Problem::new(code, error.message.clone())
}
