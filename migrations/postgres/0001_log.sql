-- The whole first schema, for Postgres 13 and newer. It holds the same tables
-- as that for SQLite. Small integer keys stay inside; UUIDs and names go
-- outside. Names and words are compared byte by byte (collation "C"), so that
-- both databases sort alike and a text can be found by its beginning.

create table organisations (
    organisation bigint      generated always as identity primary key,
    name         text        not null collate "C" unique,
    created_at   timestamptz not null
);

insert into organisations (name, created_at) values ('default', now());

create table gateways (
    gateway      bigint      generated always as identity primary key,
    id           uuid        not null unique,
    organisation bigint      not null references organisations (organisation),
    name         text        not null collate "C",
    labels       text        not null default '{}' check (labels::jsonb is not null),
    created_at   timestamptz not null,
    disabled_at  timestamptz,
    deleted_at   timestamptz,                        -- kept for the history; invisible otherwise
    manifest     text,                               -- the latest one that the gateway sent, as sent
    manifest_at  timestamptz
);

create unique index gateways_by_name on gateways (organisation, name) where deleted_at is null;

-- Digests only: whoever reads the database can't connect with what is in it.
create table gateway_tokens (
    id           text        not null collate "C" primary key, -- the public part of the key
    gateway      bigint      not null references gateways (gateway),
    digest       bytea       not null,               -- SHA-256 of the whole key
    created_at   timestamptz not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

create index gateway_tokens_by_gateway on gateway_tokens (gateway);

create table access_tokens (
    id           text        not null collate "C" primary key,
    organisation bigint      not null references organisations (organisation),
    name         text        not null,
    scopes       text        not null,               -- words with blanks between: publish read admin
    digest       bytea       not null,
    created_at   timestamptz not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

-- A gateway's log. `head` is the last number given, `floor` the last number
-- trimmed, `missed` the last one for which "was anybody there?" is answered.
-- The totals make /stats cost a row per gateway, not one per attempt. A row is
-- also what nodes lock before they touch anything else of the gateway. Pages
-- are left half empty, because a row is written anew with every batch and the
-- new version finds room beside the old one.
create table streams (
    gateway             bigint      primary key references gateways (gateway),
    epoch               uuid        not null,
    head                bigint      not null default 0,
    floor               bigint      not null default 0,
    missed              bigint      not null default 0,
    confirmed_total     bigint      not null default 0, -- deliveries confirmed
    failed_total        bigint      not null default 0, -- failed attempts, in deliveries
    last_failure_at     timestamptz,
    last_failure_reason text,
    check (0 <= floor and floor <= head and missed <= head)
) with (fillfactor = 50);

create table events (
    event          bigint      generated always as identity primary key,
    organisation   bigint      not null references organisations (organisation),
    id             text        not null collate "C",
    type           text        not null collate "C",
    payload        text        not null,             -- JSON as it came; jsonb would rewrite numbers
    correlation_id text        not null collate "C",
    user_id        text,
    occurred_at    timestamptz not null,
    appended_at    timestamptz not null,             -- by the database's clock, as all that nodes compare
    expires_at     timestamptz,
    digest         bytea       not null,             -- of what was published, to tell a repeat from a clash
    artifact_id    text,                             -- with deployment_id: what a deployment.ack names
    deployment_id  text
);

-- Unique across nodes too: who comes second finds the first one's answer.
create unique index events_by_id on events (organisation, id);
create index events_by_correlation on events (organisation, correlation_id);
create index events_by_deployment on events (deployment_id) where deployment_id is not null;
create index events_by_age on events (appended_at);

create table outbox (
    gateway  bigint not null references streams (gateway),
    sequence bigint not null,
    event    bigint not null references events (event),
    primary key (gateway, sequence)
);

create index outbox_by_event on outbox (event);

create table idempotency_keys (
    organisation bigint      not null references organisations (organisation),
    key          text        not null collate "C",
    digest       bytea       not null,               -- of the request's body
    answer       text        not null,               -- JSON: ids and sequences first given
    created_at   timestamptz not null,
    primary key (organisation, key)
);

create index idempotency_keys_by_age on idempotency_keys (created_at);

-- How far a gateway has confirmed. instance '' is the gateway's own position
-- (the farthest of its unnamed connections); an unnamed connection has a row
-- under its own connection id, which is left behind when the connection ends.
create table cursors (
    gateway    bigint      not null references gateways (gateway),
    instance   text        not null collate "C",
    received   bigint      not null,
    applied    bigint      not null default 0,
    updated_at timestamptz not null,
    left_at    timestamptz,                          -- when the connection ended
    primary key (gateway, instance)
) with (fillfactor = 50);

create index cursors_left on cursors (left_at) where left_at is not null;

create table connections (
    id                uuid        primary key,
    gateway           bigint      not null references gateways (gateway),
    token             text        not null,
    instance          text        not null collate "C",
    transport         text        not null,
    node              uuid        not null,
    remote_address    text        not null,
    connected_at      timestamptz not null,
    last_heartbeat_at timestamptz not null,
    closed_at         timestamptz,
    close_reason      text
) with (fillfactor = 70);

create index connections_by_gateway on connections (gateway, connected_at);
create index connections_live on connections (gateway) where closed_at is null;
create index connections_closed on connections (closed_at) where closed_at is not null;

-- By the database's clock: a node that has been silent for too long is dead,
-- and what it left open is closed by another one.
create table nodes (
    id           uuid        primary key,
    started_at   timestamptz not null,
    heartbeat_at timestamptz not null,
    stopped_at   timestamptz
);

-- The ledger, run-length coded: neighbouring sequences with the same outcome
-- on the same connection are one row.
create table attempts (
    attempt        bigint      generated always as identity primary key,
    gateway        bigint      not null references gateways (gateway),
    first_sequence bigint      not null,
    last_sequence  bigint      not null,
    outcome        text        not null check (outcome in ('received', 'applied', 'failed', 'unknown')),
    reason         text        check ((reason is null) = (outcome <> 'failed')),
    detail         text,
    connection     uuid,
    instance       text        not null,
    node           uuid        not null,
    started_at     timestamptz not null,
    finished_at    timestamptz not null,
    -- Bounded, so that "which attempts cover this sequence?" is a bounded search.
    check (first_sequence >= 1 and last_sequence between first_sequence and first_sequence + 999)
);

create index attempts_by_sequence on attempts (gateway, first_sequence);
create index attempts_failed on attempts (finished_at, attempt) where outcome = 'failed';
create index attempts_by_age on attempts (finished_at);

-- Deliveries given up, as ranges. A delivery is delivered when it lies at or
-- below the cursor and in no row here.
create table dead_letters (
    gateway        bigint      not null references gateways (gateway),
    first_sequence bigint      not null,
    last_sequence  bigint      not null,
    reason         text        not null,
    dead_at        timestamptz not null,
    redriven_at    timestamptz,                      -- appended again under a new sequence
    primary key (gateway, first_sequence)
);

create table event_types (
    organisation bigint      not null references organisations (organisation),
    name         text        not null collate "C",
    schema       text        check (schema is null or schema::json is not null),
    description  text        not null,
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    primary key (organisation, name)
);
