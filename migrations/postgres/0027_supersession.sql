-- Supersession: of the events with the same type and collapse key that were published while a gateway
-- had no connection, only the newest goes to it.
lock table outbox, streams, event_types, inbox, inbox_rejected, attempts in access exclusive mode;

-- As its event was published; '' if events before and after this one do not collapse with one another.
-- Null for most deliveries, and for those that a redrive, a replay or a resend has appended.
alter table outbox add column collapse_key text;
create index outbox_collapsible on outbox (gateway, sequence) where collapse_key is not null;

-- What was in the log up to here when a connection ended may have been sent, so it is not superseded.
alter table streams add column attended bigint not null default 0;
update streams set attended = head;

-- Whether events of this type end collapsing.
alter table event_types add column barrier boolean not null default false;

-- Optional. Null, or 1 to 256 bytes without control characters.
alter table inbox add column collapse_key text;
alter table inbox_rejected add column collapse_key text;

-- One more outcome: `superseded`. The rows fulfil the wider constraint, so they are not checked.
alter table attempts drop constraint attempts_outcome_check;
alter table attempts add constraint attempts_outcome_check
    check (outcome in ('received', 'applied', 'failed', 'unknown', 'filtered', 'snapshot', 'superseded'))
    not valid;

-- Nodes of earlier versions take superseded deliveries for failed ones.
update schema_compatibility set oldest = 27;
