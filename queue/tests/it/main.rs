//! The queue on a real Postgres: one binary, a database for each test.
//!
//! Uses the server of `DRIFTLESS_TEST_DATABASE_URL` (a login that may create databases), else a throw-away cluster of its own from
//! the installed Postgres. Tests that stop the server always make a cluster of their own.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

mod claiming;
mod control;
mod crons;
mod depth;
mod ending;
mod lease;
mod outage;
