//! The gRPC services: `gateway_events.v1.Gateways`, `grpc.health.v1.Health` and server reflection, on
//! the port of the HTTP API. They need HTTP/2.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::middleware;
use axum::response::Response;
use futures_util::stream::{iter, once, unfold};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code as Grpc, Request, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::timeout::TimeoutLayer;
use tracing::Instrument as _;

use super::acceptor::{Acceptor, Refused};
use super::auth;
use super::fallbacks::timed_out;
use super::health;
use super::listener::{Peer, StreamSlot};
use super::not_opened::closing;
use super::observability;
use super::part::Parts;
use super::problem::Problem;
use super::state::AppState;
use crate::admission::Greeted;
use crate::clock::Timestamp;
use crate::transport;
use crate::transport::frames::{
    ErrorCode, FrameError, GatewayFrame, Hello, MAX_GATEWAY_FRAME_BYTES,
};
use crate::transport::grpc::generated::GatewayFrame as Message;
use crate::transport::grpc::generated::gateways_server::{Gateways, GatewaysServer};
use crate::transport::grpc::{self, Batch, Item, Messages};
use crate::transport::push::{self, Encoder as _, Inbound, Items};
use crate::transport::reliable::{self, Closing, Encoding};

mod requests;

use requests::Deadline;

/// The size of an event's message in excess of its frame in JSON, in bytes.
const MARGIN: usize = 64 * 1024;

/// The routes of all services.
pub(super) fn routes(state: &AppState) -> Router<AppState> {
    let acceptor: Arc<Acceptor> = state.get();
    let max_message = acceptor.rules.event_bytes().saturating_add(MARGIN);
    let limit = acceptor.config.server.request_timeout;
    let gateways = GatewaysServer::new(Service(acceptor))
        .max_decoding_message_size(MAX_GATEWAY_FRAME_BYTES)
        .max_encoding_message_size(max_message);
    let health = HealthServer::new(Probe(state.clone())).max_decoding_message_size(1024);
    let mut public = Router::new().route_service("/grpc.health.v1.Health/{*method}", health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(grpc::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are part of the program, so that this does not fail.
    if let Ok(service) = reflection().build_v1() {
        public = public.route_service("/grpc.reflection.v1.ServerReflection/{*method}", service);
    }
    // The name that older clients know.
    if let Ok(service) = reflection().build_v1alpha() {
        let path = "/grpc.reflection.v1alpha.ServerReflection/{*method}";
        public = public.route_service(path, service);
    }
    // They need no credentials, so that no response may last.
    let public = public
        .layer(middleware::map_response(move |response: Response| async move {
            requests::ended_at(response, Instant::now() + limit, None)
        }))
        .layer((HandleErrorLayer::new(timed_out), TimeoutLayer::new(limit)))
        .layer(middleware::from_fn(requests::ended_at_deadline));
    Router::new()
        .route_service("/gateway_events.v1.Gateways/{*method}", gateways)
        .merge(public)
        .layer(middleware::from_fn(requests::checked))
}

/// Whether the node is ready, as at `/readyz`.
struct Probe(AppState);

#[tonic::async_trait]
impl Health for Probe {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        keep(&request);
        let service = request.into_inner().service;
        if !matches!(service.as_str(), "" | grpc::SERVICE) {
            return Err(Status::not_found("there is no such service"));
        }
        let state = &self.0;
        let (dispatcher, supervisors) = (State(state.get()), State(state.get()));
        let part = state.get::<Parts>().share();
        let is_ready = health::readyz(dispatcher, supervisors, part).await.is_ok();
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Not offered: a stream that needs no credentials could be held open by anyone. Clients must be
    /// prepared for it.
    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("use Check"))
    }
}

fn peer<T>(request: &Request<T>) -> Option<&Peer> {
    request.extensions().get()
}

/// Keeps the connection open after this request.
fn keep<T>(request: &Request<T>) {
    if let Some(peer) = peer(request) {
        peer.keep();
    }
}

/// The service of gateways.
struct Service(Arc<Acceptor>);

#[tonic::async_trait]
impl Gateways for Service {
    type ConnectStream = Pin<Box<dyn Stream<Item = Item> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<Message>>,
    ) -> Result<tonic::Response<Self::ConnectStream>, Status> {
        let acceptor = &self.0;
        let peer = peer(&request).cloned().ok_or_else(|| Status::internal("no peer"))?;
        let (metadata, extensions, messages) = request.into_parts();
        let deadline = extensions.get().map(|Deadline(at)| *at);
        let headers = metadata.into_headers();
        let address = acceptor.address(&peer, &headers);
        let greeted = match greet(acceptor, &peer, &headers, address).await {
            Ok(greeted) => greeted,
            Err(refused) => return Err(refused_status(refused, acceptor, address)),
        };
        let greeting = greeted.greeting();
        let (items, taken) = push::queue();
        let span = observability::connection_span(
            greeting.greeting.gateway_id,
            greeting.greeting.connection_id,
            grpc::NAME,
            &headers,
        );
        let connection = Connection {
            acceptor: Arc::clone(acceptor),
            messages,
            deadline,
            items,
            _slot: peer.slot.stream(),
        };
        tokio::spawn(connection.run(greeted).instrument(span));
        Ok(tonic::Response::new(Box::pin(stream(taken, deadline))))
    }
}

