//! Row level security, looked at from below: a user's transaction shows and takes his own rows only, whatever is asked.

use std::task::Poll;

use driftless_domain::{Tx, sessions};
use sqlx::AssertSqlSafe;

use crate::support::{App, until};

async fn texts(tx: &mut Tx, statement: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(statement.to_owned())).fetch_all(&mut **tx).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_table_that_a_users_transaction_may_touch_shows_his_rows_only() {
    let app = App::start().await;
    let mut tx = app.domain.begin_system().await.unwrap();
    let open = texts(
        &mut tx,
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'public' and c.relkind in ('r', 'p')
           and has_table_privilege('driftless_app', c.oid, 'select, insert, update, delete')
           and not (c.relrowsecurity and exists (select from pg_policy where polrelid = c.oid))",
    )
    .await;
    assert_eq!(open, Vec::<String>::new(), "open to users' transactions without a policy");
    let secret = texts(
        &mut tx,
        "select unnest(array['users', 'sessions', 'refresh_tokens', 'signing_keys', 'sign_in_failures'])",
    )
    .await;
    for table in secret {
        let open = format!(
            "select '{table}' where has_table_privilege('driftless_app', '{table}', 'select, insert, update, delete')"
        );
        assert_eq!(texts(&mut tx, &open).await, Vec::<String>::new(), "users' transactions have no business there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_transaction_sees_nothing_of_another_without_any_where() {
    let app = App::start().await;
    let (anna, bert) = (app.sign_up("anna").await, app.sign_up("bert").await);
    crate::matrix::furnish(&app, &anna).await;
    let anna = sessions::authenticate(&app.domain, &anna).await.unwrap();
    let bert = sessions::authenticate(&app.domain, &bert).await.unwrap();
    let owned = "select table_name::text from information_schema.columns
                 where table_schema = 'public' and column_name = 'user_id'
                   and has_table_privilege('driftless_app', to_regclass(format('public.%I', table_name)), 'select') order by 1";
    let mut system = app.domain.begin_system().await.unwrap();
    let tables = texts(&mut system, owned).await;
    let mut filled = 0;
    for table in &tables {
        let hers = format!("select count(*)::text from {table} where user_id = {}", anna.user_id());
        let all = texts(&mut system, &hers).await;
        assert_eq!(
            texts(&mut app.domain.begin(&anna).await.unwrap(), &hers).await,
            all,
            "{table}: she sees all of hers"
        );
        assert_eq!(
            texts(&mut app.domain.begin(&bert).await.unwrap(), &hers).await,
            ["0"],
            "{table}: he sees none of hers"
        );
        filled += usize::from(all != ["0"]);
    }
    assert!(filled > 5, "too few of {tables:?} hold anything to see");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_given_up_while_its_transaction_begins_leaves_none_behind() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let anna = sessions::authenticate(&app.domain, &token).await.unwrap();
    for steps in (1..=8).cycle().take(64) {
        // Dropped after so many steps, each of which follows an answer of Postgres.
        let mut begin = Box::pin(app.domain.begin(&anna));
        let mut taken = 0;
        std::future::poll_fn(|cx| {
            taken += 1;
            if begin.as_mut().poll(cx).is_ready() || taken == steps { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(begin);
        // Whoever gets the connection next must not stand in what the other began.
        let mut tx = app.domain.begin_system().await.unwrap();
        assert_ne!(texts(&mut tx, "select current_user::text").await, ["driftless_app"], "after {steps} steps");
    }
    let open = "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'";
    until("no transaction stands open", || async { (app.value::<i64>(open).await == 0).then_some(()) }).await;
}
