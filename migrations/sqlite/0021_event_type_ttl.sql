-- After how many seconds an event of this type expires, unless its publisher says when.
alter table event_types add column ttl_seconds integer check (ttl_seconds > 0);
