-- What an operator asks about nodes: which they are, where, and how many
-- connections each takes. A node says so once it listens; one of an earlier
-- version leaves it open.
alter table nodes add column version text;
alter table nodes add column host text;
alter table nodes add column address text;
alter table nodes add column max_connections bigint;

-- When another node closed what this one had left open, because it had been
-- silent for too long. A node that lives finds it here, and closes the sockets
-- whose connections are closed on record.
alter table nodes add column lost_at timestamptz;
