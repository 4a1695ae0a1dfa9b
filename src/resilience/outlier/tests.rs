use std::time::Duration;

use proptest::prelude::*;

use super::{
    word::{MAX_TIMES, Word},
    *,
};
use crate::{fault::Reason, units::Percent};

const SEC: fn(u64) -> Duration = Duration::from_secs;

fn upstream(count: usize, share: u8, now: Instant) -> (Arc<Outlier>, Vec<Arc<Health>>) {
    let rules = settings::Outlier {
        max_ejection: Percent::new(share).unwrap(),
        ..settings::Outlier::default()
    };
    let outlier = Outlier::new(rules, Arc::default(), now);
    let healths: Vec<_> = (0..count).map(|_| Health::new(&outlier)).collect();
    outlier.endpoints_are(&healths);
    (outlier, healths)
}

fn fail(health: &Health, times: usize, now: Instant) -> Option<Ejection> {
    let row = (0..times).map(|_| health.record(Verdict::Failure, now));
    row.last().flatten()
}

fn probe(outlier: &Outlier, healths: &[Arc<Health>], now: Instant) -> Option<(usize, Probe)> {
    outlier.probe(healths.len(), |at| &healths[at], now)
}

#[test]
fn five_failures_in_a_row_eject_and_four_do_not() {
    let now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    assert_eq!(fail(&healths[0], 4, now), None);
    healths[0].record(Verdict::Success, now);
    assert_eq!(fail(&healths[0], 4, now), None);
    healths[0].record(Verdict::Neither, now);
    assert!(healths[0].is_usable());
    let penalty = SEC(1);
    assert_eq!(
        fail(&healths[0], 1, now),
        Some(Ejection { penalty, times: 1 })
    );
    assert!(!healths[0].is_usable());
    assert_eq!(outlier.out(), 1);
    assert_eq!(outlier.metrics.ejections.get(), 1);
    let left = SEC(1);
    assert_eq!(healths[0].state(now), State::Ejected { left, times: 1 });
}

#[test]
fn whose_fault_decides_what_counts() {
    for (status, verdict) in [
        (200, Verdict::Success),
        (404, Verdict::Success),
        (429, Verdict::Success),
        (500, Verdict::Failure),
        (503, Verdict::Failure),
        (600, Verdict::Success),
    ] {
        assert_eq!(Verdict::of_status(status), verdict, "{status}");
    }
    for code in 0..=16 {
        let failing = [2, 13, 14, 15].contains(&code);
        assert_eq!(
            Verdict::of_grpc(code) == Verdict::Failure,
            failing,
            "{code}"
        );
    }
    for (reason, verdict) in [
        (Reason::BodyBroken, Verdict::Neither),
        (Reason::ClientGone, Verdict::Neither),
        (Reason::PendingOverflow, Verdict::Neither),
        (Reason::Refused, Verdict::Neither),
        (Reason::ConnectFailed, Verdict::Failure),
        (Reason::ConnectTimeout, Verdict::Failure),
        (Reason::Reset, Verdict::Failure),
        (Reason::TryTimeout, Verdict::Failure),
        (Reason::BadAnswer, Verdict::Failure),
    ] {
        assert_eq!(
            Verdict::of_fault(&Fault::new(reason, "")),
            verdict,
            "{reason}"
        );
    }
}

#[test]
fn after_the_penalty_one_request_is_the_probation() {
    let now = Instant::now();
    let (outlier, healths) = upstream(4, 50, now);
    fail(&healths[2], 5, now);
    assert!(probe(&outlier, &healths, now + Duration::from_millis(999)).is_none());
    let (at, first) = probe(&outlier, &healths, now + SEC(1)).unwrap();
    assert_eq!(at, 2);
    assert!(
        probe(&outlier, &healths, now + SEC(1)).is_none(),
        "one only"
    );
    assert_eq!(healths[2].state(now + SEC(1)), State::Probing { times: 1 });
    assert!(!healths[2].is_usable());
    first.settle(Verdict::Success, now + SEC(1));
    assert!(healths[2].is_usable());
    assert_eq!(outlier.out(), 0);
}

