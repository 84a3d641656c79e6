-- The inbox: other programs publish by inserting here, in a transaction of
-- their own, together with whatever else they change. What they roll back was
-- never there; what they commit is moved to the log, numbered, within moments.
--
-- Whether an event can be published (is its type registered, its gateway
-- known, its frame small enough?) is known only when it is moved. So a row
-- with a wrong value is let in, and put aside in `inbox_rejected` with its
-- reason: a misspelt label must not undo the transaction that it came with,
-- and every reason is found in one place. Only what can't be a row at all is
-- refused here: no type, no payload, a blob where a text belongs.
--
-- Rows are never changed once they are committed. A program that wants one
-- back may delete it for as long as it is there.

create table inbox (
    -- The order of publication. Left out by the program: SQLite has one writer
    -- at a time, so that these rise in the order of the commits. Never reused,
    -- so that a rejected row can say which one it was.
    id             integer primary key autoincrement,
    -- By name, because that is what another program knows.
    organisation   text    not null default 'default',
    -- A registered event type, such as api.deployed.
    type           text    not null,
    -- A JSON object. Text, since gateways are sent these very bytes.
    payload        text    not null,
    -- For whom. Exactly one of the two: a gateway's UUID, ...
    gateway_id     text,
    -- ... or a JSON object in the words of POST /events: {"gatewayIds": [...]},
    -- {"labels": {...}} (all of them must fit) or {"all": true}.
    target         text,
    -- The event's id. Given here already, so that the program can keep it
    -- (`returning event_id`), and so that a row can't become two events. A
    -- program with an id of its own may insert twice: the second is a repeat.
    event_id       text    default (lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
    )),
    -- What gateways use as their key; the event's id if left out.
    correlation_id text,
    -- Who caused it.
    user_id        text,
    -- After this it is not sent any more. RFC 3339 with an offset, such as
    -- strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+1 hour'): unlike a bare number,
    -- it can't be taken for seconds by one program and for milliseconds by another.
    expires_at     text,
    -- When it was published: the event's timestamp. Left out by the program.
    inserted_at    integer not null default (cast((julianday('now') - 2440587.5) * 86400000 as integer) * 1000)
        constraint inserted_at_is_microseconds_and_best_left_out check (inserted_at between 0 and 253402300799999999)
) strict;

-- How far the inbox has been emptied. Rows are taken lowest first, and written
-- in the transaction that moves them: a row at or below it that is still in
-- the inbox was moved by half, which `verify` looks for.
create table inbox_progress (
    one        integer primary key check (one = 1),
    drained_to integer not null
) strict;

insert into inbox_progress (one, drained_to) values (1, 0);

-- Rows that could not be published, as they were, and why not.
create table inbox_rejected (
    id             integer primary key autoincrement, -- pages are cut by it
    inbox_id       integer not null,                  -- what it was in the inbox
    organisation   text    not null,
    type           text    not null,
    payload        text    not null,
    gateway_id     text,
    target         text,
    event_id       text,
    correlation_id text,
    user_id        text,
    expires_at     text,
    inserted_at    integer not null,
    reason         text    not null,                  -- a word from a fixed list
    detail         text    not null,                  -- what was wrong, for people
    rejected_at    integer not null,
    retried_at     integer                            -- put back into the inbox, as a new row
) strict;

-- What waits for somebody to act.
create index inbox_rejected_open on inbox_rejected (organisation, id) where retried_at is null;
create index inbox_rejected_by_age on inbox_rejected (rejected_at);
