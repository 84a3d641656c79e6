-- Supersession: of the events with the same type and collapse key that were published while a gateway
-- had no connection, only the newest goes to it.

-- As its event was published; '' if events before and after this one do not collapse with one another.
-- Null for most deliveries, and for those that a redrive, a replay or a resend has appended.
alter table outbox add column collapse_key text;
-- It has all columns that are asked for, or the planner would read the table by its primary key.
create index outbox_collapsible on outbox (gateway, sequence, collapse_key, withheld)
    where collapse_key is not null;

-- What was in the log up to here when a connection ended may have been sent, so it is not superseded.
alter table streams add column attended integer not null default 0;
update streams set attended = head;

-- Whether events of this type end collapsing.
alter table event_types add column barrier integer not null default 0 check (barrier in (0, 1));

-- Optional. Null, or 1 to 256 bytes without control characters.
alter table inbox add column collapse_key text;
alter table inbox_rejected add column collapse_key text;

-- One more outcome: `superseded`. The constraint's text is changed as in 0019_instances.sql: the rows
-- fulfil the new one.
pragma writable_schema = on;
update sqlite_schema
set sql = replace(sql, '''filtered'', ''snapshot'')', '''filtered'', ''snapshot'', ''superseded'')')
where type = 'table' and name = 'attempts';
pragma writable_schema = reset;
