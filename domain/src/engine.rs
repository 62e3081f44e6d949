//! Running the sync of a folder remote: scan, plan, carry out, account for every action.
//!
//! Invariant: a run changes nothing that its plan does not hold, and ends well only when each action of the plan was carried out
//! or is named with the reason why not. What is done is in the baseline, so whoever takes the run over plans only the
//! rest. Contents that may be somebody's only copy reach the history before they leave the disk.
//! Left out: a run's states (`runs`), the decisions (`sync::plan`), and how files are replaced (`remotes`).

mod download;
mod error;
mod ledger;
mod meter;
mod preview;
mod recover;
mod rest;
mod steps;
mod upload;
mod view;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use driftless_sync::{
    conflict, deletions,
    hash::ContentHash,
    manifest::Content,
    path::TreePath,
    plan::{self, Action, Deletion, Plan, Side},
};
use uuid::Uuid;

pub use self::error::{Error, Stop};
use self::{
    meter::{Flow, Meter},
    rest::Rest,
    view::{Device, View},
};
use crate::{
    Domain,
    baselines::{self, Baseline},
    commit::{self, Origin},
    error::Fault,
    remotes::{
        Lost, clash,
        folder::{Fingerprint, Folder},
        hands::Hands,
        identity,
        scan::{Eyes, Reading, Reason, Scan, Unknown, scan},
    },
    runs::{self, Counts, Execution, HeldDeletion, LeftOut, Signal, Started},
    schedules::Direction,
    tree::{self, Cursor},
};

/// How often a run plans anew for what was changed under its hands.
const ROUNDS: usize = 3;
/// Threads that scan and hash.
const SCANNERS: usize = 4;
/// How often progress is shown, and heard whether to go on.
const TICK: Duration = Duration::from_millis(500);

/// What was done, and what was not.
#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    /// Actions that were not carried out because something changed meanwhile: a next plan sees it.
    later: Vec<LeftOut>,
    /// The first failure of an action on the disk, and how many there were.
    failed: Option<(String, String)>,
    failures: usize,
    /// Chains of the round in which a step was not done.
    broken: HashSet<TreePath>,
}

impl Tally {
    /// The action is left to the next plan, and with it those that rely on it.
    fn later(&mut self, action: &Action, reason: &str) {
        self.broken.extend(action.chain.clone());
        self.later.push(LeftOut { path: action.path.to_string(), reason: reason.to_owned(), planned: true });
    }

    fn fail(&mut self, action: &Action, problem: impl ToString) {
        self.broken.extend(action.chain.clone());
        self.failures += 1;
        self.failed.get_or_insert_with(|| (action.path.to_string(), problem.to_string()));
    }
}

enum End {
    Done,
    Held(Vec<HeldDeletion>),
}

/// Carries out the run of a job. An error says that even the run's state could not be written: the job is to be repeated.
pub async fn run_sync(domain: &Domain, run: Uuid, job: runs::Job) -> Result<(), Error> {
    match runs::start(domain, run, job).await? {
        Started::Done => Ok(()),
        Started::Remote(execution) => Run::new(domain, *execution).carry_out().await,
    }
}

/// One attempt at a run.
struct Run<'a> {
    domain: &'a Domain,
    execution: Arc<Execution>,
    origin: Origin,
    meter: Arc<Meter>,
    tally: Tally,
    left_out: Vec<LeftOut>,
    /// The tree's head before this round looked at it.
    head: Option<Cursor>,
    /// This round left conflicts as they are, or could not look where the tree holds something.
    undone: bool,
}

/// What a round works with.
struct Round {
    device: Arc<Device>,
    view: View,
    hands: Arc<Hands>,
    /// The mark of this round's looking, should there be nothing to do.
    rest: Option<Rest>,
}

impl<'a> Run<'a> {
    fn new(domain: &'a Domain, execution: Execution) -> Self {
        let (device, run, fence) = (execution.device(), execution.id(), execution.fence());
        Run {
            domain,
            execution: Arc::new(execution),
            origin: Origin::Run { device, run, fence },
            meter: Arc::default(),
            tally: Tally::default(),
            left_out: Vec::new(),
            head: None,
            undone: false,
        }
    }

    /// Up to where the device has everything that the tree holds, when nothing is left undone.
    fn taken_in(&self) -> Option<Cursor> {
        let to_device = self.execution.options().direction != Direction::Upload;
        let all = to_device && !self.undone && self.left_out.iter().all(|left| !left.planned);
        self.head.filter(|_| all)
    }

