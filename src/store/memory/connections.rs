//! Connections.

use super::tables::{ConnectionRow, Cursor, Tables};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use crate::store::{
    ConnectionCursor, ConnectionInfo, ConnectionPage, NewConnection, Opened, Result, ShutOut,
    StoreError,
};

/// How far behind a position is looked for what was sent.
const STRETCH: i64 = 1000;

impl Tables {
    pub(super) fn open_connection(
        &mut self,
        now: Timestamp,
        node: NodeId,
        new: &NewConnection,
    ) -> Result<Opened> {
        let open = self.gateways.get(&new.gateway);
        let open = open.filter(|row| row.deleted_at.is_none() && row.disabled_at.is_none());
        let stream = &open.ok_or(StoreError::NotFound("gateway"))?.stream;
        let (epoch, head) = (stream.epoch, Sequence(stream.head));
        if self.connections.contains_key(&new.id) {
            return Err(StoreError::taken_meanwhile(&format!("connection {}", new.id)));
        }
        let position = if new.instance.is_empty() {
            self.take_over(new.gateway)
        } else {
            let own = self.cursors.get(&(new.gateway, new.instance.clone()));
            own.map_or_else(|| self.confirmed(new.gateway), |cursor| cursor.received)
        };
        let row = ConnectionRow {
            gateway: new.gateway,
            token: new.token.clone(),
            instance: new.instance.clone(),
            transport: new.transport,
            node,
            remote_address: new.remote_address.clone(),
            connected_at: now,
            last_heartbeat_at: now,
            closed: None,
            confirmed: None,
        };
        let instance = kept_under(new.id, &row.instance);
        self.connections.insert(new.id, row);
        let cursor = Cursor { received: position, updated_at: now, left_at: None };
        self.cursors.entry((new.gateway, instance)).or_insert(cursor);
        Ok(Opened {
            epoch,
            position: Sequence(position),
            head,
            sent: Sequence(self.sent_behind(new.gateway, position)),
            failed_attempts: self.blaming_attempts(new.gateway, position + 1),
        })
    }

    /// The lowest position among the gateway's unnamed connections, live and
    /// left-behind ones; with none, the gateway's own. The lowest one left
    /// behind is taken over, and so goes.
    fn take_over(&mut self, gateway: GatewayKey) -> i64 {
        let own = || self.cursors.iter().filter(|((of, _), _)| *of == gateway);
        let is_live = |instance: &str| {
            self.connections.iter().any(|(id, row)| {
                row.gateway == gateway
                    && row.instance.is_empty()
                    && row.closed.is_none()
                    && id.to_string() == *instance
            })
        };
        let lowest = own()
            .filter(|((_, instance), cursor)| {
                !instance.is_empty() && (cursor.left_at.is_some() || is_live(instance))
            })
            .map(|(_, cursor)| cursor.received)
            .min();
        let position = lowest.unwrap_or_else(|| self.confirmed(gateway));
        let left = own()
            .filter_map(|(key, cursor)| Some((cursor.received, cursor.left_at?, key.clone())))
            .min();
        if let Some((_, _, key)) = left {
            self.cursors.remove(&key);
        }
        position
    }

    /// The most connections of a gateway at once since then: looked at when each
    /// of those opened that are live or ended since.
    pub(super) fn peak_connections(&self, gateway: GatewayKey, since: Timestamp) -> usize {
        let is_lately = |row: &&ConnectionRow| row.closed.is_none_or(|(at, _)| at >= since);
        let of = self.connections.values().filter(|row| row.gateway == gateway);
        let lately: Vec<_> = of.filter(is_lately).collect();
        let held_at = |instant: Timestamp| {
            let is_open = |row: &&&ConnectionRow| {
                row.connected_at <= instant && row.closed.is_none_or(|(at, _)| at > instant)
            };
            lately.iter().filter(is_open).count()
        };
        lately.iter().map(|row| held_at(row.connected_at)).max().unwrap_or(0)
    }

