-- What happened, for ever. Written plain by the acting transaction; the sealer then gives chain_seq and hash in order and
-- writes the JSON line. A row whose chain_seq is null waits for the sealer. user_id is null for what no account did.
create table audit (
    id            bigint generated always as identity primary key,
    user_id       bigint,
    actor         text,
    action        text not null,
    resource_type text,
    resource_id   text,
    details       jsonb not null default '{}',
    level         text not null check (level in ('info', 'warning', 'error')),
    code          text,
    at            timestamptz not null default queue.now(),
    chain_seq     bigint unique,
    hash          bytea,
    check ((chain_seq is null) = (hash is null))
);
create index audit_unsealed on audit (id) where chain_seq is null;
create index audit_user on audit (user_id, id desc);
create index audit_action on audit (action, id desc);
create index audit_at on audit (at);
alter table audit enable row level security;
create policy own_read on audit for select using (user_id = (select current_user_id()));
create policy own_write on audit for insert with check (user_id = (select current_user_id()));
grant select, insert on audit to driftless_app;
