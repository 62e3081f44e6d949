//! The Postgres that all sides of a benchmark share.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;

use crate::postgres::{self, Options, PrivatePostgres};

/// Settings of the server beside its defaults, for the report.
pub const SETTINGS: &str =
    "shared_buffers and all else at their defaults, max_wal_size 8GB, autovacuum on, unix socket";

/// A durable throw-away cluster with one database.
pub struct Server {
    pub url: String,
    pub pool: PgPool,
    pub version: String,
    _cluster: PrivatePostgres,
    folder: TempDir,
}

impl Server {
    pub async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("driftless-bench-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let cluster = open(&folder)?;
        let url = cluster.url.clone();
        let mut conn = PgConnection::connect(&url).await?;
        conn.execute("alter system set max_wal_size = '8GB'").await?;
        conn.execute("select pg_reload_conf()").await?;
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut conn).await?;
        conn.execute(include_str!("../../../migrations/0001_queue.sql")).await?;
        conn.execute(include_str!("../../../migrations/0009_claims.sql")).await?;
        conn.execute(include_str!("../../../migrations/0010_cron_runs.sql")).await?;
        let pool = PgPoolOptions::new().max_connections(20).connect(&url).await?;
        Ok(Self { url, pool, version, _cluster: cluster, folder })
    }

    /// Where the cluster lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// For all connections that do not say otherwise.
    pub async fn synchronous_commit(&self, on: bool) -> Result<()> {
        let setting = if on { "on" } else { "off" };
        self.pool.execute(AssertSqlSafe(format!("alter system set synchronous_commit = {setting}"))).await?;
        self.pool.execute("select pg_reload_conf()").await?;
        Ok(())
    }

    /// The URL of another database, which is made when it is missing.
    pub async fn database(&self, name: &'static str) -> Result<String> {
        let there = sqlx::query_scalar("select exists (select from pg_database where datname = $1)").bind(name);
        if !there.fetch_one(&self.pool).await? {
            self.pool.execute(AssertSqlSafe(format!("create database {name}"))).await?;
        }
        let (server, _) = self.url.rsplit_once('/').context("a URL names a database")?;
        Ok(format!("{server}/{name}"))
    }

    /// A pool of new connections, which have the present settings.
    pub async fn fresh_pool(&self, connections: u32) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(connections).min_connections(connections).connect(&self.url).await?)
    }

    /// Nobody's leftovers weigh on the next: tables are empty and what is dirty is written.
    pub async fn clear(&self) -> Result<()> {
        self.pool.execute("truncate queue.jobs, queue.finished, queue.dead_jobs, queue.stats, queue.workers").await?;
        self.pool.execute("checkpoint").await?;
        Ok(())
    }
}

fn open(folder: &TempDir) -> Result<PrivatePostgres> {
    let search = [postgres::npm_binaries(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")))];
    let data_dir = folder.path().join("data");
    postgres::open(&Options { data_dir: &data_dir, bin: None, search: &search, throw_away: false })
}
