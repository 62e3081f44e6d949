//! A lane is one conversation with Postgres that completes what has ended and claims what comes next, in one statement, while the
//! handlers run. Each queue of a process has two, so that one is on the way while the other's jobs are being handled.
//!
//! A lane never gives up: when the database is away it waits and goes on, and acknowledgements wait with it. Completing twice is
//! harmless, because a completed job no longer matches its claim.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use sqlx::{Connection, Executor, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    Claim,
    feed::{Feed, Trip},
    process::Shared,
    run::{Job, Run, Verdict},
};

/// Lanes of one queue in one process.
const LANES: usize = 2;

/// The longest that Postgres may work on one of our statements; after that nothing of it can still come true.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Completes by id and claim, then claims the next. `mine` locks this process's own row, so that no job is claimed for a process
/// that is being buried right now; it is read only when there is something to claim. `(select queue.now())` is computed once, not for
/// each row.
const COMPLETE_AND_CLAIM: &str = "
    with done as (
        delete from queue.jobs job using unnest($1::bigint[], $2::smallint[]) as ended(id, attempt)
        where job.id = ended.id and job.attempt = ended.attempt and job.lease_token = $3
    ), found as materialized (
        select ctid from queue.jobs
        where queue = $4 and ready and lease_token is null and run_at <= queue.now()
          and priority > $6 and not exists (select from queue.paused where queue = $4)
        order by priority desc, run_at, id limit $5 for update skip locked
    ), mine as materialized (
        select from queue.workers
        where token = $3 and lease_until > now() and exists (select from found) for key share skip locked
    )
    update queue.jobs job
    set lease_token = $3, attempt = attempt + 1, unique_key = null
    from found where job.ctid = found.ctid and exists (select from mine)
    returning job.id, job.kind, job.payload::text as payload, job.attempt, job.max_attempts, job.keep, job.trace,
              date_part('epoch', (select queue.now()) - job.run_at) as waited, job.priority";

/// Ranks below every priority.
const BELOW_ALL: i32 = i16::MIN as i32 - 1;

/// Ends runs in every other way; the codes are those of `Ending`. Steps over rows that somebody's transaction has locked and
/// returns what is left to do of them.
const SETTLE: &str = "
    with verdict as materialized (
        select * from unnest($2::bigint[], $3::smallint[], $4::smallint[], $5::float8[], $6::text[])
             as verdict(id, attempt, ending, delay, error)
    ), held as materialized (
        select job.id, verdict.ending, verdict.error,
               verdict.ending in (1, 3, 4) or verdict.ending = 0 and job.attempt >= job.max_attempts as ends,
               queue.now() + interval '1 s' * coalesce(verdict.delay, random() * least(3600, power(2, job.attempt - 1))) as again_at
        from verdict join queue.jobs job on job.id = verdict.id and job.attempt = verdict.attempt and job.lease_token = $1
        for update of job skip locked
    ), gone as (
        delete from queue.jobs job using held where job.id = held.id and held.ends
        returning job.*, held.ending, held.error
    ), buried as (
        insert into queue.dead_jobs (id, queue, kind, payload, priority, attempt, max_attempts, keep, trace, error, created_at)
        select id, queue, kind, payload, priority, attempt, max_attempts, keep, trace, coalesce(error, ''), created_at
        from gone where ending in (0, 1)
    ), kept as (
        insert into queue.finished (id, queue, kind, payload, outcome, attempt, last_error, worker, created_at)
        select id, queue, kind, payload, case ending when 3 then 'cancelled' else 'done' end, attempt, last_error, $7, created_at
        from gone where ending = 3 or ending = 4 and keep
    ), again as (
        update queue.jobs job
        set lease_token = null, progress = null, cancel_requested = false,
            attempt = attempt - (held.ending = 2)::int,
            run_at = case held.ending when 2 then job.run_at else held.again_at end,
            ready = held.ending = 2 or held.again_at <= queue.now() + interval '60 s',
            last_error = coalesce(held.error, job.last_error)
        from held where job.id = held.id and not held.ends
    )
    select verdict.id from verdict join queue.jobs job
        on job.id = verdict.id and job.attempt = verdict.attempt and job.lease_token = $1
    where verdict.id not in (select id from held)";

/// All that is claimed for this process. No index knows that: every waiting job may have to be read.
const HELD: &str = "select queue, id, attempt from queue.jobs where ready and lease_token = $1";

/// How long reading them may take.
pub(crate) const LONG_STATEMENT: &str = "set local statement_timeout = '5min'";

/// Hands back what is claimed for this process but unknown to it: the answer of a claim, or the effect of an acknowledgement, was
/// lost with the connection. Steps over rows that somebody's transaction has locked; returns how many are left.
const HAND_BACK: &str = "
    with theirs as materialized (
        select job.id from unnest($2::bigint[], $3::smallint[]) as unknown(id, attempt)
        join queue.jobs job on job.id = unknown.id and job.attempt = unknown.attempt and job.lease_token = $1
    ), free as materialized (
        select job.id from theirs join queue.jobs job on job.id = theirs.id for update of job skip locked
    ), back as (
        update queue.jobs job set lease_token = null, attempt = attempt - 1 from free where job.id = free.id returning 1
    )
    select (select count(*) from back), (select count(*) from theirs) - (select count(*) from free)";

