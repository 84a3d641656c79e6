-- How many replicas of a gateway connect at the same time, as its operator
-- declares it: so many positions of unnamed connections are kept at least.
alter table gateways add column replicas integer not null default 1 check (replicas >= 1);

-- A connection's own position needs three instants, which outlive the row of the
-- connection: when it was opened, when its gateway last gave a sign of life on it
-- (`updated_at`), and when a later connection took its place. A position whose
-- place was taken is dropped when the connection ends, unless a later sign of life
-- shows that the gateway was still there.
alter table cursors add column connected_at integer;
alter table cursors add column superseded_at integer;
update cursors set
    connected_at = (select c.connected_at from connections c where c.id = cursors.instance),
    updated_at = max(updated_at, coalesce(
        (select c.last_heartbeat_at from connections c where c.id = cursors.instance), 0));
