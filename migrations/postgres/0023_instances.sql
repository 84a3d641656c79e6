-- Named instances of gateways, and what they answer in reliable mode. Nodes of the last
-- version can work with this: they read a new outcome as unknown, and keep the positions
-- of instances like any other. They know no gateway whose instances must all confirm, so
-- that setting takes full effect when the last of them is gone.

-- Which instances must have confirmed a delivery before it counts as delivered: one of
-- them, or all. Beside the head of the log, because each receipt reads it there.
alter table streams add column confirmation text not null default 'any' check (confirmation in ('any', 'all'));

-- The level that an instance confirms by, so that `received` or `applied_up_to` is its
-- position. Null for the gateway's own position and those of unnamed connections, which
-- tells instances from these.
alter table cursors add column confirm text check (confirm in ('received', 'applied'));
-- The highest sequence up to which everything was acknowledged as applied. `applied` is
-- another matter: the newest delivery that a deployment.ack reported, by itself.
alter table cursors add column applied_up_to bigint not null default 0;

-- The later connection of the same instance that replaced this one, maybe on another node.
-- The node that holds this one closes it.
alter table connections add column replaced_by uuid;
create index connections_replaced on connections (node) where replaced_by is not null and closed_at is null;

-- The instance that rejected the delivery, or '' for an unnamed connection. Null unless it
-- was rejected. If one confirmation is enough, that of another instance ends it.
alter table dead_letters add column rejected_by text;

-- Instances that were not connected for too long, for admins. Retention removes them.
create table expired_instances (
    gateway       bigint      not null references gateways (gateway),
    instance      text        not null,
    confirm       text        not null,
    received      bigint      not null,
    applied_up_to bigint      not null,
    last_seen_at  timestamptz not null,
    expired_at    timestamptz not null,
    primary key (gateway, instance)
);

create index expired_instances_by_age on expired_instances (expired_at);

-- Two more outcomes: `filtered`, which the gateway did not want, and `snapshot`, which it
-- read in a snapshot instead. The rows fulfil the wider constraint, so they are not checked.
alter table attempts drop constraint attempts_outcome_check;
alter table attempts add constraint attempts_outcome_check
    check (outcome in ('received', 'applied', 'failed', 'unknown', 'filtered', 'snapshot')) not valid;
