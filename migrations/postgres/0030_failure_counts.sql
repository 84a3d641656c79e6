-- Failed attempts per minute, organisation and reason, in deliveries: counts over a long window do not read each
-- attempt. Triggers keep them, so that they always agree with `attempts`, also while nodes of an earlier version write.
lock table attempts in share row exclusive mode;

-- A count is the sum of its rows. Each failed attempt appends one, because transactions that update the same row would
-- wait for each other; retention merges them.
create table failure_counts (
    organisation bigint  not null,
    minute       bigint  not null,                   -- since the Unix epoch
    reason       text    not null collate "C",
    count        bigint  not null,                   -- negative for attempts that were removed
    merged       boolean not null default false
);

create index failure_counts_by_minute on failure_counts (organisation, minute);
create index failure_counts_to_merge on failure_counts (minute) where not merged;

insert into failure_counts (organisation, minute, reason, count, merged)
select g.organisation, (extract(epoch from a.finished_at) * 1000000)::bigint / 60000000, a.reason,
    sum(a.last_sequence - a.first_sequence + 1)::bigint, true
from attempts a join gateways g on g.gateway = a.gateway
where a.outcome = 'failed'
group by 1, 2, 3;

create function failure_counted() returns trigger language plpgsql as $$
declare
    it attempts := case tg_op when 'INSERT' then new else old end;
    sign constant integer := case tg_op when 'INSERT' then 1 else -1 end;
begin
    insert into failure_counts (organisation, minute, reason, count)
    select organisation, (extract(epoch from it.finished_at) * 1000000)::bigint / 60000000, it.reason,
        sign * (it.last_sequence - it.first_sequence + 1)
    from gateways where gateway = it.gateway;
    return null;
end
$$;

create trigger failure_recorded after insert on attempts
    for each row when (new.outcome = 'failed') execute function failure_counted();
create trigger failure_removed after delete on attempts
    for each row when (old.outcome = 'failed') execute function failure_counted();
