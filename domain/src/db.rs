//! The database: connecting, migrating, and the only two ways to a transaction.
//!
//! Invariant: a user's transaction ([`Domain::begin`]) runs as the role `driftless_app` with the user's id set, so row
//! level security binds until it ends; the tables' owner ([`Domain::begin_system`]) serves what no user asks for:
//! sign-in, the dispatcher, sweeps. Left out: any table of a noun.

use std::{
    collections::BTreeSet,
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use driftless_queue::{JobId, NewJob, Process, Waker};
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use crate::{
    Actor,
    bandwidth::Meter,
    commit::Writers,
    config::Settings,
    error::{Fault, Kind},
    feed::Hub,
    lookout::Lookout,
    sessions,
    store::Store,
    transfers::Transfers,
    uploads::CatchingUp,
};

/// A failure of the database itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be reached, is shutting down, or had no connection free in time.
    #[error("the database can't be reached just now")]
    Unreachable(#[source] sqlx::Error),
    /// Another transaction was in the way; the same request may succeed when repeated.
    #[error("another change was in the way")]
    Contended(#[source] sqlx::Error),
    /// A text holds a null character, which Postgres does not take. Whoever sent it is at fault, whatever the field.
    #[error("a text must not hold a null character")]
    NullCharacter(#[source] sqlx::Error),
    /// A statement failed that should not.
    #[error("a database statement failed")]
    Statement(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The role that users' transactions run as is missing and could not be made.
    #[error(
        "the role driftless_app is missing and this login may not make it: run `create role driftless_app nologin; grant driftless_app to <login>` as a superuser"
    )]
    Role(#[source] sqlx::Error),
    /// The queue refused: the job belongs to another run by now.
    #[error("the queue refused")]
    Queue(#[source] driftless_queue::Error),
}

/// Lets `?` after a query make a module's error of it: `from_sqlx!(Error::Database);`
macro_rules! from_sqlx {
    ($error:ident::$variant:ident) => {
        impl From<sqlx::Error> for $error {
            fn from(cause: sqlx::Error) -> Self {
                $error::$variant(cause.into())
            }
        }
    };
}
pub(crate) use from_sqlx;

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Self {
        use sqlx::Error as E;
        let class = match &cause {
            E::Database(e) => e.code().unwrap_or_default().into_owned(),
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                return Error::Unreachable(cause);
            }
            _ => String::new(),
        };
        match class.as_str() {
            // serialization_failure, deadlock_detected, lock_not_available; foreign_key_violation: what was there is just being removed
            "40001" | "40P01" | "55P03" | "23503" => Error::Contended(cause),
            // character_not_in_repertoire, untranslatable_character: our connections speak UTF-8 only
            "22021" | "22P05" => Error::NullCharacter(cause),
            // connection exceptions, shutting down, starting up, too many connections
            c if c.starts_with("08") || c.starts_with("57P") || c.starts_with("53") => Error::Unreachable(cause),
            _ => Error::Statement(cause),
        }
    }
}

impl From<driftless_queue::Error> for Error {
    fn from(cause: driftless_queue::Error) -> Self {
        match cause {
            driftless_queue::Error::Database(cause) => cause.into(),
            lost => Error::Queue(lost),
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Unreachable(_) | Error::Contended(_) => Kind::Unavailable,
            Error::NullCharacter(_) => Kind::Invalid,
            _ => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Unreachable(_) => "database.unreachable",
            Error::Contended(_) => "database.contended",
            Error::NullCharacter(_) => "text.null_character",
            _ => "internal",
        }
    }

    fn retry_after(&self) -> Option<u64> {
        (self.kind() == Kind::Unavailable).then_some(1)
    }
}

/// Whether this says that the database is away, starting, or out of room just now: what a later try may find mended.
pub fn is_away(cause: &(dyn std::error::Error + 'static)) -> bool {
    let code = match cause.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(e)) => e.code().unwrap_or_default().into_owned(),
        Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed) => return true,
        _ => return false,
    };
    ["08", "57P", "53"].iter().any(|class| code.starts_with(class))
}

/// The name of the constraint that a statement ran into, if that is why it failed.
pub fn constraint(e: &sqlx::Error) -> Option<&str> {
    e.as_database_error().and_then(|e| e.constraint())
}

