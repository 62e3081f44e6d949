//! What server and client must agree on, as pure functions and values: paths, hashes, chunks, schedules' times and the plan
//! of a sync.
//!
//! Invariant: nothing here waits, reads a clock, a file or the network; the same input always gives the same answer, whatever
//! its order. So both sides share the code, and tests need no server.

pub mod cadence;
pub mod chunk;
pub mod conflict;
pub mod deletions;
pub mod hash;
pub mod ignore;
pub mod late;
pub mod manifest;
pub mod path;
pub mod plan;
