//! The jobs of one queue inside this process, between the lanes that speak to Postgres and the apalis worker that runs them.
//!
//! Invariant: every job claimed by this process is known here (buffer, running, acks, verdicts, stuck, or travelling with a lane)
//! until the database has said how it ended. What is in none of them is handed back by [`reconcile`](crate::lane::reconcile) after
//! a failure of the connection.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, RwLock};

use crate::{
    Claim, JobId,
    run::{Ending, Job, Run, Stop, Verdict},
};

/// The most jobs that one statement claims, and the most it completes.
pub(crate) const BATCH: usize = 500;

/// Jobs are fetched ahead as many as could start within this time.
const AHEAD: Duration = Duration::from_millis(20);

/// But no more than this: enough for one full batch under way in each lane and one in hand for each.
const MOST_AHEAD: usize = 4 * BATCH;

/// How long acknowledgements are remembered after Postgres has taken them: a crash may undo what was committed within its last
/// second, and may be seen only at the next heartbeat.
const REMEMBERED: Duration = Duration::from_secs(5);

/// While another lane is at the database, a lane waits until it has this much to do.
const WORTH_A_TRIP: usize = 400;

#[derive(Debug)]
pub(crate) struct Feed {
    pub queue: String,
    pub concurrency: usize,
    pub time_limit: Duration,
    /// Wakes one lane: something to claim or to acknowledge.
    work: Notify,
    /// Shared by lanes around a claim and what they do with it; exclusive for who must know all claims.
    pub claims: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The highest priority first; who came first within one.
    buffer: VecDeque<Job>,
    running: HashMap<JobId, Arc<Run>>,
    acks: Vec<Claim>,
    verdicts: Vec<Verdict>,
    /// Acknowledgements that Postgres took, but might yet forget.
    taken: VecDeque<(Instant, Vec<Claim>)>,
    /// Verdicts whose jobs were locked by somebody's transaction; tried again each second.
    stuck: Vec<Verdict>,
    lanes_busy: usize,
    asked_for: usize,
    /// What trips under way are to settle, by the number of the trip.
    travelling: HashMap<u64, Vec<Claim>>,
    trips: u64,
    /// Due jobs may be waiting in the table.
    hungry: bool,
    /// No due job that ranks above this waits in the table, as far as is known here.
    waiting_up_to: i16,
    wakes: u64,
    /// `wakes` when the last trip was planned.
    heard: u64,
    draining: bool,
    /// Mean time of a run in seconds, over about the last hundred.
    mean_run: Option<f64>,
    consumer: Option<Waker>,
}

/// What one trip of a lane to the database shall do.
#[derive(Debug, Default)]
pub(crate) struct Trip {
    pub acks: Vec<Claim>,
    pub verdicts: Vec<Verdict>,
    pub claim: usize,
    /// Only jobs that rank above this are claimed.
    pub above: Option<i16>,
    wakes: u64,
    number: u64,
}

