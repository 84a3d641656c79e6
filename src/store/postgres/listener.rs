//! LISTEN on one channel. Notifications that are sent while there is no connection are lost, so
//! callers also poll: at the beginning, whenever the connection was made or lost, and on a timer.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connect;
use super::servers::CONNECT;
use super::servers::{Access, Servers};
use super::sockets;
use crate::metric;

/// How often to poll while listening, and without LISTEN.
const POLL_LISTENING: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(500);
/// How often to poll while the connection is being made again, for a short outage.
const POLL_RECONNECTING: Duration = Duration::from_millis(100);
const SHORT_OUTAGE: Duration = Duration::from_secs(10);
/// How often the connection is checked, and the timeout of the check. A server that has vanished
/// sends nothing.
const CHECK_EVERY: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A listener on one channel.
pub(super) struct Listener {
    channel: &'static str,
    /// Where to listen; `None` only polls.
    servers: Option<Arc<Servers>>,
    connected: Option<PgListener>,
    /// The connection that is being made.
    connecting: Option<JoinHandle<Result<PgListener, String>>>,
    checked_at: Instant,
    unavailable_since: Option<Instant>,
    has_begun: bool,
    /// Whether notifications arrive; not measured if there is nowhere to listen.
    listening: metrics::Gauge,
}

impl Listener {
    pub(super) fn new(channel: &'static str, servers: Option<Arc<Servers>>) -> Self {
        let listening = match &servers {
            Some(_) => metrics::gauge!(metric::LISTENING, "channel" => channel),
            None => metrics::Gauge::noop(),
        };
        listening.set(0.0);
        Self {
            channel,
            servers,
            connected: None,
            connecting: None,
            checked_at: Instant::now(),
            unavailable_since: None,
            has_begun: false,
            listening,
        }
    }

    /// Waits until the caller should poll: a notification that matters has arrived or may be lost,
    /// or it is time. Cancel safe.
    pub(super) async fn wait(&mut self, matters: impl Fn(&str) -> bool) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if self.servers.is_none() {
            if !is_first {
                sleep(POLL).await;
            }
        } else if self.connected.is_none() {
            self.listen().await;
        } else if !self.receive(matters).await || !self.is_connected().await {
            self.connected = None;
            self.listening.set(0.0);
        }
    }

    /// Waits for a notification that matters, or for the time to poll; false if the connection is
    /// lost.
    async fn receive(&mut self, matters: impl Fn(&str) -> bool) -> bool {
        let by = Instant::now() + POLL_LISTENING;
        let Some(listener) = &mut self.connected else {
            return false;
        };
        loop {
            match timeout_at(by, listener.try_recv()).await {
                Ok(Ok(Some(notification))) if !matters(notification.payload()) => {}
                Ok(Ok(Some(_))) => {
                    // One poll serves all that have arrived.
                    while listener.next_buffered().is_some() {}
                    return true;
                }
                Ok(Ok(None) | Err(_)) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether the connection works and leads to a server that takes writes. Notifications do not
    /// reach other servers.
    async fn is_connected(&mut self) -> bool {
        if self.checked_at.elapsed() < CHECK_EVERY {
            return true;
        }
        let Some(listener) = &mut self.connected else {
            return false;
        };
        let check = sqlx::query_scalar("select current_setting('transaction_read_only') = 'off'");
        let answered = timeout(CHECK_TIMEOUT, check.fetch_one(&mut *listener)).await;
        self.checked_at = Instant::now();
        matches!(answered, Ok(Ok(true)))
    }

    /// Makes a connection in the background, and waits for it until the next poll.
    async fn listen(&mut self) {
        let Some(servers) = self.servers.clone() else {
            return;
        };
        let channel = self.channel;
        let connecting =
            self.connecting.get_or_insert_with(|| tokio::spawn(connected(servers, channel)));
        let is_short = self.unavailable_since.is_none_or(|since| since.elapsed() < SHORT_OUTAGE);
        let pause = if is_short { POLL_RECONNECTING } else { POLL };
        let by = Instant::now() + pause;
        let Ok(made) = timeout_at(by, &mut *connecting).await else {
            return;
        };
        self.connecting = None;
        match made.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(listener) => {
                self.connected = Some(listener);
                self.listening.set(1.0);
                self.checked_at = Instant::now();
                if self.unavailable_since.take().is_some() {
                    tracing::info!(channel, "LISTEN is available again");
                }
            }
            Err(error) => {
                if self.unavailable_since.is_none() {
                    self.unavailable_since = Some(Instant::now());
                    tracing::warn!(error, channel, "LISTEN unavailable; polling instead");
                }
                tokio::time::sleep_until(by).await;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(connecting) = &self.connecting {
            connecting.abort();
        }
    }
}

/// Connects and listens; the error names the server.
async fn connected(servers: Arc<Servers>, channel: &'static str) -> Result<PgListener, String> {
    let (conn, server) = servers.connect(Access::Write).await.map_err(|refusals| {
        // The advice is about the first connection, which has succeeded.
        let why = connect::explained(&refusals);
        why.replace("database.url", "database.listener_url (or database.url)")
    })?;
    let listening = async {
        conn.close().await?;
        // A listener keeps its connection even if it is broken, so each has its own pool.
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(server.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        sockets::prepare(server).await;
        listener.listen(channel).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    match timeout(CONNECT, listening).await {
        Ok(made) => made.map_err(|error| error.to_string()),
        Err(_) => Err(connect::no_answer().to_string()),
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("channel", &self.channel).finish_non_exhaustive()
    }
}
