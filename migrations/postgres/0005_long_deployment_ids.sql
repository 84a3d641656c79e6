-- An index holds no more than about 2,700 bytes of a value: what an
-- acknowledgement names is found by its beginning, however long it is.
drop index events_by_deployment;
create index events_by_deployment on events (substr(deployment_id, 1, 512))
    where deployment_id is not null;