/// What a connection sends. A stream that has reached its deadline ends with the status that says so,
/// after the connection has recorded why it ended.
fn stream(batches: Items<Batch>, deadline: Option<Instant>) -> impl Stream<Item = Item> + Send {
    let items =
        unfold(batches, async |mut batches| Some((batches.recv().await?, batches))).flat_map(iter);
    let end = once(async move { deadline.is_some_and(|deadline| deadline <= Instant::now()) });
    items.chain(end.filter_map(async |is_over| is_over.then(|| Err(requests::exceeded()))))
}

async fn greet(
    acceptor: &Acceptor,
    peer: &Peer,
    headers: &HeaderMap,
    address: std::net::IpAddr,
) -> Result<Greeted, Refused> {
    if peer.slot.is_reserve() {
        return Err(Problem::http_connection_limit().into());
    }
    let candidate = auth::candidate(headers, address);
    let greeted = acceptor.admissions.greet(candidate, grpc::NAME).await?;
    peer.slot.authenticated();
    peer.keep();
    Ok(greeted)
}

/// The status of a refusal. It is logged, counted and recorded like those of other transports.
fn refused_status(refused: Refused, acceptor: &Acceptor, address: std::net::IpAddr) -> Status {
    let problem = refused.problem.clone();
    let _ = acceptor.refuse(refused, address, grpc::NAME);
    let document = problem.into_document();
    let after = document.retry_after_secs.map(|secs| Duration::from_secs(secs.into()));
    match document.status {
        401 => Status::unauthenticated(document.detail),
        403 => Status::permission_denied(document.detail),
        429 => grpc::retry(Grpc::ResourceExhausted, &document.detail, after),
        503 => grpc::unavailable(&document.detail, after),
        400 | 422 => Status::invalid_argument(document.detail),
        _ => Status::internal(document.detail),
    }
}

/// A connection whose gateway was greeted.
struct Connection {
    acceptor: Arc<Acceptor>,
    messages: Streaming<Message>,
    /// When the gateway wants its stream to end.
    deadline: Option<Instant>,
    items: mpsc::Sender<Batch>,
    _slot: StreamSlot,
}

impl Connection {
    async fn run(mut self, mut greeted: Greeted) {
        let greeting = greeted.greeting();
        let mut encoding = Encoding { epoch: greeting.greeting.epoch, envelope: None };
        let frame_bytes = self.acceptor.frame_bytes();
        let ack = reliable::connection_ack(&greeting, frame_bytes, Timestamp::now());
        // The queue is empty.
        let _ = self.items.try_send(vec![grpc::ack(ack)]);
        let deadline = Instant::now() + greeting.hello_timeout;
        let hello = tokio::select! {
            biased;
            reason = greeted.stopped() => Err(Some(Closing::from(reason))),
            () = reached(self.deadline) => Err(None),
            hello = timeout_at(deadline, first_frame(&mut self.messages)) => match hello {
                Ok(Ok(hello)) => Ok(hello),
                Ok(Err(error)) => Err(error.map(|error| Closing::from(&error))),
                Err(_) => {
                    let message = "connection.hello did not arrive in time";
                    Err(Some((&FrameError::new(ErrorCode::HelloTimeout, message)).into()))
                }
            },
        };
        let opened = match hello {
            Ok(hello) => {
                encoding.envelope = hello.envelope;
                greeted.open(reliable::request(hello)).await.map_err(|cause| Some(closing(cause)))
            }
            Err(error) => Err(error),
        };
        let mut encoder = Messages::new(encoding);
        let (session, attempt) = match opened {
            Ok(opened) => opened,
            Err(None) => return,
            Err(Some(closing)) => {
                for item in encoder.end(closing) {
                    let _ = self.items.try_send(item);
                }
                return;
            }
        };
        let (lane_end, transport_end) = transport::link();
        let Self { acceptor, messages, deadline, items, _slot } = self;
        let timeout = acceptor.config.delivery.write_timeout;
        let (connection, inbound) = push::over(encoder, transport_end, items, timeout);
        session.start(lane_end);
        let reading = tokio::spawn(read(messages, inbound, deadline).in_current_span());
        connection.run(Vec::new()).await;
        reading.abort();
        drop(attempt);
    }
}

/// The hello. The error is `None` if the stream has ended.
async fn first_frame(messages: &mut Streaming<Message>) -> Result<Hello, Option<FrameError>> {
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(None),
            Err(status) => return Err(grpc::unreadable(&status)),
        };
        match grpc::frame(message)? {
            Some(GatewayFrame::Hello(hello)) => return Ok(hello),
            Some(_) => {
                let message = "the first frame must be connection.hello";
                return Err(Some(FrameError::new(ErrorCode::HelloExpected, message)));
            }
            None => {}
        }
    }
}

/// Waits for a deadline; for ever if there is none.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Passes the frames of a gateway on, until one of them or the gateway ends the connection, as it does
/// by a deadline.
async fn read(mut messages: Streaming<Message>, inbound: Inbound, deadline: Option<Instant>) {
    let over = reached(deadline);
    tokio::pin!(over);
    loop {
        let message = tokio::select! {
            biased;
            () = &mut over => Ok(None),
            message = messages.message() => message,
        };
        let accepted = match message {
            Ok(Some(message)) => match grpc::frame(message) {
                Ok(frame) => inbound.accept([frame]).await.is_ok(),
                Err(error) => {
                    let _ = inbound.fail(error);
                    false
                }
            },
            Ok(None) => {
                inbound.close();
                false
            }
            Err(status) => {
                if let Some(error) = grpc::unreadable(&status) {
                    let _ = inbound.fail(error);
                }
                false
            }
        };
        if !accepted {
            return;
        }
    }
}
