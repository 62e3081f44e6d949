//! What an operator's monitoring reads: the queue's depth and age, workers, overdue schedules, the health of the tables.
//!
//! Invariant: no ids and no names of users anywhere, so nothing grows with the number of users or files. Numbers of this
//! process come from memory, all others from one short read transaction.

use std::collections::{BTreeMap, btree_map::Entry};

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
    pub demand: Vec<Demand>,
    /// What this process did since it started, if it works at all.
    pub process: Option<queue::Metrics>,
    /// Of the whole installation.
    pub totals: Totals,
}

/// Work that wants a worker.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Demand {
    /// The queue.
    pub queue: String,
    /// Running jobs, those due now or within a minute, and schedules that fire within a minute.
    pub jobs: i64,
}

/// Numbers of the whole installation.
#[derive(Debug, FromRow)]
pub struct Totals {
    /// Worker processes whose lease holds.
    pub workers_alive: i64,
    /// Schedules that should have fired more than five seconds ago.
    pub schedules_overdue: i64,
    /// Age of the oldest snapshot that any session, prepared transaction or replica holds, in transactions: what keeps dead rows from being removed.
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
                coalesce((select max(age(held.xmin)) from (
                    select backend_xmin from pg_stat_activity union all select transaction from pg_prepared_xacts
                    union all select xmin from pg_replication_slots) held(xmin) where held.xmin is not null), 0)::bigint
                    as xmin_age_transactions,
                coalesce((select extract(epoch from now() - min(xact_start)) from pg_stat_activity), 0)::float8
                    as oldest_transaction_seconds,
                coalesce(sum(n_dead_tup), 0)::bigint as queue_dead_rows,
                coalesce(sum(n_live_tup), 0)::bigint as queue_live_rows
         from pg_stat_user_tables where schemaname = 'queue'",
    )
    .fetch_one(&mut *tx)
    .await?;
    let queues = add_up(queue::queues(&mut tx).await?, |q| (class(&mut q.queue), String::new()), add_queue);
    let demand = sqlx::query_as("select queue, jobs from demand").fetch_all(&mut *tx).await?;
    let demand = add_up(demand, |d: &mut Demand| (class(&mut d.queue), String::new()), |sum, d| sum.jobs += d.jobs);
    let process = domain.worker().map(queue::Process::metrics).map(|mut process| {
        process.kinds = add_up(process.kinds, |k| (class(&mut k.queue), k.kind.clone()), add_kind);
        process
    });
    Ok(Snapshot { queues, demand, process, totals })
}

/// Cuts a queue's name down to what may be a label: `folder:<id>`, of which each root has one, is `folder`.
fn class(queue: &mut String) -> String {
    queue.truncate(queue.find(':').unwrap_or(queue.len()));
    queue.clone()
}

/// One for each key, in its order.
fn add_up<T>(parts: Vec<T>, key: impl Fn(&mut T) -> (String, String), add: impl Fn(&mut T, T)) -> Vec<T> {
    let mut sums = BTreeMap::new();
    for mut part in parts {
        match sums.entry(key(&mut part)) {
            Entry::Vacant(free) => drop(free.insert(part)),
            Entry::Occupied(mut sum) => add(sum.get_mut(), part),
        }
    }
    sums.into_values().collect()
}

fn add_queue(sum: &mut queue::QueueState, part: queue::QueueState) {
    sum.ready += part.ready;
    sum.scheduled += part.scheduled;
    sum.running += part.running;
    sum.dead += part.dead;
    sum.oldest_ready_seconds = sum.oldest_ready_seconds.max(part.oldest_ready_seconds);
}

fn add_kind(sum: &mut KindMetrics, part: KindMetrics) {
    sum.done += part.done;
    sum.failed += part.failed;
    sum.dead += part.dead;
    add_times(&mut sum.run, &part.run);
    add_times(&mut sum.pickup, &part.pickup);
}

fn add_times(sum: &mut Distribution, part: &Distribution) {
    sum.sum_seconds += part.sum_seconds;
    for (count, more) in sum.counts.iter_mut().zip(&part.counts) {
        *count += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_single_roots_are_added_up_so_that_no_id_becomes_a_label() {
        let times = |counts: [u64; 2]| Distribution { counts: counts.to_vec(), sum_seconds: 1.5 };
        let kind = |queue: &str, done| KindMetrics {
            queue: queue.into(),
            kind: "run_sync".into(),
            done,
            failed: 1,
            dead: 0,
            run: times([done, 0]),
            pickup: times([0, done]),
        };
        let parts = vec![kind("sync", 5), kind("folder:a", 1), kind("folder:b", 2)];
        let sums = add_up(parts, |k| (class(&mut k.queue), k.kind.clone()), add_kind);
        let folder =
            KindMetrics { failed: 2, run: Distribution { counts: vec![3, 0], sum_seconds: 3.0 }, ..kind("folder", 3) };
        let folder = KindMetrics { pickup: Distribution { counts: vec![0, 3], sum_seconds: 3.0 }, ..folder };
        assert_eq!(sums, [folder, kind("sync", 5)]);
    }
}
