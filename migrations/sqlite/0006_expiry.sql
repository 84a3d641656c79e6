-- Events that can still expire. A job looks for those whose time has passed twice
-- a second, so that an event expires on time while its gateway is away. An event
-- is settled, and leaves the index, when each of its deliveries is confirmed,
-- given up, or of a deleted gateway.
alter table events add column expiry_settled integer not null default 0;
create index events_expiring on events (expires_at, event)
    where expires_at is not null and expiry_settled = 0;

-- When a gateway's last connection ended: one that has only just gone has some
-- time to come back before what it misses is recorded as `not_connected`.
create index connections_ended on connections (gateway, closed_at) where closed_at is not null;
