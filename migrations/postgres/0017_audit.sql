-- Every change that a principal made, in the transaction of the change. Rows are
-- never updated; retention removes the oldest. Each row's hash covers the hash of
-- the row before it, so that `verify` finds the first row that was changed,
-- inserted or removed. Without foreign keys: rows outlive what they name.
create table audit (
    sequence       bigint      primary key,
    organisation   bigint      not null,
    recorded_at    timestamptz not null,
    principal      text        not null,             -- an access token's public id, or local
    principal_name text        not null,             -- the token's name, or the operating system's user
    source         text        not null,             -- the client's address, or the host's name
    request_id     text        not null,             -- empty without a request
    action         text        not null,
    object_kind    text        not null,
    object_id      text        not null,
    object_name    text        not null,
    before         text        not null,             -- a JSON object with what changed; hashed as it is
    after          text        not null,             -- stored, and jsonb would store it differently
    hash           bytea       not null              -- SHA-256; src/store/audit/chain.rs defines of what
);

create index audit_by_time on audit (organisation, recorded_at, sequence);

-- One row: the newest record, and the last one that retention removed. A
-- transaction that changes it writes the next records of the chain. The lock on
-- this row is the last one that any transaction takes.
create table audit_head (
    head           bigint primary key check (head = 1),
    sequence       bigint not null,
    hash           bytea  not null,
    floor_sequence bigint not null,
    floor_hash     bytea  not null,
    check (0 <= floor_sequence and floor_sequence <= sequence)
);

insert into audit_head (head, sequence, hash, floor_sequence, floor_hash)
values (1, 0, decode(repeat('00', 32), 'hex'), 0, decode(repeat('00', 32), 'hex'));
