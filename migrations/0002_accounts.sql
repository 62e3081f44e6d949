-- People, their sign-ins and the keys that sign their tokens. The role driftless_app exists before any migration runs
-- (domain::db makes it): it owns nothing, and a user's transaction takes it on so that row level security binds.

grant usage on schema public, queue to driftless_app;
grant select, insert on queue.jobs to driftless_app;

-- The user whose rows the current transaction may see; null outside a user's transaction.
create function current_user_id() returns bigint stable language sql
    as $$ select nullif(current_setting('driftless.user_id', true), '')::bigint $$;

-- A person with an account. Names are compared without case. Never seen by driftless_app.
create table users (
    id            bigint generated always as identity primary key,
    name          text not null check (length(name) between 1 and 64),
    password_hash text not null,
    is_admin      boolean not null default false,
    created_at    timestamptz not null default queue.now()
);
create unique index users_name on users (lower(name));

-- One sign-in: the family of refresh tokens that descend from it. Ended sessions stay for 30 days so that reuse is told apart
-- from nonsense; cleanup removes them.
create table sessions (
    id           uuid primary key,
    user_id      bigint not null references users on delete cascade,
    created_at   timestamptz not null default queue.now(),
    last_used_at timestamptz not null default queue.now(),
    ended_at     timestamptz,
    ended_why    text check (ended_why in ('logout', 'password_changed', 'reuse', 'expired', 'revoked')),
    check ((ended_at is null) = (ended_why is null))
);
create index sessions_user on sessions (user_id) where ended_at is null;
create index sessions_old on sessions (last_used_at);

-- Only the hash of a refresh token is kept. A row whose used_at is set was rotated: seeing it again ends the session.
create table refresh_tokens (
    hash       bytea primary key,
    session_id uuid not null references sessions on delete cascade,
    created_at timestamptz not null default queue.now(),
    used_at    timestamptz
);
create index refresh_tokens_session on refresh_tokens (session_id);

-- Keys that sign access tokens, made once and shared by all processes; kid names the key in a token's header. The newest signs.
create table signing_keys (
    kid        text primary key,
    secret     bytea not null,
    created_at timestamptz not null default queue.now()
);

-- Tries to sign in that did not succeed, by account and by address, for the limits. A row is a subject's current window.
create table sign_in_failures (
    subject      text primary key,
    failures     int not null,
    window_start timestamptz not null
);
