-- Published events per minute and organisation. A job counts each event once, in the order of their keys, so that
-- publishing does nothing for it. Events after the last one that is counted are counted when it is asked for.
create table event_counts (
    organisation bigint not null,
    minute       bigint not null,                    -- since the Unix epoch
    count        bigint not null,
    primary key (organisation, minute)
);

create table event_counts_mark (
    only_row     integer primary key check (only_row = 1),
    last_event   bigint  not null                    -- the last one that is counted
);

insert into event_counts_mark (only_row, last_event) values (1, 0);
