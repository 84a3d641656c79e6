-- Nodes of two versions share the database while they are replaced one after the
-- other. A node looks here with each heartbeat. It goes on beside a newer schema,
-- and ends when its own newest migration is older than this. A migration that
-- statements of earlier versions can't live with raises it to its own number.
create table schema_compatibility (
    oldest bigint not null
);
insert into schema_compatibility (oldest) values (1);
