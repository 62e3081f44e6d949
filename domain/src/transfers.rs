//! How many bodies of one user stream into this process at once: each holds some MiB of memory until it is taken in.
//!
//! Invariant: a place is given back when its request ends, however it ends; a user without a body under way has no row. Left out:
//! how fast they flow (`bandwidth`), and runs, which bound themselves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Actor, ingest::Error};

/// Bodies of one user in one process.
const AT_ONCE: usize = 64;
/// How long one more waits for its place. Nothing of it is read meanwhile, so that waiting costs next to nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// The places of a process, by user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transfers(Arc<Mutex<HashMap<i64, Arc<Semaphore>>>>);

/// One body's place.
#[derive(Debug)]
pub(crate) struct Transfer {
    transfers: Transfers,
    user_id: i64,
    place: Option<OwnedSemaphorePermit>,
}

impl Transfers {
    /// A place for a body of the actor's, until it is dropped; waits its turn when all of his are taken.
    ///
    /// # Errors
    /// [`Error::TooManyAtOnce`] when none became free for a while.
    pub async fn begin(&self, actor: &Actor) -> Result<Transfer, Error> {
        self.place(actor.user_id, PATIENCE).await
    }

    async fn place(&self, user_id: i64, patience: Duration) -> Result<Transfer, Error> {
        let places = self.lock().entry(user_id).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone();
        // Counts the user in while it waits, too: dropped half-way it clears up after itself.
        let mut transfer = Transfer { transfers: self.clone(), user_id, place: None };
        match tokio::time::timeout(patience, places.acquire_owned()).await {
            Ok(Ok(place)) => transfer.place = Some(place),
            _ => return Err(Error::TooManyAtOnce),
        }
        Ok(transfer)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Arc<Semaphore>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut users = self.transfers.lock();
        self.place = None;
        // The map's own handle is the last one when nobody holds a place or waits for one.
        if users.get(&self.user_id).is_some_and(|places| Arc::strong_count(places) == 1) {
            users.remove(&self.user_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_more_waits_for_its_place_and_is_refused_when_none_becomes_free() {
        let transfers = Transfers::default();
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE {
            taken.push(transfers.place(1, PATIENCE).await.expect("there is a place"));
        }
        assert!(matches!(transfers.place(1, Duration::from_millis(10)).await, Err(Error::TooManyAtOnce)));
        let other = transfers.place(2, Duration::ZERO).await.expect("another user has places of his own");
        let waiting = tokio::spawn({
            let transfers = transfers.clone();
            async move { transfers.place(1, PATIENCE).await }
        });
        drop(taken.pop());
        let last = waiting.await.expect("it ran").expect("the place that became free");
        assert_eq!(transfers.lock().len(), 2);
        drop((taken, other, last));
        assert!(transfers.lock().is_empty(), "nobody is remembered");
    }
}
