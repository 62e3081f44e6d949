//! Chaos by seed: worker processes are killed or stopped, Postgres crashes, connections are cut, handlers misbehave, and at the end every
//! job has had its effect exactly once, counted in a table without any unique key.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use driftless_queue::{NewJob, Waker, enqueue_batch};
use sqlx::{Executor, PgPool};

use crate::{
    child::{Effect, Trouble, Worker},
    server::Server,
};

const WORKERS: usize = 3;

/// The order of events comes from the seed; when exactly they strike does not.
struct Dice(u64);

impl Dice {
    /// xorshift64*, good enough to choose between troubles.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }
}

#[derive(Default)]
struct Tally {
    kills: u32,
    restarts: u32,
    stops: u32,
    cuts: u32,
}

/// Runs for `minutes` and fails when anything was lost or doubled.
pub async fn run(seed: u64, minutes: f64) -> Result<()> {
    let mut dice = Dice(seed | 1);
    let mut server = Server::start().await?;
    server
        .pool
        .execute("create table effects (job bigint, attempt smallint); create table enqueued (jobs bigint)")
        .await?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::start(&server.url)?);
    }
    let mut tally = Tally::default();
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut next_restart = Instant::now() + Duration::from_secs(5 + dice.roll(16));
    while Instant::now() < end {
        feed(&server.pool, &mut dice).await;
        trouble(&server, &mut workers, &mut dice, &mut tally).await?;
        if Instant::now() > next_restart {
            server.crash().await?;
            tally.restarts += 1;
            next_restart = Instant::now() + Duration::from_secs(5 + dice.roll(16));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let (jobs, lost, doubled) = settle(&server.pool).await?;
    println!(
        "chaos: seed {seed}, {} workers stopped past their lease, {} storms of cut connections",
        tally.stops, tally.cuts
    );
    println!("chaos: jobs {jobs}, kills {}, restarts {}, lost {lost}, doubled {doubled}", tally.kills, tally.restarts);
    if lost != 0 || doubled != 0 {
        bail!("the promise was broken");
    }
    Ok(())
}

/// Enqueues some hundred jobs, most of them well-behaved.
async fn feed(pool: &PgPool, dice: &mut Dice) {
    let jobs: Vec<NewJob> = (0..200 + dice.roll(400))
        .map(|_| {
            let trouble = match dice.roll(200) {
                0 => Trouble::Panic,
                1..=4 => Trouble::Fail,
                5 => Trouble::Block,
                6 if dice.roll(10) == 0 => Trouble::Leak,
                _ => Trouble::None,
            };
            let effect = Effect { wait_ms: dice.roll(300), trouble };
            NewJob::new("bench", "effect", &effect).max_attempts(1000).priority((dice.roll(3)) as i16)
        })
        .chain([NewJob::new("bench", "effect", &"poison")])
        .collect();
    // A commit may happen and its answer be lost: what was enqueued is counted in the same transaction. The poison isn't.
    let put = async {
        let mut tx = pool.begin().await?;
        enqueue_batch(&mut tx, &jobs).await.map_err(anyhow::Error::from)?;
        sqlx::query("insert into enqueued values ($1)").bind(i64::try_from(jobs.len())? - 1).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok::<(), anyhow::Error>(())
    };
    if put.await.is_ok() {
        Waker::new(pool.clone()).wake("bench");
    }
}

async fn trouble(server: &Server, workers: &mut [Worker], dice: &mut Dice, tally: &mut Tally) -> Result<()> {
    let one = dice.roll(WORKERS as u64) as usize;
    match dice.roll(10) {
        0 => {
            workers[one].signal("STOP")?;
            tokio::time::sleep(Duration::from_secs(11)).await;
            workers[one].signal("CONT")?;
            tally.stops += 1;
        }
        1 | 2 => {
            let cut =
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'driftless-queue'";
            let _ = server.pool.execute(cut).await;
            tally.cuts += 1;
        }
        _ => {
            workers[one] = Worker::start(&server.url)?;
            tally.kills += 1;
        }
    }
    Ok(())
}

/// Waits until the queue is empty; says how many jobs there were, how many effects are missing, and how many are there again.
async fn settle(pool: &PgPool) -> Result<(i64, i64, i64)> {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        let left = sqlx::query_scalar::<_, i64>("select count(*) from queue.jobs").fetch_one(pool).await;
        if matches!(left, Ok(0)) || Instant::now() > end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let counts = sqlx::query_as(
        "with had as (select count(*) as effects, count(distinct job) as jobs from effects),
              want as (select coalesce(sum(jobs), 0)::bigint as jobs from enqueued)
         select want.jobs, want.jobs - had.jobs, had.effects - had.jobs from had, want",
    );
    Ok(counts.fetch_one(pool).await?)
}
