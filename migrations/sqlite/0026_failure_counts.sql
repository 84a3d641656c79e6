-- Failed attempts per minute, organisation and reason, in deliveries: counts over a long window do not read each
-- attempt. Triggers keep them, so that they always agree with `attempts`, also while nodes of an earlier version write.
create table failure_counts (
    organisation integer not null,
    minute       integer not null,                   -- since the Unix epoch
    reason       text    not null,
    count        integer not null,
    primary key (organisation, minute, reason)
) strict, without rowid;

insert into failure_counts (organisation, minute, reason, count)
select g.organisation, a.finished_at / 60000000, a.reason, sum(a.last_sequence - a.first_sequence + 1)
from attempts a indexed by attempts_failed cross join gateways g on g.gateway = +a.gateway
where a.outcome = 'failed'
group by 1, 2, 3;

create trigger failure_recorded after insert on attempts when new.outcome = 'failed'
begin
    insert into failure_counts (organisation, minute, reason, count)
    select organisation, new.finished_at / 60000000, new.reason, new.last_sequence - new.first_sequence + 1
    from gateways where gateway = new.gateway
    on conflict (organisation, minute, reason) do update set count = count + excluded.count;
end;

create trigger failure_removed after delete on attempts when old.outcome = 'failed'
begin
    update failure_counts set count = count - (old.last_sequence - old.first_sequence + 1)
    where organisation = (select organisation from gateways where gateway = old.gateway)
        and minute = old.finished_at / 60000000 and reason = old.reason;
    delete from failure_counts
    where organisation = (select organisation from gateways where gateway = old.gateway)
        and minute = old.finished_at / 60000000 and reason = old.reason and count <= 0;
end;
