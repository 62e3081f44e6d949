//! How many bodies of one user stream into this process at once: each holds some MiB of memory until it is taken in.
//!
//! Invariant: a place is given back when its request ends, however it ends. Left out: how fast they flow (`bandwidth`), and
//! runs, which bound themselves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Actor, ingest::Error};

/// Bodies of one user in one process.
const AT_ONCE: usize = 64;

/// The places of a process, by user; a user without a body under way has no row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transfers(Arc<Mutex<HashMap<i64, usize>>>);

/// One body's place.
#[derive(Debug)]
pub(crate) struct Transfer {
    transfers: Transfers,
    user_id: i64,
}

impl Transfers {
    /// A place for a body of the actor's, until it is dropped.
    ///
    /// # Errors
    /// [`Error::TooManyAtOnce`] when all of his are taken.
    pub fn begin(&self, actor: &Actor) -> Result<Transfer, Error> {
        let user_id = actor.user_id;
        let mut users = self.lock();
        let under_way = users.entry(user_id).or_default();
        if *under_way >= AT_ONCE {
            return Err(Error::TooManyAtOnce);
        }
        *under_way += 1;
        Ok(Transfer { transfers: self.clone(), user_id })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut users = self.transfers.lock();
        if let Some(under_way) = users.get_mut(&self.user_id) {
            *under_way -= 1;
            if *under_way == 0 {
                users.remove(&self.user_id);
            }
        }
    }
}
