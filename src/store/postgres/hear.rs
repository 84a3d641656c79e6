//! Listening to what is notified. A notification that was sent while nobody
//! listened is lost without a trace, so that everybody who listens also looks:
//! at first, after each connection that was made or lost, and on a timer.

use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connect::{self, CONNECT};

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
    settings: Option<PgConnectOptions>,
    listener: Option<PgListener>,
    /// A connection that is being made; whoever waits looks meanwhile.
    making: Option<JoinHandle<Result<PgListener, String>>>,
    asked_at: Instant,
    deaf_since: Option<Instant>,
    has_begun: bool,
}

impl Ear {
    pub(super) fn new(channel: &'static str, settings: Option<PgConnectOptions>) -> Self {
        Self {
            channel,
            settings,
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
        if self.settings.is_none() {
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

    /// Whether the connection still lives, as far as is known.
    async fn is_there(&mut self) -> bool {
        if self.asked_at.elapsed() < ASKED_EVERY {
            return true;
        }
        let Some(listener) = &mut self.listener else {
            return false;
        };
        let asked = sqlx::query("select 1").execute(&mut *listener);
        let answered = timeout(ANSWERED_WITHIN, asked).await;
        self.asked_at = Instant::now();
        answered.is_ok_and(|answered| answered.is_ok())
    }

    /// Has a connection made, and waits for it no longer than until the next look.
    async fn listen(&mut self) {
        let Some(settings) = self.settings.clone() else {
            return;
        };
        let channel = self.channel;
        let making = self.making.get_or_insert_with(|| tokio::spawn(connected(settings, channel)));
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

/// Listens; or says why not, and of whom.
async fn connected(
    settings: PgConnectOptions,
    channel: &'static str,
) -> Result<PgListener, String> {
    let of = |error: &sqlx::Error| connect::refused(&settings, error);
    let listening = async {
        // A pool would try for as long as it may, and not say what is wrong.
        drop(settings.connect().await?);
        // A listener keeps its connection, also one that is dead and does not
        // know it yet: each has a pool of its own.
        let mut listener = PgListener::connect_with(&connect::pool(&settings, 1)).await?;
        listener.listen(channel).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    match timeout(CONNECT, listening).await {
        Ok(made) => made.map_err(|error| of(&error)),
        Err(_) => Err(of(&sqlx::Error::PoolTimedOut)),
    }
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("channel", &self.channel).finish_non_exhaustive()
    }
}
