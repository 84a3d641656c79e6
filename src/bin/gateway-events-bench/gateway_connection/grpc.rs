//! gRPC: messages with a prefix of five bytes, in the bodies of one HTTP/2 request and its response.

use std::convert::Infallible;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use gateway_events::client::Endpoint;
use gateway_events::transport::grpc::SERVICE;
use gateway_events::transport::grpc::generated::gateway_frame::Frame as FromGateway;
use gateway_events::transport::grpc::generated::server_frame::Frame as FromService;
use gateway_events::transport::grpc::generated::{
    Confirm, ConnectionHello, DeliveryAck, GatewayFrame, Named, ServerFrame, connection_hello,
};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Method;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, TE};
use prost::Message as _;
use secrecy::SecretString;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::http2::Http2;
use super::{ConnectionError, Event, unreadable};

/// A flag, and the length of the message.
const PREFIX: usize = 5;

pub(crate) struct Connection {
    frames: UnboundedSender<Bytes>,
    stream: Stream,
    // Dropped last, because it ends the streams.
    _http: Http2,
}

impl Connection {
    pub(super) async fn open(
        endpoint: &Endpoint,
        key: &SecretString,
    ) -> Result<Self, ConnectionError> {
        let http = Http2::connect(endpoint, key).await?;
        let (frames, waiting) = unbounded_channel::<Bytes>();
        let body = stream::unfold(waiting, async |mut waiting| {
            let bytes = waiting.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), waiting))
        });
        let hello = ConnectionHello {
            resume: Some(connection_hello::Resume::Named(Named::Server.into())),
            confirm: Confirm::Applied.into(),
            ..ConnectionHello::default()
        };
        send(&frames, FromGateway::ConnectionHello(hello))?;
        let mut requests = http.requests();
        let request = requests
            .request(Method::POST, &format!("/{SERVICE}/Connect"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers");
        let response = requests.send(request, StreamBody::new(body)).await?;
        let mut stream = Stream { body: response.into_body(), bytes: BytesMut::new() };
        match stream.message().await? {
            Some(FromService::ConnectionAck(_)) => Ok(Self { frames, stream, _http: http }),
            _ => Err(ConnectionError::new("the first message is not a ConnectionAck")),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Event, ConnectionError> {
        loop {
            match self.stream.message().await? {
                Some(FromService::Event(event)) => {
                    let stamp = serde_json::from_slice(&event.payload).map_err(unreadable)?;
                    let sequence = i64::try_from(event.sequence).map_err(unreadable)?;
                    return Ok(Event { sequence, stamp });
                }
                Some(stop @ (FromService::DeliveryGap(_) | FromService::ConnectionError(_))) => {
                    return Err(ConnectionError::Failed(format!("{stop:?}")));
                }
                _ => {}
            }
        }
    }

    pub(super) fn acknowledge(&self, sequence: i64) -> Result<(), ConnectionError> {
        let applied = Some(u64::try_from(sequence).map_err(ConnectionError::new)?);
        send(&self.frames, FromGateway::DeliveryAck(DeliveryAck { received: None, applied }))
    }
}

/// Queues a message.
fn send(frames: &UnboundedSender<Bytes>, frame: FromGateway) -> Result<(), ConnectionError> {
    let message = GatewayFrame { frame: Some(frame) };
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).map_err(ConnectionError::new)?);
    message.encode(&mut bytes).map_err(ConnectionError::new)?;
    frames.send(bytes.freeze()).map_err(ConnectionError::new)
}

/// The stream and what was read of it.
struct Stream {
    body: Incoming,
    bytes: BytesMut,
}

impl Stream {
    /// Returns the next message; `None` if it is of a later version. Cancel safe.
    async fn message(&mut self) -> Result<Option<FromService>, ConnectionError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message.frame);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.bytes.extend_from_slice(&data),
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(|it| it.get("grpc-status"));
                        return Err(ConnectionError::Failed(format!("ended with {status:?}")));
                    }
                },
                Some(Err(error)) => return Err(ConnectionError::new(error)),
                None => return Err(ConnectionError::new("the service ended the stream")),
            }
        }
    }

    /// A message that was read completely.
    fn buffered(&mut self) -> Result<Option<ServerFrame>, ConnectionError> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let [_, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(unreadable)?;
        if self.bytes.len() < PREFIX + length {
            return Ok(None);
        }
        self.bytes.advance(PREFIX);
        ServerFrame::decode(self.bytes.split_to(length).freeze()).map(Some).map_err(unreadable)
    }
}
