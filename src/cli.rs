//! The command line: what can be asked of the binary. Settings come from the environment (docs/operations.md), so that the
//! same command runs everywhere.

use clap::{Args, Parser, Subcommand};

/// Self-hosted file sync whose every background action is a durable job in Postgres.
#[derive(Debug, Parser)]
#[command(name = "driftless", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server: API, web app, and a worker in the same process.
    Serve {
        /// Leave the jobs to `driftless work` processes.
        #[arg(long)]
        no_worker: bool,
    },
    /// Run a worker: it fires due schedules and does the jobs.
    Work {
        /// Stop as soon as no job is due.
        #[arg(long)]
        until_idle: bool,
    },
    /// Bring the database to this version and stop.
    Migrate,
    /// Look for damage: references of files that lead nowhere. Changes nothing.
    Verify {
        /// Read all bytes and compare their hashes.
        #[arg(long)]
        read: bool,
    },
    /// Print the OpenAPI document. Needs no database.
    Openapi,
    /// Make and mend accounts.
    #[command(subcommand)]
    User(User),
    /// Look after the audit.
    #[command(subcommand)]
    Audit(Audit),
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Recompute the chain of hashes over all entries, and hold the lines of this data folder against it.
    Verify,
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// Make a user. The password is asked for, or read from standard input.
    Add {
        #[command(flatten)]
        name: Name,
        /// May see all users' audit and the jobs.
        #[arg(long)]
        admin: bool,
    },
    /// Set a user's password and end all his sessions. It is asked for, or read from standard input.
    Password {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Debug, Args)]
pub struct Name {
    /// The name to sign in with.
    #[arg(value_name = "NAME")]
    pub name: String,
}
