//! Whom the private Postgres runs as: the server refuses root, and a cluster runs as the account that owns it.
//!
//! Root hands a new cluster to `postgres` or `nobody`, or enters a user namespace when neither can reach the binaries and the
//! data folder, as in a clone under a closed home folder.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

/// Whom the server runs as. Postgres refuses root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunAs {
    Myself,
    Account {
        uid: u32,
        gid: u32,
    },
    /// Root outside, uid 65534 inside: Postgres is content and the files stay root's.
    UserNamespace,
}

/// A program run as `run_as`, from `/` and with an environment of its own: settings and secrets are not Postgres's business.
pub(super) fn command_as(run_as: RunAs, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env_clear().env("LC_ALL", "C").env("PATH", "/usr/local/bin:/usr/bin:/bin");
    match run_as {
        RunAs::Myself => {}
        RunAs::Account { uid, gid } => {
            command.gid(gid).uid(uid);
        }
        RunAs::UserNamespace => enter_user_namespace(&mut command),
    }
    command
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the one place: a child must enter its namespace between fork and exec")]
fn enter_user_namespace(command: &mut Command) {
    use rustix::fs::{Mode, OFlags, open};
    let write = |path: &std::ffi::CStr, text: &[u8]| -> io::Result<()> {
        let file = open(path, OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&file, text)?;
        Ok(())
    };
    // SAFETY: the closure runs in the forked child and makes system calls only; it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(libc::CLONE_NEWUSER) != 0 {
                return Err(io::Error::last_os_error());
            }
            write(c"/proc/self/setgroups", b"deny")?;
            write(c"/proc/self/uid_map", b"65534 0 1")?;
            write(c"/proc/self/gid_map", b"65534 0 1")
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn enter_user_namespace(_: &mut Command) {}

/// A cluster runs as the account that owns it, whatever we would choose today.
pub(super) fn owner_of(data: &Path) -> Result<RunAs> {
    let owner = fs::metadata(data).with_context(|| format!("cannot look at {}", data.display()))?;
    match (geteuid().as_raw(), owner.uid()) {
        (0, 0) => Ok(RunAs::UserNamespace),
        (0, uid) => Ok(RunAs::Account { uid, gid: owner.gid() }),
        (me, uid) if me == uid => Ok(RunAs::Myself),
        (_, uid) => bail!(
            "the private Postgres in {} belongs to the user with id {uid}: run driftless as that user or as root, or choose another DRIFTLESS_DATA_DIR",
            data.display()
        ),
    }
}

/// Hands `home` to an account that can reach the binaries and `home`; for root without such an account, a user namespace.
/// A throw-away cluster prefers `nobody`: tests run workers without rights, which must reach its socket.
pub(super) fn choose_account(bin: &Path, home: &Path, throw_away: bool) -> Result<RunAs> {
    if !geteuid().is_root() {
        return Ok(RunAs::Myself);
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    for name in if throw_away { ["nobody", "postgres"] } else { ["postgres", "nobody"] } {
        let Some((uid, gid)) = ids_of(name, &accounts) else {
            continue;
        };
        if chown(home, Some(uid), Some(gid)).is_err() {
            continue; // an account that this container doesn't map
        }
        let account = RunAs::Account { uid, gid };
        let mut probe = command_as(account, Path::new("/bin/sh"));
        probe.args(["-c", r#""$1" --version && test -w "$2""#, "sh"]).arg(bin.join("postgres")).arg(home);
        if succeeds(&mut probe) {
            return Ok(account);
        }
    }
    chown(home, Some(0), Some(0)).with_context(|| format!("cannot take back {}", home.display()))?;
    ensure!(
        cfg!(target_os = "linux")
            && succeeds(command_as(RunAs::UserNamespace, Path::new("/bin/sh")).args(["-c", "exit 0"])),
        "PostgreSQL refuses to run as root; neither postgres nor nobody can reach both {} and {}, and this machine allows no user namespaces. \
         Run driftless as a normal user, choose a DRIFTLESS_DATA_DIR that others may pass through, or name a server in DRIFTLESS_DATABASE_URL",
        bin.display(),
        home.display()
    );
    Ok(RunAs::UserNamespace)
}

fn ids_of(name: &str, accounts: &str) -> Option<(u32, u32)> {
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
