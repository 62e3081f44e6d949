//! `cargo xtask bench dispatch`: 1,000,000 schedules of which 100,000 are due at one minute, fired by the dispatcher as shipped,
//! with one process and with four; beside APScheduler, whose figure is what it fires a second.
//!
//! Invariant: a round in which a schedule did not fire exactly once makes the bench fail. One throw-away durable cluster, rounds in
//! turn, medians.

#![allow(clippy::print_stdout)]

#[path = "../../../src/postgres/mod.rs"]
mod postgres;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use driftless_domain::{Domain, config::Settings, db, dispatch};
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tempfile::TempDir;

/// Every tenth schedule is due.
const SHARE: usize = 10;

struct Bench {
    folder: TempDir,
    url: String,
    pool: PgPool,
    schedules: usize,
    _cluster: postgres::PrivatePostgres,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = option(&arguments, "--rounds")?.unwrap_or(3);
    let bench = Bench::start(option(&arguments, "--schedules")?.unwrap_or(1_000_000)).await?;
    let peer_jobs = option(&arguments, "--peer-jobs")?.unwrap_or(2000);
    let python = install_peer(bench.folder.path())?;
    bench.fill().await?;
    let (mut one, mut four, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        one.push(bench.fire(1).await?);
        four.push(bench.fire(4).await?);
        peer.push(bench.peer(&python, peer_jobs)?);
        println!(
            "round {round}: one process {:.2} s, four {:.2} s, APScheduler {:.0}/s",
            last(&one),
            last(&four),
            last(&peer)
        );
    }
    bench.report(rounds, &one, &four, &peer, peer_jobs).await
}

fn option(arguments: &[String], name: &str) -> Result<Option<usize>> {
    let Some(at) = arguments.iter().position(|a| a == name) else { return Ok(None) };
    let Some(value) = arguments.get(at + 1) else { bail!("{name} needs a number") };
    Ok(Some(value.parse()?))
}

fn last(values: &[f64]) -> f64 {
    values.last().copied().unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A virtual environment with the peer; answers its Python.
fn install_peer(folder: &Path) -> Result<PathBuf> {
    let home = folder.join("peer");
    let python = home.join("bin/python");
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/requirements.txt");
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        requirements,
    ]))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

