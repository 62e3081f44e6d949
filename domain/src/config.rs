//! The settings of a process: the only place that reads the environment, and the one list of what there is to set.
//!
//! Invariant: a wrong setting stops the start with a sentence that names it; nothing is silently replaced by a default.

use std::{
    env,
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use chrono_tz::Tz;

/// A setting that can't be used. The text names the variable and says what it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name}: {problem}")]
pub struct Error {
    /// The environment variable.
    pub name: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

/// A value that never shows in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself; keep it out of logs and errors.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a process was told by its environment. docs/operations.md says the same in prose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// DRIFTLESS_LISTEN: address of the HTTP server. Default 127.0.0.1:8000.
    pub listen: SocketAddr,
    /// DRIFTLESS_DATA_DIR: audit lines, and the private database and store if they are not elsewhere. Default ./data.
    pub data_dir: PathBuf,
    /// DRIFTLESS_DATABASE_URL: Postgres 15 or later. Unset: a private cluster below the data folder.
    pub database_url: Option<String>,
    /// DRIFTLESS_STORE: where packs are kept, `file:<absolute folder>`. Default file:<data dir>/store.
    pub store: PathBuf,
    /// DRIFTLESS_JWT_SECRET: signs access tokens, at least 32 characters. Unset: made once and kept in Postgres.
    pub jwt_secret: Option<Secret>,
    /// DRIFTLESS_ADMIN_PASSWORD: password of the first start's user `admin`. Unset: made once and printed once.
    pub admin_password: Option<Secret>,
    /// DRIFTLESS_REMOTE_ROOTS: folders below which folder remotes may be registered, colon-separated. Default none.
    pub remote_roots: Vec<PathBuf>,
    /// DRIFTLESS_ZONE: the zone of the daily cleanup and of throttle hours. Default UTC.
    pub zone: Tz,
    /// DRIFTLESS_MIN_FREE: bytes kept free on the disks of store and database. Unset: the larger of 1 GiB and 2 %.
    pub min_free: Option<u64>,
    /// Bytes of an upload that are hashed while the caller of `complete` waits; with more left, a job does it. 1 GiB; not set from
    /// outside.
    pub hash_in_request: u64,
    /// DRIFTLESS_DEVICE_PATIENCE: how long a run waits for its client device before it is missed. Default 24h.
    pub device_patience: Duration,
    /// DRIFTLESS_METRICS_LISTEN: where `work` answers for its health and metrics. Unset: nowhere. `serve` does it on its own
    /// address.
    pub metrics_listen: Option<SocketAddr>,
    /// DRIFTLESS_PG_BIN: folder with initdb, pg_ctl and postgres for the private database.
    pub pg_bin: Option<PathBuf>,
    /// PATH, not ours to set: where else the binaries of the private database may be.
    pub search_path: Vec<PathBuf>,
    /// DRIFTLESS_LOG: what to log, like `info` or `driftless=debug,sqlx=warn`. Default info.
    pub log: String,
}

impl Settings {
    /// Reads the environment of this process.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(|name| env::var_os(name))
    }

    /// Reads settings from `lookup`; an empty value counts as unset.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let text = |name: &'static str| match lookup(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(v) => v.into_string().map(Some).map_err(|_| wrong(name, "must be UTF-8 text")),
        };
        let data_dir = absolute("DRIFTLESS_DATA_DIR", text("DRIFTLESS_DATA_DIR")?.unwrap_or_else(|| "data".into()))?;
        Ok(Settings {
            listen: text("DRIFTLESS_LISTEN")?.as_deref().unwrap_or("127.0.0.1:8000").parse().map_err(|_| {
                wrong("DRIFTLESS_LISTEN", "must be an address with a port, like 127.0.0.1:8000 or [::]:8000")
            })?,
            database_url: text("DRIFTLESS_DATABASE_URL")?.map(database_url).transpose()?,
            store: text("DRIFTLESS_STORE")?.map(store).transpose()?.unwrap_or_else(|| data_dir.join("store")),
            jwt_secret: text("DRIFTLESS_JWT_SECRET")?.map(jwt_secret).transpose()?,
            admin_password: text("DRIFTLESS_ADMIN_PASSWORD")?.map(admin_password).transpose()?,
            remote_roots: remote_roots(text("DRIFTLESS_REMOTE_ROOTS")?.unwrap_or_default())?,
            zone: text("DRIFTLESS_ZONE")?
                .as_deref()
                .unwrap_or("UTC")
                .parse()
                .map_err(|_| wrong("DRIFTLESS_ZONE", "must be an IANA time zone, like Europe/Berlin"))?,
            min_free: text("DRIFTLESS_MIN_FREE")?
                .map(|v| {
                    v.parse().map_err(|_| wrong("DRIFTLESS_MIN_FREE", "must be a number of bytes, like 1073741824"))
                })
                .transpose()?,
            hash_in_request: 1 << 30,
            device_patience: text("DRIFTLESS_DEVICE_PATIENCE")?.map(patience).transpose()?.unwrap_or(DAY),
            metrics_listen: text("DRIFTLESS_METRICS_LISTEN")?
                .map(|v| {
                    v.parse().map_err(|_| {
                        wrong("DRIFTLESS_METRICS_LISTEN", "must be an address with a port, like 127.0.0.1:9100")
                    })
                })
                .transpose()?,
            pg_bin: text("DRIFTLESS_PG_BIN")?.map(|v| absolute("DRIFTLESS_PG_BIN", v)).transpose()?,
            search_path: lookup("PATH").map(|v| env::split_paths(&v).collect()).unwrap_or_default(),
            log: text("DRIFTLESS_LOG")?.unwrap_or_else(|| "info".into()),
            data_dir,
        })
    }
}

