//! Limits on failed tries to sign in, by account and by address.
//!
//! Invariant: a try is counted before the password is looked at and taken back when it was right, so that many tries at once
//! can't slip past the limit together. The counts are in Postgres, for all processes; when they can't be reached nobody
//! signs in. A name that nobody has is counted like any other: the limit tells nobody which names exist.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::json;

use super::{Error, origin};
use crate::{
    Domain, Tx,
    audit::{self, Entry},
};

/// Failed tries that a window of 15 minutes allows for one account.
const PER_ACCOUNT: i32 = 20;

/// Failed tries that a window of 15 minutes allows from one address: more, for several people may share one.
const PER_ADDRESS: i32 = 100;

/// Counts a try, and refuses it when there were too many. `user_id` is whose account it is, if it is anybody's.
pub(super) async fn count_try(
    domain: &Domain,
    name: Option<&str>,
    user_id: Option<i64>,
    from: Option<IpAddr>,
) -> Result<(), Error> {
    let mut tx = domain.begin_system().await?;
    let mut refused = Ok(());
    for (subject, limit) in subjects(name, from) {
        let (failures, left) = count(&mut tx, &subject).await?;
        if failures <= limit {
            continue;
        }
        refused = Err(Error::TooManyTries { wait: left });
        // Refusals by the limit are cheap for who makes them: the audit hears of the first, and then at each doubling.
        if failures == limit + 1 || failures.count_ones() == 1 {
            let mut entry = Entry::new("sign_in_limited").warning();
            let by_account = subject.starts_with("account:");
            if let Some(id) = user_id.filter(|_| by_account) {
                entry = entry.of(id).about("user", id);
            }
            let mut details = origin(from);
            details["tries"] = json!(failures);
            details["limit"] = json!(if by_account { "account" } else { "address" });
            audit::record(&mut tx, entry.details(details)).await?;
        }
        // An address that is refused must not shut others out of their accounts, nor fill the table with names.
        break;
    }
    tx.commit().await?;
    refused
}

/// One more try for `subject`: how many there are in this window, and how many seconds of it are left.
async fn count(tx: &mut Tx, subject: &str) -> Result<(i32, u64), Error> {
    let (failures, left): (i32, i64) = sqlx::query_as(
        "insert into sign_in_failures as f (subject, failures, window_start) values ($1, 1, queue.now())
         on conflict (subject) do update set
           failures = case when f.window_start > queue.now() - interval '15 minutes'
                           then least(f.failures, 1000000000) + 1 else 1 end,
           window_start = case when f.window_start > queue.now() - interval '15 minutes'
                               then f.window_start else queue.now() end
         returning failures, ceil(extract(epoch from window_start + interval '15 minutes' - queue.now()))::bigint",
    )
    .bind(subject)
    .fetch_one(&mut **tx)
    .await?;
    Ok((failures, left.max(1).cast_unsigned()))
}

/// The try was right: the account starts afresh. The address only gets this try back, else somebody with an account of his
/// own could try others' for ever.
pub(super) async fn take_back_try(tx: &mut Tx, name: &str, from: Option<IpAddr>) -> Result<(), Error> {
    for (subject, _) in subjects(Some(name), from) {
        let statement = if subject.starts_with("account:") {
            "delete from sign_in_failures where subject = $1"
        } else {
            "update sign_in_failures set failures = failures - 1 where subject = $1 and failures > 0"
        };
        sqlx::query(statement).bind(subject).execute(&mut **tx).await?;
    }
    Ok(())
}

/// What is counted, always in this order, so that two tries never wait for each other in a circle.
fn subjects(name: Option<&str>, from: Option<IpAddr>) -> impl Iterator<Item = (String, i32)> {
    let account = name.map(|n| (format!("account:{}", n.to_ascii_lowercase()), PER_ACCOUNT));
    from.map(|a| (format!("address:{}", network(a)), PER_ADDRESS)).into_iter().chain(account)
}

/// An IPv6 customer has a whole /64 to call from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_as_its_network() {
        let network = |text: &str| network(text.parse().expect("an address")).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
