//! What one choice of an endpoint costs, on this machine: nanoseconds a pick, by policy and number of endpoints.
//!
//! `cargo bench --bench picker`. Each pick reads the clock's last value, asks who is usable, and starts and ends a
//! flight, as a request does; the median of seven rounds.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use weft::balance::{Ewma, Picker, Policy};

const PICKS: u32 = 200_000;

fn main() {
    println!("{:>14} {:>9} {:>8}", "policy", "endpoints", "ns/pick");
    for (name, policy) in [
        ("peakEwma", Policy::PeakEwma),
        ("leastRequest", Policy::LeastRequest),
        ("roundRobin", Policy::RoundRobin),
        ("random", Policy::Random),
    ] {
        for count in [1, 3, 100] {
            let mut rounds: Vec<f64> = (0..7).map(|_| round(policy, count)).collect();
            rounds.sort_by(f64::total_cmp);
            println!("{name:>14} {count:>9} {:>8.1}", rounds[3]);
        }
    }
}

fn round(policy: Policy, count: usize) -> f64 {
    let mut now = Instant::now();
    let picker = Picker::new(policy);
    let endpoints: Vec<_> = (0..count).map(|_| Ewma::new(now)).collect();
    let began = Instant::now();
    for _ in 0..PICKS {
        now += Duration::from_micros(20);
        let load = |at: usize| match policy {
            Policy::LeastRequest => f64::from(endpoints[at].in_flight()),
            _ => endpoints[at].load(now),
        };
        let picked = picker.pick(count, load, |_| black_box(true), |_| false);
        if let Some(at) = picked {
            let flight = endpoints[at].start(now);
            flight.answered(now + Duration::from_micros(100 + at as u64));
        }
        black_box(picked);
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS)
}
