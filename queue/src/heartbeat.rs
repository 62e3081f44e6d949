//! The lease: each two seconds, on a thread, a runtime and a connection of its own, so that neither handlers that block every
//! thread (for less than a minute) nor a full pool can stop it. Learns with each beat which runs are lost and which somebody cancelled.
//!
//! It does not keep its process: when nothing else holds that any more, as when its runtime has ended, the lease ends too.

use std::{
    sync::{Arc, PoisonError, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::{
    Error, JobId,
    process::Shared,
    run::{Run, Stop},
};

const BEAT: Duration = Duration::from_secs(2);

/// A beat without answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// How soon a failed beat is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A gap longer than this between two beats, and they are not unbroken.
const GAP: Duration = Duration::from_secs(4);

/// Runs younger than this are not asked for: most end before.
const GROWN_UP: Duration = Duration::from_secs(1);

const REGISTER: &str = "
    insert into queue.workers (token, name, host, pid, lease_until) values ($1, $2, $3, $4, now() + interval '8 s')";

const RENEW: &str = "
    with beat as (
        update queue.workers set lease_until = now() + interval '8 s', running = $2, queues = $3 where token = $1 returning 1
    )
    select exists (select from beat),
           coalesce(array_agg(held.id) filter (where job.id is null), '{}'),
           coalesce(array_agg(held.id) filter (where job.cancel_requested), '{}')
    from unnest($4::bigint[], $5::smallint[]) as held(id, attempt)
    left join queue.jobs job on job.id = held.id and job.attempt = held.attempt and job.lease_token = $1";

/// Registers the process and starts its heart.
pub(crate) async fn start(shared: &Arc<Shared>, options: PgConnectOptions) -> Result<(), Error> {
    let mut conn = options.connect().await?;
    register(shared, &mut conn, shared.token()).await?;
    drop(conn);
    let (process, stilled) = (Arc::downgrade(shared), shared.stilled.clone());
    std::thread::Builder::new()
        .name("queue-heartbeat".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs no more than an epoll descriptor");
            runtime.block_on(beat_for_ever(&process, &options));
            stilled.cancel();
        })
        .map_err(sqlx::Error::Io)?;
    Ok(())
}

async fn beat_for_ever(process: &Weak<Shared>, options: &PgConnectOptions) {
    let (mut conn, mut broke) = (None, false);
    while let Some(shared) = process.upgrade() {
        let pause = if shared.moved_ago() > shared.numb_after {
            tracing::error!(worker = shared.name, "handlers block every thread of this process; letting the lease go");
            BEAT
        } else if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, beat(&shared, options, &mut conn, broke)).await {
            note_beat(&shared);
            broke = false;
            BEAT
        } else {
            (conn, broke) = (None, true);
            RETRY
        };
        let closed = shared.closed.clone();
        drop(shared);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closed.cancelled() => return,
        }
    }
}

fn note_beat(shared: &Shared) {
    let now = Instant::now();
    let mut beats = shared.beats.lock().unwrap_or_else(PoisonError::into_inner);
    let first = beats.filter(|(_, last)| now - *last <= GAP).map_or(now, |(first, _)| first);
    *beats = Some((first, now));
}

/// How long the heart has been beating without a gap; nothing while the database does not answer.
pub(crate) fn steady_for(shared: &Shared) -> Duration {
    let beats = shared.beats.lock().unwrap_or_else(PoisonError::into_inner);
    let unbroken = beats.filter(|(_, last)| last.elapsed() <= GAP);
    unbroken.map_or(Duration::ZERO, |(first, last)| last - first)
}

/// `broke`: the last beat failed, and the connection with it.
async fn beat(
    shared: &Arc<Shared>,
    options: &PgConnectOptions,
    conn: &mut Option<PgConnection>,
    broke: bool,
) -> Result<(), sqlx::Error> {
    let conn = match conn {
        Some(conn) => conn,
        None => conn.insert(options.connect().await?),
    };
    if broke {
        // That may be all that is seen of a crash, which may have undone commits nobody waited for.
        shared.reconcile_soon();
    }
    let token = shared.token();
    let runs = grown_up(shared, token);
    let running = shared.feeds().iter().map(|feed| feed.running_count()).sum::<usize>();
    let queues: Vec<String> = shared.feeds().iter().map(|feed| feed.queue.clone()).collect();
    let (alive, lost, cancelled): (bool, Vec<i64>, Vec<i64>) = sqlx::query_as(RENEW)
        .bind(token)
        .bind(i32::try_from(running).unwrap_or(i32::MAX))
        .bind(queues)
        .bind(runs.iter().map(|run| run.claim.id.0).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.claim.attempt).collect::<Vec<_>>())
        .fetch_one(&mut *conn)
        .await?;
    if !alive {
        tracing::warn!(worker = shared.name, "the lease was lost; cancelling all handlers");
        let token = shared.begin_new_life();
        *shared.beats.lock().unwrap_or_else(PoisonError::into_inner) = None;
        register(shared, conn, token).await?;
        return Ok(());
    }
    for run in &runs {
        // After a crash of Postgres the lanes first take back what it has forgotten.
        if lost.contains(&run.claim.id.0) && !shared.disturbed.load(Relaxed) {
            run.take(Stop::LeaseLost);
        } else if cancelled.contains(&run.claim.id.0) {
            run.stop(Stop::Cancelled);
        }
    }
    Ok(())
}

fn grown_up(shared: &Shared, token: Uuid) -> Vec<Arc<Run>> {
    let runs = shared.feeds().into_iter().flat_map(|feed| feed.running());
    runs.filter(|run| run.claim.lease_token == token && run.age() > GROWN_UP).collect()
}

async fn register(shared: &Shared, conn: &mut PgConnection, token: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(REGISTER)
        .bind(token)
        .bind(&shared.name)
        .bind(&shared.host)
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Signs off. Jobs that could not be handed back keep the row, so that others find them when the lease is over.
///
/// The process is closed. A beat that is under way goes first: finding no row, it would take the lease for lost and register anew.
pub(crate) async fn leave(shared: &Shared) -> Result<(), sqlx::Error> {
    let _ = tokio::time::timeout(PATIENCE, shared.stilled.cancelled()).await;
    let held: usize = shared.feeds().iter().map(|feed| feed.known().len()).sum();
    if held > 0 {
        return Ok(());
    }
    sqlx::query("delete from queue.workers where token = $1").bind(shared.token()).execute(&shared.pool).await?;
    Ok(())
}

/// A person cancelled the job: tells its run, if it is here.
pub(crate) fn cancel(shared: &Shared, id: JobId) {
    if let Some(run) = shared.find(id) {
        run.stop(Stop::Cancelled);
    }
}
