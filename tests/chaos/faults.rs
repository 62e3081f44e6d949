//! What goes wrong, in an order that the seed decides: workers killed each 2 s, stopped past their lease and continued,
//! connections ended in storms, the listeners' alone, Postgres stopped in immediate mode each 5 to 20 s, its disk filled.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::{Rng, rngs::StdRng};
use rustix::process::Signal;
use sqlx::{Connection, PgConnection};

use crate::{
    server::Server,
    workers::{Breed, Workers},
};

const SHIPPED: usize = 3;
const RASCALS: usize = 2;
const KILL_EACH: Duration = Duration::from_secs(2);
/// A stopped worker sleeps past its lease of 8 s.
const FREEZE: Duration = Duration::from_secs(11);
/// How long the disk stays full.
const NO_ROOM: Duration = Duration::from_secs(2);

const HALF_OF_ALL: &str = "
    select pg_terminate_backend(pid) from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid() and pid % 2 = $1";
const LISTENERS: &str = "
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'driftless-queue' and query ilike 'listen%' and $1 >= 0";

/// How often each fault struck.
#[derive(Debug, Default)]
pub struct Struck {
    pub kills: usize,
    pub restarts: usize,
    pub freezes: usize,
    pub storms: usize,
    pub deafened: usize,
    pub full_disks: usize,
}

/// When each fault strikes next.
struct Agenda {
    kill: Instant,
    freeze: Instant,
    storm: Instant,
    deafen: Instant,
    restart: Instant,
    fill: Instant,
}

/// The faults to come and the processes they befall.
pub struct Faults {
    rng: StdRng,
    pub workers: Workers,
    frozen: Option<(usize, Instant)>,
    end: Instant,
    next: Agenda,
    pub struck: Struck,
}

impl Faults {
    pub fn new(mut rng: StdRng, server: &Server, length: Duration) -> Self {
        let mut workers = Workers::new(&server.data_dir, &server.url);
        for _ in 0..SHIPPED {
            workers.add(Breed::Shipped);
        }
        for _ in 0..RASCALS {
            workers.add(Breed::Rascal);
        }
        let now = Instant::now();
        let mut within = |low: u64, high: u64| now + Duration::from_millis(rng.random_range(low..=high));
        let next = Agenda {
            kill: now + KILL_EACH,
            freeze: within(4_000, 8_000),
            storm: within(2_000, 6_000),
            deafen: within(3_000, 9_000),
            restart: within(5_000, 20_000),
            fill: within(9_000, 15_000),
        };
        Faults { rng, workers, frozen: None, end: now + length, next, struck: Struck::default() }
    }

    pub fn go_on(&self) -> bool {
        Instant::now() < self.end
    }

    fn after(&mut self, low: u64, high: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.random_range(low..=high))
    }

    /// Lets the next fault happen, or waits 100 ms when none is due.
    pub async fn strike(&mut self, server: &mut Server) -> Result<()> {
        let now = Instant::now();
        if let Some((victim, since)) = self.frozen
            && now >= since + FREEZE
        {
            self.frozen = None;
            self.workers.signal(victim, Signal::CONT)
        } else if now >= self.next.kill {
            self.next.kill = now + KILL_EACH;
            self.kill_one()
        } else if now >= self.next.restart {
            self.next.restart = self.after(5_000, 20_000);
            self.struck.restarts += 1;
            server.crash().await?;
            server.open()
        } else if now >= self.next.storm {
            self.next.storm = self.after(3_000, 9_000);
            self.struck.storms += 1;
            self.cut(server, HALF_OF_ALL).await;
            Ok(())
        } else if now >= self.next.deafen {
            self.next.deafen = self.after(5_000, 15_000);
            self.struck.deafened += 1;
            self.cut(server, LISTENERS).await;
            Ok(())
        } else if now >= self.next.freeze && self.frozen.is_none() {
            self.next.freeze = self.after(13_000, 25_000);
            self.struck.freezes += 1;
            let victim = self.rng.random_range(0..self.workers.count());
            self.frozen = Some((victim, now));
            self.workers.signal(victim, Signal::STOP)
        } else if now >= self.next.fill && server.disk_refused().is_none() {
            self.next.fill = self.after(30_000, 90_000);
            self.struck.full_disks += 1;
            server.fill_disk()?;
            tokio::time::sleep(NO_ROOM).await;
            server.free_disk().await
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(())
        }
    }

    /// SIGKILL to a worker that is not asleep.
    fn kill_one(&mut self) -> Result<()> {
        let mut victim = self.rng.random_range(0..self.workers.count());
        if self.frozen.is_some_and(|(asleep, _)| asleep == victim) {
            victim = (victim + 1) % self.workers.count();
        }
        self.workers.replace(victim)?;
        self.struck.kills += 1;
        Ok(())
    }

    async fn cut(&mut self, server: &Server, whom: &'static str) {
        let odd: i32 = self.rng.random_range(0..2);
        let cut = async {
            let mut conn = PgConnection::connect(&server.url).await?;
            sqlx::query(whom).bind(odd).execute(&mut conn).await
        };
        // The database may be away just now: then nothing is left to cut.
        let _ = cut.await;
    }

    /// The faults are over: nobody sleeps any more.
    pub fn heal(&mut self) -> Result<()> {
        self.frozen.take().map_or(Ok(()), |(victim, _)| self.workers.signal(victim, Signal::CONT))
    }
}
