//! What an operator's monitoring reads: the queue's depth and age, workers, overdue schedules, the health of the tables.
//!
//! Invariant: no ids and no names of users anywhere, so nothing grows with the number of users or files. Numbers of this
//! process come from memory, all others from one short read transaction.

use driftless_queue as queue;
pub use driftless_queue::{BUCKETS, Distribution, KindMetrics};
use sqlx::FromRow;

use crate::{Domain, db};

/// Everything at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Depth and age by queue.
    pub queues: Vec<queue::QueueState>,
    /// Work that wants a worker now or within a minute, by queue.
    pub demand: Vec<queue::Demand>,
    /// What this process did since it started, if it works at all.
    pub process: Option<queue::Metrics>,
    /// Of the whole installation.
    pub totals: Totals,
}

/// Numbers of the whole installation.
#[derive(Debug, FromRow)]
pub struct Totals {
    /// Worker processes whose lease holds.
    pub workers_alive: i64,
    /// Schedules that should have fired more than five seconds ago.
    pub schedules_overdue: i64,
    /// Age of the oldest snapshot that any session holds, in transactions: what keeps dead rows from being removed.
    pub xmin_age_transactions: i64,
    /// Age of the oldest open transaction, in seconds.
    pub oldest_transaction_seconds: f64,
    /// Dead rows in the queue's tables that vacuum has not removed yet.
    pub queue_dead_rows: i64,
    /// Live rows in the queue's tables, as the statistics have it.
    pub queue_live_rows: i64,
}

/// Reads everything.
pub async fn read(domain: &Domain) -> Result<Snapshot, db::Error> {
    let mut tx = domain.begin_system().await?;
    let totals = sqlx::query_as(
        "select (select count(*) from queue.workers where lease_until > now()) as workers_alive,
                (select count(*) from (
                    select from due where next_run_at < queue.now() - interval '5 s' limit 100000) late) as schedules_overdue,
                coalesce((select max(age(backend_xmin)) from pg_stat_activity where backend_xmin is not null), 0)::bigint
                    as xmin_age_transactions,
                coalesce((select extract(epoch from now() - min(xact_start)) from pg_stat_activity), 0)::float8
                    as oldest_transaction_seconds,
                coalesce(sum(n_dead_tup), 0)::bigint as queue_dead_rows,
                coalesce(sum(n_live_tup), 0)::bigint as queue_live_rows
         from pg_stat_user_tables where schemaname = 'queue'",
    )
    .fetch_one(&mut *tx)
    .await?;
    let queues = queue::queues(&mut tx).await?;
    let demand = queue::demand(&mut tx).await?;
    Ok(Snapshot { queues, demand, process: domain.worker().map(queue::Process::metrics), totals })
}
