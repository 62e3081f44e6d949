//! Periodic jobs. A tick of this process's clock is a wake-up only: which tick of a rule is due is told by the database's
//! clock, and of all processes the one that moves `last_tick` on inserts the job.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use apalis_cron::{CronScheduler, Schedule, Tick};
use chrono::{DateTime, Utc};
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
    let (mut ticks, mut known) = (CronScheduler::new(EachMinute).into_stream(), Known::default());
    loop {
        if let Err(e) = tick(&domain, &mut known).await {
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

/// The newest tick of each cron that is known to have been fired, by whomever.
pub type Known = BTreeMap<&'static str, DateTime<Utc>>;

/// Queues the job of each cron whose newest tick nobody has fired; one that is not among the known ones is registered first.
pub async fn tick(domain: &Domain, known: &mut Known) -> Result<(), db::Error> {
    let mut tx = domain.begin_system().await?;
    let now = tx.now().await?;
    let (mut newly, mut any) = (Known::new(), false);
    for cron in crons::all(domain.settings()) {
        let job = NewJob::new(QUEUE, cron.kind, &json!({})).unique_key(cron.kind);
        let last = match known.get(cron.kind) {
            Some(last) => *last,
            None => queue::crons::register(&mut tx, cron.kind, &cron.words(), &job).await?,
        };
        let newest = cron.newest(now);
        if newest > last {
            any |= queue::crons::fire(&mut tx, cron.kind, newest, &job).await?;
        }
        newly.insert(cron.kind, newest.max(last));
    }
    tx.commit().await?;
    *known = newly;
    if any {
        domain.waker().wake(QUEUE);
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