fn wrong(name: &'static str, problem: impl Into<String>) -> Error {
    Error { name, problem: problem.into() }
}

fn absolute(name: &'static str, text: String) -> Result<PathBuf, Error> {
    std::path::absolute(&text).map_err(|_| wrong(name, "must be a path of a folder"))
}

fn database_url(url: String) -> Result<String, Error> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(url);
    }
    Err(wrong("DRIFTLESS_DATABASE_URL", "must start with postgres://, like postgres://user@host/database"))
}

fn store(text: String) -> Result<PathBuf, Error> {
    match text.strip_prefix("file:") {
        Some(path) if Path::new(path).is_absolute() => Ok(PathBuf::from(path)),
        Some(_) => Err(wrong("DRIFTLESS_STORE", "must name an absolute folder, like file:/srv/driftless/store")),
        None => Err(wrong("DRIFTLESS_STORE", "must start with file: (the only kind of store there is so far)")),
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `90m`, `24h` or `7d`: at least a minute, at most a year.
fn patience(text: String) -> Result<Duration, Error> {
    let seconds = text.char_indices().next_back().and_then(|(at, unit)| {
        let unit: u64 = match unit {
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return None,
        };
        text[..at].parse::<u64>().ok()?.checked_mul(unit)
    });
    match seconds {
        Some(seconds) if (60..=365 * DAY.as_secs()).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong("DRIFTLESS_DEVICE_PATIENCE", "must be a length of time from 1m to 365d, like 90m, 24h or 7d")),
    }
}

fn jwt_secret(text: String) -> Result<Secret, Error> {
    if text.len() < 32 {
        return Err(wrong(
            "DRIFTLESS_JWT_SECRET",
            "must have at least 32 characters; `openssl rand -hex 32` makes one",
        ));
    }
    Ok(Secret(text))
}

fn admin_password(text: String) -> Result<Secret, Error> {
    if !(12..=128).contains(&text.chars().count()) {
        return Err(wrong("DRIFTLESS_ADMIN_PASSWORD", "must have 12 to 128 characters"));
    }
    Ok(Secret(text))
}

fn remote_roots(text: String) -> Result<Vec<PathBuf>, Error> {
    text.split(':')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let path = PathBuf::from(part);
            let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            if path.is_absolute() && plain {
                return Ok(path);
            }
            Err(wrong("DRIFTLESS_REMOTE_ROOTS", format!("`{part}` must be an absolute folder without `..`")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::from_lookup(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn nothing_set_gives_the_documented_defaults() {
        let s = read(&[("DRIFTLESS_DATA_DIR", "/srv/d")]).expect("defaults are fine");
        assert_eq!(s.listen.to_string(), "127.0.0.1:8000");
        assert_eq!(s.store, Path::new("/srv/d/store"));
        assert_eq!((s.database_url, s.remote_roots, s.zone), (None, vec![], Tz::UTC));
    }

    #[test]
    fn patience_is_a_length_of_time_and_a_day_by_default() {
        let patience = |pairs: &[_]| read(pairs).expect("it can be read").device_patience.as_secs();
        assert_eq!(patience(&[]), 86_400);
        for (text, seconds) in [("90m", 5_400), ("36h", 129_600), ("7d", 604_800)] {
            assert_eq!(patience(&[("DRIFTLESS_DEVICE_PATIENCE", text)]), seconds);
        }
    }

    #[test]
    fn each_wrong_setting_is_named() {
        for (name, value) in [
            ("DRIFTLESS_LISTEN", "8000"),
            ("DRIFTLESS_DATABASE_URL", "mysql://x"),
            ("DRIFTLESS_STORE", "s3://bucket"),
            ("DRIFTLESS_STORE", "file:relative"),
            ("DRIFTLESS_JWT_SECRET", "short"),
            ("DRIFTLESS_ADMIN_PASSWORD", "short"),
            ("DRIFTLESS_REMOTE_ROOTS", "/srv:relative"),
            ("DRIFTLESS_REMOTE_ROOTS", "/srv/../etc"),
            ("DRIFTLESS_ZONE", "Berlin"),
            ("DRIFTLESS_MIN_FREE", "1 GiB"),
            ("DRIFTLESS_DEVICE_PATIENCE", "24"),
            ("DRIFTLESS_DEVICE_PATIENCE", "0h"),
            ("DRIFTLESS_DEVICE_PATIENCE", "366d"),
            ("DRIFTLESS_DEVICE_PATIENCE", "ä"),
            ("DRIFTLESS_METRICS_LISTEN", "9100"),
        ] {
            assert_eq!(read(&[(name, value)]).expect_err(value).name, name);
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let s = read(&[("DRIFTLESS_ADMIN_PASSWORD", "correct horse battery")]).expect("long enough");
        assert!(!format!("{s:?}").contains("horse"));
    }
}