    fn sent_behind(&self, gateway: GatewayKey, position: i64) -> i64 {
        let near = position + 1..=position + STRETCH;
        let sent = self.attempts.values().filter(|attempt| {
            attempt.gateway == gateway
                && near.contains(&attempt.first)
                && attempt.connection.is_some()
        });
        sent.map(|attempt| attempt.last).max().unwrap_or(position)
    }

    fn blaming_attempts(&self, gateway: GatewayKey, sequence: i64) -> u32 {
        let blaming = self.attempts.values().filter(|attempt| {
            attempt.gateway == gateway
                && attempt.first == sequence
                && attempt.reason.is_some_and(Reason::blames_the_event)
        });
        u32::try_from(blaming.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn list_connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<&ConnectionCursor>,
        limit: usize,
    ) -> ConnectionPage {
        let of = gateway.map(|id| self.any_key(organisation, id));
        let mut found: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, row)| of.is_none_or(|of| of == Some(row.gateway)))
            .filter(|(_, row)| !live_only || row.closed.is_none())
            .map(|(id, row)| (row.connected_at, *id, row))
            .filter(|(connected_at, id, _)| {
                after.is_none_or(|at| (connected_at.micros(), *id) < (at.connected_at, at.id))
            })
            .collect();
        found.sort_by_key(|(connected_at, id, _)| std::cmp::Reverse((*connected_at, *id)));
        found.truncate(limit);
        let next = found.last().filter(|_| found.len() == limit);
        let next = next.map(|(connected_at, id, _)| ConnectionCursor {
            connected_at: connected_at.micros(),
            id: *id,
        });
        let rows = found.iter().filter_map(|(_, id, row)| self.info(organisation, *id, row));
        ConnectionPage { rows: rows.collect(), next }
    }

    fn info(
        &self,
        organisation: OrganisationKey,
        id: ConnectionId,
        row: &ConnectionRow,
    ) -> Option<ConnectionInfo> {
        let gateway = self.gateways.get(&row.gateway)?;
        if gateway.organisation != organisation {
            return None;
        }
        let own = self.cursors.get(&(row.gateway, kept_under(id, &row.instance)));
        let position = || own.map_or_else(|| self.confirmed(row.gateway), |own| own.received);
        let confirmed = row.confirmed.unwrap_or_else(position);
        Some(ConnectionInfo {
            connection_id: id,
            gateway_id: gateway.id,
            gateway_name: gateway.name.clone(),
            transport: row.transport.to_owned(),
            node: row.node.to_string(),
            remote_address: row.remote_address.clone(),
            connected_at: row.connected_at,
            last_heartbeat: row.last_heartbeat_at,
            status: if row.closed.is_some() { "closed" } else { "connected" },
            confirmed: Sequence(confirmed),
            closed_at: row.closed.map(|(at, _)| at),
            close_reason: row.closed.map(|(_, reason)| reason),
        })
    }

    pub(super) fn shut_out(&self, node: NodeId) -> Vec<ShutOut> {
        let live = self.connections.values();
        live.filter(|row| row.node == node && row.closed.is_none())
            .filter_map(|row| {
                let gateway = self.gateways.get(&row.gateway)?;
                let token = self.gateway_tokens.get(&row.token);
                let is_revoked = token.is_none_or(|token| token.info.revoked_at.is_some());
                let reason = if gateway.deleted_at.is_some() {
                    Reason::GatewayDeleted
                } else if gateway.disabled_at.is_some() {
                    Reason::GatewayDisabled
                } else if is_revoked {
                    Reason::TokenRevoked
                } else {
                    return None;
                };
                Some(ShutOut { gateway: row.gateway, token: row.token.clone(), reason })
            })
            .collect()
    }
}

/// Under which name a connection's position is kept.
pub(super) fn kept_under(id: ConnectionId, instance: &str) -> String {
    if instance.is_empty() { id.to_string() } else { instance.to_owned() }
}
