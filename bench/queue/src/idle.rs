//! queue-idle: what `driftless work` as shipped costs that has nothing to do, its dispatcher included, with 100,000 schedules and
//! 100,000 jobs ahead.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    report::{Report, Side},
    server::Server,
    wire::Wire,
};

/// Whole minutes, so that each round has the jobs of one.
const WATCH: Duration = Duration::from_secs(60);

const AHEAD: &str = "
    insert into users (name, password_hash) select 'user' || n, '-' from generate_series(1, 100) n;
    insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
        select u.id, 'd' || n, 'd' || n, 'client', h.epoch from generate_series(1, 100000) n
        join users u on u.name = 'user' || (1 + n % 100) join heads h on h.user_id = u.id;
    insert into schedules (user_id, device_id, schedule_type, time_of_day, timezone)
        select user_id, id, 'daily', '03:00', 'UTC' from devices;
    insert into due (schedule_id, user_id, next_run_at) select id, user_id, now() + interval '1 day' from schedules;
    insert into queue.jobs (queue, kind, payload, ready, run_at)
        select 'sync', 'run_sync', '{}', false, now() + interval '1 day' from generate_series(1, 100000)";

pub async fn bench(rounds: usize) -> Result<()> {
    let server = Server::start().await?;
    let url = server.database("idle").await?;
    let folder = server.folder().join("idle");
    std::fs::create_dir(&folder)?;
    let binary = std::env::var_os("DRIFTLESS_BIN").context("start it by cargo xtask bench queue-idle")?;
    let wire = Wire::to(&url).await;
    let start = |verb: &str| -> Result<Worker> {
        let mut command = Command::new(&binary);
        command.arg(verb).env("DRIFTLESS_DATA_DIR", &folder).env("DRIFTLESS_DATABASE_URL", &wire.url);
        Ok(Worker(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    };
    ensure!(start("migrate")?.0.wait()?.success(), "migrate failed");
    let mut conn = PgConnection::connect(&url).await?;
    conn.execute(AHEAD).await?;
    conn.execute("vacuum analyze").await?;
    let worker = start("work")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let names = ["driftless"];
    let ([mut core], [mut statements]) = (names.map(Side::new), names.map(Side::new));
    for _ in 0..rounds {
        let begun = Instant::now();
        let cpu = processor_seconds(&worker);
        tokio::time::sleep(WATCH).await;
        let seconds = begun.elapsed().as_secs_f64();
        core.values.push((processor_seconds(&worker) - cpu) / seconds * 100.0);
        statements.values.push(wire.sent(begun).len() as f64 / seconds);
    }
    let mut report = Report::new("queue-idle");
    report.sides("of a core", "%", &[&core]);
    report.sides("statements", "per s", &[&statements]);
    report.hold("of a core", "%", &core, 0.5);
    report.hold("statements", "per s", &statements, 3.0);
    let settings = format!(
        "`driftless work` as shipped, dispatcher included, watched for {} s a round; 100,000 schedules and 100,000 jobs a day ahead. \
         Statements are counted on their way to Postgres; begin and commit are statements too.",
        WATCH.as_secs()
    );
    report.write(&server, rounds, &settings)
}

/// Killed when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn processor_seconds(worker: &Worker) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.0.id())).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}
