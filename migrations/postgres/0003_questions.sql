-- What bounds the cost of asking, redriving and trimming: an index for each
-- question, so that none of them walks past rows that can't be an answer.

-- The attempts at a sequence are those that begin there, and the real ranges
-- that reach it. Most rows are no ranges, and are not in this index.
create index attempts_ranges on attempts (gateway, first_sequence, last_sequence, outcome)
    where last_sequence > first_sequence;

-- Failures newest first: of everybody, of a gateway, for a reason. They hold
-- everything that a walk decides by, and only failures, which are few.
drop index attempts_failed;
create index attempts_failed on attempts
    (finished_at, attempt, gateway, reason, first_sequence, last_sequence) where outcome = 'failed';
create index attempts_failed_by_gateway on attempts
    (gateway, finished_at, attempt, reason, first_sequence, last_sequence) where outcome = 'failed';
create index attempts_failed_by_reason on attempts
    (reason, finished_at, attempt, gateway, first_sequence, last_sequence) where outcome = 'failed';

-- Dead letters that can still be redriven, and all of them by age.
create index dead_letters_open on dead_letters (gateway, first_sequence, last_sequence)
    where redriven_at is null;
create index dead_letters_by_age on dead_letters (dead_at, gateway, first_sequence);

-- By age and key, so that what was looked at is not looked at again.
drop index events_by_age;
create index events_by_age on events (appended_at, event);

-- Newest first, all of them or the live ones; a gateway's as well.
create index connections_by_age on connections (connected_at, id);
create index connections_live_by_age on connections (connected_at, id) where closed_at is null;
drop index connections_by_gateway;
create index connections_by_gateway on connections (gateway, connected_at, id);

-- Dead letters that were not redriven, in deliveries: a total like the others,
-- so that /stats does not count rows.
alter table streams add column dead_total bigint not null default 0;
update streams set dead_total = coalesce((
    select sum(d.last_sequence - d.first_sequence + 1) from dead_letters d
    where d.gateway = streams.gateway and d.redriven_at is null
), 0);
