//! What a name's answers add up to: which addresses to use now, and when to ask again. No I/O, no clock.
//!
//! A failure never takes an address away. That a name has none must be heard three times in a row, a negative TTL
//! apart, before its addresses go: name servers of a cluster that restarts say so wrongly for a moment.

use std::{net::IpAddr, time::Duration};

/// So often a name must have no address before its old ones go.
const MISSES: u32 = 3;
/// How long "no address" holds where the zone does not say.
const NEGATIVE: Duration = Duration::from_secs(5);

/// What one question, A or AAAA, came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Found(Vec<IpAddr>, Duration),
    /// No such name, or no such record; with the zone's negative TTL.
    None(Option<Duration>),
    /// No answer that says anything of the name.
    Failed(String),
}

/// Both questions about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) v4: Outcome,
    pub(super) v6: Outcome,
}

/// What an answer said on the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Found,
    None,
    Failed(String),
}

impl Answer {
    pub(super) fn both(outcome: Outcome) -> Self {
        Answer {
            v4: outcome.clone(),
            v6: outcome,
        }
    }

    pub(super) fn heard(&self) -> Heard {
        match (&self.v4, &self.v6) {
            (Outcome::Found(..), _) | (_, Outcome::Found(..)) => Heard::Found,
            (Outcome::Failed(why), _) | (_, Outcome::Failed(why)) => Heard::Failed(why.clone()),
            (Outcome::None(_), Outcome::None(_)) => Heard::None,
        }
    }
}

/// The times between two lookups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A TTL counts as at least this.
    pub(super) least: Duration,
    /// A TTL counts as at most this.
    pub(super) most: Duration,
    /// A negative TTL counts as at most this, and so long at most a failure waits.
    pub(super) most_without: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            least: Duration::from_secs(1),
            most: Duration::from_secs(86_400),
            most_without: Duration::from_secs(30),
        }
    }
}

/// What has been heard of a name so far.
#[derive(Debug)]
pub(super) struct Memory {
    bounds: Bounds,
    known: bool,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    misses: u32,
    failures: u32,
}

impl Memory {
    pub(super) fn new(bounds: Bounds) -> Self {
        Memory {
            bounds,
            known: false,
            v4: Vec::new(),
            v6: Vec::new(),
            misses: 0,
            failures: 0,
        }
    }

    /// The addresses to use now; `None` before the first answer.
    pub(super) fn addresses(&self) -> Option<impl Iterator<Item = IpAddr>> {
        self.known.then(|| self.v4.iter().chain(&self.v6).copied())
    }

    /// Takes in an answer; says how long it holds.
    pub(super) fn take(&mut self, answer: Answer) -> Duration {
        match answer.heard() {
            Heard::Found => {
                (self.known, self.misses, self.failures) = (true, 0, 0);
                let wait = self.family(answer.v4, |memory| &mut memory.v4);
                wait.min(self.family(answer.v6, |memory| &mut memory.v6))
            }
            Heard::None => {
                (self.misses, self.failures) = (self.misses.saturating_add(1), 0);
                if !self.known || self.misses >= MISSES {
                    self.known = true;
                    self.v4.clear();
                    self.v6.clear();
                }
                let ttl = |outcome| {
                    if let Outcome::None(ttl) = outcome {
                        ttl
                    } else {
                        None
                    }
                };
                let ttl = ttl(answer.v4).into_iter().chain(ttl(answer.v6)).min();
                ttl.unwrap_or(NEGATIVE)
                    .clamp(self.bounds.least, self.bounds.most_without)
            }
            Heard::Failed(_) => {
                let doubled = self.bounds.least.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                doubled.min(self.bounds.most_without)
            }
        }
    }

