-- The tables in the order in which nodes lock them. A program's transaction that has
-- inserted into the inbox is waited for before anything else is locked.
lock table inbox in access exclusive mode;
lock table events in access exclusive mode;

-- The W3C trace context (traceparent) that an event was published with, passed
-- on to gateways in its frame. Null if the publisher sent none.
alter table events add column traceparent text;

-- A program that publishes through the inbox sets it like any other column. A
-- value that is not a valid traceparent is rejected. A role with rights on
-- single columns needs one more to set it:
--
--     grant insert (traceparent) on inbox to gateway_events_platform;
alter table inbox add column traceparent text;
alter table inbox_rejected add column traceparent text;

-- publish_event gets one more argument, the last and optional. Arguments can't be
-- added in place, so the function is replaced by one with the same EXECUTE grants:
-- calls that leave the argument out work as before. They must not name the new
-- column, or they would need the right to insert it.
create function publish_event(
    type           text,
    payload        text,
    gateway_id     uuid        default null,
    target         text        default null,
    organisation   text        default 'default',
    event_id       text        default null,
    correlation_id text        default null,
    user_id        text        default null,
    expires_at     timestamptz default null,
    traceparent    text        default null
) returns text language plpgsql as $$
declare
    given_id text := coalesce($6, gen_random_uuid()::text);
begin
    if $10 is null then
        insert into inbox (organisation, type, payload, gateway_id, target, event_id,
            correlation_id, user_id, expires_at)
        values (coalesce($5, 'default'), $1, $2, $3, $4, given_id, $7, $8, $9);
    else
        insert into inbox (organisation, type, payload, gateway_id, target, event_id,
            correlation_id, user_id, expires_at, traceparent)
        values (coalesce($5, 'default'), $1, $2, $3, $4, given_id, $7, $8, $9, $10);
    end if;
    return given_id;
end
$$;

do $$
declare
    old constant regprocedure :=
        'publish_event(text, text, uuid, text, text, text, text, text, timestamptz)';
    new constant regprocedure :=
        'publish_event(text, text, uuid, text, text, text, text, text, timestamptz, text)';
    acl record;
begin
    -- Null stands for the default: every role may execute it.
    if (select proacl is not null from pg_proc where oid = old) then
        execute format('revoke all on function %s from public', new);
        for acl in
            select granted.grantee, granted.is_grantable
            from pg_proc, aclexplode(proacl) as granted
            where oid = old and granted.grantee <> proowner
        loop
            execute format('grant execute on function %s to %s%s', new,
                case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end,
                case when acl.is_grantable then ' with grant option' else '' end);
        end loop;
    end if;
    execute format('drop function %s', old);
end
$$;