impl Feed {
    pub fn new(queue: &str, concurrency: usize, time_limit: Duration) -> Self {
        Self {
            queue: queue.to_owned(),
            concurrency: concurrency.max(1),
            time_limit,
            work: Notify::new(),
            claims: RwLock::new(()),
            state: Mutex::new(State { hungry: true, waiting_up_to: i16::MAX, ..State::default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Due jobs may be waiting.
    pub fn wake(&self) {
        let mut state = self.state();
        state.expect_any();
        state.wakes += 1;
        drop(state);
        self.work.notify_one();
    }

    /// The next trip; waits until there is a reason for one.
    pub async fn next_trip(&self) -> Trip {
        loop {
            let notified = self.work.notified();
            if let Some(trip) = self.plan_trip() {
                return trip;
            }
            notified.await;
        }
    }

    fn plan_trip(&self) -> Option<Trip> {
        let mut state = self.state();
        let (room, above) = match self.room(&state) {
            0 => self.overtaking(&state),
            room => (room, None),
        };
        // A trip for acknowledgements claims too: it costs nothing more.
        let goes_anyway = state.hungry || !state.acks.is_empty();
        let claim = if goes_anyway && !state.draining { room.min(BATCH) } else { 0 };
        let wants = if state.hungry { claim } else { 0 };
        let load = state.acks.len() + wants;
        if load == 0 && state.verdicts.is_empty() {
            return None;
        }
        // What came since the lane that is under way set out may be missing from what it brings, and nobody has anything to do.
        let urgent = wants > 0 && state.wakes != state.heard && state.buffer.is_empty();
        if state.lanes_busy > 0 && load < WORTH_A_TRIP && !urgent {
            return None;
        }
        state.heard = state.wakes;
        let acks = take_front(&mut state.acks, BATCH);
        let verdicts = take_front(&mut state.verdicts, BATCH);
        state.lanes_busy += 1;
        state.asked_for += claim;
        state.trips += 1;
        let number = state.trips;
        let carried = acks.iter().copied().chain(verdicts.iter().map(|v| v.claim)).collect();
        state.travelling.insert(number, carried);
        let more = !state.acks.is_empty() || (state.hungry && room > claim);
        let wakes = state.wakes;
        drop(state);
        if more {
            self.work.notify_one();
        }
        Some(Trip { acks, verdicts, claim, above, wakes, number })
    }

    /// What was fetched ahead leaves no room, and is worked off late when jobs have become longer than they were. Whatever ranks above
    /// those that would start next is fetched beside it.
    fn overtaking(&self, state: &State) -> (usize, Option<i16>) {
        let next = state.buffer.get(self.concurrency - 1).or(state.buffer.back());
        match next.map(|job| job.priority) {
            Some(floor) if floor < state.waiting_up_to => (self.concurrency, Some(floor)),
            _ => (0, None),
        }
    }

    fn room(&self, state: &State) -> usize {
        let ahead = match state.mean_run {
            Some(mean) => (self.concurrency as f64 * AHEAD.as_secs_f64() / mean.max(1e-6)) as usize,
            None => 0,
        };
        let held = state.running.len() + state.buffer.len() + state.asked_for;
        (self.concurrency + ahead.min(MOST_AHEAD)).saturating_sub(held)
    }

    /// A trip went well and brought `jobs`. True when it was woken for nothing: then a look at the table is due.
    pub fn finish_trip(&self, trip: Trip, jobs: Vec<Job>) -> bool {
        let mut state = self.state();
        state.lanes_busy -= 1;
        state.asked_for -= trip.claim;
        state.travelling.remove(&trip.number);
        let mut in_vain = false;
        if trip.claim > 0 {
            let full = jobs.len() == trip.claim;
            in_vain = state.hungry && jobs.is_empty() && trip.above.is_none();
            if full {
                state.hungry = true;
            } else if state.wakes == trip.wakes && trip.above.is_none() {
                state.hungry = false;
            }
            if state.wakes == trip.wakes {
                let least = jobs.iter().map(|job| job.priority).min().filter(|_| full);
                state.waiting_up_to = least.or(trip.above).unwrap_or(i16::MIN);
            }
        }
        if state.draining {
            let back = jobs.iter().map(|job| hand_back(job.run.claim));
            state.verdicts.extend(back);
        } else {
            jobs.into_iter().for_each(|job| state.line_up(job));
        }
        let now = Instant::now();
        while state.taken.front().is_some_and(|(at, _)| now - *at > REMEMBERED) {
            state.taken.pop_front();
        }
        if !trip.acks.is_empty() {
            state.taken.push_back((now, trip.acks));
        }
        let consumer = state.consumer.take();
        drop(state);
        self.work.notify_one();
        if let Some(waker) = consumer {
            waker.wake();
        }
        in_vain
    }

    /// A trip failed: what it should have settled is still to do.
    pub fn abandon_trip(&self, mut trip: Trip) {
        let mut state = self.state();
        state.lanes_busy -= 1;
        state.asked_for -= trip.claim;
        state.travelling.remove(&trip.number);
        state.expect_any();
        state.acks.append(&mut trip.acks);
        state.verdicts.append(&mut trip.verdicts);
        drop(state);
        self.work.notify_one();
    }

    /// Turns acknowledgements that met a locked row into verdicts, which step over locked rows.
    pub fn acks_to_verdicts(&self, trip: &mut Trip) {
        let mut state = self.state();
        let done = trip.acks.drain(..).map(|claim| Verdict { claim, ending: Ending::Done, error: None });
        state.verdicts.extend(done);
    }

    /// These jobs are locked by somebody's transaction.
    pub fn keep_stuck(&self, stuck: Vec<Verdict>) {
        self.state().stuck.extend(stuck);
    }

    /// Once a second: tries the stuck verdicts again.
    pub fn retry_stuck(&self) {
        let mut state = self.state();
        if state.stuck.is_empty() {
            return;
        }
        let stuck = std::mem::take(&mut state.stuck);
        state.verdicts.extend(stuck);
        drop(state);
        self.work.notify_one();
    }

    /// For the apalis worker: the next job, as long as fewer than `concurrency` run.
    pub fn poll_job(&self, cx: &mut Context<'_>) -> Poll<Job> {
        let mut state = self.state();
        if state.running.len() < self.concurrency
            && let Some(job) = state.buffer.pop_front()
        {
            job.run.start();
            state.running.insert(job.run.claim.id, job.run.clone());
            if self.overtaking(&state).1.is_some() {
                self.work.notify_one();
            }
            return Poll::Ready(job);
        }
        state.consumer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The handler blocks its thread and can't be dropped: its job goes on without it.
    pub fn give_up(&self, run: &Run) {
        self.ended(run, Err(crate::registry::JobError::retry(Blocked)));
    }

    /// A run ended; heard once.
    pub fn ended(&self, run: &Run, result: Result<(), crate::registry::JobError>) {
        if !run.end() {
            return;
        }
        let (took, verdict) = (run.age(), judge(run, result));
        let mut state = self.state();
        if state.running.get(&run.claim.id).is_some_and(|held| held.claim == run.claim) {
            state.running.remove(&run.claim.id);
        }
        let seconds = took.as_secs_f64();
        state.mean_run = Some(state.mean_run.map_or(seconds, |mean| mean + (seconds - mean) * 0.02));
        match verdict {
            Some(Verdict { claim, ending: Ending::Done, .. }) if !run.keep => state.acks.push(claim),
            Some(verdict) => state.verdicts.push(verdict),
            None => {}
        }
        let worth_it = state.lanes_busy == 0 || state.acks.len() >= WORTH_A_TRIP || !state.verdicts.is_empty();
        let consumer = state.consumer.take();
        drop(state);
        run.kind.run.record(took);
        if worth_it {
            self.work.notify_one();
        }
        if let Some(waker) = consumer {
            waker.wake();
        }
    }

    /// No job may be claimed or started any more; those that wait here go back unburnt.
    pub fn drain(&self) {
        let mut state = self.state();
        state.draining = true;
        let back: Vec<_> = state.buffer.drain(..).map(|job| hand_back(job.run.claim)).collect();
        state.verdicts.extend(back);
        drop(state);
        self.work.notify_one();
    }

    /// The process lost its lease: nothing here belongs to it any more.
    pub fn lose_all(&self) {
        let mut state = self.state();
        state.buffer.clear();
        state.acks.clear();
        state.taken.clear();
        state.verdicts.clear();
        state.stuck.clear();
        state.expect_any();
        for run in state.running.values() {
            run.take(Stop::LeaseLost);
        }
    }

    pub fn running(&self) -> Vec<Arc<Run>> {
        self.state().running.values().cloned().collect()
    }

    pub fn running_count(&self) -> usize {
        self.state().running.len()
    }

    pub fn find(&self, id: JobId) -> Option<Arc<Run>> {
        self.state().running.get(&id).cloned()
    }

    /// Nothing is running, waiting or unsettled here.
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.running.is_empty() && state.buffer.is_empty() && state.asked_for == 0 && settled(&state)
    }

    /// The database knows how every ended run ended.
    pub fn is_settled(&self) -> bool {
        let state = self.state();
        state.asked_for == 0 && settled(&state)
    }

    /// Postgres may have crashed: what it took lately is to be said again. Saying it twice is harmless.
    pub fn repeat_acks(&self) {
        let mut state = self.state();
        let again: Vec<Claim> = state.taken.drain(..).flat_map(|(_, claims)| claims).collect();
        state.acks.extend(again);
        drop(state);
        self.work.notify_one();
    }

    /// All claims that this process knows to be its own. Exact only while `claims` is held exclusively.
    pub fn known(&self) -> Vec<Claim> {
        let state = self.state();
        let verdicts = state.verdicts.iter().chain(&state.stuck).map(|v| v.claim);
        let acks = state.acks.iter().copied();
        let buffer = state.buffer.iter().map(|job| job.run.claim);
        // A lane that waits for its connection holds no lock yet.
        let travelling = state.travelling.values().flatten().copied();
        let running = state.running.values().map(|run| run.claim);
        running.chain(buffer).chain(acks).chain(verdicts).chain(travelling).collect()
    }
}

impl State {
    fn expect_any(&mut self) {
        self.hungry = true;
        self.waiting_up_to = i16::MAX;
    }

    fn line_up(&mut self, job: Job) {
        if self.buffer.back().is_none_or(|last| last.priority >= job.priority) {
            self.buffer.push_back(job);
        } else {
            let place = self.buffer.partition_point(|held| held.priority >= job.priority);
            self.buffer.insert(place, job);
        }
    }
}

fn settled(state: &State) -> bool {
    state.acks.is_empty()
        && state.verdicts.is_empty()
        && state.stuck.is_empty()
        && state.travelling.values().all(Vec::is_empty)
}

fn hand_back(claim: Claim) -> Verdict {
    Verdict { claim, ending: Ending::HandBack, error: None }
}

fn take_front<T>(from: &mut Vec<T>, most: usize) -> Vec<T> {
    if from.len() <= most { std::mem::take(from) } else { from.drain(..most).collect() }
}

/// Decides how a job goes on after its run, and counts it. None: it belongs to somebody else.
fn judge(run: &Run, result: Result<(), crate::registry::JobError>) -> Option<Verdict> {
    use crate::registry::JobError;
    let verdict = |ending, error| Some(Verdict { claim: run.claim, ending, error });
    let error = match (run.reason(), result) {
        (Some(Stop::LeaseLost), _) => return None,
        (_, Ok(())) => {
            run.kind.done.fetch_add(1, Relaxed);
            return verdict(Ending::Done, None);
        }
        (Some(Stop::Cancelled), Err(_)) => return verdict(Ending::Cancelled, None),
        (Some(Stop::Drain), Err(_)) => return verdict(Ending::HandBack, None),
        (_, Err(error)) => error,
    };
    run.kind.failed.fetch_add(1, Relaxed);
    let (ending, source) = match error {
        JobError::Retry { source, after } => (Ending::Retry(after), source),
        JobError::Abort(source) => (Ending::Dead, source),
    };
    if ending == Ending::Dead || run.claim.attempt >= run.max_attempts {
        run.kind.dead.fetch_add(1, Relaxed);
    }
    let text = describe(source.as_ref());
    tracing::warn!(job = %run.claim.id, kind = run.kind.kind, attempt = run.claim.attempt, error = text, "job failed");
    verdict(ending, Some(text))
}

#[derive(Debug, thiserror::Error)]
#[error("the handler blocked its thread and did not end")]
struct Blocked;

/// The error and its causes in one line that fits a column of text.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    const MOST: usize = 2000;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().filter(|c| *c != '\0').take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(claim: Claim, priority: i16) -> Job {
        let kind = crate::stats::Stats::default().kind("q", "k");
        Job { run: Arc::new(Run::new(claim, 5, false, None, kind)), payload: "{}".into(), priority }
    }

    #[test]
    fn a_claim_is_known_until_the_lane_that_carries_its_end_is_back() {
        let feed = Feed::new("q", 1, Duration::from_secs(60));
        let claim = Claim { id: JobId(7), attempt: 1, lease_token: uuid::Uuid::now_v7() };
        let job = job(claim, 0);
        let run = job.run.clone();
        let trip = feed.plan_trip().expect("a new feed is hungry");
        feed.finish_trip(trip, vec![job]);
        assert!(feed.poll_job(&mut Context::from_waker(Waker::noop())).is_ready());
        feed.ended(&run, Ok(()));
        let trip = feed.plan_trip().expect("there is something to say");
        assert_eq!((feed.known(), feed.is_settled()), (vec![claim], false), "what a lane carries was forgotten");
        feed.abandon_trip(trip);
        assert_eq!(feed.known(), [claim]);
        let trip = feed.plan_trip().expect("it is still to be said");
        feed.finish_trip(trip, Vec::new());
        assert_eq!((feed.known(), feed.is_settled()), (Vec::new(), true));
    }
}
