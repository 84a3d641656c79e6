//! The three gateways of the demo.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gateway_events::api::{NewGateway, NewGatewayToken};
use gateway_events::client::CancellationToken;
use gateway_events::client::api::Api;
use gateway_events::client::gateway::{AckPolicy, Backoff, Exit, Gateway, GatewayOptions};
use gateway_events::event::GatewayId;
use secrecy::SecretString;
use tokio::task::JoinSet;

use super::super::service::Service;
use super::journal::{Journal, Writer};

/// Name and region of each gateway.
const MEMBERS: [(&str, &str); 3] =
    [("amsterdam", "europe"), ("berlin", "europe"), ("cairo", "africa")];
/// The interval at which confirmations are polled.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A registered gateway.
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) id: GatewayId,
    options: GatewayOptions,
}

/// All gateways, and the tasks of the connected ones.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    running: JoinSet<Exit>,
    stop: CancellationToken,
}

impl Fleet {
    /// Registers the gateways and creates a key for each.
    pub(super) async fn register(
        api: &Api,
        service: &Service,
        journal: &Arc<Journal>,
    ) -> anyhow::Result<Self> {
        let tls = service.trust().client_config()?;
        let mut members = Vec::new();
        for (name, region) in MEMBERS {
            let gateway = NewGateway {
                name: name.to_owned(),
                labels: BTreeMap::from([("region".to_owned(), region.to_owned())]),
                ..NewGateway::default()
            };
            let id = api.register_gateway(&gateway).await?.id;
            let made = api.create_gateway_token(id, &NewGatewayToken::default()).await?;
            let writer = Arc::new(Writer { gateway: name, journal: Arc::clone(journal) });
            let key = SecretString::from(made.token);
            let mut options =
                GatewayOptions::new(service.url().clone(), key, Arc::clone(&tls), writer);
            // Shorter than that of gateways in the field, to keep the demo short.
            options.backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
            options.ack = AckPolicy::Success;
            members.push(Member { name, id, options });
        }
        Ok(Self { members, running: JoinSet::new(), stop: CancellationToken::new() })
    }

    /// The gateway with this name.
    pub(super) fn member(&self, name: &str) -> anyhow::Result<&Member> {
        self.members
            .iter()
            .find(|member| member.name == name)
            .with_context(|| format!("no gateway is called {name}"))
    }

    /// The name of the gateway with this id.
    pub(super) fn name_of(&self, id: GatewayId) -> &str {
        self.members.iter().find(|member| member.id == id).map_or("?", |member| member.name)
    }

    /// Connects a gateway, which reconnects when its connection ends.
    pub(super) fn connect(&mut self, name: &str) -> anyhow::Result<()> {
        let gateway = Gateway::new(self.member(name)?.options.clone());
        let stop = self.stop.clone();
        self.running.spawn(async move { gateway.run(stop).await });
        Ok(())
    }

    /// Waits until these gateways have confirmed their whole logs.
    pub(super) async fn confirmed(&self, api: &Api, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let id = self.member(name)?.id;
            loop {
                let gateway = api.gateway(id).await?;
                if gateway.head == gateway.confirmed {
                    break;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Closes all connections.
    pub(super) async fn disconnect(&mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }
}
