//! How callers have begun lately, by their addresses, on one worker.
//!
//! A port whose server speaks first cannot wait for a caller's first byte, and a caller of the mesh whose first packet
//! was lost is as silent as one that waits to be greeted. So who came with mutual TLS before is never greeted in
//! plaintext, a stranger only once a lost packet would have come again, and who came in plaintext before at once.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::http::{Connection, SILENCE};

/// As long as a lost packet takes to come again twice (RFC 6298: 200 ms at least, doubling, on Linux).
const LOST: Duration = Duration::from_secs(1);
/// What was long ago may be another's address now.
const FORGET: Duration = Duration::from_secs(300);
/// Addresses that are kept; with one more all are forgotten.
const KEPT: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    Mesh,
    Plain,
}

#[derive(Default)]
pub(super) struct Habits {
    lately: RefCell<HashMap<IpAddr, (Habit, Instant)>>,
}

impl Habits {
    pub(super) fn spoke(&self, connection: &Connection, habit: Habit) {
        let ip = connection.peer().ip().to_canonical();
        self.note(ip, habit, Instant::now());
    }

    /// How long this caller may be silent before it is greeted in plaintext; none: it never is.
    pub(super) fn silence(&self, connection: &Connection) -> Option<Duration> {
        let ip = connection.peer().ip().to_canonical();
        self.patience(ip, Instant::now())
    }

    fn note(&self, ip: IpAddr, habit: Habit, now: Instant) {
        let mut lately = self.lately.borrow_mut();
        if lately.len() >= KEPT && !lately.contains_key(&ip) {
            lately.clear();
        }
        lately.insert(ip, (habit, now));
    }

    fn patience(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        let lately = self.lately.borrow();
        match lately.get(&ip) {
            Some((habit, at)) if now.duration_since(*at) < FORGET => match habit {
                Habit::Mesh => None,
                Habit::Plain => Some(SILENCE),
            },
            _ => Some(LOST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_came_in_plaintext_is_greeted_at_once() {
        let (habits, now) = (Habits::default(), Instant::now());
        let ip: IpAddr = [10, 0, 0, 7].into();
        assert_eq!(habits.patience(ip, now), Some(LOST));
        habits.note(ip, Habit::Plain, now);
        assert_eq!(habits.patience(ip, now), Some(SILENCE));
        habits.note(ip, Habit::Mesh, now);
        assert_eq!(habits.patience(ip, now), None);
        assert_eq!(habits.patience(ip, now + FORGET), Some(LOST));
    }

    #[test]
    fn strangers_take_a_bounded_room() {
        let (habits, now) = (Habits::default(), Instant::now());
        for n in 0..3 * KEPT as u32 {
            habits.note(IpAddr::V4(n.into()), Habit::Plain, now);
        }
        assert!(habits.lately.borrow().len() <= KEPT);
    }
}
