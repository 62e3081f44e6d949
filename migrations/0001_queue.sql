-- The job queue: schema `queue`, owned and spoken to by the crate driftless-queue only.
--
-- The tables' owner (the login of the binary) does everything. The application's role, which a later migration makes,
-- needs no more than this to enqueue from a user's transaction:
--   grant usage on schema queue to <role>;
--   grant select, insert on queue.jobs to <role>;
-- (`queue.now()` and `queue.fence()` may be executed by everybody.)
create schema queue;

-- The only clock of the application. `driftless.clock_offset` is an interval in text form; unset or empty means none. Tests
-- set it for their own database and so move time without sleeping. One plain select without volatile parts: the planner
-- inlines it. Leases below do not use it: they are durations on the database's own clock, which nobody moves.
create function queue.now() returns timestamptz language sql stable parallel safe
return pg_catalog.now() + coalesce(nullif(pg_catalog.current_setting('driftless.clock_offset', true), ''), '0')::interval;

-- One row is one job that still has to end: waiting, due or running. A job that ended well is deleted.
--
-- waiting   lease_token is null. More than a minute ahead it stands with ready = false, outside the index that claims read,
--           and the sweep makes it ready when its time comes.
-- running   lease_token names the process that holds it (queue.workers.token); attempt counts the claims. Both together
--           are the fence: who does not match them has lost the job.
--
-- Claiming changes lease_token, attempt, deadline and unique_key, none of which the ready index holds, and pages keep half
-- their room free: a claim is a HOT update and touches no index at all.
--
-- unique_key speaks of waiting jobs only. Claiming clears it, so that a request made while the job runs is not swallowed.
-- priority: higher runs first. deadline: when a run is taken away from its worker, set by the claim.
-- keep: leave a row in queue.finished. progress: {done, total, message}. trace: W3C traceparent of who enqueued.
create table queue.jobs (
    id bigint generated always as identity primary key,
    queue text not null,
    kind text not null,
    payload jsonb not null,
    priority smallint not null default 0,
    ready boolean not null default true,
    run_at timestamptz not null default queue.now(),
    attempt smallint not null default 0,
    max_attempts smallint not null default 5 check (max_attempts > 0),
    lease_token uuid,
    deadline timestamptz,
    unique_key text,
    keep boolean not null default false,
    cancel_requested boolean not null default false,
    progress jsonb,
    trace text,
    last_error text,
    created_at timestamptz not null default queue.now()
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.2
);
create index jobs_ready on queue.jobs (queue, priority desc, run_at, id) where ready;
create index jobs_far_ahead on queue.jobs (run_at) where not ready;
create unique index jobs_unique_key on queue.jobs (unique_key) where unique_key is not null;

-- What kinds marked keep (crons, what a person started) and cancelled jobs leave behind, for seven days.
create table queue.finished (
    id bigint primary key,
    queue text not null,
    kind text not null,
    payload jsonb not null,
    outcome text not null check (outcome in ('done', 'cancelled')),
    attempt smallint not null,
    last_error text,
    worker text,
    created_at timestamptz not null,
    finished_at timestamptz not null default queue.now()
);
create index finished_at on queue.finished (finished_at);

-- One row for each living process that works. token is new at each start and after each lost lease. A process renews
-- lease_until each two seconds; a row whose lease is over stands for a dead process, and goes only after its jobs have been
-- given to others. Claims lock their row FOR KEY SHARE, so that no job can be claimed for a process that is just being
-- buried; renewing the lease passes beside that lock.
create table queue.workers (
    token uuid primary key,
    name text not null,
    queues text[] not null default '{}',
    host text not null,
    pid integer not null,
    running integer not null default 0,
    started_at timestamptz not null default now(),
    lease_until timestamptz not null
) with (fillfactor = 50);

-- Jobs that ran out of attempts, were aborted by their handler, or could not be decoded. They stay until somebody puts them
-- back (redrive) or discards them.
create table queue.dead_jobs (
    id bigint primary key,
    queue text not null,
    kind text not null,
    payload jsonb not null,
    priority smallint not null,
    attempt smallint not null,
    max_attempts smallint not null,
    keep boolean not null,
    trace text,
    error text not null,
    created_at timestamptz not null,
    died_at timestamptz not null default queue.now()
);
create index dead_jobs_died_at on queue.dead_jobs (died_at);

-- Counts by minute, kind and worker, added up in each process and written each two seconds, so a killed process loses at most
-- that much. After a day the rows of a day are rolled up into one a kind, with an empty worker and minute = midnight UTC.
create table queue.stats (
    minute timestamptz not null,
    queue text not null,
    kind text not null,
    worker text not null,
    done bigint not null default 0,
    failed bigint not null default 0,
    dead bigint not null default 0,
    run_ms bigint not null default 0,
    wait_ms bigint not null default 0,
    primary key (minute, queue, kind, worker)
);

-- Periodic jobs. A tick belongs to the process whose update moves last_tick on; the job is inserted in that transaction.
-- queue, kind and payload let anybody run the job now; rule is the text of the rule, for people.
create table queue.crons (
    name text primary key,
    rule text not null,
    queue text not null,
    kind text not null,
    payload jsonb not null,
    last_tick timestamptz not null
);

-- A queue with a row here is not claimed from. Running jobs finish.
create table queue.paused (
    queue text primary key,
    paused_at timestamptz not null default queue.now()
);

-- True while the claim (job, run, token) holds, null when it does not. The row is then locked FOR SHARE until the caller's
-- transaction ends, so that nobody can take the job away between the check and the commit. A transaction that passed the fence
-- and then stands still (its process is stopped, its code leaked it) would keep that lock for ever: Postgres ends it after 15
-- idle seconds. Runs with the owner's rights, because locking a row needs more than the application's role may do.
create function queue.fence(job bigint, run smallint, token uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog
begin atomic
    select set_config('idle_in_transaction_session_timeout', '15s', true);
    select true from queue.jobs j where j.id = job and j.attempt = run and j.lease_token = token for share;
end;

-- Ends the job in the caller's transaction, if the claim still holds: what the handler wrote there and the end of its job become
-- one. Null when the claim does not hold.
create function queue.complete(job bigint, run smallint, token uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog
begin atomic
    with gone as (
        delete from queue.jobs j where j.id = job and j.attempt = run and j.lease_token = token returning j.*
    ), kept as (
        insert into queue.finished (id, queue, kind, payload, outcome, attempt, last_error, worker, created_at)
        select g.id, g.queue, g.kind, g.payload, 'done', g.attempt, g.last_error, w.name, g.created_at
        from gone g left join queue.workers w on w.token = g.lease_token where g.keep
    )
    select true from gone;
end;