#[test]
fn a_failed_probation_doubles_the_penalty_up_to_its_most() {
    let mut now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    let mut penalty = fail(&healths[0], 5, now).unwrap().penalty;
    let mut penalties = vec![penalty.as_secs()];
    for _ in 0..7 {
        now += penalty;
        let (_, probe) = probe(&outlier, &healths, now).unwrap();
        penalty = probe.settle(Verdict::Failure, now).unwrap().penalty;
        penalties.push(penalty.as_secs());
    }
    assert_eq!(penalties, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(outlier.out(), 1);
}

#[test]
fn earlier_ejections_are_forgotten_after_a_minute_of_health() {
    let now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    let mut well = now;
    for (healthy_for, times) in [(SEC(0), 1), (SEC(59), 2), (SEC(60), 1)] {
        let fails = well + healthy_for;
        let ejection = fail(&healths[0], 5, fails).unwrap();
        assert_eq!(ejection.times, times);
        well = fails + ejection.penalty;
        let (_, probe) = probe(&outlier, &healths, well).unwrap();
        probe.settle(Verdict::Success, well);
    }
}

#[test]
fn a_probation_that_was_cancelled_is_given_back() {
    let now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    fail(&healths[0], 5, now);
    let then = now + SEC(1);
    drop(probe(&outlier, &healths, then).unwrap());
    let (_, second) = probe(&outlier, &healths, then).unwrap();
    assert_eq!(second.settle(Verdict::Neither, then), None);
    let (_, third) = probe(&outlier, &healths, then).unwrap();
    third.settle(Verdict::Success, then);
    assert_eq!(outlier.out(), 0);
}

#[test]
fn two_probations_that_are_due_are_two_requests() {
    let now = Instant::now();
    let (outlier, healths) = upstream(4, 50, now);
    fail(&healths[1], 5, now);
    fail(&healths[3], 5, now);
    let then = now + SEC(1);
    let (one, first) = probe(&outlier, &healths, then).unwrap();
    let (other, second) = probe(&outlier, &healths, then).unwrap();
    assert_eq!((one, other), (1, 3));
    assert!(probe(&outlier, &healths, then).is_none());
    drop((first, second));
}

#[test]
fn what_began_before_an_ejection_says_nothing_after_it() {
    let now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    fail(&healths[0], 5, now);
    assert_eq!(fail(&healths[0], 5, now), None);
    healths[0].record(Verdict::Success, now);
    assert!(!healths[0].is_usable());
    assert_eq!(outlier.out(), 1);
}

#[test]
fn at_most_the_share_is_out_and_never_the_last_one() {
    for (count, share, most) in [
        (1, 100, 0),
        (2, 50, 1),
        (3, 50, 1),
        (5, 50, 2),
        (2, 49, 0),
        (4, 100, 3),
        (4, 0, 0),
    ] {
        let now = Instant::now();
        let (outlier, healths) = upstream(count, share, now);
        healths.iter().for_each(|health| {
            fail(health, 9, now);
        });
        assert_eq!(outlier.out(), most, "{share} % of {count}");
    }
}

#[test]
fn at_the_cap_the_next_failure_ejects_once_there_is_room() {
    let now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    fail(&healths[0], 5, now);
    assert_eq!(fail(&healths[1], 7, now), None);
    let (_, probe) = probe(&outlier, &healths, now + SEC(1)).unwrap();
    probe.settle(Verdict::Success, now + SEC(1));
    assert!(fail(&healths[1], 1, now + SEC(1)).is_some());
}

#[test]
fn endpoints_that_leave_take_their_ejection_along() {
    let now = Instant::now();
    let (outlier, mut healths) = upstream(4, 50, now);
    fail(&healths[0], 5, now);
    fail(&healths[1], 5, now);
    let draining = healths.remove(0);
    outlier.endpoints_are(&healths);
    assert_eq!(outlier.out(), 1);
    assert_eq!(fail(&draining, 5, now), None, "it counts no longer");
    healths.truncate(1);
    outlier.endpoints_are(&healths);
    assert_eq!(outlier.out(), 0, "the last one is never out");
    assert!(healths[0].is_usable());
}

#[test]
fn a_probation_of_an_endpoint_that_left_changes_nothing() {
    let now = Instant::now();
    let (outlier, mut healths) = upstream(4, 50, now);
    fail(&healths[0], 5, now);
    let (_, probation) = probe(&outlier, &healths, now + SEC(1)).unwrap();
    let left = healths.remove(0);
    outlier.endpoints_are(&healths);
    assert_eq!(outlier.out(), 0);
    probation.settle(Verdict::Failure, now + SEC(1));
    assert_eq!(outlier.out(), 0);
    healths.push(left);
    outlier.endpoints_are(&healths);
    assert!(healths[3].is_usable(), "it came back");
}

#[test]
fn zero_failures_eject_nothing_and_a_reload_applies() {
    let now = Instant::now();
    let (outlier, healths) = upstream(2, 50, now);
    let rules = |consecutive_failures| settings::Outlier {
        consecutive_failures,
        ..settings::Outlier::default()
    };
    outlier.retune(rules(0));
    assert_eq!(fail(&healths[0], 100, now), None);
    outlier.retune(rules(1));
    assert!(fail(&healths[0], 1, now).is_some());
}

#[test]
fn over_many_threads_the_cap_holds_and_probations_are_single() {
    let now = Instant::now();
    let (outlier, healths) = upstream(8, 50, now);
    let probing: Vec<_> = (0..8).map(|_| AtomicU32::new(0)).collect();
    let worker = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        for step in 0..20_000u64 {
            let now = now + Duration::from_millis(step);
            let verdicts = [Verdict::Failure, Verdict::Failure, Verdict::Success];
            let verdict = *rng.choice(&verdicts).unwrap();
            match probe(&outlier, &healths, now) {
                Some((at, probe)) => {
                    assert_eq!(probing[at].fetch_add(1, Ordering::SeqCst), 0);
                    probing[at].fetch_sub(1, Ordering::SeqCst);
                    probe.settle(verdict, now);
                }
                None => {
                    let health = rng.choice(&healths).unwrap();
                    health.record(verdict, now);
                }
            }
            assert!(outlier.out() <= 4);
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|seed| drop(scope.spawn(move || worker(seed))));
    });
    let out = healths.iter().filter(|health| !health.is_usable()).count();
    assert_eq!(out, outlier.out() as usize);
}

