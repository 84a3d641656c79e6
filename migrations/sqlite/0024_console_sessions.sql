-- Sessions of the console: an operator signs in with an access token, and the browser gets a random id.

create table console_sessions (
    digest       blob    primary key,                -- SHA-256 of the session's id, which is in a cookie only
    token        text    not null references access_tokens (id),
    created_at   integer not null,                   -- the oldest of a token ends when there are too many
    last_used_at integer not null,                   -- accurate to a minute
    expires_at   integer not null
) strict, without rowid;

create index console_sessions_by_token on console_sessions (token, created_at);
create index console_sessions_by_expiry on console_sessions (expires_at);
