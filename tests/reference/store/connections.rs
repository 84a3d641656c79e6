//! Connections.

use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{
    ConnectionId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use gateway_events::store::positions::{
    self, Change, Life, Opening, Position, RECENT_CONNECTIONS, REPLICAS_WINDOW, Repeats,
    alive_at_once,
};
use gateway_events::store::{
    Conflict, ConnectionCursor, ConnectionInfo, ConnectionPage, Connections, Level, NewConnection,
    Opened, Result, RevokedConnection, StoreError,
};

use super::feed::ConnectionChange;
use super::tables::{ConnectionRow, Cursor, Tables, next};
use super::{MemoryStore, PendingOpening};

/// How many sequences after a position are searched for what was sent.
const SEARCHED_SEQUENCES: i64 = 1000;

#[async_trait]
impl Connections for MemoryStore {
    async fn open_connection(&self, connection: NewConnection) -> Result<Opened> {
        let node = self.node;
        let opened =
            self.commit(|tables, now| tables.open_connection(now, node, &connection), |_| ());
        let mut opening =
            PendingOpening { store: self, opened: opened.is_ok().then_some(connection) };
        tokio::task::yield_now().await;
        opening.opened = None;
        opened
    }

    async fn peak_connections(&self, gateway: GatewayKey, within: Duration) -> Result<usize> {
        let since = (self.database.0.clock)().minus(within);
        self.read(|tables| Ok(tables.peak_connections(gateway, since))).await
    }

    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<ConnectionPage> {
        let after = after.as_ref();
        self.read(|tables| {
            Ok(tables.list_connections(organisation, gateway, live_only, after, limit))
        })
        .await
    }

    async fn not_on_record(&self, connections: &[ConnectionId]) -> Result<Vec<ConnectionId>> {
        self.read(|tables| Ok(tables.not_on_record(connections))).await
    }

    async fn revoked_connections(&self) -> Result<Vec<RevokedConnection>> {
        self.read(|tables| Ok(tables.revoked_connections(self.node))).await
    }
}

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
        let control = self.gateway_row(new.gateway)?.control();
        if self.connections.contains_key(&new.id) {
            return Err(Conflict::Concurrent.into());
        }
        let (position, is_unsure, repeats) = if new.instance.is_empty() {
            self.open_unnamed(now, new.gateway)?
        } else {
            self.cursors.entry((new.gateway, String::new())).or_default();
            let own = self.cursors.get(&(new.gateway, new.instance.clone()));
            let own = own.map_or_else(|| self.confirmed(new.gateway), Cursor::position);
            (own, false, Repeats::default())
        };
        self.insert_connection(now, node, new);
        let instance = kept_under(new.id, &new.instance);
        let connected_at = new.instance.is_empty().then_some(now);
        let confirm = (!new.instance.is_empty()).then_some(Level::Received);
        let (received, updated_at) = (position, now);
        let cursor = Cursor { received, confirm, updated_at, connected_at, ..Cursor::default() };
        self.cursors.entry((new.gateway, instance)).or_insert(cursor);
        let (sent, suspect) = self.sent_behind(new.gateway, position);
        let (sent, suspect) = (Sequence(sent), Sequence(suspect));
        let position = Sequence(position);
        let is_collapsible = self.is_collapsible(new.gateway);
        Ok(Opened {
            epoch,
            position,
            head,
            sent,
            suspect,
            is_unsure,
            repeats,
            is_collapsible,
            control,
        })
    }

    pub(super) fn insert_connection(&mut self, now: Timestamp, node: NodeId, new: &NewConnection) {
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
            is_replaced: false,
            is_to_resync: false,
        };
        self.connections.insert(new.id, row);
        let change =
            ConnectionChange { connection: new.id, gateway: new.gateway, closed: false, at: now };
        self.connection_changes.insert(next(&mut self.last.connection_change), change);
    }

    /// The start of a new unnamed connection, whether an earlier one may have been sent more than
    /// is recorded, and what is repeated. Supersedes positions in excess of the number of replicas.
    pub(super) fn open_unnamed(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
    ) -> Result<(i64, bool, Repeats)> {
        let positions = self.own_positions(gateway);
        let since = now.minus(REPLICAS_WINDOW);
        let (mut lives, was_lost) = self.ended(gateway, since);
        let is_unsure = was_lost || positions.iter().any(|it| !it.is_closed());
        lives.extend(positions.iter().filter(|it| !it.is_closed()).map(|it| it.life));
        let declared = usize::try_from(self.gateway_row(gateway)?.replicas).unwrap_or(1);
        let alive = alive_at_once(&lives, since);
        let replicas = alive.max(declared);
        let Opening { start, dropped, changed } = positions::open(positions, replicas, now);
        for instance in dropped {
            self.cursors.remove(&(gateway, instance));
        }
        for Change { instance, superseded_at, left_at } in changed {
            if let Some(own) = self.cursors.get_mut(&(gateway, instance)) {
                (own.superseded_at, own.left_at) = (superseded_at, left_at);
            }
        }
        let confirmed = Sequence(self.confirmed(gateway));
        let start = start.unwrap_or(confirmed);
        Ok((start.0, is_unsure, Repeats::new(start, confirmed, declared, alive)))
    }

    /// The largest number of simultaneous connections of a gateway since this instant, counted at
    /// each opening of those that are live or ended since.
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

    /// The positions of unnamed connections that ended or are recorded as open.
    fn own_positions(&self, gateway: GatewayKey) -> Vec<Position> {
        let own = self.cursors.iter().filter(|((of, name), _)| *of == gateway && !name.is_empty());
        own.filter(|(_, cursor)| cursor.confirm.is_none())
            .filter_map(|((_, instance), cursor)| {
                let left_at = cursor.left_at;
                let live = self.connections.iter().find(|(id, row)| {
                    row.instance.is_empty() && row.closed.is_none() && id.to_string() == *instance
                });
                let live = live.map(|(_, row)| row);
                if left_at.is_none() && live.is_none() {
                    return None;
                }
                let connected_at = live.map(|row| row.connected_at).or(cursor.connected_at);
                let heard_at = live.map_or(cursor.updated_at, |row| row.last_heartbeat_at);
                Some(Position {
                    instance: instance.clone(),
                    received: Sequence(cursor.received),
                    life: Life {
                        connected_at: connected_at.unwrap_or(cursor.updated_at),
                        seen_at: cursor.updated_at.max(heard_at),
                    },
                    left_at,
                    superseded_at: cursor.superseded_at,
                })
            })
            .collect()
    }

    /// When the newest unnamed connections that ended began and ended, and whether one of them was
    /// lost with its node.
    fn ended(&self, gateway: GatewayKey, since: Timestamp) -> (Vec<Life>, bool) {
        let of = self.connections.iter().filter(|(_, row)| row.gateway == gateway);
        let mut newest: Vec<_> = of.collect();
        newest.sort_by_key(|(id, row)| std::cmp::Reverse((row.connected_at, **id)));
        newest.truncate(usize::try_from(RECENT_CONNECTIONS).unwrap_or(usize::MAX));
        let ended = newest.into_iter().map(|(_, row)| row).filter(|row| {
            row.closed.is_some() && row.instance.is_empty() && row.last_heartbeat_at >= since
        });
        let ended: Vec<_> = ended.collect();
        let was_lost =
            |row: &&ConnectionRow| row.closed.is_some_and(|(_, reason)| reason == Reason::NodeLost);
        let life = |row: &&ConnectionRow| Life::ended(row.connected_at, row.last_heartbeat_at);
        (ended.iter().filter_map(life).collect(), ended.iter().any(was_lost))
    }

    /// The last sequence sent after a position, and the last one that is suspect.
    pub(super) fn sent_behind(&self, gateway: GatewayKey, position: i64) -> (i64, i64) {
        let near = position + 1..=position + SEARCHED_SEQUENCES;
        let attempts = self.attempts.values().filter(|attempt| {
            attempt.gateway == gateway
                && near.contains(&attempt.first)
                && attempt.connection.is_some()
        });
        attempts.fold((position, position), |(sent, suspect), attempt| {
            let is_suspect = attempt.reason.is_some_and(Reason::is_attributed_to_the_event);
            let suspect = if is_suspect { suspect.max(attempt.last) } else { suspect };
            (sent.max(attempt.last), suspect)
        })
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
        let position = || own.map_or_else(|| self.confirmed(row.gateway), Cursor::position);
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

    pub(super) fn revoked_connections(&self, node: NodeId) -> Vec<RevokedConnection> {
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
                Some(RevokedConnection { gateway: row.gateway, token: row.token.clone(), reason })
            })
            .collect()
    }
}

/// The name under which a connection's position is kept.
pub(super) fn kept_under(id: ConnectionId, instance: &str) -> String {
    if instance.is_empty() { id.to_string() } else { instance.to_owned() }
}
