-- Connections that were opened and closed: the feed reads on from the last change that
-- it knows. Written by triggers, so that no statement can leave a change out, not even
-- one of a node of an earlier version. Without foreign keys: retention removes the
-- oldest changes, whatever became of their connections. A change with a lower number
-- may become visible later.
lock table connections in access exclusive mode;

create table connection_changes (
    change     bigint      generated always as identity primary key,
    connection uuid        not null,
    gateway    bigint      not null,
    closed     boolean     not null,
    at         timestamptz not null
);

create function connection_changed() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into connection_changes (connection, gateway, closed, at)
        values (new.id, new.gateway, false, new.connected_at);
    else
        insert into connection_changes (connection, gateway, closed, at)
        values (new.id, new.gateway, true, new.closed_at);
    end if;
    return null;
end
$$;

create trigger connection_opened after insert on connections
    for each row execute function connection_changed();
create trigger connection_closed after update of closed_at on connections
    for each row when (old.closed_at is null and new.closed_at is not null)
    execute function connection_changed();