#[derive(Debug, Clone)]
enum Step {
    Record(usize, Verdict),
    Probe,
    Settle(usize, Verdict),
    Cancel(usize),
    Later(u64),
    Leave(usize),
    Join,
}

fn any_step() -> impl Strategy<Value = Step> {
    let verdict = || {
        prop_oneof![
            6 => Just(Verdict::Failure),
            1 => Just(Verdict::Success),
            1 => Just(Verdict::Neither)
        ]
    };
    prop_oneof![
        20 => (0usize..8, verdict()).prop_map(|(at, verdict)| Step::Record(at, verdict)),
        4 => Just(Step::Probe),
        2 => (0usize..4, verdict()).prop_map(|(at, verdict)| Step::Settle(at, verdict)),
        1 => (0usize..4).prop_map(Step::Cancel),
        3 => (0u64..40_000).prop_map(Step::Later),
        1 => (0usize..8).prop_map(Step::Leave),
        1 => Just(Step::Join),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_cap_holds_and_every_ejected_endpoint_is_probed(
        share in 0u8..=100, steps in proptest::collection::vec(any_step(), 1..300),
    ) {
        let mut now = Instant::now();
        let (outlier, mut healths) = upstream(5, share, now);
        let mut probes: Vec<Probe> = Vec::new();
        for step in steps {
            match step {
                Step::Record(at, verdict) => {
                    if let Some(health) = healths.get(at) {
                        health.record(verdict, now);
                    }
                }
                Step::Probe => probes.extend(probe(&outlier, &healths, now).map(|(_, probe)| probe)),
                Step::Settle(at, verdict) if at < probes.len() => {
                    probes.remove(at).settle(verdict, now);
                }
                Step::Cancel(at) if at < probes.len() => drop(probes.remove(at)),
                Step::Later(ms) => now += Duration::from_millis(ms),
                Step::Leave(at) if at < healths.len() => {
                    healths.remove(at);
                    outlier.endpoints_are(&healths);
                }
                Step::Join => {
                    healths.push(Health::new(&outlier));
                    outlier.endpoints_are(&healths);
                }
                _ => {}
            }
            let out = healths.iter().filter(|health| !health.is_usable()).count();
            let most = (healths.len() * usize::from(share) / 100).min(healths.len().saturating_sub(1));
            prop_assert!(out <= most, "{out} of {} out", healths.len());
            prop_assert_eq!(out, outlier.out() as usize);
        }
        probes.clear();
        now += SEC(61);
        for _ in 0..healths.len() {
            if let Some((_, probe)) = probe(&outlier, &healths, now) {
                probe.settle(Verdict::Success, now);
            }
        }
        prop_assert_eq!(outlier.out(), 0);
    }

    #[test]
    fn a_word_is_read_as_it_was_packed(tag in 0u64..3, times in 0..=MAX_TIMES, failures in 0..=MAX_FAILURES, time_ms in 0..=MAX_MS) {
        let word = Word { tag, times, failures, time_ms };
        prop_assert_eq!(Word::unpack(word.pack()), word);
    }
}
