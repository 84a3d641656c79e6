-- The whole first schema. Instants are integer microseconds since the Unix
-- epoch, UTC. Small integer keys stay inside; UUIDs and names go outside.
-- Tables are `strict`, so that a wrong type fails here and not a year later.

create table organisations (
    organisation integer primary key,
    name         text    not null unique,
    created_at   integer not null
) strict;

insert into organisations (organisation, name, created_at)
values (1, 'default', cast((julianday('now') - 2440587.5) * 86400000 as integer) * 1000);

create table gateways (
    gateway      integer primary key autoincrement, -- never reused: the ledger outlives a deleted gateway
    id           text    not null unique,
    organisation integer not null references organisations (organisation),
    name         text    not null,
    labels       text    not null default '{}' check (json_valid(labels)),
    created_at   integer not null,
    disabled_at  integer,
    deleted_at   integer,                            -- kept for the history; invisible otherwise
    manifest     text,                               -- the latest one that the gateway sent, as sent
    manifest_at  integer
) strict;

create unique index gateways_by_name on gateways (organisation, name) where deleted_at is null;

-- Digests only: whoever reads the database can't connect with what is in it.
create table gateway_tokens (
    id           text    primary key,                -- the public part of the key
    gateway      integer not null references gateways (gateway),
    digest       blob    not null,                   -- SHA-256 of the whole key
    created_at   integer not null,
    expires_at   integer,
    revoked_at   integer,
    last_used_at integer
) strict, without rowid;

create index gateway_tokens_by_gateway on gateway_tokens (gateway);

create table access_tokens (
    id           text    primary key,
    organisation integer not null references organisations (organisation),
    name         text    not null,
    scopes       text    not null,                   -- words with blanks between: publish read admin
    digest       blob    not null,
    created_at   integer not null,
    expires_at   integer,
    revoked_at   integer,
    last_used_at integer
) strict, without rowid;

-- A gateway's log. `head` is the last number given, `floor` the last number
-- trimmed, `missed` the last one for which "was anybody there?" is answered.
-- The totals make /stats cost a row per gateway, not one per attempt.
create table streams (
    gateway             integer primary key references gateways (gateway),
    epoch               text    not null,
    head                integer not null default 0,
    floor               integer not null default 0,
    missed              integer not null default 0,
    confirmed_total     integer not null default 0,  -- deliveries confirmed
    failed_total        integer not null default 0,  -- failed attempts, in deliveries
    last_failure_at     integer,
    last_failure_reason text,
    check (0 <= floor and floor <= head and missed <= head)
) strict;

create table events (
    event          integer primary key autoincrement,
    organisation   integer not null references organisations (organisation),
    id             text    not null,
    type           text    not null,
    payload        text    not null,                 -- JSON as it came; jsonb would rewrite numbers
    correlation_id text    not null,
    user_id        text,
    occurred_at    integer not null,
    appended_at    integer not null,
    expires_at     integer,
    digest         blob    not null,                 -- of what was published, to tell a repeat from a clash
    artifact_id    text,                             -- with deployment_id: what a deployment.ack names
    deployment_id  text
) strict;

create unique index events_by_id on events (organisation, id);
create index events_by_correlation on events (organisation, correlation_id);
create index events_by_deployment on events (deployment_id) where deployment_id is not null;
create index events_by_age on events (appended_at);

create table outbox (
    gateway  integer not null references streams (gateway),
    sequence integer not null,
    event    integer not null references events (event),
    primary key (gateway, sequence)
) strict, without rowid;

create index outbox_by_event on outbox (event);

create table idempotency_keys (
    organisation integer not null references organisations (organisation),
    key          text    not null,
    digest       blob    not null,                   -- of the request's body
    answer       text    not null,                   -- JSON: ids and sequences first given
    created_at   integer not null,
    primary key (organisation, key)
) strict, without rowid;

create index idempotency_keys_by_age on idempotency_keys (created_at);

-- How far a gateway has confirmed. instance '' is the gateway's own position
-- (the farthest of its unnamed connections); an unnamed connection has a row
-- under its own connection id, which is left behind when the connection ends.
create table cursors (
    gateway    integer not null references gateways (gateway),
    instance   text    not null,
    received   integer not null,
    applied    integer not null default 0,
    updated_at integer not null,
    left_at    integer,                              -- when the connection ended
    primary key (gateway, instance)
) strict, without rowid;

create table connections (
    id                text    primary key,
    gateway           integer not null references gateways (gateway),
    token             text    not null,
    instance          text    not null,
    transport         text    not null,
    node              text    not null,
    remote_address    text    not null,
    connected_at      integer not null,
    last_heartbeat_at integer not null,
    closed_at         integer,
    close_reason      text
) strict, without rowid;

create index connections_by_gateway on connections (gateway, connected_at);
create index connections_live on connections (gateway) where closed_at is null;

create table nodes (
    id           text    primary key,
    started_at   integer not null,
    heartbeat_at integer not null,
    stopped_at   integer
) strict, without rowid;

-- The ledger, run-length coded: neighbouring sequences with the same outcome
-- on the same connection are one row.
create table attempts (
    attempt        integer primary key autoincrement, -- commit order: pages are cut by it
    gateway        integer not null references gateways (gateway),
    first_sequence integer not null,
    last_sequence  integer not null,
    outcome        text    not null check (outcome in ('received', 'applied', 'failed', 'unknown')),
    reason         text    check ((reason is null) = (outcome <> 'failed')),
    detail         text,
    connection     text,
    instance       text    not null,
    node           text    not null,
    started_at     integer not null,
    finished_at    integer not null,
    -- Bounded, so that "which attempts cover this sequence?" is a bounded search.
    check (first_sequence >= 1 and last_sequence between first_sequence and first_sequence + 999)
) strict;

create index attempts_by_sequence on attempts (gateway, first_sequence);
create index attempts_failed on attempts (finished_at, attempt) where outcome = 'failed';
create index attempts_by_age on attempts (finished_at);

-- Deliveries given up, as ranges. A delivery is delivered when it lies at or
-- below the cursor and in no row here.
create table dead_letters (
    gateway        integer not null references gateways (gateway),
    first_sequence integer not null,
    last_sequence  integer not null,
    reason         text    not null,
    dead_at        integer not null,
    redriven_at    integer,                          -- appended again under a new sequence
    primary key (gateway, first_sequence)
) strict, without rowid;

create table event_types (
    organisation integer not null references organisations (organisation),
    name         text    not null,
    schema       text    check (schema is null or json_valid(schema)),
    description  text    not null,
    created_at   integer not null,
    updated_at   integer not null,
    primary key (organisation, name)
) strict, without rowid;
