-- Publishes an event in the transaction of the program's own change, on Postgres:
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f examples/publish.postgres.sql
-- as a role that is a member of gateway_events_platform.
begin;
-- The program's own change goes here.
insert into inbox (type, payload, target)
values ('gateway.config.updated', '{"configType": "cache", "action": "update"}', '{"all": true}')
returning event_id;
commit;
