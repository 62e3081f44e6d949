//! How long the machine let nobody work: promises in seconds are made for a machine that runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_millis(20);

/// Watches until it is dropped.
pub struct Standstill {
    micros: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Standstill {
    /// A thread that wants to run each 20 ms, and adds up by how much it came too late.
    pub fn watch() -> Self {
        let (micros, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (sum, end) = (micros.clone(), over.clone());
        std::thread::spawn(move || {
            while !end.load(Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(TICK);
                sum.fetch_add(begun.elapsed().saturating_sub(TICK).as_micros() as u64, Relaxed);
            }
        });
        Self { micros, over }
    }

    /// In all, since the watch began.
    pub fn lasted(&self) -> Duration {
        Duration::from_micros(self.micros.load(Relaxed))
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}
