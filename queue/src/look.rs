//! The process's eye on the tables: listens for wake-ups, looks once a second and whenever the next job falls due, and writes what
//! piles up in memory (progress, counts). Lost notifications, and listening that is impossible, cost a second at most.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use sqlx::{PgPool, Row, postgres::PgListener};

use crate::{
    JobId,
    control::CANCEL_CHANNEL,
    heartbeat,
    process::{STOP_GRACE, Shared},
    run::Stop,
    wake::WAKE_CHANNEL,
};

const RHYTHM: Duration = Duration::from_secs(1);

/// The shortest time between two looks.
const BLINK: Duration = Duration::from_millis(50);

/// For each queue: is a job due, and in how many seconds is the next one. A job that is ready but not yet due stands behind the due
/// ones of its priority, so each priority is probed once; the recursion walks the distinct priorities. (`limit 1` rather than `exists`, which the planner may hash: all due jobs.) Beside that: are there
/// far-ahead jobs to make ready, and workers whose lease is over.
const LOOK: &str = "
    select served.queue,
           due.found is not null and not exists (select from queue.paused where paused.queue = served.queue),
           extract(epoch from least(soon.run_at, far.run_at) - queue.now())::float8,
           coalesce(far.run_at <= queue.now() + interval '5 s', false),
           exists (select from queue.workers where lease_until < now())
    from unnest($1::text[]) as served(queue)
    left join lateral (
        select true as found from queue.jobs job
        where job.queue = served.queue and job.ready and job.lease_token is null and job.run_at <= queue.now() limit 1
    ) due on true
    left join lateral (select run_at from queue.jobs where not ready order by run_at limit 1) far on true
    left join lateral (
        with recursive level(priority) as (
            (select priority from queue.jobs where queue = served.queue and ready order by priority desc limit 1)
            union all
            select (select job.priority from queue.jobs job
                    where job.queue = served.queue and job.ready and job.priority < level.priority
                    order by job.priority desc limit 1)
            from level where level.priority is not null
        )
        select min(next.run_at) as run_at from level
        cross join lateral (
            select job.run_at from queue.jobs job
            where job.queue = served.queue and job.ready and job.priority = level.priority and job.run_at > queue.now()
            order by job.run_at limit 1
        ) next
    ) soon on true";

pub(crate) fn start(shared: &Arc<Shared>) {
    tokio::spawn(look_for_ever(shared.clone()));
    tokio::spawn(listen_for_ever(shared.clone()));
}

async fn look_for_ever(shared: Arc<Shared>) {
    let mut chores = Instant::now();
    loop {
        shared.note_move();
        let pause = look(&shared).await.unwrap_or_else(|_| {
            shared.disturbed.store(true, Relaxed);
            RHYTHM
        });
        if chores.elapsed() >= RHYTHM {
            chores = Instant::now();
            do_chores(&shared).await;
        }
        tokio::time::sleep(BLINK).await;
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(BLINK)) => {}
            () = shared.look.notified() => {}
            () = shared.closed.cancelled() => return,
        }
    }
}

/// Wakes what has work and returns the time until the next look.
async fn look(shared: &Shared) -> Result<Duration, sqlx::Error> {
    let feeds = shared.feeds();
    if feeds.is_empty() {
        return Ok(RHYTHM);
    }
    let queues: Vec<&str> = feeds.iter().map(|feed| feed.queue.as_str()).collect();
    let mut pause = RHYTHM;
    let mut sweep = false;
    for row in sqlx::query(LOOK).bind(queues).fetch_all(&shared.pool).await? {
        let queue: &str = row.try_get(0)?;
        if row.try_get(1)? {
            feeds.iter().filter(|feed| feed.queue == queue).for_each(|feed| feed.wake());
        }
        if let Some(seconds) = row.try_get::<Option<f64>, _>(2)? {
            pause = pause.min(Duration::try_from_secs_f64(seconds).unwrap_or_default() + Duration::from_millis(1));
        }
        sweep |= row.try_get::<bool, _>(3)? || row.try_get::<bool, _>(4)?;
    }
    if sweep {
        shared.sweep.notify_one();
    }
    Ok(pause)
}

/// Once a second: what is too late stops, and what piled up is written.
async fn do_chores(shared: &Shared) {
    for feed in shared.feeds() {
        feed.retry_stuck();
        for run in feed.running() {
            if run.age() > feed.time_limit {
                run.stop(Stop::TimeLimit);
            }
            if run.stopped_for() > STOP_GRACE && run.reason() != Some(Stop::Drain) {
                run.taken.cancel();
            }
            if run.stopped_for() > 2 * STOP_GRACE {
                feed.give_up(&run);
            }
        }
    }
    write_progress(shared).await;
    write_counts(shared).await;
}

