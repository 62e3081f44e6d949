//! The integration tests: one binary, a real Postgres, a database for each test.
//!
//! They need `DRIFTLESS_TEST_DATABASE_URL`, a login that may create databases and roles; `cargo xtask test` starts a
//! throw-away cluster and sets it.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

mod archives;
mod audit;
mod auth;
mod bandwidth;
mod binary;
mod cleanup;
mod devices;
mod dispatch;
mod executions;
mod feed;
mod growth;
mod health;
mod idle;
mod isolation;
mod jobs;
mod matrix;
mod metrics;
mod private_postgres;
mod problems;
mod races;
mod remotes;
mod reports;
mod runs;
mod schedules;
mod tree;
mod uploads;
