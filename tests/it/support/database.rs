//! A database for each test, copied from a template that is migrated once.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use chrono::Utc;
use driftless_domain::db;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// A database of this test's own; [`Database::drop_now`] removes it.
pub struct Database {
    pub name: String,
    pub url: String,
}

fn server() -> String {
    std::env::var("DRIFTLESS_TEST_DATABASE_URL")
        .expect("DRIFTLESS_TEST_DATABASE_URL must name a Postgres whose login may create databases; `cargo xtask test` starts one")
}

/// The server's URL with another database in it.
fn with_database(name: &str) -> String {
    let url = server();
    let (base, query) = url.split_once('?').map_or((url.as_str(), None), |(b, q)| (b, Some(q)));
    let slash = base.rfind('/').expect("a database URL has a path");
    query.map_or_else(|| format!("{}/{name}", &base[..slash]), |q| format!("{}/{name}?{q}", &base[..slash]))
}

async fn admin() -> PgConnection {
    PgConnection::connect(&server()).await.expect("the test database server must answer")
}

/// The template's name says which migrations it holds, so that two versions of the code can share a server.
fn template_name() -> String {
    let mut hash = DefaultHasher::new();
    for entry in walk(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")) {
        entry.hash(&mut hash);
    }
    format!("driftless_template_{:016x}", hash.finish())
}

fn walk(folder: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "sql"))
        .map(|p| (p.display().to_string(), std::fs::read_to_string(&p).unwrap()))
        .collect();
    files.sort();
    files
}

async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let name = template_name();
            let mut conn = admin().await;
            conn.execute("select pg_advisory_lock(7266438)").await.unwrap();
            let known: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
                .bind(&name)
                .fetch_one(&mut conn)
                .await
                .unwrap();
            if !known {
                let draft = format!("{name}_draft");
                conn.execute(AssertSqlSafe(format!("drop database if exists {draft} with (force)"))).await.unwrap();
                conn.execute(AssertSqlSafe(format!("create database {draft}"))).await.unwrap();
                let pool = PgPool::connect(&with_database(&draft)).await.unwrap();
                db::migrate(&pool).await.unwrap();
                pool.close().await;
                conn.execute(AssertSqlSafe(format!("alter database {draft} rename to {name}"))).await.unwrap();
            }
            conn.execute("select pg_advisory_unlock(7266438)").await.unwrap();
            name
        })
        .await
}

impl Database {
    pub async fn create() -> Self {
        let template = template().await;
        let name = format!("driftless_test_{}", Uuid::now_v7().simple());
        let mut conn = admin().await;
        // Copying a template fails while another copy reads it in some versions, so this is repeated within a bound.
        for attempt in 0.. {
            match conn.execute(AssertSqlSafe(format!("create database {name} template {template}"))).await {
                Ok(_) => break,
                Err(e) if attempt < 50 && e.to_string().contains("being accessed") => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(e) => panic!("a test's database could not be made: {e}"),
            }
        }
        let url = with_database(&name);
        Database { name, url }
    }

    /// Moves the clock of this database: `queue.now()` is `by` ahead of the real time from now on, in every process.
    /// Sessions take the setting in when they connect, so those that are open are ended; pools connect anew. One that is just
    /// connecting may have read the old setting and not show yet: it holds a lock on the database meanwhile.
    pub async fn move_clock(&self, by: &str) {
        let mut conn = admin().await;
        let set = format!("alter database {} set driftless.clock_offset = '{by}'", self.name);
        conn.execute(AssertSqlSafe(set)).await.unwrap();
        let connecting = "select exists (select from pg_locks l join pg_database d on d.oid = l.objid
             where l.locktype = 'object' and l.classid = 'pg_database'::regclass and l.mode = 'RowExclusiveLock' and d.datname = $1)";
        while sqlx::query_scalar(connecting).bind(&self.name).fetch_one(&mut conn).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.end_sessions().await;
    }

    /// Ends all sessions, and returns when they have ended: then the statistics hold all that they have counted.
    pub async fn end_sessions(&self) {
        sqlx::query("select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = $1")
            .bind(&self.name)
            .execute(&mut admin().await)
            .await
            .unwrap();
    }

    /// Moves the clock to the next noon, far from where dates change and from what is due at night; answers the seconds ahead.
    pub async fn move_clock_to_noon(&self) -> i64 {
        let now = Utc::now();
        let noon = now.date_naive().succ_opt().unwrap().and_hms_opt(12, 0, 0).unwrap().and_utc();
        let ahead = (noon - now).num_seconds();
        self.move_clock(&format!("{ahead} seconds")).await;
        ahead
    }

    pub async fn drop_now(&self) {
        let (drop, mut conn) = (format!("drop database if exists {} with (force)", self.name), admin().await);
        // Postgres gives up when a session that it has told to end is still there after five seconds.
        for attempt in 0.. {
            match conn.execute(AssertSqlSafe(drop.clone())).await {
                Err(e) if attempt < 10 && e.to_string().contains("being accessed") => {}
                outcome => {
                    outcome.unwrap();
                    break;
                }
            }
        }
    }
}