/// Options for every connection of ours. The planner settings are not taste: see the planner traps in docs/storage.md.
pub fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(url)?.application_name("driftless").options([
        ("plan_cache_mode", "force_generic_plan"),
        ("jit", "off"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("lock_timeout", "20s"),
        ("TimeZone", "UTC"),
    ]))
}

/// How long a database may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Opens a pool of at most `connections`, waiting up to 30 s for the database to answer.
pub async fn connect(url: &str, connections: u32) -> Result<PgPool, Error> {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ANSWERS_WITHIN)
        .connect_lazy_with(options(url)?);
    let (mut pause, begun) = (Duration::from_millis(100), Instant::now());
    loop {
        match sqlx::query("select 1").execute(&pool).await {
            Ok(_) => return Ok(pool),
            Err(e) if begun.elapsed() < ANSWERS_WITHIN && matches!(Error::from_ref(&e), Kind::Unavailable) => {
                tokio::time::sleep(pause).await
            }
            Err(e) => return Err(e.into()),
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

impl Error {
    fn from_ref(e: &sqlx::Error) -> Kind {
        match e {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => Kind::Unavailable,
            sqlx::Error::Database(d) if d.code().is_some_and(|c| c.starts_with("57P")) => Kind::Unavailable,
            _ => Kind::Internal,
        }
    }
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Makes the role that users' transactions run as, then brings the schema up to date. Safe to run from many processes.
pub async fn migrate(pool: &PgPool) -> Result<(), Error> {
    let mut conn = pool.acquire().await?;
    make_role(&mut conn).await.map_err(Error::Role)?;
    MIGRATIONS.run(&mut *conn).await.map_err(Error::Migrate)
}

/// Whether all migrations of this binary have run.
pub async fn is_migrated(pool: &PgPool) -> bool {
    let last = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    sqlx::query_scalar::<_, bool>("select exists (select from _sqlx_migrations where version = $1 and success)")
        .bind(last)
        .fetch_one(pool)
        .await
        .unwrap_or(false)
}

// Roles belong to the whole cluster: two databases may make it at once, so losing that race is as good as winning it.
async fn make_role(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "do $$ begin
           if not exists (select from pg_roles where rolname = 'driftless_app') then
             create role driftless_app nologin;
           end if;
         exception when duplicate_object or unique_violation then null; end $$;
         do $$ begin
           if not pg_has_role(current_user, 'driftless_app', 'member') then
             if current_setting('server_version_num')::int >= 160000 then
               execute format('grant driftless_app to %I with set true', current_user);
             else
               execute format('grant driftless_app to %I', current_user);
             end if;
           end if;
         exception when unique_violation then null; end $$;",
    )
    .execute(conn)
    .await
    .map(|_| ())
}

/// The server's rules with all that they need: database, settings, and the parts that live in this process.
/// Cheap to clone.
#[derive(Clone)]
pub struct Domain(Arc<Parts>);

struct Parts {
    pool: PgPool,
    waker: Waker,
    settings: Settings,
    worker: Option<Process>,
    unleased: Uuid,
    sessions: sessions::Cache,
    meter: Meter,
    store: Store,
    writers: Writers,
    catching_up: CatchingUp,
    transfers: Transfers,
    hub: Hub,
    lookout: Lookout,
}

impl Domain {
    /// Puts the parts together. `worker` is this process's lease in the queue, by which others see that it lives; a command
    /// that only changes rows and ends goes without.
    pub fn new(pool: PgPool, settings: Settings, worker: Option<Process>) -> Self {
        let waker = Waker::new(pool.clone());
        let meter = Meter::new(pool.clone(), settings.zone);
        let (store, hub) = (Store::new(&settings), Hub::new(pool.clone()));
        let (sessions, unleased) = (sessions::Cache::default(), Uuid::now_v7());
        let (writers, catching_up, lookout) = (Writers::default(), CatchingUp::default(), Lookout::default());
        Domain(Arc::new(Parts {
            pool,
            waker,
            settings,
            worker,
            unleased,
            sessions,
            meter,
            store,
            writers,
            catching_up,
            transfers: Transfers::default(),
            hub,
            lookout,
        }))
    }

    /// The settings that this process was started with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The pool, for what needs a connection of its own (the queue's process, listeners).
    pub fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// Where the bytes of files are.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn writers(&self) -> &Writers {
        &self.0.writers
    }

    pub(crate) fn catching_up(&self) -> &CatchingUp {
        &self.0.catching_up
    }

    pub(crate) fn transfers(&self) -> &Transfers {
        &self.0.transfers
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.0.hub
    }

    pub(crate) fn lookout(&self) -> &Lookout {
        &self.0.lookout
    }

    /// The token of this process's lease; of a process without one, a token that nobody finds alive.
    pub fn process(&self) -> Uuid {
        self.0.worker.as_ref().map_or(self.0.unleased, Process::token)
    }

    /// This process as a worker of the queue, if it is one.
    pub fn worker(&self) -> Option<&Process> {
        self.0.worker.as_ref()
    }

    /// Wakes the queues' workers after a commit that did not come through [`Tx::commit`].
    pub fn waker(&self) -> &Waker {
        &self.0.waker
    }

    /// What every door passes its streams of bytes through, so that users' bandwidth limits hold.
    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    pub(crate) fn sessions(&self) -> &sessions::Cache {
        &self.0.sessions
    }

    /// A transaction as `actor`: row level security shows and takes only his rows.
    pub async fn begin(&self, actor: &Actor) -> Result<Tx, Error> {
        // One round trip. Should the second statement fail, the transaction is broken and no later statement runs in it.
        let user = actor.user_id;
        let begin = format!(
            "begin; select set_config('role', 'driftless_app', true), set_config('driftless.user_id', '{user}', true)"
        );
        self.begin_with(begin).await
    }

    /// A transaction as the tables' owner, which sees every user's rows.
    pub async fn begin_system(&self) -> Result<Tx, Error> {
        self.begin_with("begin".into()).await
    }

    /// In a task of its own, which nobody can give up half-way: sqlx would hand the connection on with the transaction open, and
    /// the next one would work in it, unseen and as somebody else.
    async fn begin_with(&self, statement: String) -> Result<Tx, Error> {
        let pool = self.0.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(statement)).await });
        let inner = begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))?;
        let (waker, lookout) = (self.0.waker.clone(), self.0.lookout.clone());
        Ok(Tx { inner, waker, wakes: BTreeSet::new(), lookout, recorded: false, now: None })
    }
}

