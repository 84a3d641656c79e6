//! Gateways registered with a running service for a measurement. They are deleted
//! afterwards, also after an error or an interruption, including those whose
//! registration was in flight at that moment.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use gateway_events::api::{NewGateway, NewGatewayToken};
use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use crate::progress::Progress;

/// Concurrent deletions.
const CONCURRENCY: usize = 16;

/// The gateways registered with a running service.
pub(crate) struct Registrations {
    api: Api,
    /// Noted before the request is sent, because its response may be lost.
    ids: Arc<Mutex<Vec<GatewayId>>>,
    /// Requests in flight. They outlive the measurement, so that none of them
    /// registers a gateway after the removal.
    in_flight: TaskTracker,
}

impl Registrations {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, ids: Arc::default(), in_flight: TaskTracker::new() }
    }

    /// Registers a gateway and creates a key for it; returns its id and the key.
    pub(crate) async fn register(&self, name: String) -> anyhow::Result<(String, SecretString)> {
        let id = GatewayId::default();
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        let api = self.api.clone();
        self.in_flight.spawn(async move { register(&api, &id, &name).await }).await?
    }

    /// Deletes all of them with their keys and logs.
    pub(crate) async fn remove(self, progress: &Progress) -> anyhow::Result<()> {
        self.in_flight.close();
        self.in_flight.wait().await;
        let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
        progress.bounded_step("deleting gateways", ids.len() as u64);
        let api = &self.api;
        let removal = |(number, id): (usize, GatewayId)| async move {
            let removed = api.delete_gateway(id).await;
            progress.at(number as u64);
            match removed {
                // The registration had failed.
                Err(error) if error.status() == Some(404) => None,
                removed => removed.err().map(|error| (id, error)),
            }
        };
        let left: Vec<_> = stream::iter(ids.into_iter().enumerate())
            .map(removal)
            .buffer_unordered(CONCURRENCY)
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

/// Registers a gateway and creates a key for it; returns its id and the key.
pub(crate) async fn register(
    api: &Api,
    id: &GatewayId,
    name: &str,
) -> anyhow::Result<(String, SecretString)> {
    let gateway = NewGateway { id: Some(*id), name: name.to_owned(), ..NewGateway::default() };
    api.register_gateway(&gateway).await?;
    let made = api.create_gateway_token(*id, &NewGatewayToken::default()).await?;
    Ok((id.to_string(), SecretString::from(made.token)))
}
