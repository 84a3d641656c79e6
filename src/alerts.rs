//! Alerts: rules are evaluated by one node at a time, and destinations are notified of what they find.
//!
//! | file | holds |
//! |---|---|
//! | [`rules`] | what a rule may say, and the built-in ones |
//! | `conditions` | what a rule finds |
//! | `evaluation` | which alerts begin, fire and are resolved, without I/O |
//! | `evaluator` | the job that evaluates |
//! | [`message`] | the content of notifications, and its wording |
//! | [`destinations`] | what a destination may say |
//! | [`secrets`] | encryption of URLs, keys and passwords |
//! | `guard` | which addresses may be connected to |
//! | `sending`, `sent`, `signature`, `email`, `alertmanager` | one attempt to send |
//! | `notifier` | the job that sends what is due |
//!
//! A notification is stored in the transaction that changes its alert, so nothing is lost by a crash,
//! and each change is sent once to each destination. It is sent by a node that has claimed it for
//! longer than an attempt may take; only a crash between an attempt and its record repeats it. It
//! is sent after all earlier ones of its alert to the same destination have ended. While these are
//! pending, an alert that fires again and is resolved adds none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::api::{AlertDestinationSettings, AlertTest, FieldError};
use crate::clock::{Timestamp, millis};
use crate::config;
use crate::event::OrganisationKey;
use crate::jobs::Supervisor;
use crate::store::{Alerts, NodeHealth, Sealed, StoredDestination};

mod alertmanager;
mod conditions;
pub mod destinations;
mod email;
mod evaluation;
mod evaluator;
mod guard;
pub mod message;
mod notifier;
pub mod rules;
pub mod secrets;
mod sending;
mod sent;
mod signature;

use destinations::{Prepared, parsed, smtp_port};
use message::Message;
use secrets::{SecretKey, Secrets, SecretsError};
use sending::{Notification, Sender};

/// Why alerts can't be started.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// The key of secrets can't be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The trusted certificates can't be read.
    #[error("failed to create a TLS client for alerts: {0}")]
    Tls(#[from] rustls::Error),
}

/// Measures what only this node can measure.
pub type Measure = Box<dyn Fn() -> NodeHealth + Send + Sync>;

/// What the jobs and the API share: the key of secrets, and how messages are sent.
#[derive(Debug)]
pub struct Alerting {
    /// `None`: no key is configured, so no destination can be stored.
    key: Option<SecretKey>,
    sender: Sender,
    interval: Duration,
    give_up_after: Duration,
    /// Attempts that are in progress.
    attempts: TaskTracker,
    /// Cancelled when no more attempts may begin.
    stopped: CancellationToken,
}

impl Alerting {
    /// Reads the key of secrets, and the certificates that are trusted.
    pub fn open(settings: &config::Alerts) -> Result<Arc<Self>, AlertsError> {
        let key = settings.key_file.as_deref().map(SecretKey::read).transpose()?;
        let sender = Sender::new(settings.allowed_networks.clone(), settings.timeout)?;
        Ok(Arc::new(Self {
            key,
            sender,
            interval: settings.interval,
            give_up_after: settings.give_up_after,
            attempts: TaskTracker::new(),
            stopped: CancellationToken::new(),
        }))
    }

    /// Starts the jobs that evaluate rules and send notifications.
    pub fn start(self: &Arc<Self>, store: &Arc<dyn Alerts>, measure: Measure, jobs: &Supervisor) {
        let evaluator = evaluator::Evaluator::new(Arc::clone(store), measure, self.interval);
        jobs.start_housekeeping("alert_rules", self.interval, evaluator);
        let notifier = notifier::Notifier::new(Arc::clone(store), Arc::clone(self));
        jobs.start_housekeeping("alert_notifications", notifier::INTERVAL, notifier);
    }

    /// Begins no more attempts, and waits for those in progress, at most this long.
    pub async fn finish(&self, grace: Duration) {
        self.stopped.cancel();
        self.attempts.close();
        if tokio::time::timeout(grace, self.attempts.wait()).await.is_err() {
            tracing::warn!("notifications of alerts are still being sent and are cut off");
        }
    }

    /// Encrypts the secrets of a destination.
    pub fn seal(
        &self,
        organisation: OrganisationKey,
        id: &str,
        secrets: &Secrets,
    ) -> Result<Sealed, SecretsError> {
        self.key.as_ref().ok_or(SecretsError::NoKey)?.seal(organisation, id, secrets)
    }

    /// The settings and the secrets of a stored destination.
    pub fn unseal(
        &self,
        organisation: OrganisationKey,
        stored: &StoredDestination,
    ) -> Result<(AlertDestinationSettings, Secrets), SecretsError> {
        let settings =
            serde_json::from_str(&stored.definition).map_err(|_| SecretsError::Damaged)?;
        let key = self.key.as_ref().ok_or(SecretsError::NoKey)?;
        Ok((settings, key.open(organisation, &stored.id, &stored.sealed)?))
    }

    /// Checks that the host of a destination may be connected to. One that can't be resolved now may
    /// be later.
    pub async fn check_host(&self, prepared: &Prepared) -> Result<(), FieldError> {
        let Prepared { settings, secrets, .. } = prepared;
        let Ok(url) = parsed(settings.kind, &secrets.url) else { return Ok(()) };
        let port = smtp_port(settings.tls.unwrap_or_default());
        let port = url.port_or_known_default().unwrap_or(port);
        let host = url.host_str().unwrap_or_default();
        let checking = guard::check(host, port, &self.sender.allowed);
        match tokio::time::timeout(self.sender.limit, checking).await {
            Ok(Err(refused @ guard::Refused::Private(..))) => {
                Err(rules::error("url", refused.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Sends a message that tests a destination; `by` is named in it.
    pub async fn test(
        &self,
        organisation: OrganisationKey,
        stored: &StoredDestination,
        by: &str,
    ) -> Result<AlertTest, SecretsError> {
        let (settings, secrets) = self.unseal(organisation, stored)?;
        let message = Message::test(&stored.id, by, Timestamp::now());
        let id = Uuid::now_v7().to_string();
        let begin = Instant::now();
        let notification =
            Notification { settings: &settings, secrets: &secrets, id: &id, message: &message };
        let sent = self.sender.send(notification).await;
        Ok(AlertTest {
            delivered: sent.is_delivered,
            status: sent.status,
            detail: sent.detail,
            duration_ms: millis(begin.elapsed()),
        })
    }
}
