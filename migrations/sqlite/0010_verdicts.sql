-- What a gateway's verdict follows from, kept where it changes, so that a list
-- of gateways reads it without searching the ledger.

-- The newest sequence that the gateway reported on (deployment.ack).
alter table streams add column reported integer not null default 0;
-- Its failed reports since the last success: since when, how many, and the last reason.
alter table streams add column failing_since integer;
alter table streams add column failing_reason text;
alter table streams add column failing_count integer not null default 0;
-- When its last closed connection was closed, and why.
alter table streams add column left_at integer;
alter table streams add column left_reason text;

update streams set reported = coalesce((
    select max(c.applied) from cursors c where c.gateway = streams.gateway
), 0);
update streams set
    failing_since = (
        select min(d.dead_at) from dead_letters d
        where d.gateway = streams.gateway and d.first_sequence > streams.reported and d.redriven_at is null
            and d.reason in ('gateway_processing_error', 'deployment_id_mismatch', 'apply_failed')
    ),
    failing_reason = (
        select d.reason from dead_letters d
        where d.gateway = streams.gateway and d.first_sequence > streams.reported and d.redriven_at is null
            and d.reason in ('gateway_processing_error', 'deployment_id_mismatch', 'apply_failed')
        order by d.first_sequence desc limit 1
    ),
    failing_count = coalesce((
        select sum(d.last_sequence - d.first_sequence + 1) from dead_letters d
        where d.gateway = streams.gateway and d.first_sequence > streams.reported and d.redriven_at is null
            and d.reason in ('gateway_processing_error', 'deployment_id_mismatch', 'apply_failed')
    ), 0);
update streams set reported = (
    select max(d.last_sequence) from dead_letters d
    where d.gateway = streams.gateway and d.redriven_at is null
        and d.reason in ('gateway_processing_error', 'deployment_id_mismatch', 'apply_failed')
)
where failing_since is not null;
update streams set
    left_at = (select max(c.closed_at) from connections c where c.gateway = streams.gateway),
    left_reason = (
        select c.close_reason from connections c
        where c.gateway = streams.gateway and c.closed_at is not null order by c.closed_at desc limit 1
    );
