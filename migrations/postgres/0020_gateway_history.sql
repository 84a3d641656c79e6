-- What each gateway was called, which labels it had, and whether it was disabled or deleted, at any
-- time: a row per change, so that "which gateways did this target match then" can be answered. The
-- audit log is no substitute, because it is kept for a shorter time than events may be. The row
-- without `replaced_at` is the current state.
create table gateway_history (
    entry       bigint      generated always as identity primary key, -- in the order of the changes
    gateway     bigint      not null references gateways (gateway),
    changed_at  timestamptz not null,
    replaced_at timestamptz,                       -- when the next row of the gateway was written
    name        text        not null,
    labels      text        not null check (labels::jsonb is not null),
    disabled_at timestamptz,
    deleted_at  timestamptz,
    changed_by  text        not null               -- the principal's name; empty for the first row of an older gateway
);

create index gateway_history_by_gateway on gateway_history (gateway, entry);
create unique index gateway_history_current on gateway_history (gateway) where replaced_at is null;
-- For retention.
create index gateway_history_replaced on gateway_history (replaced_at) where replaced_at is not null;

-- Earlier labels are not on record: the history of gateways that exist begins now.
insert into gateway_history (gateway, changed_at, name, labels, disabled_at, deleted_at, changed_by)
select gateway, now(), name, labels, disabled_at, deleted_at, '' from gateways;

-- Why the last connection attempt was refused, where the code alone does not tell: a revoked and an
-- expired key have the same code.
alter table gateways add column last_refusal_cause text;

-- Events that were published for labels, newest first, to find those that missed a gateway. Events
-- for other targets cost nothing here.
create index events_by_label_target on events (organisation, appended_at, event)
    where substr(target, 1, 1) = '{';
