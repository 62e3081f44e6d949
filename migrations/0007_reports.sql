-- Device reports in parts, and what the daily cleanup looks for.

-- Kept no word of what the whole list was; a list that was under way is sent again.
drop table report_parts;

-- A part of a list that a device sends in pieces; the list is compared once its last part and all before it are here. entries is the
-- JSON of the part as the domain wrote it: it is only ever read whole. list_id is the client's own text. Goes a day after it came.
create table list_parts (
    user_id   bigint not null,
    device_id bigint not null references devices on delete cascade,
    list_id   text not null check (length(list_id) between 1 and 64),
    part      int not null check (part between 1 and 1000),
    last      boolean not null,
    complete  boolean not null,
    base_path text not null,
    entries   text not null,
    at        timestamptz not null default queue.now(),
    primary key (device_id, list_id, part)
);
create index list_parts_old on list_parts (at);
alter table list_parts enable row level security;
create policy own on list_parts using (user_id = (select current_user_id()));
grant select, insert, update, delete on list_parts to driftless_app;

-- Journal rows of deletions, which go once every device has passed them. The collector needs no index of its own: it reads a user's
-- versions once and after that only those that came since, by their primary key.
create index versions_tombstones on versions (user_id, seq) where kind = 4;
create index deletions_old on deletions (minute);

-- Finds a device's row by path; paths are longer than a B-tree takes. A column and no expression, since below a policy an index
-- serves only what can't leak, and one index of both, since two are joined row by row for each path that is asked for.
alter table baselines add column path_hash bigint not null generated always as (hashtextextended(path, 0)) stored;
drop index baselines_path;
create index baselines_path on baselines (device_id, path_hash);
