//! Names of events: `<store>-<seq>`, both in Crockford's base 32, lower case.
//!
//! The first part is minted once when a store is made, at random; the second is the event's place in it. So an id is
//! unique across sidecars, never used twice, and finds its row by primary key. It tells nothing of the event's content.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    str::FromStr,
};

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const STORE_DIGITS: usize = 12;

/// An event's place in its store. Grows with each append, has gaps, is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub(super) i64);

impl Seq {
    /// Before the first event: where a reader of everything starts.
    pub const START: Seq = Seq(0);

    pub fn number(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A store's own name: 60 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(u64);

impl StoreId {
    const BITS: u64 = (1 << (5 * STORE_DIGITS)) - 1;

    /// A new name from the system's randomness (std seeds its hashers with it).
    pub(super) fn mint() -> Self {
        StoreId(RandomState::new().hash_one(std::process::id()) & Self::BITS)
    }

    pub(super) fn event(self, seq: Seq) -> EventId {
        EventId { store: self, seq }
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(f, self.0, STORE_DIGITS)
    }
}

impl FromStr for StoreId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.len() != STORE_DIGITS {
            return Err(NotAnId);
        }
        read_digits(text).map(StoreId)
    }
}

/// An event's identity, kept through retries, restarts, dead letter and replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    pub(super) store: StoreId,
    pub(super) seq: Seq,
}

impl EventId {
    pub fn seq(self) -> Seq {
        self.seq
    }
}

/// The text names no event of any store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an event id: twelve digits or letters, a dash, and up to thirteen more")]
pub struct NotAnId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.store)?;
        write_digits(f, self.seq.number(), 1)
    }
}

impl FromStr for EventId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (store, seq) = text.split_once('-').ok_or(NotAnId)?;
        // One spelling an event: a leading zero would be a second one.
        if seq.is_empty() || seq.starts_with('0') {
            return Err(NotAnId);
        }
        let seq = i64::try_from(read_digits(seq)?).map_err(|_| NotAnId)?;
        Ok(EventId {
            store: store.parse()?,
            seq: Seq(seq),
        })
    }
}

/// Writes `number`, most significant digit first, with at least `least` digits.
fn write_digits(f: &mut fmt::Formatter<'_>, number: u64, least: usize) -> fmt::Result {
    let digits = (64 - number.leading_zeros() as usize)
        .div_ceil(5)
        .max(least);
    for place in (0..digits).rev() {
        let digit = DIGITS[(number >> (5 * place)) as usize & 31];
        fmt::Write::write_char(f, char::from(digit))?;
    }
    Ok(())
}

fn read_digits(text: &str) -> Result<u64, NotAnId> {
    text.bytes().try_fold(0u64, |number, byte| {
        let digit = DIGITS.iter().position(|d| *d == byte).ok_or(NotAnId)? as u64;
        let shifted = number.checked_mul(32).ok_or(NotAnId)?;
        Ok(shifted | digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_as_it_was_written() {
        let store = StoreId::mint();
        for seq in [1, 31, 32, 1_000_000, i64::MAX] {
            let id = store.event(Seq(seq));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn an_event_has_one_spelling() {
        let id: EventId = "0123456789ab-1f".parse().unwrap();
        assert_eq!(id.to_string(), "0123456789ab-1f");
        for bad in [
            "",
            "-",
            "0123456789ab",
            "0123456789ab-",
            "0123456789ab-0",
            "0123456789ab-01f",
            "0123456789AB-1f",
            "0123456789ab-1u",
            "0123456789ab-1f-1",
            "12345-1f",
            "0123456789ab-zzzzzzzzzzzzz",
            "0123456789ab-zzzzzzzzzzzzzz",
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(NotAnId), "{bad}");
        }
    }

    #[test]
    fn two_stores_have_two_names() {
        assert_ne!(StoreId::mint(), StoreId::mint());
    }
}
