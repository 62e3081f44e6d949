//! Who waits for whose tree to change, in this process.
//!
//! Invariant: a wake-up is a hint and may be lost; once a second one query looks at the heads of all users that are waited for.
//! NOTIFY goes out after the commit, for all users of 10 ms together: inside a transaction it would make commits wait for
//! each other.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{Domain, tree::Cursor};

const CHANNEL: &str = "driftless_heads";
/// Commits of so long share a NOTIFY.
const TOGETHER: Duration = Duration::from_millis(10);
/// Users in one NOTIFY, whose payload is at most 8,000 bytes.
const IN_ONE: usize = 300;
const POLL: Duration = Duration::from_secs(1);

type Heads = Option<Cursor>;

#[derive(Default)]
struct Inner {
    waiting: HashMap<i64, watch::Sender<Heads>>,
    /// Users whose head moved and whose NOTIFY is due.
    moved: BTreeSet<i64>,
    listening: bool,
}

/// The waiting room of a process.
#[derive(Clone, Default)]
pub(crate) struct Hub {
    inner: Arc<Mutex<Inner>>,
    pool: Option<PgPool>,
}

/// Watches one user's head.
pub(crate) struct Watch(watch::Receiver<Heads>);

impl Watch {
    /// Waits until the head is not where `cursor` is.
    pub async fn beyond(&mut self, cursor: Cursor) {
        let moved = |head: &Heads| head.is_some_and(|h| h.epoch != cursor.epoch || h.seq > cursor.seq);
        if self.0.wait_for(moved).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Hub {
    pub fn new(pool: PgPool) -> Self {
        Hub { inner: Arc::default(), pool: Some(pool) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit moved the user's head: wakes those who wait here, and soon those in other processes.
    pub fn moved(&self, user_id: i64, epoch: Uuid, seq: i64) {
        let first = {
            let mut inner = self.lock();
            if let Some(sender) = inner.waiting.get(&user_id) {
                sender.send_replace(Some(Cursor { epoch, seq }));
            }
            inner.moved.insert(user_id) && inner.moved.len() == 1
        };
        if first {
            let hub = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(TOGETHER).await;
                hub.notify().await;
            });
        }
    }

    async fn notify(&self) {
        let Some(pool) = &self.pool else { return };
        let users: Vec<i64> = std::mem::take(&mut self.lock().moved).into_iter().collect();
        for some in users.chunks(IN_ONE) {
            let payload = some.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
            if let Err(error) = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(pool).await
            {
                tracing::debug!(%error, "a wake-up was not sent; the others look each second");
            }
        }
    }

    /// Watches a user's head from now on.
    pub fn watch(&self, domain: &Domain, user_id: i64) -> Watch {
        let mut inner = self.lock();
        if !std::mem::replace(&mut inner.listening, true) {
            tokio::spawn(listen(self.clone(), domain.pool().clone()));
        }
        Watch(inner.waiting.entry(user_id).or_insert_with(|| watch::channel(None).0).subscribe())
    }

    /// Users that somebody waits for.
    fn waited_for(&self) -> Vec<i64> {
        let mut inner = self.lock();
        inner.waiting.retain(|_, sender| sender.receiver_count() > 0);
        inner.waiting.keys().copied().collect()
    }

    /// Reads the heads of these users and wakes who waits for one that moved.
    async fn look(&self, pool: &PgPool, users: &[i64]) -> Result<(), sqlx::Error> {
        if users.is_empty() {
            return Ok(());
        }
        let heads: Vec<(i64, Uuid, i64)> = sqlx::query_as(
            "select h.user_id, h.epoch, h.seq from unnest($1::bigint[]) u(id) join heads h on h.user_id = u.id",
        )
        .bind(users)
        .fetch_all(pool)
        .await?;
        let inner = self.lock();
        for (user, epoch, seq) in heads {
            let head = Some(Cursor { epoch, seq });
            if let Some(sender) = inner.waiting.get(&user) {
                sender.send_if_modified(|old| std::mem::replace(old, head) != head);
            }
        }
        Ok(())
    }
}

/// Listens until the pool closes.
async fn listen(hub: Hub, pool: PgPool) {
    let mut listener = None;
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !pool.is_closed() {
        if listener.is_none() {
            listener = connect(&pool).await.ok();
        }
        let users = tokio::select! {
            _ = tick.tick() => hub.waited_for(),
            told = hear(&mut listener) => {
                let waited_for = hub.waited_for();
                told.into_iter().filter(|u| waited_for.contains(u)).collect()
            }
        };
        if let Err(error) = hub.look(&pool, &users).await {
            tracing::debug!(%error, "the heads could not be read; trying again in a second");
        }
    }
}

async fn connect(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// The users whose heads moved elsewhere. A broken connection is dropped, to be made anew at the next tick.
async fn hear(listener: &mut Option<PgListener>) -> Vec<i64> {
    let Some(open) = listener else { return std::future::pending().await };
    match open.recv().await {
        Ok(told) => told.payload().split(',').filter_map(|u| u.parse().ok()).collect(),
        Err(_) => {
            *listener = None;
            Vec::new()
        }
    }
}
