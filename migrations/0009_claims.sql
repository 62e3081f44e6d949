-- A claim shall be a HOT update. It was one for 80 of 100 claims only: the row grows by its lease (and by a deadline, which
-- nobody reads: the process that runs a job watches its time), and on a page that was half full the last rows found no room. Each
-- of those wrote to two indexes, which doubled the time of claims in all (bench/results/queue-drain.md). Now a claim adds 16
-- bytes, and pages have room for every row of theirs one and a half times.
alter table queue.jobs set (fillfactor = 40);

-- As before, but by name: the star held on to the column.
create or replace function queue.complete(job bigint, run smallint, token uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog
begin atomic
    with gone as (
        delete from queue.jobs j where j.id = job and j.attempt = run and j.lease_token = token
        returning j.id, j.queue, j.kind, j.payload, j.attempt, j.last_error, j.lease_token, j.created_at, j.keep
    ), kept as (
        insert into queue.finished (id, queue, kind, payload, outcome, attempt, last_error, worker, created_at)
        select g.id, g.queue, g.kind, g.payload, 'done', g.attempt, g.last_error, w.name, g.created_at
        from gone g left join queue.workers w on w.token = g.lease_token where g.keep
    )
    select true from gone;
end;

alter table queue.jobs drop column deadline;
