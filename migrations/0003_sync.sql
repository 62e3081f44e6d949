-- Devices, schedules, what is due, and runs. The CHECKs of runs are its state table.

-- Something that a user's tree is kept in step with. device_id is the client's own text, unique per user; id is ours.
-- base_path is the folder of the tree it is kept in step with. For a folder remote: remote_root is the allowed root's id,
-- remote_path the absolute folder, remote_inode the folder's inode at first use (a change of it is held, never planned).
-- The cursor is what the device has taken in, <epoch>.<seq>; it starts at seq 0.
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
-- fire again under the new rule and never twice under one. paused_code says why the server itself disabled it.
create table schedules (
    id                bigint generated always as identity primary key,
    user_id           bigint not null references users on delete cascade,
    device_id         bigint not null references devices on delete cascade,
    schedule_type     text not null check (schedule_type in ('daily', 'weekly', 'monthly', 'on_change')),
    time_of_day       text not null default '02:00' check (time_of_day ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'),
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
    created_at        timestamptz not null default queue.now(),
    updated_at        timestamptz not null default queue.now()
);
create index schedules_user on schedules (user_id, id);
create index schedules_device on schedules (device_id);
alter table schedules enable row level security;
create policy own on schedules using (user_id = (select current_user_id()));
grant select, insert, update, delete on schedules to driftless_app;

-- The narrow table that the dispatcher scans: one row for each enabled schedule with a clock. next_run_at is the rule's
-- instant plus the schedule's jitter. Locking this row is what makes firing, editing and deleting a schedule take turns.
create table due (
    schedule_id bigint primary key references schedules on delete cascade,
    user_id     bigint not null,
    next_run_at timestamptz not null
) with (fillfactor = 70);
create index due_at on due (next_run_at);
alter table due enable row level security;
create policy own on due using (user_id = (select current_user_id()));
grant select, insert, update, delete on due to driftless_app;

-- One execution of a sync. id is a UUIDv7 made from queue.now(), so its order is the order of creation.
--
-- fence rises at every takeover and every write of a run checks it. claim_* name the run of a job that executes it, so that a
-- second job for it steps back while that one lives. lease_until belongs to a client device's claim; a worker's lease is its
-- job's. sync_deletions, resolve_conflicts and direction are the schedule's when the run was made.
--
-- missed_count > 1 stands for that many missed dates in one row, nominal_date being the newest of them. changes_detected is
-- what the server has for the device; planned_head the head of the tree when a client's run was planned. planned counts the
-- actions of the plan; plan previews them; left_out names the first files that were skipped or unknown, with the reason.
-- error_code says why it failed, was missed or was skipped.
--
-- No foreign keys: checking them took two thirds of the time of firing. The dispatcher holds the schedule's row in due, everybody
-- else the device's row, while a run is made; whoever deletes a schedule or device takes those first. The triggers below do what
-- deleting would have done.
create table runs (
    id                uuid primary key,
    user_id           bigint not null,
    device_id         bigint not null,
    schedule_id       bigint,
    rule_revision     int,
    nominal_date      date,
    scheduled_for     timestamptz,
    trigger           text not null check (trigger in ('schedule', 'manual', 'on_change')),
    dry_run           boolean not null default false,
    sync_deletions    boolean not null,
    resolve_conflicts text not null,
    direction         text not null,
    state             text not null check (state in ('queued', 'running', 'waiting_for_device', 'held', 'succeeded', 'failed',
                                                     'cancelled', 'missed', 'skipped')),
    fence             bigint not null default 0,
    claim_job         bigint,
    claim_attempt     smallint,
    claim_token       uuid,
    lease_until       timestamptz,
    attempts          int not null default 0,
    last_error        text,
    cancel_requested  boolean not null default false,
    missed_count      int not null default 0,
    changes_detected  bigint,
    planned_head      bigint,
    planned           bigint,
    plan              jsonb,
    counts            jsonb,
    progress          jsonb,
    left_out          jsonb,
    left_out_count    bigint not null default 0,
    held_count        bigint not null default 0,
    approved_at       timestamptz,
    error_code        text,
    error_detail      text,
    created_at        timestamptz not null default queue.now(),
    started_at        timestamptz,
    finished_at       timestamptz,
    constraint runs_once unique (schedule_id, rule_revision, nominal_date),
    constraint runs_scheduled check ((trigger = 'schedule') = (nominal_date is not null)),
    constraint runs_running check (state <> 'running' or started_at is not null),
    constraint runs_lease check (lease_until is null or state = 'running'),
    constraint runs_finished check ((state in ('succeeded', 'failed', 'cancelled', 'missed', 'skipped')) = (finished_at is not null)),
    constraint runs_why check ((state in ('failed', 'missed', 'skipped')) = (error_code is not null)),
    constraint runs_missed check ((state = 'missed') = (missed_count > 0))
) with (fillfactor = 80);
create unique index runs_one_running on runs (device_id) where state = 'running' and not dry_run;
create index runs_open on runs (device_id) where state in ('queued', 'running', 'waiting_for_device', 'held');
create index runs_user on runs (user_id, id);
-- user_id stands in the middle so that these, and not the user's own index, serve a page of one device or schedule.
create index runs_device on runs (device_id, user_id, id);
create index runs_schedule on runs (schedule_id, user_id, id);
create index runs_of_no_schedule on runs (finished_at) where schedule_id is null;
-- What the sweep looks at each minute: each state's oldest, and the leases of devices.
create index runs_unended on runs (state, id) where state in ('queued', 'running', 'waiting_for_device');
create index runs_leased on runs (lease_until) where lease_until is not null;
alter table runs enable row level security;
create policy own on runs using (user_id = (select current_user_id()));
grant select, insert, update, delete on runs to driftless_app;

create function forget_runs() returns trigger language plpgsql
    as $$ begin
        if tg_table_name = 'schedules' then
            update runs set schedule_id = null where schedule_id = old.id;
        else
            delete from runs where device_id = old.id;
        end if;
        return null;
    end $$;
create trigger forget_runs after delete on devices for each row execute function forget_runs();
create trigger forget_runs after delete on schedules for each row execute function forget_runs();

-- The deletions of a held run, whole: approving covers exactly these pairs of path and version. side is who loses the file.
create table held_deletions (
    run_id  uuid not null references runs on delete cascade,
    n       int not null,
    user_id bigint not null,
    side    text not null check (side in ('device', 'server')),
    path    text not null,
    version bigint not null,
    primary key (run_id, n)
);
alter table held_deletions enable row level security;
create policy own on held_deletions using (user_id = (select current_user_id()));
grant select, insert, update, delete on held_deletions to driftless_app;

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
