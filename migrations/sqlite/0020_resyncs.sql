-- Resync requests: an admin wants the instances of a gateway to read a snapshot. One row for
-- each instance. Nodes of the last version neither honour nor complete them; they wait for a
-- connection to a newer node.
create table resyncs (
    resync       integer primary key autoincrement,
    gateway      integer not null references gateways (gateway),
    -- The instance's name; '' for unnamed connections, of which the next one takes the row.
    instance     text    not null,
    requested_at integer not null,
    requested_by text    not null,
    reason       text,
    -- The last connection that was sent the gap, and when it was opened. Another connection of
    -- the instance is sent the gap again, until one has applied the snapshot.
    connection   text,
    started_at   integer,
    -- The snapshot covers everything up to this sequence.
    resume_at    integer,
    ended_at     integer,
    -- `removed`: the instance expired, was forgotten, or its gateway was deleted.
    outcome      text    check (outcome in ('done', 'removed')),
    check ((ended_at is null) = (outcome is null))
) strict;

create index resyncs_pending on resyncs (gateway, instance) where ended_at is null;
create index resyncs_by_gateway on resyncs (gateway, resync);
-- Retention removes ended ones.
create index resyncs_ended on resyncs (ended_at) where ended_at is not null;

-- When the connection was to end because of a resync request: its instance gets the gap on its
-- next connection. The node that holds the connection asks its gateway to reconnect.
alter table connections add column resync_at integer;
create index connections_to_resync on connections (node) where resync_at is not null and closed_at is null;
