//! A client that behaves like deployed gateways. It handles one frame at a time and reads the next
//! one when that is done. It answers pings in the same loop, so a pong means that everything before
//! it was handled. It closes the connection when it has read no ping for a while, even while a
//! handler runs. It reconnects without delay after an acknowledged connection, with growing delays
//! after failed connects, and never after a status on which it must stop.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

pub use super::protocol::{AckPolicy, ReceivedEvent};
use super::protocol::{Applied, Welcome, deployment_ack};
use super::socket::{DialError, Endpoint, Socket};
use super::tls::plain;
pub use crate::backoff::Backoff;

mod announce;
mod options;

pub use options::{Exit, GatewayOptions, Handler, Notice};

/// Statuses after which a gateway does not reconnect.
const FINAL_STATUSES: [u16; 5] = [401, 403, 404, 409, 422];
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The reason for which the watchdog closes a connection.
const NO_PING: &str = "no ping in time";

/// How one connection ended.
enum End {
    /// Stop, and do not reconnect.
    Exit(Exit),
    /// Reconnect at once.
    Disconnected(String),
    /// Reconnect after a pause.
    Failed(String),
}

/// A client that behaves like a deployed gateway in plain mode: it answers pings, handles one event
/// after another, and drops events that it has already applied.
pub struct Gateway {
    options: GatewayOptions,
    /// Kept across reconnects, as a gateway's database is. Locked for a lookup or an insert, never
    /// across an await.
    applied: Mutex<Applied>,
}

impl Gateway {
    /// Creates a gateway that is not connected.
    pub fn new(options: GatewayOptions) -> Self {
        let applied = Mutex::new(Applied::new(options.max_applied));
        Self { options, applied }
    }

