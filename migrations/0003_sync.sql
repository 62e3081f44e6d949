-- Devices, schedules and runs. Column lists are spelled out in semantics; the CHECKs are the state table of a run.

-- Something that a user's tree is kept in step with. device_id is the client's own text, unique per user; id is ours.
-- base_path is the folder of the tree it is kept in step with. For a folder remote: root is the allowed root's id,
-- path the absolute folder, inode the folder's inode at first use (a change of it is held, never planned).
create table devices (
    id           bigint generated always as identity primary key,
    user_id      bigint not null references users on delete cascade,
    device_id    text not null check (length(device_id) between 1 and 255),
    device_name  text not null check (length(device_name) between 1 and 255),
    kind         text not null check (kind in ('client', 'remote')),
    remote       jsonb,
    remote_path  text,
    remote_root  uuid,
    remote_inode bigint,
    base_path    text not null default '/',
    ignore_rules text[] not null default '{}',
    selection    jsonb not null default '[]',
    cursor_epoch uuid not null,
    cursor_seq   bigint not null default 0,
    fence        bigint not null default 0,
    last_seen_at timestamptz,
    last_sync_at timestamptz,
    created_at   timestamptz not null default queue.now(),
    check ((kind = 'remote') = (remote is not null)),
    unique (user_id, device_id)
);
alter table devices enable row level security;
create policy own on devices using (user_id = (select current_user_id()));
grant select, insert, update, delete on devices to driftless_app;

-- When a device is to be synced. rule_revision rises when type, time, day or zone is edited, so that the same local date can
-- fire again under the new rule and never twice under one.
create table schedules (
    id                bigint generated always as identity primary key,
    user_id           bigint not null references users on delete cascade,
    device_id         bigint not null references devices on delete cascade,
    schedule_type     text not null check (schedule_type in ('daily', 'weekly', 'monthly', 'on_change')),
    time_of_day       time not null default '02:00',
    day_of_week       smallint not null default 0 check (day_of_week between 0 and 6),
    day_of_month      smallint not null default 1 check (day_of_month between 1 and 31),
    timezone          text not null default 'UTC',
    sync_deletions    boolean not null default true,
    resolve_conflicts text not null default 'keep_newest'
        check (resolve_conflicts in ('keep_newest', 'keep_local', 'keep_server', 'keep_both', 'ask')),
    direction         text not null default 'both' check (direction in ('both', 'upload', 'download')),
    missed_run        text not null default 'run_once' check (missed_run in ('run_once', 'skip')),
    overlap           text not null default 'skip' check (overlap in ('skip', 'queue_one')),
    jitter_seconds    int not null default 0 check (jitter_seconds between 0 and 3600),
    enabled           boolean not null default true,
    paused_code       text,
    rule_revision     int not null default 1,
    seen_seq          bigint not null default 0,
    last_run_at       timestamptz,
    created_at        timestamptz not null default queue.now(),
    updated_at        timestamptz not null default queue.now()
);
create index schedules_user on schedules (user_id, id);
create index schedules_device on schedules (device_id);
alter table schedules enable row level security;
create policy own on schedules using (user_id = (select current_user_id()));
grant select, insert, update, delete on schedules to driftless_app;

-- The narrow table that the dispatcher scans: one row for each enabled schedule with a clock. scheduled_for is the instant of
-- the rule and nominal_date its local date; next_run_at is scheduled_for plus the schedule's jitter.
create table due (
    schedule_id   bigint primary key references schedules on delete cascade,
    user_id       bigint not null,
    next_run_at   timestamptz not null,
    scheduled_for timestamptz not null,
    nominal_date  date not null
) with (fillfactor = 70);
create index due_at on due (next_run_at);
alter table due enable row level security;
create policy own on due using (user_id = (select current_user_id()));
grant select, insert, update, delete on due to driftless_app;

-- One execution of a sync. fence rises at every takeover and every write of a run checks it. lease_until belongs to a client
-- device's claim; a worker's lease is the job's. missed_count > 1 stands for that many missed dates in one row.
create table runs (
    id            uuid primary key,
    user_id       bigint not null references users on delete cascade,
    device_id     bigint not null references devices on delete cascade,
    schedule_id   bigint references schedules on delete set null,
    rule_revision int,
    nominal_date  date,
    scheduled_for timestamptz,
    trigger       text not null check (trigger in ('schedule', 'manual', 'on_change')),
    dry_run       boolean not null default false,
    state         text not null check (state in ('queued', 'running', 'waiting_for_device', 'held', 'succeeded', 'failed',
                                                 'cancelled', 'missed', 'skipped')),
    options       jsonb not null default '{}',
    fence         bigint not null default 0,
    lease_until   timestamptz,
    attempts      int not null default 0,
    cancel_requested boolean not null default false,
    missed_count  int not null default 0,
    changes_detected int,
    counts        jsonb not null default '{}',
    progress      jsonb,
    plan          jsonb,
    unplanned     jsonb not null default '[]',
    held          jsonb,
    approved      jsonb,
    error_code    text,
    error_detail  text,
    last_error    text,
    created_at    timestamptz not null default queue.now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    constraint runs_once unique (schedule_id, rule_revision, nominal_date),
    constraint runs_scheduled check ((trigger = 'schedule') = (nominal_date is not null)),
    constraint runs_running check (state <> 'running' or started_at is not null),
    constraint runs_finished check ((state in ('succeeded', 'failed', 'cancelled', 'missed', 'skipped')) = (finished_at is not null)),
    constraint runs_failed check ((state = 'failed') <= (error_code is not null)),
    constraint runs_held check ((state = 'held') <= (held is not null))
);
create unique index runs_one_running on runs (device_id) where state = 'running';
create index runs_open on runs (device_id) where state in ('queued', 'running', 'waiting_for_device', 'held');
create index runs_user on runs (user_id, created_at desc, id desc);
create index runs_device on runs (device_id, created_at desc, id desc);
create index runs_schedule on runs (schedule_id, created_at desc, id desc);
create index runs_finished_at on runs (finished_at) where finished_at is not null;
create index runs_to_rescue on runs (created_at) where state in ('queued', 'running', 'waiting_for_device');
alter table runs enable row level security;
create policy own on runs using (user_id = (select current_user_id()));
grant select, insert, update, delete on runs to driftless_app;

-- Bandwidth limits of a user, in bytes a second; null is unlimited. Throttle hours are of DRIFTLESS_ZONE, [start, end).
create table bandwidth_limits (
    user_id              bigint primary key references users on delete cascade,
    upload_speed_limit   bigint check (upload_speed_limit > 0),
    download_speed_limit bigint check (download_speed_limit > 0),
    throttle_enabled     boolean not null default false,
    throttle_start_hour  smallint not null default 0 check (throttle_start_hour between 0 and 23),
    throttle_end_hour    smallint not null default 0 check (throttle_end_hour between 0 and 23),
    updated_at           timestamptz not null default queue.now()
);
alter table bandwidth_limits enable row level security;
create policy own on bandwidth_limits using (user_id = (select current_user_id()));
grant select, insert, update, delete on bandwidth_limits to driftless_app;
