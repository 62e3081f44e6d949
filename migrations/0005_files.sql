-- Files: the tree with its history, the chunk store, uploads, and what devices hold of the tree.
--
-- No foreign keys on chunks, pins, entries, versions and baselines: they cost 40 to 160 % of a commit. What keeps references
-- whole instead: a commit takes the chunks it names FOR KEY SHARE, the collector takes them FOR UPDATE SKIP LOCKED and looks
-- for references in a second statement. Lock order everywhere: head, device, run, chunks (by hash).

-- The head of a user's tree: one row a user, made with the user. seq is the number of the last change; it is given under the
-- lock of this row, so commit order is seq order and no reader misses a lower number that commits later. epoch names this
-- course of history: a restored database gets a new one, so that no cursor of the lost time passes for one of ours. files and
-- bytes count the living files. horizon: journal rows of deletions up to here may be gone; older cursors are expired.
create table heads (
    user_id bigint primary key references users on delete cascade,
    epoch   uuid not null default gen_random_uuid(),
    seq     bigint not null default 0,
    files   bigint not null default 0,
    bytes   bigint not null default 0,
    horizon bigint not null default 0
) with (fillfactor = 50);
alter table heads enable row level security;
create policy own on heads using (user_id = (select current_user_id()));
grant select, update on heads to driftless_app;

insert into heads (user_id) select id from users;
create function make_head() returns trigger language plpgsql
    as $$ begin insert into heads (user_id) values (new.id); return null; end $$;
create trigger make_head after insert on users for each row execute function make_head();

-- One object in the blob store, holding the chunks of one ingest. `writing` commits before the object exists and names the
-- process that writes it; the transaction that records its chunks turns it `live` and must hit it. `dead`: nothing refers to
-- it; its object goes a day later, then the row. chunks and live_bytes count what is recorded in it and not yet collected.
create table packs (
    id         bigint generated always as identity primary key,
    user_id    bigint not null,
    name       uuid not null unique,
    state      text not null check (state in ('writing', 'live', 'dead')),
    owner      uuid not null,
    size       bigint not null default 0,
    chunks     int not null default 0,
    live_bytes bigint not null default 0,
    created_at timestamptz not null default queue.now(),
    dead_at    timestamptz,
    check ((state = 'dead') = (dead_at is not null))
);
create index packs_to_clean on packs (state, id) where state <> 'live';
alter table packs enable row level security;
create policy own on packs using (user_id = (select current_user_id()));
grant select, insert, update on packs to driftless_app;

-- A piece of contents, once a user: nobody learns by hash that somebody else has a file. Gone when no version and no pin
-- refers to it.
create table chunks (
    user_id     bigint not null,
    sha256      bytea not null,
    pack_id     bigint not null,
    pack_offset int not null,
    length      int not null,
    primary key (user_id, sha256)
);
alter table chunks enable row level security;
create policy own on chunks using (user_id = (select current_user_id()));
grant select, insert, update on chunks to driftless_app;

-- The tree. id is the seq of the entry's first version, so it is known before the insert; the root is 0 and has no row. seq
-- names the version that says what the entry is now. kind 0 folder, 1 file. Deleting marks the one row: what lies below a deleted
-- folder keeps its rows and is out of reach until the folder is restored. So moving or deleting a folder is one row.
create table entries (
    user_id   bigint not null,
    id        bigint not null,
    seq       bigint not null,
    kind      smallint not null check (kind in (0, 1)),
    deleted   boolean not null default false,
    parent_id bigint not null,
    name      text collate "C" not null,
    primary key (user_id, id)
);
create unique index entries_name on entries (user_id, parent_id, name) where not deleted;
create index entries_trash on entries (user_id, parent_id, name) where deleted;
alter table entries enable row level security;
create policy own on entries using (user_id = (select current_user_id()));
grant select, insert, update on entries to driftless_app;

-- History and journal in one: each change of the tree is a row. kind 1 contents put, 2 folder made, 3 moved, 4 deleted, 5 taken
-- out of trash, 6 time or mode changed, 7 contents kept aside (what lost a conflict: in the history, never current).
-- sha256 is the hash of the whole file; a file of one chunk is that chunk, larger ones list theirs in chunks. 3, 4 and 5 say where the
-- entry was before. device_id: through which device it came, null for a person.
create table versions (
    user_id       bigint not null,
    seq           bigint not null,
    entry_id      bigint not null,
    device_id     bigint,
    kind          smallint not null check (kind between 1 and 7),
    executable    boolean not null default false,
    size          bigint not null default 0,
    modified_at   timestamptz not null,
    at            timestamptz not null,
    sha256        bytea,
    chunks        bytea[],
    old_parent_id bigint,
    old_name      text,
    primary key (user_id, seq),
    check ((kind in (1, 6, 7)) = (sha256 is not null)),
    check ((kind in (3, 4, 5)) = (old_parent_id is not null))
);
create index versions_entry on versions (user_id, entry_id, seq);
alter table versions enable row level security;
create policy own on versions using (user_id = (select current_user_id()));
grant select, insert on versions to driftless_app;

