//! SQLite's write-ahead log, read before SQLite reads it: torn at its end by a crash, or damaged in what was synced.
//!
//! SQLite takes a log up to the first frame whose checksum is wrong and passes over the rest in silence, because a
//! crash may leave any mixture of unsynced frames. But no frame is written behind a commit before that commit is
//! synced, and each frame's checksum goes on from that of the frame before. So where a broken frame is followed by a
//! commit that has a successor, it was synced and is damaged: events that were accepted stand behind it. What cannot
//! be told from a crash: damage in the newest commit, in the mark that ends the one before it, or of the checksum in
//! the log's first 32 bytes.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
    path::Path,
};

/// <https://sqlite.org/fileformat2.html#the_write_ahead_log>
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Its lowest bit says that checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;
/// The largest page that SQLite knows.
const MOST_PAGE: u32 = 65_536;

/// The byte at which the log of this database is damaged, if what was synced to it is no longer whole.
///
/// Reads the log once: 80 MiB at the usual most.
pub(super) fn damage(database: &Path) -> io::Result<Option<u64>> {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let file = match File::open(&log) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let long = file.metadata()?.len() > HEADER as u64;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER];
    if !fill(&mut file, &mut header)? {
        return Ok(None);
    }
    let page = word(&header, 8);
    if word(&header, 0) | 1 != MAGIC | 1 || !(512..=MOST_PAGE).contains(&page) {
        // The same in every header that SQLite writes, and synced before the first frame.
        return Ok(long.then_some(0));
    }
    let sum = Sum::of(&header);
    let Some(mut chain) = sum.checked([0, 0], &[&header[..24]], &header[24..]) else {
        // Torn where the log was begun anew: what it held before is in the database.
        return Ok(None);
    };
    let salts = &header[16..24];
    let mut frame = vec![0; FRAME_HEADER + page as usize];
    let (mut at, mut broken, mut committed) = (HEADER as u64, None, false);
    while fill(&mut file, &mut frame)? {
        let (head, data) = frame.split_at(FRAME_HEADER);
        let ours = head[8..16] == *salts && word(head, 0) != 0;
        let follows = sum.checked(chain, &[&head[..8], data], &head[16..]);
        match follows.filter(|_| ours) {
            Some(_) if committed && broken.is_some() => return Ok(broken),
            Some(_) => {}
            None => broken = broken.or(Some(at)),
        }
        // Even a broken frame says what the next one goes on from.
        chain = [word(head, 16), word(head, 20)];
        committed = ours && word(head, 4) != 0;
        at += frame.len() as u64;
    }
    Ok(None)
}

/// False at the end of the file, a part of `into` read or none.
fn fill(file: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

/// How this log's checksums are made.
#[derive(Clone, Copy)]
enum Sum {
    BigEndian,
    LittleEndian,
}

impl Sum {
    fn of(header: &[u8]) -> Self {
        match word(header, 0) & 1 {
            1 => Sum::BigEndian,
            _ => Sum::LittleEndian,
        }
    }

    /// The checksum of `parts`, going on from `before`, where it is the `stored` one.
    fn checked(self, before: [u32; 2], parts: &[&[u8]], stored: &[u8]) -> Option<[u32; 2]> {
        let [mut one, mut two] = before;
        for part in parts {
            for pair in part.as_chunks::<8>().0 {
                let [a, b, c, d, e, f, g, h] = *pair;
                let (first, second) = match self {
                    Sum::BigEndian => ([a, b, c, d], [e, f, g, h]),
                    Sum::LittleEndian => ([d, c, b, a], [h, g, f, e]),
                };
                one = one
                    .wrapping_add(u32::from_be_bytes(first))
                    .wrapping_add(two);
                two = two
                    .wrapping_add(u32::from_be_bytes(second))
                    .wrapping_add(one);
            }
        }
        let stored = [word(stored, 0), word(stored, 4)];
        (stored == [one, two]).then_some(stored)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use proptest::prelude::*;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;

    const PAGE: usize = 4096;
    const FRAME: usize = FRAME_HEADER + PAGE;

    /// A database whose log holds `commits` commits, as a crash would leave it.
    fn left(commits: usize) -> (TempDir, PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live.db");
        let db = Connection::open(&live).unwrap();
        db.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)",
        )
        .unwrap();
        for n in 1..commits {
            // Two pages or three, the last of them the commit.
            db.execute("INSERT INTO t VALUES (?)", ["x".repeat(n * 900)])
                .unwrap();
        }
        let database = folder.path().join("store.db");
        fs::copy(&live, &database).unwrap();
        let log = fs::read(folder.path().join("live.db-wal")).unwrap();
        (folder, database, log)
    }

    fn judged(database: &Path, log: &[u8]) -> Option<u64> {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        fs::write(path, log).unwrap();
        damage(database).unwrap()
    }

    /// Where the last commit but one ends with a frame of its own.
    fn mark(log: &[u8]) -> usize {
        let frames = (log.len() - HEADER) / FRAME;
        let ends = (0..frames).filter(|frame| word(&log[HEADER + frame * FRAME..], 4) != 0);
        let ends: Vec<usize> = ends.collect();
        HEADER + ends[ends.len() - 2] * FRAME
    }

    #[test]
    fn a_log_as_sqlite_left_it_is_whole() {
        let (_folder, database, log) = left(6);
        assert_eq!(judged(&database, &log), None);
        assert_eq!(judged(&database, &[]), None);
        fs::remove_file(database.with_extension("db-wal")).unwrap();
        assert_eq!(damage(&database).unwrap(), None);
    }

    #[test]
    fn what_is_changed_in_an_older_commit_is_damage_and_is_placed() {
        let (_folder, database, log) = left(6);
        for at in (HEADER..mark(&log)).step_by(97) {
            let mut changed = log.clone();
            changed[at] ^= 0x10;
            let found = judged(&database, &changed).expect("it is found") as usize;
            let frame = (at - HEADER) / FRAME;
            assert_eq!(found, HEADER + frame * FRAME, "a change at {at}");
        }
    }

    #[test]
    fn a_lost_block_is_damage() {
        let (_folder, database, log) = left(6);
        for at in (0..mark(&log) - 512).step_by(512) {
            let mut changed = log.clone();
            changed[at..at + 512].fill(0);
            // A block may have been zeros before.
            if changed != log {
                assert!(judged(&database, &changed).is_some(), "the block at {at}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Frames of the commit that was under way: dropped, torn, or written out of their order.
        #[test]
        fn what_a_crash_leaves_is_not_damage(cut: u16, noise: Vec<u8>, lost: [bool; 3]) {
            let (_folder, database, mut log) = left(6);
            let last = mark(&log) + FRAME;
            for (frame, lost) in lost.into_iter().enumerate() {
                let at = last + frame * FRAME;
                if lost && at < log.len() {
                    log[at..at + FRAME].fill(0);
                }
            }
            log.truncate(last + usize::from(cut));
            log.extend(noise);
            prop_assert_eq!(judged(&database, &log), None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(log: Vec<u8>) {
            let (_folder, database, _) = left(2);
            judged(&database, &log);
        }
    }
}