impl Bench {
    async fn start(schedules: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("driftless-bench-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let data_dir = folder.path().join("data");
        let search = [postgres::npm_binaries(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")))];
        let options = postgres::Options { data_dir: &data_dir, bin: None, search: &search, throw_away: false };
        let cluster = postgres::open(&options)?;
        let url = cluster.url.clone();
        let pool = db::connect(&url, 5).await?;
        pool.execute("alter system set max_wal_size = '8GB'").await?;
        pool.execute("select pg_reload_conf()").await?;
        db::migrate(&pool).await?;
        Ok(Self { folder, url, pool, schedules, _cluster: cluster })
    }

    /// A thousand users, a device for each schedule, and every tenth schedule due at the minute that has just begun.
    async fn fill(&self) -> Result<()> {
        let fill = format!(
            "insert into users (name, password_hash) select 'user' || n, '-' from generate_series(1, 1000) n;
             insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
                 select u.id, 'd' || n, 'd' || n, 'client', h.epoch from generate_series(1, {0}) n
                 join users u on u.name = 'user' || (1 + n % 1000) join heads h on h.user_id = u.id;
             insert into schedules (user_id, device_id, schedule_type, time_of_day, timezone)
                 select user_id, id, 'daily', to_char(date_trunc('minute', now()) at time zone 'UTC', 'HH24:MI'), 'UTC' from devices;
             insert into due (schedule_id, user_id, next_run_at)
                 select id, user_id, date_trunc('minute', now()) + case when id % {SHARE} = 0 then interval '0' else interval '1 day' end
                 from schedules;",
            self.schedules
        );
        self.pool.execute(AssertSqlSafe(fill)).await?;
        self.pool.execute("vacuum analyze").await?;
        Ok(())
    }

    /// Seconds that this many processes take to fire all that is due.
    async fn fire(&self, processes: usize) -> Result<f64> {
        self.pool
            .execute(
                "truncate runs, held_deletions, queue.jobs;
                 update due set next_run_at = next_run_at - interval '1 day'
                     where schedule_id % 10 = 0 and next_run_at > (select min(next_run_at) from due where schedule_id % 10 = 1) - interval '1 h';",
            )
            .await?;
        self.pool.execute("vacuum due").await?;
        self.pool.execute("checkpoint").await?;
        let mut domains = Vec::new();
        for _ in 0..processes {
            let pool = db::connect(&self.url, 2).await?;
            pool.execute("select 1").await?;
            domains.push(Domain::new(pool, settings(self.folder.path())?, None));
        }
        let begin = Instant::now();
        let tasks: Vec<_> = domains.into_iter().map(|domain| tokio::spawn(drain(domain))).collect();
        let mut fired = 0;
        for task in tasks {
            fired += task.await??;
        }
        let took = begin.elapsed().as_secs_f64();
        let counts: (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from runs), (select count(distinct schedule_id) from runs), (select count(*) from queue.jobs)",
        )
        .fetch_one(&self.pool)
        .await?;
        let due = i64::try_from(self.schedules / SHARE)?;
        ensure!(
            counts == (due, due, due) && fired == self.schedules / SHARE,
            "fired {fired}, runs and jobs {counts:?} of {due}"
        );
        Ok(took)
    }

    fn peer(&self, python: &Path, jobs: usize) -> Result<f64> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
        let mut command = Command::new(python);
        command.arg("apscheduler_daily.py").arg(jobs.to_string()).current_dir(folder);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PEER_DATABASE_URL", sqlalchemy(&self.url)?);
        Ok(run(&mut command)?.parse()?)
    }

    async fn report(&self, rounds: usize, one: &[f64], four: &[f64], peer: &[f64], peer_jobs: usize) -> Result<()> {
        let due = (self.schedules / SHARE) as f64;
        let (seconds, rate, theirs) = (median(one), due / median(one), median(peer));
        let met = |met: bool| if met { "met" } else { "short" };
        let lines = [
            format!(
                "dispatch: ours {rate:.0} schedules/s, peer APScheduler {theirs:.0} schedules/s, ratio {:.1}, goal >= 1 x, {}",
                rate / theirs,
                met(rate >= theirs)
            ),
            format!(
                "dispatch {due:.0} due, one process: ours {seconds:.2} s, peer APScheduler {:.0} s at its rate, ratio {:.4}, goal <= 4 s, {}",
                due / theirs,
                seconds / (due / theirs),
                met(seconds <= 4.0)
            ),
            format!(
                "dispatch {due:.0} due, four processes: ours {:.2} s, peer one process {seconds:.2} s, ratio {:.2}, goal each exactly once, met",
                median(four),
                median(four) / seconds
            ),
        ];
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&self.pool).await?;
        let spread = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            format!("{least:.2} to {most:.2}")
        };
        let text = format!(
            "# dispatch\n\n```\n{}\n```\n\n{rounds} rounds in turn, medians; least to most: one process {} s, four {} s, APScheduler {} /s.\n\n\
             {} cores, Postgres {version}, durable (fsync, synchronous_commit on), max_wal_size 8GB, all else at its defaults, unix socket. \
             {} schedules of 1,000 users, a device each. Ours: `dispatch::fire` as shipped, {} schedules a transaction, with the run's row, \
             its job and the schedule's next instant. APScheduler 3.11.1 with SQLAlchemy 2.0.44 and psycopg2 2.9.11: {peer_jobs} daily jobs \
             due at once, 20 threads, jobs that do nothing.\n",
            lines.join("\n"),
            spread(one),
            spread(four),
            spread(peer),
            std::thread::available_parallelism()?,
            self.schedules,
            dispatch::BATCH,
        );
        println!("{}", lines.join("\n"));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../results");
        fs::create_dir_all(folder)?;
        Ok(fs::write(format!("{folder}/dispatch.md"), text)?)
    }
}

/// The cluster's address as SQLAlchemy reads it: a socket's folder is no host but a parameter.
fn sqlalchemy(url: &str) -> Result<String> {
    let parts = url.strip_prefix("postgres://").and_then(|rest| rest.split_once('@'));
    let (user, rest) = parts.context("the cluster's address has a user")?;
    let (host, database) = rest.split_once('/').context("the cluster's address has a database")?;
    Ok(format!("postgresql+psycopg2://{user}@/{database}?host={host}"))
}

fn settings(folder: &Path) -> Result<Settings> {
    let folder = folder.join("domain").into_os_string();
    Ok(Settings::from_lookup(|name| (name == "DRIFTLESS_DATA_DIR").then(|| folder.clone()))?)
}

async fn drain(domain: Domain) -> Result<usize> {
    let mut fired = 0;
    loop {
        match dispatch::fire(&domain).await? {
            0 => return Ok(fired),
            n => fired += n,
        }
    }
}
