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

-- Newest first, all of them or the live ones; and by their end, for retention.
create index connections_by_age on connections (connected_at, id);
create index connections_live_by_age on connections (connected_at, id) where closed_at is null;
create index connections_closed on connections (closed_at) where closed_at is not null;
create index cursors_left on cursors (left_at) where left_at is not null;

-- Dead letters that were not redriven, in deliveries: a total like the others,
-- so that /stats does not count rows.
alter table streams add column dead_total integer not null default 0;
update streams set dead_total = coalesce((
    select sum(d.last_sequence - d.first_sequence + 1) from dead_letters d
    where d.gateway = streams.gateway and d.redriven_at is null
), 0);
