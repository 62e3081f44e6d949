//! The shipped binary as a process: started with an environment of its own, watched, signalled and killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);

/// A data folder that goes when the test ends. The account that runs Postgres for root may pass through it.
pub struct DataDir(TempDir);

impl DataDir {
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("driftless-it-").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        DataDir(folder)
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// The process id of the private Postgres, while there is one.
    pub fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.path().join("postgres/data/postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }
}

/// The binary with nothing but these settings in its environment.
pub fn driftless(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftless"));
    command.args(arguments).env_clear().envs(settings.iter().copied());
    // Where the private Postgres may find its binaries.
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// What a command that ends by itself came to.
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

/// Runs to the end, with `input` on standard input.
pub fn run(mut command: Command, input: &str) -> Ended {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running `serve` or `work`. Dropping it kills it, so that no test leaves a process.
pub struct Process {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = gather(child.stdout.take().unwrap());
        let err = gather(child.stderr.take().unwrap());
        Process { child, out, err }
    }

    /// `serve` on a free port of the loopback address, once it says where it is.
    pub fn serve(data: &Path, more: &[(&str, &str)]) -> (Self, String) {
        let settings = [("DRIFTLESS_DATA_DIR", data.to_str().unwrap()), ("DRIFTLESS_LISTEN", "127.0.0.1:0")];
        let process = Self::start(driftless(&["serve"], &[&settings, more].concat()));
        let base = process.wait_for_line("Driftless is at ");
        (process, base)
    }

    /// `work`, once it works.
    pub fn work(data: &Path, more: &[(&str, &str)]) -> Self {
        let settings = [("DRIFTLESS_DATA_DIR", data.to_str().unwrap())];
        let process = Self::start(driftless(&["work"], &[&settings, more].concat()));
        process.wait_for_line("Driftless works as ");
        process
    }

    /// What follows `beginning` on the line of standard output that starts with it.
    pub fn wait_for_line(&self, beginning: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            // The last piece may be half a line.
            let out = self.out();
            let lines = out.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            if let Some(rest) = lines.filter_map(|line| line.strip_prefix(beginning)).next() {
                return rest.to_owned();
            }
            assert!(Instant::now() < end, "no line `{beginning}..`:\n{out}{}", self.err());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// The process id.
    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        kill(self.child.id() as i32, signal);
    }

    /// Waits for the end; fails the test when it does not come.
    pub fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process did not end:\n{}", self.err());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// As an operator stops it.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// As a power cut stops it.
    pub fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        assert_eq!(self.ended().signal(), Some(9));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to any process by its id.
pub fn kill(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn gather(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
}
