//! Listening to what is notified. A notification that was sent while nobody
//! listened is lost without a trace, so that everybody who listens also looks:
//! at first, after each connection that was made or lost, and on a timer.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connect::{self, CONNECT};
use super::servers::{Access, Servers};
use super::sockets;

/// Between two looks at the latest: of who hears, and of who does not listen.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY_UNTOLD: Duration = Duration::from_millis(500);
/// While the connection is being made anew; after a while it is no passing thing.
const LOOK_EVERY_WHEN_DEAF: Duration = Duration::from_millis(100);
const PASSING: Duration = Duration::from_secs(10);
/// How often the connection is asked whether it still lives, whatever is heard
/// on it, and how long it has to answer: a peer that is gone says nothing.
const ASKED_EVERY: Duration = Duration::from_secs(5);
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Who listens to one channel.
pub(super) struct Ear {
    channel: &'static str,
    /// `None` does not listen.
    servers: Option<Arc<Servers>>,
    listener: Option<PgListener>,
    /// A connection that is being made; whoever waits looks meanwhile.
    making: Option<JoinHandle<Result<PgListener, String>>>,
    asked_at: Instant,
    deaf_since: Option<Instant>,
    has_begun: bool,
}

impl Ear {
    pub(super) fn new(channel: &'static str, servers: Option<Arc<Servers>>) -> Self {
        Self {
            channel,
            servers,
            listener: None,
            making: None,
            asked_at: Instant::now(),
            deaf_since: None,
            has_begun: false,
        }
    }

    /// Waits until it is time to look: something that matters was notified, or
    /// may have been missed, or it has been a while. May be dropped and called again.
    pub(super) async fn wait(&mut self, matters: impl Fn(&str) -> bool) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if self.servers.is_none() {
            if !is_first {
                sleep(LOOK_EVERY_UNTOLD).await;
            }
        } else if self.listener.is_none() {
            self.listen().await;
        } else if !self.hear(matters).await || !self.is_there().await {
            self.listener = None;
        }
    }

    /// Waits for what matters, but not for long; false if the connection is gone.
    async fn hear(&mut self, matters: impl Fn(&str) -> bool) -> bool {
        let by = Instant::now() + LOOK_EVERY;
        let Some(listener) = &mut self.listener else {
            return false;
        };
        loop {
            match timeout_at(by, listener.try_recv()).await {
                Ok(Ok(Some(notification))) if !matters(notification.payload()) => {}
                Ok(Ok(Some(_))) => {
                    // One look answers for all that have come.
                    while listener.next_buffered().is_some() {}
                    return true;
                }
                Ok(Ok(None) | Err(_)) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether the connection still lives, as far as is known, and leads to a
    /// server that takes writes: another one's notifications don't get there.
    async fn is_there(&mut self) -> bool {
        if self.asked_at.elapsed() < ASKED_EVERY {
            return true;
        }
        let Some(listener) = &mut self.listener else {
            return false;
        };
        let asked = sqlx::query_scalar("select current_setting('transaction_read_only') = 'off'");
        let answered = timeout(ANSWERED_WITHIN, asked.fetch_one(&mut *listener)).await;
        self.asked_at = Instant::now();
        matches!(answered, Ok(Ok(true)))
    }

    /// Has a connection made, and waits for it no longer than until the next look.
    async fn listen(&mut self) {
        let Some(servers) = self.servers.clone() else {
            return;
        };
        let channel = self.channel;
        let making = self.making.get_or_insert_with(|| tokio::spawn(connected(servers, channel)));
        let passes = self.deaf_since.is_none_or(|since| since.elapsed() < PASSING);
        let pause = if passes { LOOK_EVERY_WHEN_DEAF } else { LOOK_EVERY_UNTOLD };
        let by = Instant::now() + pause;
        let Ok(made) = timeout_at(by, &mut *making).await else {
            return;
        };
        self.making = None;
        match made.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(listener) => {
                self.listener = Some(listener);
                self.asked_at = Instant::now();
                if self.deaf_since.take().is_some() {
                    tracing::info!(channel, "notifications are heard again");
                }
            }
            Err(error) => {
                if self.deaf_since.is_none() {
                    self.deaf_since = Some(Instant::now());
                    tracing::warn!(
                        error,
                        channel,
                        "notifications can't be heard; what they would tell is looked for instead"
                    );
                }
                tokio::time::sleep_until(by).await;
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Some(making) = &self.making {
            making.abort();
        }
    }
}

/// Listens; or says why not, and where.
async fn connected(servers: Arc<Servers>, channel: &'static str) -> Result<PgListener, String> {
    let (connection, server) = servers.connect(Access::Write).await.map_err(|refusals| {
        // The advice is written for the first connection, which has succeeded.
        let why = connect::explained(&refusals);
        why.replace("database.url", "database.listener_url (or database.url)")
    })?;
    let listening = async {
        connection.close().await?;
        // A listener keeps its connection, also one that is dead and does not
        // know it yet: each has a pool of its own.
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

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("channel", &self.channel).finish_non_exhaustive()
    }
}
