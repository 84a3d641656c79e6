-- Published events per minute and organisation. A job counts each minute once, when no transaction can add to it any
-- more, so that publishing does nothing for it. What is later than `counted_to` is counted when it is asked for.
create table event_counts (
    organisation integer not null,
    minute       integer not null,                   -- since the Unix epoch
    count        integer not null,
    primary key (organisation, minute)
) strict, without rowid;

create table event_counts_mark (
    only_row     integer primary key check (only_row = 1),
    counted_to   integer not null                    -- the first minute that is not counted
) strict;

insert into event_counts_mark (only_row, counted_to) values (1, 0);
