-- Publishes an event in the transaction of the program's own change, on SQLite:
--     sqlite3 data/gateway-events.db <examples/publish.sqlite.sql
-- as the user that the service runs as, with SQLite 3.51.3 or newer.
.timeout 5000
begin immediate;
-- The program's own change goes here. Keep the transaction short: while it is open,
-- the service can't write.
insert into inbox (type, payload, target)
values ('gateway.config.updated', '{"configType": "cache", "action": "update"}', '{"all": true}')
returning event_id;
commit;