/// An open transaction. Dropped without [`Tx::commit`] it is rolled back.
pub struct Tx {
    inner: Transaction<'static, Postgres>,
    waker: Waker,
    wakes: BTreeSet<String>,
    lookout: Lookout,
    recorded: bool,
    now: Option<DateTime<Utc>>,
}

impl Tx {
    /// The time of this transaction, from the one clock that all processes share.
    pub async fn now(&mut self) -> Result<DateTime<Utc>, Error> {
        if let Some(now) = self.now {
            return Ok(now);
        }
        let now = sqlx::query_scalar("select queue.now()").fetch_one(&mut **self).await?;
        Ok(*self.now.insert(now))
    }

    /// Queues `job` in this transaction; workers are woken after the commit. `None` when an equal unique key waits.
    pub async fn enqueue(&mut self, job: &NewJob) -> Result<Option<JobId>, Error> {
        let id = driftless_queue::enqueue(self, job).await?;
        self.wakes.insert(job.queue.clone());
        Ok(id)
    }

    /// Queues many jobs in one statement; answers how many had no waiting equal.
    pub async fn enqueue_batch(&mut self, jobs: &[NewJob]) -> Result<u64, Error> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let made = driftless_queue::enqueue_batch(self, jobs).await?;
        self.wakes.extend(jobs.iter().map(|j| j.queue.clone()));
        Ok(made)
    }

    /// Something was recorded in the audit, which is to be sealed after the commit.
    pub(crate) fn note_recorded(&mut self) {
        self.recorded = true;
    }

    /// Commits, then wakes the workers of the queues that got jobs, and this process's sealer.
    pub async fn commit(self) -> Result<(), Error> {
        self.inner.commit().await?;
        if self.recorded {
            self.lookout.recorded();
        }
        for queue in &self.wakes {
            self.waker.wake(queue);
        }
        Ok(())
    }
}

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}
