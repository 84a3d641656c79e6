-- When a replay or a resend appended a delivery, or a redrive of such a delivery. Null for
-- the deliveries that an event was published for, and for their redrives, whose time the
-- dead letter has: these gateways are the ones that the event was published for.
-- A null does not make a row larger.
alter table outbox add column appended_at timestamptz;
alter table trimmed add column appended_at timestamptz;

-- A replay appends an event that occurs several times in its range once, at its last
-- place. All occurrences of an event in a log but the first are repeats, which are few.
-- An index over all deliveries by event and gateway would slow down appending.
create index outbox_repeats on outbox (gateway, event, sequence) where repeats is not null;
create index trimmed_repeats on trimmed (gateway, event, sequence) where repeats is not null;

-- Events that were resent to a gateway: in lists of its events they stand among younger
-- ones.
create index outbox_resent on outbox (gateway, sequence)
    where repeats is null and appended_at is not null;
create index trimmed_resent on trimmed (gateway, sequence)
    where repeats is null and appended_at is not null;

-- Redrives and replays of many deliveries, which are worked on in chunks: each chunk
-- is one transaction, which appends deliveries and moves `position` and the counts. So
-- another node continues where the last one stopped, and repeats nothing.
create table bulk_jobs (
    job            bigint      generated always as identity primary key, -- pages are cut by it
    id             uuid        not null unique,
    organisation   bigint      not null references organisations (organisation),
    kind           text        not null,             -- redrive or replay
    parameters     text        not null,             -- JSON: what is redriven or replayed
    principal      text        not null,             -- who started it, as in `audit`
    principal_name text        not null,
    source         text        not null,
    request_id     text        not null,
    state          text        not null check (state in ('running', 'done', 'aborted', 'failed')),
    failure        text        check ((failure is not null) = (state = 'failed')),
    position       text        not null,             -- JSON: where the next chunk begins
    done           bigint      not null,             -- of `total`
    total          bigint,                           -- null until it is known
    counts         text        not null,             -- JSON: what was appended and what was skipped
    node           uuid,                             -- the last one that worked on it
    created_at     timestamptz not null,
    updated_at     timestamptz not null,             -- also when the last chunk ended
    ended_at       timestamptz check ((ended_at is null) = (state = 'running'))
);

create index bulk_jobs_by_organisation on bulk_jobs (organisation, job);
create index bulk_jobs_running on bulk_jobs (job) where state = 'running';
create index bulk_jobs_ended on bulk_jobs (ended_at) where ended_at is not null;
