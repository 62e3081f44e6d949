//! Bandwidth limits of runs: a remote is a door like those of the API.

use std::time::{Duration, Instant};

use driftless_domain::runs::State;

use super::place::{Place, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_to_the_bandwidth_limit_both_ways() {
    let place = Place::new().await;
    place.limit(200_000).await;
    for name in ["a", "b", "c", "d"] {
        place.write(name, &name.repeat(75_000));
    }
    let other = place.another("second").await;
    for device in [&place, &other] {
        let begin = Instant::now();
        let run = device.sync().await;
        let took = begin.elapsed().as_secs_f64();
        assert_eq!((run.state, run.counts.executed), (State::Succeeded, 4), "{run:?}");
        // A second and a half's worth: a quarter of one is free after a pause, and another is owed by whoever comes next.
        assert!(took > 0.95, "300,000 bytes went through in {took} s");
    }
    assert_eq!(place.disk(), other.disk());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_end_a_run_that_the_bandwidth_limit_holds_up() {
    let (sender, receiver) = (Place::new().await, Place::new().await);
    sender.write("large", &"l".repeat(1 << 20));
    receiver.put("/large", &"l".repeat(1 << 20)).await;
    for place in [&sender, &receiver] {
        place.limit(1_000).await;
        let ended = tokio::time::timeout(Duration::from_secs(60), place.cancelled_at_once()).await;
        let run = ended.expect("a quarter of an hour of waiting is cut short");
        assert_eq!(run.state, State::Cancelled, "{run:?}");
    }
    assert_eq!((sender.tree().await, receiver.disk()), (text(&[]), text(&[])), "what was cut short is not there");
}