/// A crash of Postgres undoes the claims of its last second, whose jobs are already at work here: takes them back before somebody
/// else claims them. A job that meanwhile went on in any other way has another attempt.
const CLAIM_AGAIN: &str = "
    with mine as materialized (select from queue.workers where token = $1 for key share)
    update queue.jobs job set lease_token = $1, attempt = held.attempt, unique_key = null
    from unnest($2::bigint[], $3::smallint[]) as held(id, attempt)
    where job.id = held.id and job.ready and job.lease_token is null and job.attempt = held.attempt - 1
      and exists (select from mine)";

/// How often a lane that failed tries again, and how long a try may take. (A pool that waits for the database by itself would wait
/// for ever longer.)
const RETRY: Duration = Duration::from_millis(100);
const TRY: Duration = Duration::from_millis(400);

/// How long a process claims nothing after the database is back: longer than any process takes to see it, so that after an outage
/// every one has taken back its own jobs before anybody claims new ones.
const COURTESY: Duration = Duration::from_millis(800);

/// Starts the lanes of a queue.
pub(crate) fn start(process: &Arc<Shared>, feed: &Arc<Feed>) {
    for _ in 0..LANES {
        tokio::spawn(run(process.clone(), feed.clone()));
    }
}

async fn run(process: Arc<Shared>, feed: Arc<Feed>) {
    let closed = process.closed.clone();
    loop {
        let trip = tokio::select! {
            trip = feed.next_trip() => trip,
            () = closed.cancelled() => return,
        };
        if let Err(error) = travel(&process, &feed, trip).await {
            if !process.disturbed.swap(true, Relaxed) {
                tracing::warn!(queue = feed.queue, %error, "the queue does not reach the database; waiting for it");
            }
            tokio::select! {
                () = come_back(&process) => {}
                () = closed.cancelled() => return,
            }
        }
    }
}

/// Waits for the database and gets straight with it.
async fn come_back(process: &Shared) {
    process.reconcile_soon();
    loop {
        tokio::time::sleep(RETRY).await;
        let there = async { process.pool.acquire().await?.ping().await };
        if matches!(tokio::time::timeout(TRY, there).await, Ok(Ok(()))) && take_back_all(process).await.is_ok() {
            break;
        }
    }
    tokio::time::sleep(COURTESY).await;
    process.disturbed.store(false, Relaxed);
}

/// Makes the table and this process agree on whose the jobs are.
pub(crate) async fn reconcile(process: &Shared) -> Result<(), sqlx::Error> {
    take_back_all(process).await?;
    hand_back_unknown(process).await
}

async fn take_back_all(process: &Shared) -> Result<(), sqlx::Error> {
    for feed in process.feeds() {
        take_back(process, &feed).await?;
    }
    Ok(())
}

async fn travel(process: &Shared, feed: &Feed, mut trip: Trip) -> Result<(), sqlx::Error> {
    let conn = process.pool.acquire().await;
    let exclusive = feed.claims.read().await;
    let mut conn = match conn {
        // The pool waits for a database that is away; what came back with it may have forgotten what we hold.
        Ok(_) if process.disturbed.load(Relaxed) => {
            feed.abandon_trip(trip);
            return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        }
        Ok(conn) => conn,
        Err(error) => {
            feed.abandon_trip(trip);
            return Err(error);
        }
    };
    let token = process.token();
    if !trip.verdicts.is_empty() {
        match settle(&mut conn, token, &process.name, &trip.verdicts).await {
            Ok(stuck) => feed.keep_stuck(stuck),
            Err(error) => {
                feed.abandon_trip(trip);
                return Err(error);
            }
        }
    }
    match complete_and_claim(&mut conn, process, feed, token, &trip).await {
        Ok(jobs) => {
            // Whoever lost the lease meanwhile has lost these jobs with it: they are being given to others.
            let jobs = if process.token() == token { jobs } else { Vec::new() };
            let in_vain = feed.finish_trip(trip, jobs);
            drop(exclusive);
            if in_vain {
                process.look.notify_one();
            }
            Ok(())
        }
        Err(error) => {
            // The verdicts are settled: saying them again is harmless, and simpler than telling both cases apart.
            if is_lock_timeout(&error) {
                feed.acks_to_verdicts(&mut trip);
                feed.abandon_trip(trip);
                return Ok(());
            }
            feed.abandon_trip(trip);
            Err(error)
        }
    }
}

