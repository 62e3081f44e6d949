//! The shipped worker is killed again and again in the middle of its runs, while both sides change between them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    time::Duration,
};

use driftless_domain::runs::State;
use driftless_queue::Process as Sweeper;
use driftless_sync::hash::ContentHash;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::place::Place;
use crate::support::{binary::Process, until};

/// What both sides should hold after a run: paths, and all contents that anybody ever saved.
struct Model {
    dice: StdRng,
    paths: BTreeSet<String>,
    saved: HashSet<ContentHash>,
    round: usize,
}

impl Model {
    fn text(&mut self, path: &str, side: &str) -> String {
        // Long enough that a kill has a chance to fall between two pieces.
        let text = format!("{side} {} {path} {}", self.round, "x".repeat(self.dice.random_range(0..60_000)));
        self.saved.insert(ContentHash::of(text.as_bytes()));
        text
    }

    /// Changes both sides: each path at most once on each, so that every saved text meets the run.
    async fn change(&mut self, place: &Place) {
        self.round += 1;
        let paths: Vec<String> = self.paths.iter().cloned().collect();
        let mut pick = |n: usize| paths.choose_multiple(&mut self.dice, n).cloned().collect::<Vec<_>>();
        let (here, there) = (pick(25), pick(25));
        for path in &here {
            let text = self.text(path, "device");
            place.write(&path[1..], &text);
        }
        for path in &there {
            let text = self.text(path, "server");
            place.put(path, &text).await;
        }
        let others = |model: &Model| -> Vec<String> {
            let free = |path: &&String| !here.contains(path) && !there.contains(path);
            model.paths.iter().filter(free).cloned().collect()
        };
        for (n, path) in others(self).into_iter().take(4).enumerate() {
            let to = format!("/moved {}/{n}", self.round);
            self.paths.remove(&path);
            self.paths.insert(to.clone());
            if n % 2 == 0 {
                fs::create_dir_all(place.at(&to[1..]).parent().unwrap()).unwrap();
                fs::rename(place.at(&path[1..]), place.at(&to[1..])).unwrap();
            } else {
                place.shift(&path, &to).await;
            }
        }
        for (n, path) in others(self).into_iter().rev().filter(|p| !p.starts_with("/moved")).take(4).enumerate() {
            self.paths.remove(&path);
            if n % 2 == 0 {
                fs::remove_file(place.at(&path[1..])).unwrap();
            } else {
                place.delete(&path).await;
            }
        }
        for n in 0..8 {
            let path = format!("/new {}/{n}", self.round);
            let text = self.text(&path, "new");
            self.paths.insert(path.clone());
            if n % 2 == 0 {
                place.write(&path[1..], &text);
            } else {
                place.put(&path, &text).await;
            }
        }
    }

    async fn check(&self, place: &Place, seed: u64) {
        let tree: BTreeMap<_, _> = place.tree().await.into_iter().filter(|(path, _)| !path.ends_with('/')).collect();
        let disk: BTreeMap<_, _> = place.disk().into_iter().filter(|(path, _)| !path.ends_with('/')).collect();
        let round = self.round;
        assert_eq!(disk.keys().collect::<Vec<_>>(), tree.keys().collect::<Vec<_>>(), "seed {seed}, round {round}");
        assert!(disk == tree, "seed {seed}, round {round}: contents differ");
        let expected: Vec<_> = self.paths.iter().collect();
        assert_eq!(tree.keys().collect::<Vec<_>>(), expected, "seed {seed}, round {round}: lost or doubled");
        let whole = |text: &String| self.saved.contains(&ContentHash::of(text.as_bytes()));
        assert!(tree.values().all(whole), "seed {seed}, round {round}: a file is half");
        let kept = place.all_contents().await;
        let lost = self.saved.difference(&kept).count();
        assert_eq!(lost, 0, "seed {seed}, round {round}: saved contents are nowhere");
        place.assert_no_temporaries();
    }
}

/// Goes on until a worker was killed `kills` times.
pub async fn hold(kills: usize) {
    let seed: u64 = rand::random();
    let place = Place::new().await;
    let dice = StdRng::seed_from_u64(seed);
    let mut model = Model { dice, paths: BTreeSet::new(), saved: HashSet::new(), round: 0 };
    for n in 0..150 {
        let path = format!("/f{}/{n:03}", n % 7);
        let text = model.text(&path, "first");
        place.write(&path[1..], &text);
        model.paths.insert(path);
    }
    assert_eq!(place.sync().await.state, State::Succeeded);
    // Somebody has to see that a worker is dead; it takes 8 s of its own life before it may.
    let sweeper = Sweeper::start(place.pool()).await.unwrap();
    let mut killed = 0;
    let mut worker = place.worker();
    while killed < kills {
        model.change(&place).await;
        let run = place.ask(false).await;
        for _ in 0..model.dice.random_range(1..=3) {
            let state = until("the run is taken", async || {
                let state = place.state(run).await;
                (state != State::Queued).then_some(state)
            })
            .await;
            if state.is_final() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(model.dice.random_range(0..250))).await;
            place.bury(worker).await;
            killed += 1;
            worker = place.worker();
        }
        let state = until("another worker has finished the run", async || {
            Some(place.state(run).await).filter(|state| state.is_final() || *state == State::Held)
        })
        .await;
        assert_eq!(state, State::Succeeded, "seed {seed}: {:?}", place.finished(run).await);
        model.check(&place, seed).await;
        // What this round deleted shall not make a later one too many, as if an hour had passed.
        sqlx::query("delete from deletions").execute(place.pool()).await.unwrap();
    }
    assert!(worker.terminate().success());
    sweeper.drain(Duration::from_secs(5)).await;
    place.assert_settled().await;
}

impl Place {
    /// The shipped worker on this place's database, data and roots.
    pub fn worker(&self) -> Process {
        Process::start(self.work(&["work"]))
    }

    /// Kills a worker, and lets its lease run out at once instead of in 8 s.
    pub async fn bury(&self, worker: Process) {
        let pid = worker.id();
        worker.kill();
        sqlx::query("update queue.workers set lease_until = queue.now() - interval '1 s' where pid = $1")
            .bind(pid)
            .execute(self.pool())
            .await
            .unwrap();
    }
}
