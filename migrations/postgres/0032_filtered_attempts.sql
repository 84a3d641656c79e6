-- Finds the deliveries of a gateway that are filtered or superseded, which are few, without reading its log.
create index attempts_filtered on attempts (gateway, first_sequence, last_sequence)
    where outcome in ('filtered', 'superseded');