-- What a device and the tree last agreed on: the base of three-way comparison. path is where the device holds the entry, in
-- the tree's terms when it was agreed; spelling is how the device writes it where that differs. size, mtime_ns, ctime_ns and inode
-- are the folder remote's fingerprint, null when it can't be trusted. Written only by what the device has acknowledged.
create table baselines (
    user_id   bigint not null,
    device_id bigint not null,
    entry_id  bigint not null,
    seq       bigint not null,
    path      text not null,
    spelling  text,
    size      bigint,
    mtime_ns  bigint,
    ctime_ns  bigint,
    inode     bigint,
    primary key (device_id, entry_id)
);
-- Paths are longer than a B-tree takes.
create index baselines_path on baselines using hash (path);
alter table baselines enable row level security;
create policy own on baselines using (user_id = (select current_user_id()));
grant select, insert, update, delete on baselines to driftless_app;

-- A resumable transfer. It becomes a file at one instant, its commit. prefix counts the pieces from the first on without a
-- gap whose bytes are in hash_state, the state of SHA-256 over them. Which pieces are there is told by pins alone. Expires seven days
-- after last_activity_at. done: the version it became and where, kept so that completing twice answers the same.
create table uploads (
    id               uuid primary key,
    user_id          bigint not null references users on delete cascade,
    device_id        bigint,
    path             text not null,
    base_version     bigint,
    total_size       bigint not null check (total_size >= 0),
    chunk_size       int not null check (chunk_size between 65536 and 8388608),
    sha256           bytea,
    modified_at      timestamptz,
    executable       boolean not null default false,
    prefix           int not null default 0,
    hash_state       bytea not null default '',
    created_at       timestamptz not null default queue.now(),
    last_activity_at timestamptz not null default queue.now(),
    completing       boolean not null default false,
    done             bigint,
    done_path        text
) with (fillfactor = 70);
create index uploads_user on uploads (user_id, created_at);
create index uploads_expiry on uploads (last_activity_at);
alter table uploads enable row level security;
create policy own on uploads using (user_id = (select current_user_id()));
grant select, insert, update, delete on uploads to driftless_app;

-- One request whose contents are in the store and not yet in the tree (a large PUT, a run's file). Dies with its process.
create table ingests (
    id         uuid primary key,
    user_id    bigint not null references users on delete cascade,
    owner      uuid not null,
    created_at timestamptz not null default queue.now()
);
alter table ingests enable row level security;
create policy own on ingests using (user_id = (select current_user_id()));
grant select, insert, delete on ingests to driftless_app;

-- References of uploads and ingests (holder) to chunks: piece n of the holder is that chunk. They keep it from the collector.
create table pins (
    user_id bigint not null,
    holder  uuid not null,
    n       int not null,
    sha256  bytea not null,
    length  int not null,
    primary key (holder, n)
);
create index pins_chunk on pins (user_id, sha256);
alter table pins enable row level security;
create policy own on pins using (user_id = (select current_user_id()));
grant select, insert, update, delete on pins to driftless_app;

-- How many files unattended doors (runs, reports) deleted for a device on a side, by minute, for deletion safety: a burst is
-- held. Rows older than an hour count no longer and go with the daily cleanup.
create table deletions (
    user_id   bigint not null references users on delete cascade,
    device_id bigint not null references devices on delete cascade,
    side      text not null check (side in ('server', 'device')),
    minute    timestamptz not null,
    files     bigint not null,
    primary key (device_id, side, minute)
);
alter table deletions enable row level security;
create policy own on deletions using (user_id = (select current_user_id()));
grant select, insert, update, delete on deletions to driftless_app;

-- Parts of a device's file list that is too long for one request. Nothing is decided before the last part came; the parts go
-- with the answer, or after a day.
create table report_parts (
    user_id   bigint not null references users on delete cascade,
    device_id bigint not null references devices on delete cascade,
    list_id   text not null,
    part      int not null,
    files     jsonb not null,
    at        timestamptz not null default queue.now(),
    primary key (device_id, list_id, part)
);
alter table report_parts enable row level security;
create policy own on report_parts using (user_id = (select current_user_id()));
grant select, insert, update, delete on report_parts to driftless_app;
