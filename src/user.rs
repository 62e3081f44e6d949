//! `driftless user`: making users and setting passwords from a shell on the server.
//!
//! A password is never an argument, which others could see: a terminal is asked without echo, anything else is read.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail, ensure};
use driftless_domain::{accounts, config::Settings};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::{cli::User, database::Database, say};

/// Carries out one of the commands.
pub async fn run(settings: Settings, command: User) -> Result<()> {
    let password = password()?;
    let database = Database::open(&settings).await?;
    let outcome = carry_out(&database, settings, command, &password).await;
    database.close().await;
    say(&outcome?)
}

async fn carry_out(database: &Database, settings: Settings, command: User, password: &str) -> Result<String> {
    let domain = database.domain(settings, 2).await?;
    match command {
        User::Add { name, admin } => {
            let user = accounts::create(&domain, &name.name, password, admin).await?;
            Ok(format!("user {} may sign in", user.name))
        }
        User::Password { name } => {
            accounts::set_password(&domain, &name.name, password).await?;
            Ok(format!("the password of {} is set; all sessions have ended", name.name))
        }
    }
}

fn password() -> Result<String> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let first = ask("Password: ")?;
    ensure!(first == ask("Again: ")?, "the two passwords differ");
    Ok(first)
}

fn line() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        bail!("no password on standard input");
    }
    Ok(password.to_owned())
}

fn ask(question: &str) -> Result<String> {
    let mut terminal = io::stderr();
    write!(terminal, "{question}").and_then(|()| terminal.flush()).context("cannot ask for the password")?;
    let silence = Silence::begin()?;
    let answer = line();
    drop(silence);
    eprintln!();
    answer
}

/// The terminal shows nothing of what is typed, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).context("cannot turn the terminal's echo off")?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
