-- Connections that were opened and closed, in the order in which that was committed:
-- the feed reads on from the last change that it knows. Written by triggers, so that no
-- statement can leave a change out. Without foreign keys: retention removes the oldest
-- changes, whatever became of their connections.
create table connection_changes (
    change     integer primary key autoincrement,
    connection text    not null,
    gateway    integer not null,
    closed     integer not null check (closed in (0, 1)),
    at         integer not null
) strict;

create trigger connection_opened after insert on connections
begin
    insert into connection_changes (connection, gateway, closed, at)
    values (new.id, new.gateway, 0, new.connected_at);
end;

create trigger connection_closed after update of closed_at on connections
when old.closed_at is null and new.closed_at is not null
begin
    insert into connection_changes (connection, gateway, closed, at)
    values (new.id, new.gateway, 1, new.closed_at);
end;
