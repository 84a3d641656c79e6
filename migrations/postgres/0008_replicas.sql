-- How many replicas of a gateway connect at the same time, as its operator
-- declares it: so many positions of unnamed connections are kept at least.
alter table gateways add column replicas bigint not null default 1 check (replicas >= 1);

-- A connection's own position needs three instants, which outlive the row of the
-- connection: when it was opened, when its gateway last gave a sign of life on it
-- (`updated_at`), and when a later connection took its place. A position whose
-- place was taken is dropped when the connection ends, unless a later sign of life
-- shows that the gateway was still there.
alter table cursors add column connected_at timestamptz;
alter table cursors add column superseded_at timestamptz;
update cursors set
    connected_at = c.connected_at,
    updated_at = greatest(cursors.updated_at, c.last_heartbeat_at)
from connections c
where c.gateway = cursors.gateway and cast(c.id as text) = cursors.instance;
