//! Ticks: many processes, one job each.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use driftless_queue::{NewJob, crons};

use crate::support::Db;

#[tokio::test(flavor = "multi_thread")]
async fn of_four_racing_processes_one_fires_each_tick() {
    let db = Db::create().await;
    let job = NewJob::new("q", "cleanup", &());
    let now = || sqlx::query_scalar::<_, DateTime<Utc>>("select now()").fetch_one(&db.pool);
    let before = now().await.unwrap();
    let last = crons::register(&mut db.pool.acquire().await.unwrap(), "cleanup", "03:00", &job).await.unwrap();
    assert!((before..=now().await.unwrap()).contains(&last), "a new cron has missed nothing");
    assert_eq!(crons::list(&mut db.pool.acquire().await.unwrap()).await.unwrap()[0].last_run, None, "nor has it run");
    let first = last.duration_trunc(TimeDelta::seconds(1)).unwrap() + TimeDelta::seconds(1);
    let mut racers = Vec::new();
    for _ in 0..4 {
        let (pool, job) = (db.pool.clone(), job.clone());
        racers.push(tokio::spawn(async move {
            let mut won = 0;
            for tick in 0..25 {
                let mut tx = pool.begin().await.unwrap();
                let tick = first + TimeDelta::seconds(tick);
                won += u32::from(crons::fire(&mut tx, "cleanup", tick, &job).await.unwrap());
                tx.commit().await.unwrap();
            }
            won
        }));
    }
    let mut won = 0;
    for racer in racers {
        won += racer.await.unwrap();
    }
    let jobs = db.count("select count(*) from queue.jobs").await;
    assert_eq!(i64::from(won), jobs);
    assert!((1..=25).contains(&won), "{won}");
    let mut conn = db.pool.acquire().await.unwrap();
    let known = crons::list(&mut conn).await.unwrap();
    assert_eq!(known[0].last_run, Some(first + TimeDelta::seconds(24)));
    assert!(!crons::fire(&mut conn, "cleanup", first, &job).await.unwrap(), "an old tick is gone");
    assert!(!crons::fire(&mut conn, "unknown", first, &job).await.unwrap());
    assert_eq!(crons::run_now(&mut conn, "cleanup").await.unwrap().unwrap().0, "q");
}
