//! Reliable mode over gRPC: one stream of messages in each direction, on an HTTP/2 connection of its own.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status, Streaming};

use super::link::{Closed, ConnectError, Link, Received, Transport, announced};
use crate::client::socket::Endpoint;
use crate::client::tls::plain;
use crate::transport::frames::{GatewayFrame, Hello, close_code};
use crate::transport::grpc::generated::gateways_client::GatewaysClient;
use crate::transport::grpc::generated::{GatewayFrame as Message, ServerFrame as Answer};
use crate::transport::grpc::{gateway_message, retry_after, server_frame};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of a message. The service always reads.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the end of the stream after the client has ended its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval of HTTP/2 pings, by which a dead service is detected before it has sent anything.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// The length of the longest message: that of an event of 16 MiB.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Frames that wait to be sent.
const QUEUED: usize = 16;

/// Connects over gRPC, which needs TLS: HTTP/2 is negotiated by it.
#[derive(Clone, Debug)]
pub struct Grpc {
    endpoint: Endpoint,
    key: MetadataValue<Ascii>,
    origin: Uri,
}

impl Grpc {
    /// Connects to this service with a gateway's key.
    pub fn new(endpoint: &Endpoint, key: &SecretString) -> Result<Self, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(error.to_string());
        let mut key: MetadataValue<Ascii> =
            key.expose_secret().parse().map_err(|error| failed(&error))?;
        key.set_sensitive(true);
        let origin = endpoint.base.as_str().parse().map_err(|error| failed(&error))?;
        let mut tls = endpoint.tls.as_ref().clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let endpoint = Endpoint { tls: Arc::new(tls), ..endpoint.clone() };
        Ok(Self { endpoint, key, origin })
    }

    async fn open(&self, hello: &Hello) -> Result<GrpcLink, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(plain(error.to_string()));
        let stream = self.endpoint.open().await.map_err(|error| failed(&error))?;
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        // It ends with the link. An error is also that of the stream.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let (frames, queued) = mpsc::channel(QUEUED);
        // The queue is empty.
        let _ = frames.try_send(gateway_message(&GatewayFrame::Hello(hello.clone())));
        let sent = unfold(queued, async |mut queued: mpsc::Receiver<Message>| {
            Some((queued.recv().await?, queued))
        });
        let mut request = tonic::Request::new(sent);
        request.metadata_mut().insert("api-key", self.key.clone());
        let mut client = GatewaysClient::with_origin(Channel(requests), self.origin.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let stream = client.connect(request).await.map_err(|status| refused(&status))?;
        Ok(GrpcLink { frames: Some(frames), stream: stream.into_inner(), code: None })
    }
}

/// A refusal, with the HTTP status that its status stands for.
fn refused(status: &Status) -> ConnectError {
    let retry_after = retry_after(status);
    let http = match status.code() {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        // Without a time it is an error of the connection.
        Code::Unavailable if retry_after.is_some() => 503,
        _ => return ConnectError::Failed(plain(described(status))),
    };
    ConnectError::Refused { status: http, retry_after }
}

fn described(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// The close code for the status of a stream, if no frame has announced it.
fn close_code_of(status: &Status) -> Option<u16> {
    match status.code() {
        Code::Unauthenticated => Some(close_code::KEY_REVOKED),
        Code::PermissionDenied => Some(close_code::GATEWAY_DISABLED),
        Code::Aborted => Some(close_code::REPLACED),
        _ => None,
    }
}

#[async_trait]
impl Transport for Grpc {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        match timeout(CONNECT_TIMEOUT, self.open(hello)).await {
            Ok(Ok(link)) => Ok(Box::new(link)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Failed("connecting timed out".to_owned())),
        }
    }
}

/// An HTTP/2 connection.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

struct GrpcLink {
    /// `None` after the client has ended its side.
    frames: Option<mpsc::Sender<Message>>,
    stream: Streaming<Answer>,
    /// The close code that follows from the last frames.
    code: Option<u16>,
}

#[async_trait]
impl Link for GrpcLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        match self.stream.message().await {
            Ok(Some(message)) => match server_frame(message) {
                Ok(Some(frame)) => {
                    self.code = announced(&frame).or(self.code);
                    Ok(Received::Frame(frame))
                }
                Ok(None) => Ok(Received::Alive),
                Err(error) => {
                    Err(Closed::lost(format!("the service sent an invalid frame: {error}")))
                }
            },
            Ok(None) => {
                Err(Closed { code: self.code, why: "the service ended the stream".to_owned() })
            }
            Err(status) => {
                let code = self.code.or_else(|| close_code_of(&status));
                Err(Closed { code, why: plain(described(&status)) })
            }
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        let Some(to) = &self.frames else { return Err(Closed::lost("closed")) };
        let sending = async {
            for frame in frames {
                let sent = to.send(gateway_message(frame)).await;
                sent.map_err(|_| {
                    let why = "the service ended the stream".to_owned();
                    Closed { code: self.code, why }
                })?;
            }
            Ok(())
        };
        let sent = timeout(SEND_TIMEOUT, sending).await;
        sent.unwrap_or_else(|_| Err(Closed::lost("the service does not read")))
    }

    async fn close(&mut self) {
        self.frames = None;
        let ending = async { while let Ok(Some(_)) = self.stream.message().await {} };
        let _ = timeout(CLOSE_TIMEOUT, ending).await;
    }
}
