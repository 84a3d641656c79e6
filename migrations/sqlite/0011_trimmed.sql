-- Deliveries that retention has trimmed from a gateway's log, as long as their
-- event is kept. A repeated event id is answered with them, an event shows what
-- became of them, and a dead letter is redriven from here.
create table trimmed (
    gateway  integer not null,
    sequence integer not null,
    event    integer not null,
    primary key (gateway, sequence)
) strict, without rowid;

create index trimmed_by_event on trimmed (event);
