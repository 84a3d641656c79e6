//! Records what the gateways received, in order.

use std::sync::Arc;

use async_trait::async_trait;
use gateway_events::client::gateway::{Handler, Notice, ReceivedEvent};
use gateway_events::clock::Timestamp;
use tokio::sync::watch;

/// An event that reached a gateway.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) gateway: &'static str,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) sequence: i64,
    pub(super) at: Timestamp,
    /// The number of the gateway's connection on which it arrived, from 1.
    pub(super) connection: usize,
}

#[derive(Default)]
struct Entries {
    arrivals: Vec<Arrival>,
    /// The gateway's name, once for each acknowledged connection.
    connections: Vec<&'static str>,
    /// A refusal after which a gateway gives up.
    refused: Option<(&'static str, u16)>,
}

impl Entries {
    fn connections_of(&self, gateway: &str) -> usize {
        self.connections.iter().filter(|name| **name == gateway).count()
    }
}

/// The journal of all gateways.
pub(super) struct Journal(watch::Sender<Entries>);

impl Journal {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Entries::default()))
    }

    /// Waits for a gateway's n-th acknowledged connection.
    pub(super) async fn connected(&self, gateway: &str, count: usize) -> anyhow::Result<()> {
        let mut entries = self.0.subscribe();
        let entries = entries
            .wait_for(|entries| {
                entries.refused.is_some() || entries.connections_of(gateway) >= count
            })
            .await?;
        match entries.refused {
            Some((gateway, status)) => anyhow::bail!("{gateway} was refused with status {status}"),
            None => Ok(()),
        }
    }

    /// Everything that arrived so far.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.0.borrow().arrivals.clone()
    }
}

/// Writes the events of one gateway.
pub(super) struct Writer {
    pub(super) gateway: &'static str,
    pub(super) journal: Arc<Journal>,
}

#[async_trait]
impl Handler for Writer {
    async fn handle(&self, event: ReceivedEvent) {
        let at = Timestamp::now();
        self.journal.0.send_modify(|entries| {
            let connection = entries.connections_of(self.gateway);
            entries.arrivals.push(Arrival {
                gateway: self.gateway,
                event_id: event.event_id,
                event_type: event.event_type,
                sequence: event.sequence,
                at,
                connection,
            });
        });
    }

    async fn notice(&self, notice: Notice) {
        self.journal.0.send_modify(|entries| match notice {
            Notice::Connected { .. } => entries.connections.push(self.gateway),
            Notice::Refused { status } => entries.refused = Some((self.gateway, status)),
            Notice::Disconnected { .. } | Notice::Failed { .. } | Notice::Unreadable { .. } => {}
        });
    }
}
