-- What the release with migration 2 leaves besides: row 1 of the inbox was
-- rejected, and row 2 came after the service was killed.

insert into inbox (type, payload) values ('cache.misspelt', '{}');
delete from inbox where id = 1;
update inbox_progress set drained_to = 1;
insert into inbox_rejected (inbox_id, organisation, type, payload, gateway_id, target, event_id, correlation_id,
    user_id, expires_at, inserted_at, reason, detail, rejected_at, retried_at)
values (1, 'default', 'cache.misspelt', '{}', '0198c0de-0000-7000-8000-000000000001', null, 'e-misspelt', null,
    null, null, @125, 'unknown_event_type', 'cache.misspelt is not registered', @125, null);
insert into inbox (type, payload, gateway_id, event_id, inserted_at)
values ('gateway.config.updated', '{"configType":"cache","action":"later"}',
    '0198c0de-0000-7000-8000-000000000001', 'e-inbox', @80);
