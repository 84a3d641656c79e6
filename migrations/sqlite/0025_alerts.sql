-- Alerts: rules that a node evaluates, what they found, and the notifications about it.

-- Rules by organisation. A row without a definition only silences a built-in rule, which is not
-- stored itself, so that a later version can improve it.
create table alert_rules (
    organisation   integer not null references organisations (organisation),
    id             text    not null,
    definition     text    check (definition is null or json_valid(definition)),
    silenced_until integer,
    silenced_by    text    not null default '',       -- the principal's name
    created_at     integer not null,
    updated_at     integer not null,
    primary key (organisation, id)
) strict, without rowid;

-- Where notifications are sent. `definition` has nothing secret. URLs and passwords are in `sealed`,
-- encrypted with a key that is not in the database; `sealed_by` says with which one.
create table alert_destinations (
    organisation integer not null references organisations (organisation),
    id           text    not null,
    definition   text    not null check (json_valid(definition)),
    sealed       blob    not null,
    sealed_by    text    not null,
    created_at   integer not null,
    updated_at   integer not null,
    primary key (organisation, id)
) strict, without rowid;

-- One row per thread: a rule, and a group of the label that the rule groups by. Stored, so that
-- another node continues the waits of a node that has stopped. Rules may be deleted, so there is no
-- reference.
create table alerts (
    organisation integer not null references organisations (organisation),
    rule         text    not null,
    group_key    text    not null,                    -- empty without a group
    state        text    not null check (state in ('pending', 'firing', 'resolved')),
    since        integer not null,                    -- when the condition was first true
    fired_at     integer,
    clear_since  integer,                             -- firing, but the condition is not true any more
    resolved_at  integer check ((resolved_at is not null) = (state = 'resolved')),
    found        text    not null check (json_valid(found)), -- what the condition found last
    notified     text    not null check (json_valid(notified)), -- destinations that are notified of its end, too
    notified_at  integer,                             -- when notifications that it fires were last stored
    primary key (organisation, rule, group_key)
) strict, without rowid;

create index alerts_resolved on alerts (resolved_at) where resolved_at is not null;

-- The outbox of alerts. A row is written in the transaction that changes its alert, and sent after
-- the earlier ones of its thread to the same destination have ended.
create table alert_notifications (
    notification  integer primary key autoincrement,  -- the order within a thread
    id            text    not null unique,            -- the same at each attempt
    organisation  integer not null references organisations (organisation),
    rule          text    not null,
    group_key     text    not null,
    destination   text    not null,
    event         text    not null,                   -- firing or resolved
    body          text    not null check (json_valid(body)),
    state         text    not null check (state in ('pending', 'delivered', 'failed', 'superseded')),
    attempts      integer not null default 0,
    due_at        integer not null,
    claimed_until integer,                            -- a node sends it; another one may after this
    claimed_by    text,
    created_at    integer not null,
    ended_at      integer check ((ended_at is null) = (state = 'pending'))
) strict;

create index alert_notifications_pending on alert_notifications
    (organisation, destination, rule, group_key, notification) where ended_at is null;
create index alert_notifications_by_organisation on alert_notifications (organisation, notification);
create index alert_notifications_ended on alert_notifications (ended_at) where ended_at is not null;

-- The newest attempts of each notification. One without an end was cut off: whether it arrived is
-- unknown.
create table alert_attempts (
    notification integer not null references alert_notifications (notification) on delete cascade,
    attempt      integer not null,
    node         text    not null,
    started_at   integer not null,
    ended_at     integer,
    status       integer,                             -- of the response, if there was one
    detail       text    not null default '',         -- what was answered, or what went wrong
    primary key (notification, attempt)
) strict, without rowid;

-- The node that evaluates rules. Each turn raises `turn`, and changes of another turn are refused.
create table alert_turn (
    one   integer primary key check (one = 1),
    turn  integer not null,
    node  text,
    until integer
) strict;

insert into alert_turn (one, turn) values (1, 0);

-- What only a node itself can measure, for rules that another node evaluates.
alter table nodes add column disk_free_bytes integer;
alter table nodes add column disk_total_bytes integer;
alter table nodes add column certificate_expires_at integer;

-- Keys and tokens that expire soon, among many that never do.
create index gateway_tokens_expiring on gateway_tokens (expires_at)
    where expires_at is not null and revoked_at is null;
create index access_tokens_expiring on access_tokens (expires_at)
    where expires_at is not null and revoked_at is null;
