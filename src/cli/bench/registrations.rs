//! Gateways that a running service is given for a measurement, and removed from
//! it afterwards: also after an error or an interruption, and also those whose
//! registration was under way at that moment.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;
use secrecy::SecretString;
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::progress::Progress;

/// Deletions under way at once.
const AT_ONCE: usize = 16;

/// What a running service was given.
pub(super) struct Registrations {
    api: Api,
    /// Noted before the request is sent: its answer may never be seen.
    ids: Arc<Mutex<Vec<GatewayId>>>,
    /// Requests under way. They outlive the measurement, so that none of them
    /// registers a gateway after the removal.
    under_way: TaskTracker,
}

impl Registrations {
    pub(super) fn new(api: Api) -> Self {
        Self { api, ids: Arc::default(), under_way: TaskTracker::new() }
    }

    /// Registers a gateway and makes a key for it.
    pub(super) async fn register(&self, name: String) -> anyhow::Result<(String, SecretString)> {
        let id = GatewayId::default();
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        let api = self.api.clone();
        self.under_way.spawn(async move { register(&api, &id, &name).await }).await?
    }

    /// Deletes all of them, with their keys and logs.
    pub(super) async fn remove(self, progress: &Progress) -> anyhow::Result<()> {
        self.under_way.close();
        self.under_way.wait().await;
        let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
        progress.expect("deleting gateways", ids.len() as u64);
        let api = &self.api;
        let removal = |(number, id): (usize, GatewayId)| async move {
            let removed = api.delete(&format!("/gateways/{id}")).await;
            progress.at(number as u64);
            match removed {
                // Its registration failed.
                Err(error) if error.status() == Some(404) => None,
                removed => removed.err().map(|error| (id, error)),
            }
        };
        let left: Vec<_> = stream::iter(ids.into_iter().enumerate())
            .map(removal)
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        match left.first() {
            None => Ok(()),
            Some((id, error)) => anyhow::bail!(
                "{} gateways named bench-… are left, the first one is {id}: {error}",
                left.len()
            ),
        }
    }
}

/// Registers a gateway and makes a key for it.
pub(super) async fn register(
    api: &Api,
    id: &GatewayId,
    name: &str,
) -> anyhow::Result<(String, SecretString)> {
    api.post("/gateways", &json!({ "id": id, "name": name })).await?;
    let made = api.post(&format!("/gateways/{id}/tokens"), &json!({})).await?;
    let key = made["token"].as_str().context("a token without text")?;
    Ok((id.to_string(), SecretString::from(key)))
}