    async fn carry_out(mut self) -> Result<(), Error> {
        let ended = self.attempt_watched().await;
        let taken_in = self.taken_in();
        let (counts, left_out) = (self.tally.counts, self.left_out);
        let execution = Arc::into_inner(self.execution).expect("the attempt, which shared it, is over");
        let run = execution.id();
        match ended {
            Ok(End::Done) => drop(execution.succeed(&counts, &left_out, taken_in).await?),
            Ok(End::Held(deletions)) => execution.hold(&deletions, &counts, &left_out).await?,
            Err(Error::Stopped(Stop::Cancelled)) => execution.cancelled(&counts, &left_out).await?,
            Err(Error::Stopped(Stop::Draining)) => execution.requeue(0).await?,
            Err(e) if e.is_superseded() => tracing::info!(%run, "another worker has this run"),
            Err(e) => {
                tracing::warn!(%run, error = &e as &dyn std::error::Error, "an attempt of the run failed");
                execution.fail(e.code(), &describe(&e), e.is_hopeless()).await?;
            }
        }
        Ok(())
    }

    /// The attempt, beside a look each tick at whether to go on.
    async fn attempt_watched(&mut self) -> Result<End, Error> {
        let meter = self.meter.clone();
        let watch = self.execution.clone();
        let look = async {
            let mut tick = tokio::time::interval(TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = watch.stop().cancelled() => meter.stop(Stop::Draining),
                }
                match watch.progress(&meter.progress()).await {
                    Ok(Signal::Continue) => {}
                    Ok(Signal::Cancel) => meter.stop(Stop::Cancelled),
                    Err(runs::Error::Superseded) => meter.stop(Stop::Superseded),
                    // A database that is away for a moment shows at the next commit.
                    Err(e) => tracing::warn!(error = &e as &dyn std::error::Error, "progress could not be shown"),
                }
                if meter.stopped().is_some() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        let ended = tokio::select! {
            ended = self.attempt() => ended,
            () = look => unreachable!("looking never ends by itself"),
        };
        if ended.is_ok() {
            self.execution.progress(&self.meter.progress()).await?;
        }
        ended
    }

    async fn attempt(&mut self) -> Result<End, Error> {
        let mut tx = self.execution.begin().await?;
        let device = Arc::new(Device::load(&mut tx, self.execution.device()).await?);
        drop(tx);
        let mut recovered = self.execution.is_dry_run();
        for round in 1.. {
            let folder = match self.open(&device).await {
                Err(Error::Lost(lost)) if !self.execution.is_dry_run() => return Ok(self.hold_whole(&device, lost)),
                other => other?,
            };
            if round == 1 && self.is_at_rest(&device, &folder).await? {
                return Ok(End::Done);
            }
            let mut r = self.look(&device, folder, &mut recovered).await?;
            let mut plan = self.plan(&mut r).await?;
            let held = self.safety(&r, &mut plan).await?;
            self.record_plan(&r, &plan, &held).await?;
            if let Some(rest) = r.rest.filter(|_| plan == Plan::default() && held.is_empty() && !self.undone) {
                self.execution.rests(rest.to_bytes());
            }
            if self.execution.is_dry_run() {
                return Ok(End::Done);
            }
            self.tally.broken.clear();
            self.execute(&mut r, plan).await?;
            if let Some((path, problem)) = self.tally.failed.take() {
                let more = self.tally.failures - 1;
                let problem = if more > 0 { format!("{problem} (and {more} more like it)") } else { problem };
                return Err(Error::Disk { path, problem });
            }
            if self.tally.later.is_empty() || round == ROUNDS {
                self.left_out.append(&mut self.tally.later);
                return Ok(if held.is_empty() { End::Done } else { End::Held(held) });
            }
            self.tally.later.clear();
        }
        unreachable!("the last round returns")
    }

    /// The folder is not the one that was registered: nothing is planned, a person looks.
    fn hold_whole(&mut self, device: &Device, lost: Lost) -> End {
        let reason = lost.code().to_owned();
        self.left_out.push(LeftOut { path: device.base.to_string(), reason, planned: false });
        End::Held(Vec::new())
    }

    async fn open(&self, device: &Arc<Device>) -> Result<Folder, Error> {
        let (settings, device) = (self.domain.settings().clone(), device.clone());
        Ok(tokio::task::spawn_blocking(move || identity::open(&settings, &device.place)).await??)
    }

    /// Whether all is as it was when a run found nothing to do. Then this one has found the same.
    async fn is_at_rest(&mut self, device: &Arc<Device>, folder: &Folder) -> Result<bool, Error> {
        let Some(rest) = self.execution.rested().and_then(Rest::from_bytes) else { return Ok(false) };
        let mut tx = self.execution.read().await?;
        let head = tree::head(&mut tx, self.execution.actor()).await?.cursor();
        drop(tx);
        if !rest.is_of(device.settings, self.execution.options(), head) {
            return Ok(false);
        }
        let folder = folder.again().map_err(|_| Error::Unreadable)?;
        let mut scan = self.scan(device, folder, None).await?.0;
        self.meter.scan.names.store(0, Relaxed);
        if !rest.has(&scan) {
            return Ok(false);
        }
        self.head = Some(head);
        view::in_tree(device, &mut scan.unknown);
        self.note_left_out(&scan.unknown);
        self.execution.planned_nothing(preview::preview(&Plan::default(), &[], device));
        self.execution.rests(rest.to_bytes());
        Ok(true)
    }

    fn note_left_out(&mut self, unknown: &[Unknown]) {
        self.left_out = unknown
            .iter()
            .map(|u| LeftOut { path: u.shown.clone(), reason: u.reason.code().to_owned(), planned: false })
            .collect();
        // What was ignored on purpose does not crowd out what a person should see.
        self.left_out.sort_by_key(|l| l.reason == Reason::Ignored.code());
        self.tally.counts.skipped = self.left_out.len() as i64;
    }

    /// Scans the device and reads what tree and baseline say.
    async fn look(&mut self, device: &Arc<Device>, folder: Folder, recovered: &mut bool) -> Result<Round, Error> {
        // What changes in the tree from here on is refused at the commit, by its version.
        let actor = self.execution.actor();
        let (mut a, mut b) = (self.execution.read().await?, self.execution.read().await?);
        self.head = Some(tree::head(&mut b, actor).await?.cursor());
        let (agreed, nodes) =
            tokio::join!(baselines::of_device(&mut a, actor, device.id), view::entries(&mut b, actor, device));
        let (agreed, nodes, _) = (agreed?, nodes?, drop((a, b)));
        let top = folder.again().map_err(|_| Error::Unreadable)?;
        let (mut scan, agreed) = self.scan(device, folder, Some(agreed)).await?;
        if scan.unknown.iter().any(|u| u.path.as_ref().is_some_and(|p| p.is_root())) {
            return Err(Error::Unreadable);
        }
        let (d, run, options, head) = (device.clone(), self.execution.id(), self.execution.options(), self.head);
        let (mut r, leftovers) = tokio::task::spawn_blocking(move || {
            let rest = head.and_then(|head| Rest::new(d.settings, options, head, &scan));
            let leftovers = std::mem::take(&mut scan.leftovers);
            let (clashes, unknown) = (clashes(&d, &top, &scan, &nodes), scan.unknown.len());
            let spellings = spellings(&d, &agreed, &scan);
            let view = View::new(&d, scan, clashes, &agreed, nodes);
            let hands = Arc::new(Hands::new(top, d.base.clone(), spellings, run));
            // What only tree and baseline make unknown is not in the mark.
            let rest = rest.filter(|_| view.unknown.len() == unknown && view.stale.is_empty());
            (Round { device: d, view, hands, rest }, leftovers)
        })
        .await?;
        self.note_left_out(&r.view.unknown);
        if !std::mem::replace(recovered, true) {
            recover::leftovers(self, &mut r, leftovers).await?;
        }
        Ok(r)
    }

    /// Looks at the device; without what was agreed on, at the outside of its files only.
    async fn scan(
        &self,
        device: &Arc<Device>,
        folder: Folder,
        agreed: Option<Vec<Baseline>>,
    ) -> Result<(Scan, Vec<Baseline>), Error> {
        let (device, meter) = (device.clone(), self.meter.clone());
        let scanned = tokio::task::spawn_blocking(move || {
            let known = agreed.as_ref().map(|agreed| known_files(&device, agreed));
            let look_up = known.as_ref().map(|known| |path: &TreePath| known.get(path).copied());
            let eyes = Eyes {
                ignored: &|path, folder| device.leaves_out(path, folder),
                reading: look_up.as_ref().map_or(Reading::None, |look_up| Reading::Unless(look_up)),
                gauge: &meter.scan,
                threads: SCANNERS,
            };
            scan(folder, &eyes).map(|scan| (scan, agreed.unwrap_or_default()))
        });
        scanned.await?.map_err(|_| Error::Stopped(self.meter.stopped().unwrap_or(Stop::Draining)))
    }

    async fn plan(&self, r: &mut Round) -> Result<Plan, Error> {
        let options = self.execution.options();
        let mut tx = self.execution.begin().await?;
        let rules = options.rules(tx.now().await?, r.device.name.clone());
        drop(tx);
        let view = &mut r.view;
        let sides = [&mut view.base, &mut view.device, &mut view.server].map(std::mem::take);
        let (plan, [base, device, server]) = tokio::task::spawn_blocking(move || {
            let [base, device, server] = &sides;
            (plan::plan(base, device, server, &rules), sides)
        })
        .await?;
        (view.base, view.device, view.server) = (base, device, server);
        Ok(plan)
    }

    /// Takes the deletions out of the plan that wait for a person, and answers them.
    async fn safety(&self, r: &Round, plan: &mut Plan) -> Result<Vec<HeldDeletion>, Error> {
        let approved: HashSet<HeldDeletion> = self.execution.approved().await?.into_iter().collect();
        let approved: HashSet<Deletion> =
            plan.deletions().filter(|d| approved.contains(&to_hold(d))).cloned().collect();
        let mut tx = self.execution.begin().await?;
        let last_hour = commit::deleted_last_hour(&mut tx, r.device.id).await?;
        let totals = deletions::Totals::of(&r.view.base, &r.view.device, &r.view.server);
        Ok(deletions::hold(plan, totals, last_hour, &approved).iter().map(to_hold).collect())
    }

    async fn record_plan(&mut self, r: &Round, plan: &Plan, held: &[HeldDeletion]) -> Result<(), Error> {
        let counts = plan.counts();
        let executed = self.tally.counts.executed;
        self.meter.files_of.store(executed as u64 + plan.actions.len() as u64, Relaxed);
        self.meter
            .bytes_of
            .store(self.meter.bytes.load(Relaxed) + counts.upload_bytes + counts.download_bytes, Relaxed);
        let settled = plan.conflicts.iter().filter(|c| c.outcome != conflict::Outcome::Open).count();
        self.undone = settled < plan.conflicts.len() || r.view.is_blind();
        self.tally.counts.conflicts += settled as i64;
        let planned = executed + plan.actions.len() as i64;
        let changes = planned + held.len() as i64;
        Ok(self.execution.planned(planned, changes, preview::preview(plan, held, &r.device)).await?)
    }

    /// Breaks off between two steps when the run was told to stop, or is no longer ours. Called before the disk is changed:
    /// what a worker does that lost its run is safe, but better left undone.
    fn flow(&self) -> Flow {
        Flow::new(self.domain, self.execution.actor(), &self.meter)
    }

    /// What broke off because the run was told to stop did not fail.
    fn unless_stopped(&self, e: Error) -> Error {
        self.meter.stopped().map_or(e, Error::Stopped)
    }

    async fn go_on(&self) -> Result<(), Error> {
        match self.meter.stopped() {
            Some(why) => Err(Error::Stopped(why)),
            None => {
                drop(self.execution.begin().await?);
                Ok(())
            }
        }
    }
}

fn describe(e: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(e), |e| e.source());
    causes.fold(e.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn to_hold(deletion: &Deletion) -> HeldDeletion {
    HeldDeletion {
        side: match deletion.on {
            Side::Device => runs::Side::Device,
            Side::Server => runs::Side::Server,
        },
        path: deletion.path.to_string(),
        version: deletion.version.unwrap_or(0),
    }
}

/// The paths of the tree that this device's file system can't hold beside others.
fn clashes(device: &Device, top: &Folder, scan: &Scan, nodes: &[tree::Node]) -> Vec<Unknown> {
    let there: HashSet<_> = scan.found.iter().map(|f| &f.path).collect();
    let tree: Vec<_> = nodes.iter().filter_map(|n| n.path.relative_to(&device.base)).collect();
    if tree.iter().all(|path| there.contains(path)) {
        return Vec::new();
    }
    let mut known = HashMap::new();
    clash::clashes(scan, &tree, &mut |folder| {
        *known.entry(folder.clone()).or_insert_with(|| {
            // A folder that is yet to be made will be like the nearest one above it.
            let mut at = top.again();
            for name in folder.segments() {
                match at.as_ref().map(|at| at.enter(name)) {
                    Ok(Ok(next)) => at = Ok(next),
                    _ => break,
                }
            }
            at.is_ok_and(|at| clash::folds(&at))
        })
    })
}

/// The fingerprints of the baseline, by paths below the device's folder.
fn known_files(device: &Device, agreed: &[Baseline]) -> HashMap<TreePath, (Fingerprint, ContentHash)> {
    let known = agreed.iter().filter_map(|row| {
        let (print, path) = (row.held.fingerprint?, row.held.path.relative_to(&device.base)?);
        let Content::File(file) = &row.content else { return None };
        let (size, inode) = (print.size as u64, print.inode as u64);
        Some((path, (Fingerprint { size, inode, mtime_ns: print.mtime_ns, ctime_ns: print.ctime_ns }, file.hash)))
    });
    known.collect()
}

/// How the device writes names: as the scan found them, else as they were when they were last there.
fn spellings(device: &Device, agreed: &[Baseline], scan: &Scan) -> HashMap<TreePath, Box<str>> {
    let kept = agreed.iter().filter_map(|row| Some((row.held.path.clone(), row.held.spelling.clone()?.into())));
    let mut spellings: HashMap<_, Box<str>> = kept.collect();
    for found in &scan.found {
        let Ok(path) = found.path.below(&device.base) else { continue };
        match &found.spelling {
            Some(name) => drop(spellings.insert(path, name.clone())),
            None => drop(spellings.remove(&path)),
        }
    }
    spellings
}
