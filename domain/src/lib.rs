//! The rules of Driftless with their SQL and the blob store. One file per noun.
//!
//! Invariant: nothing here knows of HTTP or of workers' machinery; every function that a user can reach takes the
//! [`Actor`] that it acts for, and every transaction of a user comes from [`Domain::begin`].

pub mod accounts;
mod actor;
pub mod audit;
pub mod bandwidth;
pub mod config;
pub mod db;
pub mod error;
pub mod remotes;
pub mod sessions;

pub use actor::Actor;
pub use db::{Domain, Tx};