/// Steps over jobs that a handler's own transaction has locked; their next progress is written.
async fn write_progress(shared: &Shared) {
    let runs = shared.feeds().into_iter().flat_map(|feed| feed.running());
    let news: Vec<_> = runs.filter_map(|run| Some((run.claim, run.take_progress()?))).collect();
    if news.is_empty() {
        return;
    }
    let written = sqlx::query(
        "update queue.jobs job set progress = held.progress from (
             select job.id, news.progress
             from unnest($1::bigint[], $2::smallint[], $3::uuid[], $4::jsonb[]) as news(id, attempt, token, progress)
             join queue.jobs job on job.id = news.id and job.attempt = news.attempt and job.lease_token = news.token
             for update of job skip locked
         ) held where job.id = held.id",
    )
    .bind(news.iter().map(|(claim, _)| claim.id.0).collect::<Vec<_>>())
    .bind(news.iter().map(|(claim, _)| claim.attempt).collect::<Vec<_>>())
    .bind(news.iter().map(|(claim, _)| claim.lease_token).collect::<Vec<_>>())
    .bind(news.iter().map(|(_, progress)| sqlx::types::Json(progress)).collect::<Vec<_>>())
    .execute(&shared.pool)
    .await;
    if let Err(error) = written {
        tracing::debug!(%error, "progress not written");
    }
}

/// Adds what this process counted since the last time to `queue.stats`.
pub(crate) async fn write_counts(shared: &Shared) {
    let counts = shared.stats.drain();
    if counts.is_empty() {
        return;
    }
    let written = sqlx::query(
        "insert into queue.stats as old (minute, queue, kind, worker, done, failed, dead, run_ms, wait_ms)
         select date_trunc('minute', queue.now()), news.queue, news.kind, $1, news.done, news.failed, news.dead, news.run_ms, news.wait_ms
         from unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
              as news(queue, kind, done, failed, dead, run_ms, wait_ms)
         on conflict (minute, queue, kind, worker) do update set
             done = old.done + excluded.done, failed = old.failed + excluded.failed, dead = old.dead + excluded.dead,
             run_ms = old.run_ms + excluded.run_ms, wait_ms = old.wait_ms + excluded.wait_ms",
    )
    .bind(&shared.name)
    .bind(counts.iter().map(|c| c.queue.as_str()).collect::<Vec<_>>())
    .bind(counts.iter().map(|c| c.kind.as_str()).collect::<Vec<_>>())
    .bind(counts.iter().map(|c| c.done).collect::<Vec<_>>())
    .bind(counts.iter().map(|c| c.failed).collect::<Vec<_>>())
    .bind(counts.iter().map(|c| c.dead).collect::<Vec<_>>())
    .bind(counts.iter().map(|c| c.run_ms).collect::<Vec<_>>())
    .bind(counts.iter().map(|c| c.wait_ms).collect::<Vec<_>>())
    .execute(&shared.pool)
    .await;
    if let Err(error) = written {
        tracing::debug!(%error, "counts of these seconds are lost");
    }
}

/// True when none of the queues has a job that is running, due, or due within `soon`. Paused queues count as empty.
pub(crate) async fn is_empty(pool: &PgPool, queues: &[&str], soon: Duration) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select not exists (
             select from unnest($1::text[]) as served(queue)
             join queue.jobs job on job.queue = served.queue and job.ready and job.run_at <= queue.now() + $2
             where not exists (select from queue.paused where paused.queue = served.queue))",
    )
    .bind(queues)
    .bind(soon)
    .fetch_one(pool)
    .await
}

async fn listen_for_ever(shared: Arc<Shared>) {
    let mut listened = false;
    loop {
        tokio::select! {
            ended = listen(&shared, &mut listened) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "not listening; looking once a second meanwhile");
                }
            }
            () = shared.closed.cancelled() => return,
        }
        tokio::time::sleep(RHYTHM).await;
    }
}

/// Listens until the connection can't be made; one that breaks is made anew. `listened`: there was one before.
async fn listen(shared: &Shared, listened: &mut bool) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&shared.pool).await?;
    listener.listen_all([WAKE_CHANNEL, CANCEL_CHANNEL]).await?;
    if std::mem::replace(listened, true) {
        shared.stats.listener_reconnects.fetch_add(1, Relaxed);
    }
    loop {
        shared.look.notify_one();
        while let Some(notification) = listener.try_recv().await? {
            let payload = notification.payload();
            if notification.channel() == WAKE_CHANNEL {
                shared.feeds().iter().filter(|feed| feed.queue == payload).for_each(|feed| feed.wake());
            } else if let Ok(id) = payload.parse() {
                heartbeat::cancel(shared, JobId(id));
            }
        }
        shared.stats.listener_reconnects.fetch_add(1, Relaxed);
    }
}
