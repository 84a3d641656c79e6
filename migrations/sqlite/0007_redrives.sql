-- Where a redriven range of dead letters was appended again: the new sequence
-- of its first delivery. The others follow it without a gap, so that each dead
-- letter leads to its successor.
alter table dead_letters add column redriven_first integer;
update dead_letters set redriven_first = (
    select min(again.sequence) from outbox first
    join outbox again on again.gateway = first.gateway and again.event = first.event
        and again.sequence > first.sequence
    where first.gateway = dead_letters.gateway and first.sequence = dead_letters.first_sequence
)
where redriven_at is not null;
create index dead_letters_redriven on dead_letters (gateway, redriven_first)
    where redriven_first is not null;

-- How far a connection had confirmed when it was closed. Its position may be
-- taken over by the next connection, and moves on with it.
alter table connections add column confirmed integer;
update connections set confirmed = (
    select received from cursors
    where cursors.gateway = connections.gateway and cursors.instance = connections.id
)
where closed_at is not null and instance = '';