    /// Takes in one half of an answer whose other half may be the one that was found.
    fn family(
        &mut self,
        outcome: Outcome,
        kept: impl Fn(&mut Self) -> &mut Vec<IpAddr>,
    ) -> Duration {
        let bounds = self.bounds;
        match outcome {
            Outcome::Found(addresses, ttl) => {
                *kept(self) = addresses;
                ttl.clamp(bounds.least, bounds.most)
            }
            Outcome::None(_) => {
                kept(self).clear();
                bounds.most
            }
            // Some name servers never answer AAAA: the half that is found must not wait, nor the other be forgotten.
            Outcome::Failed(_) => bounds.most_without,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn found(addresses: &[&str], ttl: u64) -> Outcome {
        Outcome::Found(
            addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            SECOND * ttl as u32,
        )
    }

    fn none() -> Outcome {
        Outcome::None(Some(SECOND * 10))
    }

    fn failed() -> Outcome {
        Outcome::Failed("SERVFAIL".to_owned())
    }

    fn addresses(memory: &Memory) -> Option<Vec<String>> {
        memory
            .addresses()
            .map(|addresses| addresses.map(|ip| ip.to_string()).collect())
    }

    #[test]
    fn the_shorter_ttl_counts_within_its_bounds() {
        let mut memory = Memory::new(Bounds::default());
        assert_eq!(addresses(&memory), None);
        assert_eq!(
            memory.take(Answer {
                v4: found(&["10.0.0.1"], 30),
                v6: found(&["::1"], 20)
            }),
            SECOND * 20
        );
        assert_eq!(addresses(&memory).unwrap(), ["10.0.0.1", "::1"]);
        assert_eq!(
            memory.take(Answer {
                v4: found(&["10.0.0.1"], 0),
                v6: none()
            }),
            SECOND
        );
        assert_eq!(
            memory.take(Answer {
                v4: found(&["10.0.0.1"], 2_000_000),
                v6: none()
            }),
            SECOND * 86_400
        );
    }

    #[test]
    fn failures_keep_the_addresses_and_wait_longer_each_time() {
        let mut memory = Memory::new(Bounds::default());
        memory.take(Answer {
            v4: found(&["10.0.0.1"], 30),
            v6: none(),
        });
        let waits: Vec<u64> = (0..8)
            .map(|_| memory.take(Answer::both(failed())).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(addresses(&memory).unwrap(), ["10.0.0.1"]);
        memory.take(Answer {
            v4: found(&["10.0.0.2"], 30),
            v6: none(),
        });
        assert_eq!(
            memory.take(Answer::both(failed())),
            SECOND,
            "an answer begins anew"
        );
    }

    #[test]
    fn a_name_without_addresses_loses_them_at_the_third_time() {
        let mut memory = Memory::new(Bounds::default());
        memory.take(Answer {
            v4: found(&["10.0.0.1"], 30),
            v6: none(),
        });
        assert_eq!(memory.take(Answer::both(none())), SECOND * 10);
        memory.take(Answer::both(none()));
        assert_eq!(addresses(&memory).unwrap(), ["10.0.0.1"]);
        memory.take(Answer::both(failed()));
        assert_eq!(
            addresses(&memory).unwrap(),
            ["10.0.0.1"],
            "a failure is no third time"
        );
        memory.take(Answer::both(none()));
        assert_eq!(addresses(&memory).unwrap(), [""; 0]);
    }

    #[test]
    fn an_address_found_between_begins_the_count_anew() {
        let mut memory = Memory::new(Bounds::default());
        for outcome in [
            found(&["10.0.0.1"], 1),
            none(),
            none(),
            found(&["10.0.0.1"], 1),
            none(),
            none(),
        ] {
            memory.take(Answer {
                v4: outcome,
                v6: none(),
            });
        }
        assert_eq!(addresses(&memory).unwrap(), ["10.0.0.1"]);
    }

    #[test]
    fn a_name_that_never_had_an_address_is_known_to_have_none() {
        let mut memory = Memory::new(Bounds::default());
        memory.take(Answer::both(failed()));
        assert_eq!(addresses(&memory), None);
        memory.take(Answer::both(none()));
        assert_eq!(addresses(&memory).unwrap(), [""; 0]);
    }

    #[test]
    fn half_an_answer_replaces_its_half_alone() {
        let mut memory = Memory::new(Bounds::default());
        memory.take(Answer {
            v4: found(&["10.0.0.1"], 300),
            v6: found(&["::1"], 300),
        });
        assert_eq!(
            memory.take(Answer {
                v4: found(&["10.0.0.2"], 300),
                v6: failed()
            }),
            SECOND * 30
        );
        assert_eq!(addresses(&memory).unwrap(), ["10.0.0.2", "::1"]);
        memory.take(Answer {
            v4: found(&["10.0.0.2"], 300),
            v6: none(),
        });
        assert_eq!(addresses(&memory).unwrap(), ["10.0.0.2"]);
    }

    #[test]
    fn a_negative_ttl_has_bounds() {
        let mut memory = Memory::new(Bounds::default());
        assert_eq!(
            memory.take(Answer::both(Outcome::None(Some(SECOND * 3600)))),
            SECOND * 30
        );
        assert_eq!(
            memory.take(Answer::both(Outcome::None(Some(Duration::ZERO)))),
            SECOND
        );
        assert_eq!(memory.take(Answer::both(Outcome::None(None))), NEGATIVE);
    }
}