    /// Connects, handles events and reconnects, until it is cancelled or refused permanently.
    /// Dropping the future ends the connection without a closing handshake.
    pub async fn run(&self, cancel: CancellationToken) -> Exit {
        let handler = &self.options.handler;
        let mut backoff = self.options.backoff;
        loop {
            match self.connect_once(&cancel).await {
                End::Exit(exit) => return exit,
                End::Disconnected(why) => {
                    backoff.reset();
                    handler.notice(Notice::Disconnected { why }).await;
                }
                End::Failed(why) => {
                    let wait = backoff.next_pause();
                    handler.notice(Notice::Failed { why, wait }).await;
                    tokio::select! {
                        () = cancel.cancelled() => return Exit::Cancelled,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
            if cancel.is_cancelled() {
                return Exit::Cancelled;
            }
        }
    }

    async fn connect_once(&self, cancel: &CancellationToken) -> End {
        let opened = tokio::select! {
            () = cancel.cancelled() => return End::Exit(Exit::Cancelled),
            opened = self.open() => opened,
        };
        let (mut socket, welcome) = match opened {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        self.options
            .handler
            .notice(Notice::Connected {
                connection_id: welcome.connection_id.clone(),
                gateway_id: welcome.gateway_id.clone(),
            })
            .await;
        if self.options.announces
            && let Err(status) = announce::announce(&self.options, &welcome.gateway_id).await
        {
            return self.refused(status).await;
        }
        self.stream(&mut socket, &welcome.connection_id, cancel).await
    }

    /// Connects and waits for the acknowledgement.
    async fn open(&self) -> Result<(Socket, Welcome), End> {
        let options = &self.options;
        let endpoint =
            Endpoint { base: options.url.clone(), tls: Arc::clone(&options.tls), source: None };
        let dialled = timeout(DIAL_TIMEOUT, endpoint.dial(&options.key)).await;
        let mut socket = match dialled {
            Ok(Ok(socket)) => socket,
            Ok(Err(DialError::Refused(status))) => return Err(self.refused(status).await),
            Ok(Err(DialError::Failed(why))) => return Err(End::Failed(why)),
            Err(_) => return Err(End::Failed("connecting timed out".to_owned())),
        };
        let first = timeout(options.ack_timeout, socket.next()).await;
        let why = match first {
            Ok(Some(Ok(Message::Text(text)))) => match Welcome::read(&text) {
                Some(welcome) => return Ok((socket, welcome)),
                None => "the first frame was not a connection.ack".to_owned(),
            },
            Ok(Some(Ok(_))) => "the first frame was not a text frame".to_owned(),
            Ok(Some(Err(error))) => plain(error.to_string()),
            Ok(None) => "the connection was closed before the connection.ack".to_owned(),
            Err(_) => "no connection.ack arrived in time".to_owned(),
        };
        Err(End::Failed(why))
    }

    async fn refused(&self, status: u16) -> End {
        self.options.handler.notice(Notice::Refused { status }).await;
        if FINAL_STATUSES.contains(&status) {
            End::Exit(Exit::Refused(status))
        } else {
            End::Failed(format!("the service answered with status {status}"))
        }
    }

    /// The loop of an acknowledged connection. It reads one frame at a time, so a ping after an
    /// event waits until the event has been handled.
    async fn stream(
        &self,
        socket: &mut Socket,
        connection_id: &str,
        cancel: &CancellationToken,
    ) -> End {
        let mut hang_up_at = Instant::now() + self.options.ping_timeout;
        let mut farewell = None;
        loop {
            let frame = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    // The service may be gone.
                    let _ = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
                    return End::Exit(Exit::Cancelled);
                }
                () = tokio::time::sleep_until(hang_up_at) => {
                    let _ = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
                    return End::Disconnected(NO_PING.to_owned());
                }
                frame = socket.next() => frame,
            };
            match frame {
                Some(Ok(Message::Ping(_))) => {
                    hang_up_at = Instant::now() + self.options.ping_timeout;
                    // Reading a ping queues its pong, which must be sent before anything else is
                    // read.
                    if let Err(error) = socket.flush().await {
                        return End::Disconnected(plain(error.to_string()));
                    }
                }
                Some(Ok(Message::Text(text))) => {
                    let taken = self.take(socket, &text, connection_id, hang_up_at).await;
                    if let ControlFlow::Break(why) = taken {
                        return End::Disconnected(why);
                    }
                }
                // Tungstenite answers a close frame itself if reading continues until the end.
                Some(Ok(Message::Close(frame))) => {
                    farewell = frame.map(|frame| {
                        format!("closed with {} {}", u16::from(frame.code), frame.reason)
                    });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return End::Disconnected(farewell.unwrap_or_else(|| plain(error.to_string())));
                }
                None => {
                    return End::Disconnected(farewell.unwrap_or_else(|| "closed".to_owned()));
                }
            }
        }
    }

    async fn take(
        &self,
        socket: &mut Socket,
        text: &str,
        connection_id: &str,
        hang_up_at: Instant,
    ) -> ControlFlow<String> {
        let event = match ReceivedEvent::read(text, connection_id) {
            Ok(event) => event,
            Err(error) => {
                let why = error.to_string();
                self.options.handler.notice(Notice::Unreadable { why }).await;
                return ControlFlow::Continue(());
            }
        };
        let correlation_id = event.correlation_id.clone();
        let report = if self.applied().contains(&correlation_id) {
            None
        } else {
            deployment_ack(&event, &self.options.ack)
        };
        let mut handling = std::pin::pin!(self.options.handler.handle(event));
        let hung_up = tokio::select! {
            biased;
            () = &mut handling => false,
            () = tokio::time::sleep_until(hang_up_at) => {
                // The handler runs to its end even if the watchdog closes the connection.
                let _ = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
                handling.await;
                true
            }
        };
        if !matches!(self.options.ack, AckPolicy::Fail(_)) {
            self.applied().insert(&correlation_id);
        }
        if hung_up {
            return ControlFlow::Break(NO_PING.to_owned());
        }
        let Some(report) = report else {
            return ControlFlow::Continue(());
        };
        match socket.send(Message::text(report)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(plain(error.to_string())),
        }
    }

    fn applied(&self) -> std::sync::MutexGuard<'_, Applied> {
        // A panic elsewhere leaves the set usable: at worst, a report is repeated.
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
