-- Deliveries that retention has trimmed from a gateway's log, as long as their
-- event is kept. A repeated event id is answered with them, an event shows what
-- became of them, and a dead letter is redriven from here. Without foreign keys:
-- rows are removed by the statement that removes their event, and `verify` looks
-- for those that were left.
create table trimmed (
    gateway  bigint not null,
    sequence bigint not null,
    event    bigint not null,
    primary key (gateway, sequence)
);

create index trimmed_by_event on trimmed (event);
