-- The more telling column first: with the other one in front, the index looked
-- as good as events_by_id for finding an event by its id, and a plan that was
-- made while the table was new and empty read all of an organisation's events.
drop index events_by_correlation;
create index events_by_correlation on events (correlation_id, organisation);
