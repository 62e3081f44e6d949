-- Work that wants a worker, for autoscalers: by queue, what is running, what waits and is due, what falls due within a minute, and
-- schedules about to fire (which have no job yet); jobs is all of it. A paused queue wants none, and a queue without work has no
-- row. Jobs and schedules further ahead cost nothing: each part is a range of an index.
--
-- It runs with its owner's rights, so an autoscaler's login needs no more than: grant select on demand to <login>;
create view demand as
select part.queue, sum(part.running)::bigint as running, sum(part.ready)::bigint as ready, sum(part.soon)::bigint as soon,
       sum(part.schedules)::bigint as schedules, sum(part.running + part.ready + part.soon + part.schedules)::bigint as jobs
from (
    select job.queue, count(*) filter (where job.lease_token is not null) as running,
           count(*) filter (where job.lease_token is null and job.run_at <= queue.now()) as ready,
           count(*) filter (where job.lease_token is null and job.run_at > queue.now()) as soon, 0::bigint as schedules
    from queue.jobs job where job.ready and job.run_at <= queue.now() + interval '60 s' group by job.queue
    union all
    select job.queue, 0, count(*) filter (where job.run_at <= queue.now()), count(*) filter (where job.run_at > queue.now()), 0
    from queue.jobs job where not job.ready and job.run_at <= queue.now() + interval '60 s' group by job.queue
    union all
    select firing.queue, 0, 0, 0, count(*)
    from (
        -- A subselect, not a join: whatever the statistics, it is two lookups for each schedule that fires.
        select coalesce((select 'folder:' || device.remote_root
                         from schedules schedule join devices device on device.id = schedule.device_id
                         where schedule.id = due.schedule_id), 'sync') as queue
        from due where due.next_run_at <= queue.now() + interval '60 s'
    ) firing group by firing.queue
) part
where not exists (select from queue.paused where paused.queue = part.queue)
group by part.queue;