async fn complete_and_claim(
    conn: &mut PgConnection,
    process: &Shared,
    feed: &Feed,
    token: Uuid,
    trip: &Trip,
) -> Result<Vec<Job>, sqlx::Error> {
    let ids: Vec<i64> = trip.acks.iter().map(|claim| claim.id.0).collect();
    let attempts: Vec<i16> = trip.acks.iter().map(|claim| claim.attempt).collect();
    let rows = sqlx::query(COMPLETE_AND_CLAIM)
        .bind(ids)
        .bind(attempts)
        .bind(token)
        .bind(&feed.queue)
        .bind(i64::try_from(trip.claim).unwrap_or(0))
        .bind(trip.above.map_or(BELOW_ALL, i32::from))
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| job(process, feed, token, row)).collect()
}

fn job(process: &Shared, feed: &Feed, lease_token: Uuid, row: &PgRow) -> Result<Job, sqlx::Error> {
    let claim = Claim { id: row.try_get(0)?, attempt: row.try_get(3)?, lease_token };
    let kind = process.stats.kind(&feed.queue, row.try_get(1)?);
    let waited: f64 = row.try_get(7)?;
    kind.wait.record(Duration::try_from_secs_f64(waited).unwrap_or_default());
    let run = Run::new(claim, row.try_get(4)?, row.try_get(5)?, row.try_get(6)?, kind);
    Ok(Job { run: Arc::new(run), payload: row.try_get(2)?, priority: row.try_get(8)? })
}

/// Returns the verdicts whose jobs are locked by somebody.
async fn settle(
    conn: &mut PgConnection,
    token: Uuid,
    worker: &str,
    verdicts: &[Verdict],
) -> Result<Vec<Verdict>, sqlx::Error> {
    let locked: Vec<i64> = sqlx::query_scalar(SETTLE)
        .bind(token)
        .bind(verdicts.iter().map(|v| v.claim.id.0).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|v| v.claim.attempt).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|v| v.ending.code()).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|v| v.ending.delay_seconds()).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|v| v.error.as_deref()).collect::<Vec<_>>())
        .bind(worker)
        .fetch_all(conn)
        .await?;
    Ok(verdicts.iter().filter(|v| locked.contains(&v.claim.id.0)).cloned().collect())
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.code().as_deref() == Some("55P03"))
}

/// Takes back what a crash of Postgres undid, while no lane is on its way.
async fn take_back(process: &Shared, feed: &Feed) -> Result<(), sqlx::Error> {
    // In the order of a trip: the connection, then the claims.
    let mut conn = process.pool.acquire().await?;
    let _exclusive = feed.claims.write().await;
    feed.repeat_acks();
    let token = process.token();
    let ours = feed.known().into_iter().filter(|claim| claim.lease_token == token);
    let (known, attempts): (Vec<i64>, Vec<i16>) = ours.map(|claim| (claim.id.0, claim.attempt)).unzip();
    let again = sqlx::query(CLAIM_AGAIN).bind(token).bind(known).bind(attempts).execute(&mut *conn).await?;
    if again.rows_affected() > 0 {
        tracing::info!(
            queue = feed.queue,
            jobs = again.rows_affected(),
            "took back jobs whose claim a crash had undone"
        );
    }
    Ok(())
}

/// Hands back the jobs that are claimed for this process without its knowledge. They are searched for while the lanes go on, for that
/// takes as long as the queue is; what is found is judged while no lane is on its way. A lost claim never becomes known by
/// itself, and one that is lost after the search brings about a search of its own.
async fn hand_back_unknown(process: &Shared) -> Result<(), sqlx::Error> {
    let token = process.token();
    let mut tx = process.pool.begin().await?;
    tx.execute(LONG_STATEMENT).await?;
    tx.execute("set local enable_seqscan = on").await?;
    let held: Vec<(String, i64, i16)> = sqlx::query_as(HELD).bind(token).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    for feed in process.feeds() {
        let here: Vec<_> = held.iter().filter(|(queue, ..)| *queue == feed.queue).collect();
        if here.is_empty() {
            continue;
        }
        let mut conn = process.pool.acquire().await?;
        let exclusive = feed.claims.write().await;
        let known: HashSet<(i64, i16)> =
            feed.known().iter().filter(|c| c.lease_token == token).map(|c| (c.id.0, c.attempt)).collect();
        let unknown = here.iter().map(|(_, id, attempt)| (*id, *attempt)).filter(|claim| !known.contains(claim));
        let (ids, attempts): (Vec<i64>, Vec<i16>) = unknown.unzip();
        if ids.is_empty() {
            continue;
        }
        let (back, locked): (i64, i64) =
            sqlx::query_as(HAND_BACK).bind(token).bind(ids).bind(attempts).fetch_one(&mut *conn).await?;
        drop(exclusive);
        if back > 0 {
            tracing::info!(queue = feed.queue, jobs = back, "handed back jobs whose claim was lost");
            feed.wake();
        }
        if locked > 0 {
            process.reconcile_soon();
        }
    }
    Ok(())
}
