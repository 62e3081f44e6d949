//! queue-pickup: one urgent job behind a million that wait and beside a million that are far ahead. It starts within 50 ms.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use driftless_queue::{Context, JobError, NewJob, Process, Registry, Serve, Waker, Workers, enqueue};
use sqlx::Executor;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    report::{Report, Side},
    server::Server,
};

/// Handlers at once, each busy for [`WORK`]: the worker has its hands full.
const CONCURRENCY: usize = 8;
const WORK: Duration = Duration::from_millis(20);
const URGENT: i16 = 100;
/// Urgent jobs a round.
const TRIES: u64 = 200;

const CROWD: &str = "
    insert into queue.jobs (queue, kind, payload, priority)
        select 'bench', 'slow', '{}', -1 from generate_series(1, 1000000);
    insert into queue.jobs (queue, kind, payload, priority, ready, run_at)
        select 'bench', 'slow', '{}', 50, false, now() + interval '1 day' from generate_series(1, 1000000)";

pub async fn bench(rounds: usize) -> Result<()> {
    let server = Server::start().await?;
    server.pool.execute(CROWD).await?;
    server.pool.execute("analyze queue.jobs").await?;
    // What filling has left to write weighs on nobody's commit.
    server.pool.execute("checkpoint").await?;
    let pool = server.fresh_pool(4).await?;
    let (began, noted): (Arc<Mutex<Option<Instant>>>, Arc<Notify>) = <_>::default();
    let (seen, note) = (began.clone(), noted.clone());
    let registry = Registry::new()
        .kind("slow", |_: Context, _: serde_json::Value| async {
            tokio::time::sleep(WORK).await;
            Ok::<(), JobError>(())
        })
        .kind("urgent", move |_: Context, (): ()| {
            *seen.lock().expect("no handler panics") = Some(Instant::now());
            note.notify_one();
            async { Ok::<(), JobError>(()) }
        });
    let process = Process::start(&pool).await?;
    let stop = CancellationToken::new();
    let run = tokio::spawn(Workers::new(&process).serve(Serve::new("bench", CONCURRENCY), &registry).run(stop.clone()));
    let waker = Waker::new(pool.clone());
    let [mut median, mut longest, mut after_commit] = [(); 3].map(|()| Side::new("driftless"));
    for _ in 0..rounds {
        let (mut took, mut waited) = (Vec::new(), 0.0_f64);
        for number in 0..TRIES {
            // At each phase of the handlers, which keep step with each other.
            tokio::time::sleep(Duration::from_millis(50 + number * 7 % 20)).await;
            let asked = Instant::now();
            let mut conn = pool.acquire().await?;
            enqueue(&mut conn, &NewJob::new("bench", "urgent", &()).priority(URGENT)).await?;
            let committed = Instant::now();
            waker.wake("bench");
            noted.notified().await;
            let began = began.lock().expect("no handler panics").take().unwrap_or_else(Instant::now);
            took.push((began - asked).as_secs_f64() * 1e3);
            waited = waited.max(began.saturating_duration_since(committed).as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        median.values.push(took[took.len() / 2]);
        longest.values.push(took[took.len() - 1]);
        after_commit.values.push(waited);
    }
    stop.cancel();
    run.await?;
    let mut report = Report::new("queue-pickup");
    report.sides("p50", "ms", &[&median]);
    report.sides("longest of 200", "ms", &[&longest]);
    report.sides("longest of 200, from the end of the commit", "ms", &[&after_commit]);
    report.hold("p50", "ms", &median, 50.0);
    report.hold("longest of 200", "ms", &longest, 50.0);
    let settings = format!(
        "From the call that enqueues a job of priority {URGENT} (and waits for its commit to be on the disk) until its handler runs, beside a million waiting jobs of priority -1 and a \
         million of priority 50 a day ahead; {CONCURRENCY} handlers that are all busy with jobs of {} ms.",
        WORK.as_millis()
    );
    report.write(&server, rounds, &settings)
}
