//! Periodic jobs. A tick of this process's clock is a wake-up only: which tick of a rule is due is told by the database's
//! clock, and of all processes the one that moves `last_tick` on inserts the job.

use std::time::{SystemTime, UNIX_EPOCH};

use apalis_cron::{CronScheduler, Schedule, Tick};
use driftless_domain::{
    Domain,
    crons::{self, QUEUE},
    db,
};
use driftless_queue::{self as queue, NewJob};
use futures::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Ticks until `stop`. What was missed while nobody ran is caught up once at the start.
pub async fn run(domain: Domain, stop: CancellationToken) {
    let mut ticks = CronScheduler::new(EachMinute).into_stream();
    loop {
        if let Err(e) = tick(&domain).await {
            tracing::warn!(
                error = &e as &dyn std::error::Error,
                "periodic jobs could not be queued; trying again in a minute"
            );
        }
        tokio::select! {
            () = stop.cancelled() => return,
            next = ticks.next() => if !matches!(next, Some(Ok(_))) {
                // A tick that passed while nobody looked (a suspended machine) would come up as this error for ever.
                ticks = CronScheduler::new(EachMinute).into_stream();
            }
        }
    }
}

/// Queues the job of each cron whose newest tick nobody has fired.
pub async fn tick(domain: &Domain) -> Result<(), db::Error> {
    for cron in crons::all(domain.settings()) {
        let mut tx = domain.begin_system().await?;
        let now = tx.now().await?;
        let job = NewJob::new(QUEUE, cron.kind, &json!({})).unique_key(cron.kind);
        let last = queue::crons::register(&mut tx, cron.kind, &cron.words, &job).await?;
        let newest = cron.newest(now);
        let fired = newest > last && queue::crons::fire(&mut tx, cron.kind, newest, &job).await?;
        tx.commit().await?;
        if fired {
            domain.waker().wake(QUEUE);
        }
    }
    Ok(())
}

/// Wakes at each full minute of this machine's clock.
struct EachMinute;

impl Schedule<apalis_cron::timezone::Utc> for EachMinute {
    fn next_tick(&mut self, _: &apalis_cron::timezone::Utc) -> Option<Tick<apalis_cron::timezone::Utc>> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(Tick::new((seconds / 60 + 1) * 60))
    }
}
