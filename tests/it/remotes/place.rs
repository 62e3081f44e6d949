//! A folder remote of its own, the tree that it is kept in step with, and a worker that does one run at a time.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use driftless_domain::{
    Actor, Domain, bandwidth,
    commit::{self, Base, Change, Origin},
    contents,
    devices::{self, DeviceKind, NewDevice},
    engine,
    ingest::Ingest,
    runs::{self, Execution, HeldDeletion, Job, Run, Started, State},
    schedules::{self, Fields},
    sessions, tree,
};
use driftless_queue::{Claim, JobId};
use driftless_sync::{hash::ContentHash, path::TreePath};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    App,
    binary::{self, driftless},
    until,
};

/// One device with its schedule. The tree's folder is `base`.
pub struct Place {
    app: std::sync::Arc<App>,
    roots: std::sync::Arc<TempDir>,
    actor: Actor,
    name: String,
    base: TreePath,
    schedule: i64,
}

/// Paths with contents; folders that hold nothing end in a slash.
pub type Texts = BTreeMap<String, String>;

pub fn text(pairs: &[(&str, &str)]) -> Texts {
    pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

/// Sets the modification time back.
pub fn age(path: &Path, seconds: i64) {
    let now = SystemTime::now();
    let by = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { now + by } else { now - by };
    fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

/// What a folder holds, with our own names left out.
pub fn disk(folder: &Path) -> Texts {
    let mut found = Texts::new();
    walk(folder, "", &mut found);
    found
}

fn walk(folder: &Path, prefix: &str, found: &mut Texts) {
    let mut empty = true;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        empty = false;
        if name.starts_with(".driftless-") || name.ends_with(".tmp") {
            continue;
        }
        let path = format!("{prefix}/{name}");
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &path, found);
        } else {
            found.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
    if empty && !prefix.is_empty() {
        found.insert(format!("{prefix}/"), String::new());
    }
}

impl Place {
    pub async fn new() -> Self {
        Self::start(Fields::default(), "/").await
    }

    /// Both sides hold these files and agree on them.
    pub async fn with_both(files: &[(&str, &str)]) -> Self {
        let place = Self::new().await;
        place.fill(files).await;
        place
    }

    pub async fn fill(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            self.write(&path[1..], text);
            age(&self.at(&path[1..]), 600);
        }
        assert_eq!(self.sync().await.state, State::Succeeded);
    }

    pub async fn start(fields: Fields, base: &str) -> Self {
        let roots = TempDir::with_prefix("driftless-roots-").unwrap();
        let path = roots.path().to_owned();
        let app = App::start_with(|settings| settings.remote_roots = vec![path]).await;
        let token = app.sign_up_admin("anna").await;
        let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
        Self::register(app.into(), roots.into(), actor, "box", fields, base).await
    }

    /// How many changes of the tree the device is shown to lack.
    pub async fn pending(&self) -> i64 {
        let mut tx = self.app.domain.begin(&self.actor).await.unwrap();
        devices::get(&mut tx, &self.actor, &self.name).await.unwrap().pending_changes
    }

    /// A second device of the same user and tree.
    pub async fn another(&self, name: &str) -> Self {
        let (app, roots) = (self.app.clone(), self.roots.clone());
        Self::register(app, roots, self.actor.clone(), name, Fields::default(), self.base.as_str()).await
    }

    async fn register(
        app: std::sync::Arc<App>,
        roots: std::sync::Arc<TempDir>,
        actor: Actor,
        name: &str,
        fields: Fields,
        base: &str,
    ) -> Self {
        let folder = roots.path().join(name);
        fs::create_dir(&folder).unwrap();
        let mut tx = app.domain.begin(&actor).await.unwrap();
        let new = NewDevice {
            device_id: name.into(),
            device_name: None,
            kind: DeviceKind::Remote,
            place: Some(devices::Place::Folder(folder.to_str().unwrap().into())),
            base_path: Some(base.into()),
        };
        devices::register(&mut tx, app.domain.settings(), &actor, &new).await.unwrap();
        let schedule = schedules::create(&mut tx, &actor, name, fields).await.unwrap().id;
        tx.commit().await.unwrap();
        Place { app, roots, actor, name: name.into(), base: TreePath::parse(base).unwrap(), schedule }
    }

    pub fn roots(&self) -> PathBuf {
        self.roots.path().to_owned()
    }

    pub fn root(&self) -> PathBuf {
        self.roots.path().join(&self.name)
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn domain(&self) -> &Domain {
        &self.app.domain
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    pub fn disk(&self) -> Texts {
        disk(&self.root())
    }

    /// At least 5,000 files that people made, with their links and times.
    pub fn copy_real_files(&self) {
        for folder in ["doc", "zoneinfo", "perl", "locale", "man"].map(|name| Path::new("/usr/share").join(name)) {
            let found = Command::new("find").arg(self.root()).args(["-type", "f"]).output().unwrap();
            let files = found.stdout.iter().filter(|byte| **byte == b'\n').count();
            if files < 5000 && folder.exists() {
                assert!(Command::new("cp").arg("-a").arg(folder).arg(self.root()).status().unwrap().success());
            }
        }
    }

    /// Names that archives and desktops really produce.
    pub fn grow_odd_names(&self) {
        for name in ["with space", "-rf", "emoji 🦀", "quote\"'`$(x)", "back\\slash", "dot.", "..."] {
            self.write(&format!("odd/{name}/{name}"), name);
        }
        self.write(&format!("odd/{}", "n".repeat(255)), "long");
        fs::create_dir_all(self.at("odd/deep/empty/folder")).unwrap();
        self.write("odd/empty file", "");
        self.write("odd/tool", "#!/bin/sh\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.at("odd/tool"), mode).unwrap();
    }

    /// Both bandwidth limits of the user, in bytes a second.
    pub async fn limit(&self, speed: i64) {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let limits = bandwidth::Limits {
            upload_speed_limit: Some(speed),
            download_speed_limit: Some(speed),
            ..bandwidth::Limits::default()
        };
        bandwidth::set(&mut tx, &self.actor, limits).await.unwrap();
        tx.commit().await.unwrap();
    }

    // The tree.

    async fn change(&self, change: Change) {
        let outcome = commit::apply_one(self.domain(), &self.actor, Origin::Person, change).await.unwrap();
        outcome.applied().unwrap();
    }

    pub async fn put(&self, path: &str, text: &str) {
        let mut ingest = Ingest::new(self.domain(), &self.actor);
        let bytes = bytes::Bytes::from(text.to_owned());
        let contents = ingest.add(futures::stream::iter([Ok::<_, std::io::Error>(bytes)])).await.unwrap();
        let change = crate::support::put_change(path, contents);
        let batch = commit::Batch::with(Origin::Person, vec![change], ingest.finish().await.unwrap());
        commit::apply(self.domain(), &self.actor, batch).await.unwrap().remove(0).applied().unwrap();
    }

    pub async fn delete(&self, path: &str) {
        let path = TreePath::parse(path).unwrap();
        self.change(Change::Delete { path, base: Base::Any, recursive: true, half_of_move: false }).await;
    }

    pub async fn shift(&self, from: &str, to: &str) {
        let (from, to) = (TreePath::parse(from).unwrap(), TreePath::parse(to).unwrap());
        self.change(Change::Move { from, to, base: Base::Any, held: None }).await;
    }

    pub async fn tree(&self) -> Texts {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let nodes = tree::below(&mut tx, &self.actor, &TreePath::root()).await.unwrap();
        let mut found = Texts::new();
        for node in &nodes {
            if node.is_folder() {
                if !nodes.iter().any(|n| n.path.parent().as_ref() == Some(&node.path)) {
                    found.insert(format!("{}/", node.path), String::new());
                }
                continue;
            }
            found.insert(node.path.to_string(), self.text_of(&mut tx, node.version).await);
        }
        found
    }

    async fn text_of(&self, tx: &mut driftless_domain::Tx, version: i64) -> String {
        let reader = contents::open(tx, self.domain(), &self.actor, version).await.unwrap();
        let bytes: Vec<bytes::Bytes> = reader.all().try_collect().await.unwrap();
        String::from_utf8(bytes.concat()).unwrap()
    }

    /// All contents that the file ever had, newest first.
    pub async fn history(&self, path: &str) -> Vec<String> {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let path = TreePath::parse(path).unwrap();
        let (versions, _) = tree::history(&mut tx, &self.actor, &path, None).await.unwrap();
        let mut texts = Vec::new();
        for version in versions.iter().filter(|v| v.hash.is_some()) {
            texts.push(self.text_of(&mut tx, version.seq).await);
        }
        texts
    }

    /// Modification time and executable bit in the tree.
    pub async fn look(&self, path: &str) -> (DateTime<Utc>, bool) {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let node = tree::node(&mut tx, &self.actor, &TreePath::parse(path).unwrap()).await.unwrap();
        let file = node.file.unwrap();
        (file.modified_at, file.executable)
    }

    /// The id of the entry at a path.
    pub async fn entry(&self, path: &str) -> i64 {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        tree::node(&mut tx, &self.actor, &TreePath::parse(path).unwrap()).await.unwrap().entry_id
    }

    /// All contents that any file of that name ever had, also those in the trash.
    pub async fn ever(&self, path: &str) -> Vec<String> {
        let name = path.rsplit('/').next().unwrap();
        let versions: Vec<i64> = sqlx::query_scalar(
            "select v.seq from versions v join entries e on e.user_id = v.user_id and e.id = v.entry_id
             where e.name = $1 and v.sha256 is not null",
        )
        .bind(name)
        .fetch_all(self.pool())
        .await
        .unwrap();
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let mut texts = Vec::new();
        for version in versions {
            texts.push(self.text_of(&mut tx, version).await);
        }
        texts
    }

    /// The hashes of all contents in the history.
    pub async fn all_contents(&self) -> std::collections::HashSet<ContentHash> {
        let hashes: Vec<Vec<u8>> = sqlx::query_scalar("select sha256 from versions where sha256 is not null")
            .fetch_all(self.pool())
            .await
            .unwrap();
        hashes.iter().map(|hash| ContentHash::try_from(&hash[..]).unwrap()).collect()
    }

    pub fn pool(&self) -> &sqlx::PgPool {
        self.domain().pool()
    }

    pub async fn head(&self) -> i64 {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        tree::head(&mut tx, &self.actor).await.unwrap().seq
    }

    // Runs.

    /// What the last run noted, should it have found nothing to do.
    pub async fn mark(&self) -> Option<Vec<u8>> {
        let mark = sqlx::query_scalar("select at_rest from devices where device_id = $1").bind(&self.name);
        mark.fetch_one(self.pool()).await.unwrap()
    }

    /// Gives the device these ignore rules.
    pub async fn ignore(&self, rules: &[&str]) {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        let edit = devices::Edit { ignore_rules: Some(rules), ..Default::default() };
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        devices::patch(&mut tx, &self.actor, &self.name, edit).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// One whole run.
    pub async fn sync(&self) -> Run {
        self.run(false).await
    }

    pub async fn run(&self, dry: bool) -> Run {
        let id = self.ask(dry).await;
        self.execute(id).await;
        self.finished(id).await
    }

    pub async fn ask(&self, dry: bool) -> Uuid {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let run = runs::run_now(&mut tx, &self.actor, self.schedule, dry).await.unwrap();
        tx.commit().await.unwrap();
        run
    }

    /// Claims the run's job as a worker does.
    async fn claim(&self, run: Uuid) -> Claim {
        let lease_token = Uuid::now_v7();
        let (id, attempt): (JobId, i16) = sqlx::query_as(
            "update queue.jobs set attempt = attempt + 1, lease_token = $2, unique_key = null, ready = true
             where payload->>'run_id' = $1 returning id, attempt",
        )
        .bind(run.to_string())
        .bind(lease_token)
        .fetch_one(self.domain().pool())
        .await
        .unwrap();
        Claim { id, attempt, lease_token }
    }

    async fn execute(&self, run: Uuid) {
        let claim = self.claim(run).await;
        let job = Job { claim, cancel: CancellationToken::new() };
        engine::run_sync(self.domain(), run, job).await.unwrap();
        self.complete(&claim).await;
    }

    async fn complete(&self, claim: &Claim) {
        let mut conn = self.domain().pool().acquire().await.unwrap();
        driftless_queue::complete(&mut conn, claim).await.unwrap();
    }

    pub async fn state(&self, run: Uuid) -> State {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        runs::get(&mut tx, &self.actor, run).await.unwrap().state
    }

    /// A run that its user ends as soon as a worker has taken it.
    pub async fn cancelled_at_once(&self) -> Run {
        let run = self.ask(false).await;
        let claim = self.claim(run).await;
        // The worker takes it, and the request comes before its first look.
        sqlx::query(
            "create or replace function ask_to_cancel() returns trigger language plpgsql
             as $$ begin new.cancel_requested := true; return new; end $$",
        )
        .execute(self.pool())
        .await
        .unwrap();
        sqlx::query(
            "create trigger ask_to_cancel before update on runs for each row
             when (old.state = 'queued' and new.state = 'running') execute function ask_to_cancel()",
        )
        .execute(self.pool())
        .await
        .unwrap();
        let job = Job { claim, cancel: CancellationToken::new() };
        engine::run_sync(self.domain(), run, job).await.unwrap();
        sqlx::query("drop trigger ask_to_cancel on runs").execute(self.pool()).await.unwrap();
        self.complete(&claim).await;
        self.finished(run).await
    }

    /// The same, and nothing is planned before the worker has heard of the request: however late that is, there is all left to end.
    pub async fn cancelled_before_its_first_step(&self) -> Run {
        let mut baseline = self.pool().begin().await.unwrap();
        sqlx::query("lock table baselines in access exclusive mode").execute(&mut *baseline).await.unwrap();
        let heard = async {
            until("the worker has looked", async || {
                let looked = "select from runs where state = 'running' and progress is not null";
                sqlx::query(looked).fetch_optional(self.pool()).await.unwrap().map(drop)
            })
            .await;
            baseline.rollback().await.unwrap();
        };
        tokio::join!(self.cancelled_at_once(), heard).0
    }

    /// The shipped binary with this place's database, data and roots.
    pub fn work(&self, arguments: &[&str]) -> Command {
        let (data, roots) = (self.app.data_dir(), self.roots());
        let settings = [
            ("DRIFTLESS_DATABASE_URL", self.app.database.url.as_str()),
            ("DRIFTLESS_DATA_DIR", data.to_str().unwrap()),
            ("DRIFTLESS_REMOTE_ROOTS", roots.to_str().unwrap()),
            ("DRIFTLESS_MIN_FREE", "0"),
        ];
        driftless(arguments, &settings)
    }

    /// One run, its folder worked on by a thread without rights where the test runs as root.
    pub async fn sync_as_nobody(&self) -> Run {
        let run = self.ask(false).await;
        let (roots, data) = (self.roots(), self.app.data_dir());
        let root = rustix::process::geteuid().is_root();
        let mut command = self.work(&["work", "--until-idle"]);
        if root {
            for folder in [&roots, &data] {
                let owner = Command::new("chown").args(["-R", "65534:65534"]).arg(folder).status().unwrap();
                assert!(owner.success());
            }
            // Its own copy: the way to the build's may be closed to others.
            let copy = roots.join("driftless");
            // Copied by another process: had this one the copy open for writing while a test beside it starts a program, that
            // one would hold it open too for a moment, and it could not be run.
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_driftless")).arg(&copy).status().unwrap();
            assert!(copied.success());
            let mut other = Command::new("setpriv");
            other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).args(["work", "--until-idle"]);
            other.env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
            command = other;
        }
        let ended = binary::run(command, "");
        assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        self.finished(run).await
    }

    /// A run in the hands of the test instead of the engine.
    pub async fn begin(&self) -> (Uuid, Execution) {
        let run = self.ask(false).await;
        let claim = self.claim(run).await;
        let job = Job { claim, cancel: CancellationToken::new() };
        match runs::start(self.domain(), run, job).await.unwrap() {
            Started::Remote(execution) => (run, *execution),
            Started::Done => panic!("the run is there to be taken"),
        }
    }

    /// The run as it is now, its job gone.
    pub async fn finished(&self, run: Uuid) -> Run {
        sqlx::query("delete from queue.jobs where payload->>'run_id' = $1 and lease_token is not null")
            .bind(run.to_string())
            .execute(self.domain().pool())
            .await
            .unwrap();
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        runs::get(&mut tx, &self.actor, run).await.unwrap()
    }

    pub async fn held(&self, run: &Run) -> Vec<HeldDeletion> {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        let held = runs::held_deletions(&mut tx, &self.actor, run.id, -1, 1000).await.unwrap();
        held.into_iter().map(|(_, held)| held).collect()
    }

    pub async fn approve(&self, run: &Run) {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        runs::approve(&mut tx, &self.actor, run.id).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn discard(&self, run: &Run) {
        let mut tx = self.domain().begin(&self.actor).await.unwrap();
        runs::discard(&mut tx, &self.actor, run.id).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Goes on with a run that was approved.
    pub async fn resume(&self, run: &Run) -> Run {
        self.execute(run.id).await;
        self.finished(run.id).await
    }

    /// Another run finds nothing to do.
    pub async fn assert_settled(&self) {
        let run = self.sync().await;
        assert_eq!((run.state, run.planned), (State::Succeeded, Some(0)), "{:?}", run.plan);
        self.assert_no_temporaries();
    }

    pub fn assert_no_temporaries(&self) {
        let found = Command::new("find").arg(self.root()).args(["-name", ".driftless-tmp-*"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "temporaries were left");
    }

    /// What other tools say of the two folders: regular files, folders, times and executable bits are equal.
    pub fn compare(&self, other: &Place) {
        let diff =
            Command::new("diff").args(["-r", "--no-dereference"]).arg(self.root()).arg(other.root()).output().unwrap();
        let differing: Vec<_> =
            std::str::from_utf8(&diff.stdout).unwrap().lines().filter(|line| !is_link(line)).collect();
        assert_eq!(differing, Vec::<&str>::new());
        let (from, to) = (format!("{}/", self.root().display()), format!("{}/", other.root().display()));
        let rsync = Command::new("rsync").args(["-rtEncO", "--itemize-changes", "--delete", &from, &to]).output();
        let rsync = rsync.expect("rsync is installed");
        assert!(rsync.status.success());
        let text = String::from_utf8_lossy(&rsync.stdout).into_owned();
        let told: Vec<_> = text.lines().filter(|line| !line.starts_with("skipping non-regular file")).collect();
        assert_eq!(told, Vec::<&str>::new());
    }
}

/// Links are on one side only: they are not synced.
fn is_link(line: &str) -> bool {
    let Some((folder, name)) = line.strip_prefix("Only in ").and_then(|rest| rest.split_once(": ")) else {
        return false;
    };
    Path::new(folder).join(name).is_symlink()
}
