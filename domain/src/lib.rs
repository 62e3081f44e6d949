//! The rules of Driftless with their SQL and the blob store. One file per noun.
//!
//! Invariant: nothing here knows of HTTP or of workers' machinery; every function that a user can reach takes the
//! [`Actor`] that it acts for, and every transaction of a user comes from [`Domain::begin`].

pub mod accounts;
mod actor;
pub mod archive;
pub mod audit;
pub mod bandwidth;
pub mod baselines;
pub mod cleanup;
pub mod commit;
pub mod config;
pub mod contents;
pub mod crons;
pub mod db;
pub mod devices;
pub mod dispatch;
pub mod engine;
pub mod error;
pub mod feed;
pub mod files;
pub mod ingest;
mod lookout;
pub mod metrics;
pub mod queues;
pub mod remotes;
pub mod reports;
pub mod runs;
pub mod schedules;
pub mod sessions;
pub mod store;
mod transfers;
pub mod tree;
pub mod uploads;
pub mod verify;

pub use actor::Actor;
pub use db::{Domain, Tx};
