//! Remembers which events are in flight, so that one that kills the process is known by its traces.
//!
//! Each event on its way has a slot in the file `flight`, written without a sync: it need not outlive the machine, only
//! the process. What is found there at opening was in flight at an unclean death, and is a suspect; the store counts
//! how often each was alone then.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, params};

use super::{directory::private, id::Seq};

/// Events in flight that are remembered; more than that are delivered all the same.
const SLOTS: u16 = 4096;
const SLOT: u64 = 8;

/// An event that was in flight at a death of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    pub seq: Seq,
    /// Deaths at which it was the only one.
    pub alone: u32,
}

/// What is in flight now. Clones are the same one.
#[derive(Clone)]
pub struct Flight(Arc<Slots>);

struct Slots {
    file: File,
    free: Mutex<Vec<u16>>,
}

/// An event's time in flight; it ends when this is dropped.
pub struct Ticket {
    slot: Option<u16>,
    flight: Flight,
}

impl Flight {
    /// Opens the file and clears it; returns what was in flight when it was last written.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Seq>)> {
        let file = private().open(path)?;
        let mut bytes = vec![0; usize::from(SLOTS) * SLOT as usize];
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        let aloft = bytes
            .as_chunks()
            .0
            .iter()
            .map(|slot| i64::from_le_bytes(*slot))
            .filter(|seq| *seq > 0)
            .map(Seq)
            .collect();
        let flight = Flight(Arc::new(Slots {
            file,
            free: Mutex::new((0..SLOTS).rev().collect()),
        }));
        Ok((flight, aloft))
    }

    /// Forgets what was in flight before: to be called once the suspects are on disk.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.0.file.set_len(0)
    }

    /// Call it just before the event's bytes leave, and keep the ticket until the answer is judged.
    pub fn depart(&self, seq: Seq) -> Ticket {
        let slot = self.free().pop();
        // A failed write only means that this event is not suspected if we die now.
        let slot = slot.filter(|slot| self.write(*slot, seq.0).is_ok());
        Ticket {
            slot,
            flight: self.clone(),
        }
    }

    fn write(&self, slot: u16, seq: i64) -> io::Result<()> {
        let at = u64::from(slot) * SLOT;
        self.0.file.write_all_at(&seq.to_le_bytes(), at)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u16>> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && self.flight.write(slot, 0).is_ok()
        {
            self.flight.free().push(slot);
        }
    }
}

/// Writes down who was in flight at the last death, and returns every suspect that is still pending.
pub(super) fn suspect(db: &Connection, aloft: &[Seq]) -> rusqlite::Result<Vec<Suspect>> {
    let all = db.unchecked_transaction()?;
    for seq in aloft {
        all.execute(
            "INSERT INTO suspect (seq, alone) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET alone = alone + ?2",
            params![seq.0, aloft.len() == 1],
        )?;
    }
    all.execute(
        "DELETE FROM suspect WHERE seq NOT IN (SELECT seq FROM event)",
        [],
    )?;
    all.commit()?;
    db.prepare("SELECT seq, alone FROM suspect ORDER BY seq")?
        .query_map([], |row| {
            Ok(Suspect {
                seq: Seq(row.get(0)?),
                alone: row.get(1)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_landed_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flight");
        let (flight, before) = Flight::open(&path).unwrap();
        assert_eq!(before, []);
        let (first, second) = (flight.depart(Seq(7)), flight.depart(Seq(8)));
        drop(first);
        let (_, found) = Flight::open(&path).unwrap();
        assert_eq!(found, [Seq(8)]);
        drop(second);
        assert_eq!(Flight::open(&path).unwrap().1, []);
    }

    #[test]
    fn more_than_the_slots_fly_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let (flight, _) = Flight::open(&dir.path().join("flight")).unwrap();
        let aloft: Vec<_> = (1..=i64::from(SLOTS) + 5)
            .map(|n| flight.depart(Seq(n)))
            .collect();
        assert_eq!(
            aloft.iter().filter(|ticket| ticket.slot.is_none()).count(),
            5
        );
        drop(aloft);
        assert!(flight.depart(Seq(1)).slot.is_some());
    }
}
