-- When a replay or a resend appended a delivery, or a redrive of such a delivery. Null for
-- the deliveries that an event was published for, and for their redrives, whose time the
-- dead letter has: these gateways are the ones that the event was published for.
alter table outbox add column appended_at integer;
alter table trimmed add column appended_at integer;

-- Events that were resent to a gateway: in lists of its events they stand among younger
-- ones.
create index outbox_resent on outbox (gateway, sequence)
    where repeats is null and appended_at is not null;
create index trimmed_resent on trimmed (gateway, sequence)
    where repeats is null and appended_at is not null;

-- Redrives and replays of many deliveries, which are worked on in chunks: each chunk
-- is one transaction, which appends deliveries and moves `position` and the counts. So
-- another process continues where the last one stopped, and repeats nothing.
create table bulk_jobs (
    job            integer primary key autoincrement, -- pages are cut by it
    id             text    not null unique,
    organisation   integer not null references organisations (organisation),
    kind           text    not null,                  -- redrive or replay
    parameters     text    not null,                  -- JSON: what is redriven or replayed
    principal      text    not null,                  -- who started it, as in `audit`
    principal_name text    not null,
    source         text    not null,
    request_id     text    not null,
    state          text    not null check (state in ('running', 'done', 'aborted', 'failed')),
    failure        text    check ((failure is not null) = (state = 'failed')),
    position       text    not null,                  -- JSON: where the next chunk begins
    done           integer not null,                  -- of `total`
    total          integer,                           -- null until it is known
    counts         text    not null,                  -- JSON: what was appended and what was skipped
    node           text,                              -- the last one that worked on it
    created_at     integer not null,
    updated_at     integer not null,                  -- also when the last chunk ended
    ended_at       integer check ((ended_at is null) = (state = 'running'))
) strict;

create index bulk_jobs_by_organisation on bulk_jobs (organisation, job);
create index bulk_jobs_running on bulk_jobs (job) where state = 'running';
create index bulk_jobs_ended on bulk_jobs (ended_at) where ended_at is not null;
