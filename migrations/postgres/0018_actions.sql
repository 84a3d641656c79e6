-- Corrective actions on a gateway or an event.

-- A paused gateway stays connected and is sent nothing. All three are null unless it is.
alter table gateways add column paused_at timestamptz;
alter table gateways add column paused_by text;        -- the principal's name
alter table gateways add column pause_reason text;     -- null if none was given

-- Raised by each pause, resume, skip and purge that concerns the log: connections then
-- read again what they are to send. The time serves to find recent changes.
alter table streams add column revision bigint not null default 0;
alter table streams add column revised_at timestamptz;
create index streams_revised on streams (revised_at) where revised_at is not null;

-- Why this delivery is not sent, although it may be pending on some connection: `skipped`.
-- Null for all others.
alter table outbox add column withheld text;

-- When the payload was removed, by whom, and why. `payload` is `{}` since then.
alter table events add column purged_at timestamptz;
alter table events add column purged_by text;
alter table events add column purge_reason text;

-- Raised by each edit, so that of two concurrent edits one is refused.
alter table inbox_rejected add column version bigint not null default 1;
