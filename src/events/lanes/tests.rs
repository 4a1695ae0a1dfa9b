use std::num::NonZeroU64;

use super::*;
use crate::{events::DeliverSettings, outbox::EventId};

struct Bench {
    lanes: Lanes,
    now: Instant,
    wall: Wall,
}

impl Bench {
    fn new(concurrency: u32) -> Self {
        let settings = DeliverSettings {
            concurrency,
            ..DeliverSettings::default()
        };
        let rules = HashMap::from([("r".into(), Rule::from(&settings))]);
        Bench {
            lanes: Lanes::new(rules),
            now: Instant::now(),
            wall: Wall(1_000_000),
        }
    }

    fn admit(&mut self, seq: u64, key: u64, upstream: &str) {
        let pending = pending(seq, key, upstream);
        self.lanes.admit(&pending, self.now, self.wall);
    }

    fn next(&mut self) -> Option<Start> {
        self.lanes.next(self.now, self.wall)
    }

    fn seqs(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.next())
            .map(|start| start.seq.number())
            .collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall = self.wall.after(time);
    }
}

fn seq(number: u64) -> Seq {
    // Places are minted by stores alone; an id's text is a way to one.
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digits: String = (0..13)
        .rev()
        .map(|place| char::from(DIGITS[(number >> (5 * place)) as usize & 31]))
        .collect();
    let id = format!("000000000000-{}", digits.trim_start_matches('0'));
    id.parse::<EventId>().unwrap().seq()
}

fn pending(number: u64, key: u64, upstream: &str) -> Pending {
    Pending {
        seq: seq(number),
        upstream: upstream.into(),
        route: "r".into(),
        key: NonZeroU64::new(key),
        accepted: Wall(0),
        due: Wall(0),
        expiry: None,
        attempts: 0,
        replays: 0,
        size: 10,
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_key_has_one_event_under_way_and_keeps_its_order() {
    let mut bench = Bench::new(64);
    for number in 1..=3 {
        bench.admit(number, 7, "a");
    }
    for number in 1..=3 {
        let start = bench.next().unwrap();
        assert_eq!(start.seq.number(), number);
        assert!(bench.next().is_none());
        bench.lanes.done(start.lane, true, bench.now, bench.wall);
    }
    assert!(bench.next().is_none());
}

#[test]
fn a_retry_is_not_overtaken_and_holds_nobody_else() {
    let mut bench = Bench::new(64);
    for (number, key) in [(1, 7), (2, 7), (3, 8), (4, 0)] {
        bench.admit(number, key, "a");
    }
    let first = bench.next().unwrap();
    bench
        .lanes
        .later(first.lane, 1, SECOND, bench.now, bench.wall);
    assert_eq!(bench.seqs(), [3, 4]);
    bench.pass(SECOND / 2);
    assert!(bench.next().is_none());
    bench.pass(SECOND);
    let again = bench.next().unwrap();
    assert_eq!((again.seq.number(), again.attempts), (1, 1));
    bench.lanes.done(again.lane, true, bench.now, bench.wall);
    assert_eq!(bench.seqs(), [2]);
}

#[test]
fn who_is_not_reached_rests_and_others_go_on() {
    let mut bench = Bench::new(64);
    for (number, upstream) in [(1, "dead"), (2, "dead"), (3, "alive")] {
        bench.admit(number, number, upstream);
    }
    let starts: Vec<Start> = std::iter::from_fn(|| bench.next()).collect();
    for start in starts.iter().filter(|start| &*start.upstream == "dead") {
        bench.lanes.waits(start.lane, bench.now);
    }
    bench.admit(4, 4, "alive");
    assert_eq!(bench.seqs(), [4]);
    let wake = bench.lanes.wake_at().unwrap();
    bench.pass(wake - bench.now);
    let probe = bench.next().unwrap();
    assert!(probe.probe && &*probe.upstream == "dead" && probe.attempts == 0);
    assert!(bench.next().is_none(), "one probe at a time");
    bench.lanes.done(probe.lane, true, bench.now, bench.wall);
    assert_eq!(bench.seqs().len(), 1);
}

#[test]
fn where_everything_fails_attempts_are_given_back() {
    let mut bench = Bench::new(64);
    for number in 1..=5 {
        bench.admit(number, number, "a");
    }
    let starts: Vec<Start> = std::iter::from_fn(|| bench.next()).collect();
    for start in &starts {
        bench
            .lanes
            .later(start.lane, 1, Duration::ZERO, bench.now, bench.wall);
    }
    bench.pass(SECOND);
    let probe = bench.next().unwrap();
    assert_eq!((probe.probe, probe.attempts), (true, 0));
    bench
        .lanes
        .later(probe.lane, 0, Duration::ZERO, bench.now, bench.wall);
    assert!(bench.next().is_none(), "it rests again");
}

#[test]
fn one_event_that_fails_alone_burns_its_attempts() {
    let mut bench = Bench::new(64);
    bench.admit(1, 1, "a");
    for attempts in 0..4 {
        let start = bench.next().unwrap();
        assert_eq!((start.attempts, start.probe), (attempts, false));
        bench.lanes.later(
            start.lane,
            attempts + 1,
            Duration::ZERO,
            bench.now,
            bench.wall,
        );
        bench.pass(SECOND);
    }
}

#[test]
fn what_has_expired_goes_though_its_upstream_rests() {
    let mut bench = Bench::new(64);
    let mut late = pending(1, 1, "dead");
    late.expiry = Some(bench.wall.after(3 * SECOND));
    bench.lanes.admit(&late, bench.now, bench.wall);
    let start = bench.next().unwrap();
    bench.lanes.park("dead", true);
    bench.lanes.waits(start.lane, bench.now);
    assert!(bench.next().is_none());
    bench.pass(2 * SECOND);
    assert!(bench.next().is_none());
    bench.pass(SECOND);
    assert!(bench.next().unwrap().expired);
}

#[test]
fn what_is_delayed_waits_for_the_wall_clock() {
    let mut bench = Bench::new(64);
    let mut later = pending(1, 0, "a");
    later.due = bench.wall.after(90 * SECOND);
    bench.lanes.admit(&later, bench.now, bench.wall);
    bench.admit(2, 0, "a");
    assert_eq!(bench.seqs(), [2]);
    bench.pass(60 * SECOND);
    assert!(bench.next().is_none());
    bench.pass(30 * SECOND);
    assert_eq!(bench.seqs(), [1]);
}

#[test]
fn no_more_are_under_way_than_the_route_allows() {
    let mut bench = Bench::new(2);
    for number in 1..=5 {
        bench.admit(number, 0, "a");
    }
    let first = bench.next().unwrap();
    assert!(bench.next().is_some());
    assert!(bench.next().is_none());
    bench.lanes.done(first.lane, true, bench.now, bench.wall);
    assert!(bench.next().is_some());
    assert!(bench.next().is_none());
}

#[test]
fn a_parked_upstream_keeps_its_events_until_it_is_back() {
    let mut bench = Bench::new(64);
    bench.admit(1, 1, "gone");
    bench.lanes.park("gone", true);
    assert!(bench.next().is_none());
    bench.lanes.follow(Rules::new(), |_| true);
    assert_eq!(bench.seqs(), [1]);
}

#[test]
fn a_replay_does_not_wait_behind_its_key() {
    let mut bench = Bench::new(64);
    bench.admit(5, 7, "a");
    let _ = bench.next().unwrap();
    let mut replayed = pending(1, 7, "a");
    replayed.replays = 1;
    bench.lanes.admit(&replayed, bench.now, bench.wall);
    assert_eq!(bench.seqs(), [1]);
}
