-- The foreign key from a delivery to its event was checked for each row, and locked
-- the event each time: a fifth of the cost of an append. An append inserts the event
-- in the same transaction, so that the check could not fail. The other statements
-- that need an event, which append it again, now lock it themselves, and retention
-- checks for deliveries after it has locked the events that it deletes. `verify`
-- looks for deliveries without an event.
lock table events, outbox in access exclusive mode;
alter table outbox drop constraint outbox_event_fkey;

-- Nodes without these locks must not go on.
update schema_compatibility set oldest = 22;
