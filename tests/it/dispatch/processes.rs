//! Several worker processes of the shipped binary, and one minute at which very many schedules are due.

use super::{offset_to, soon};
use crate::support::{App, binary::Process, until};

/// A thousand devices with a schedule each, due at the minute; and a table that counts what fires, in which nothing is unique.
const GROW: &str = "
    insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
        select id, 'd' || n, 'd', 'client', gen_random_uuid() from users, generate_series(1, 1000) n where name = 'anna';
    create table fired (schedule_id bigint, worker int);
    create function count_firing() returns trigger language plpgsql security definer as $$ begin
        insert into fired values (new.schedule_id, pg_backend_pid()); return null; end $$;
    create trigger count_firing after insert on runs for each row execute function count_firing();";

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_thousand_schedules_fires_once_with_two_worker_processes() {
    let app = App::start().await;
    let minute = soon();
    app.sign_up("anna").await;
    app.sql(GROW).await;
    sqlx::query(
        "with s as (insert into schedules (user_id, device_id, schedule_type, time_of_day)
                    select user_id, id, 'daily', $1 from devices returning id, user_id)
         insert into due (schedule_id, user_id, next_run_at) select id, user_id, $2 from s",
    )
    .bind(minute.format("%H:%M").to_string())
    .bind(minute)
    .execute(app.domain.pool())
    .await
    .unwrap();
    app.database.move_clock(&offset_to(4, minute)).await;
    let settings = [("DRIFTLESS_DATABASE_URL", app.database.url.as_str())];
    let workers: Vec<Process> = (0..2).map(|_| Process::work(&app.data_dir(), &settings)).collect();
    until("all have fired", async || {
        let fired: i64 = app.value("select count(distinct schedule_id) from fired").await;
        (fired == 1000).then_some(())
    })
    .await;
    until("all runs wait for their devices", async || {
        let waiting: i64 = app.value("select count(*) from runs where state = 'waiting_for_device'").await;
        (waiting == 1000).then_some(())
    })
    .await;
    assert_eq!(app.value::<i64>("select count(*) from fired").await, 1000, "one fired twice");
    assert_eq!(app.value::<i64>("select count(*) from due where next_run_at > queue.now()").await, 1000);
    for worker in workers {
        assert!(worker.terminate().success());
    }
}
