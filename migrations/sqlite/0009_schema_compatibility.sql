-- A node looks here with each heartbeat. It goes on if another process migrated its open
-- database, and ends when its own newest migration is older than this. A migration
-- that statements of earlier versions can't live with raises it to its own number.
create table schema_compatibility (
    oldest integer not null
);
insert into schema_compatibility (oldest) values (1);
