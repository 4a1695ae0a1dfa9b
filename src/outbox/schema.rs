//! The database file: how it is opened, what is in it, which format it has.
//!
//! Rows of `event` never change once written: what happens to an event is written elsewhere, so that its checksum
//! holds and a retry costs a small row. No table on the accept path has a second index (measured: +5 to +8 µs an event).

use std::{fs, path::Path};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{directory::private, error::OpenError, id::StoreId, log};

/// "weft" in ASCII: tells our files from other databases.
const APPLICATION: i64 = 0x7765_6674;
/// Grows when an older version could no longer read the file.
pub(super) const FORMAT: i64 = 1;
/// Up to this size the whole structure is checked at opening.
const CHECKED_SIZE: u64 = 64 << 20;

const TABLES: &str = "
CREATE TABLE store (id TEXT NOT NULL) STRICT;

-- What is pending: immutable, in order of acceptance. The bytes stand last, so that a scan of the rest skips them.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    upstream TEXT NOT NULL,
    route TEXT NOT NULL,
    key BLOB,
    accepted INTEGER NOT NULL,
    due INTEGER NOT NULL,
    expiry INTEGER,
    cause TEXT,
    replays INTEGER NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- How far a pending event has come, once it failed.
CREATE TABLE attempt (
    seq INTEGER PRIMARY KEY,
    attempts INTEGER NOT NULL,
    due INTEGER NOT NULL,
    first_failure INTEGER NOT NULL,
    error TEXT NOT NULL
) STRICT;

-- What was delivered, kept a while without its bytes.
CREATE TABLE finished (
    seq INTEGER PRIMARY KEY,
    upstream TEXT NOT NULL,
    route TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    status INTEGER NOT NULL
) STRICT;

-- Dead letters: the event as it was, why it died, what a person did about it.
CREATE TABLE letter (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    edited_as INTEGER,
    resolved INTEGER,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    status INTEGER,
    first_failure INTEGER NOT NULL,
    last_failure INTEGER NOT NULL,
    error TEXT NOT NULL,
    excerpt BLOB NOT NULL,
    upstream TEXT NOT NULL,
    route TEXT NOT NULL,
    key BLOB,
    accepted INTEGER NOT NULL,
    due INTEGER NOT NULL,
    expiry INTEGER,
    cause TEXT,
    replays INTEGER NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX letter_resolved ON letter (resolved) WHERE resolved IS NOT NULL;

-- Touched only by calls that carry an idempotency key.
CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    seq INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_until ON idempotency (until);

-- The ledger (kind 0, by state) and what each upstream holds (kind 1). One page, written with every commit.
CREATE TABLE tally (
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    events INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- What was in flight when the process died, and how often it was alone then.
CREATE TABLE suspect (seq INTEGER PRIMARY KEY, alone INTEGER NOT NULL) STRICT;

CREATE TABLE audit (
    line INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    seq INTEGER NOT NULL,
    note TEXT NOT NULL
) STRICT;
";

/// Opens the database `file`, made if absent, and says whose it is.
pub(super) fn open(file: &Path) -> Result<(Connection, StoreId), OpenError> {
    let lost = |source| OpenError::Io {
        path: file.to_owned(),
        source,
    };
    // Before SQLite reads it: what it passes over, its next write is put in place of.
    if let Some(byte) = log::damage(file).map_err(lost)? {
        let why = format!("its log, at byte {byte}: events that were accepted stand behind it");
        return Err(damaged(file, &why));
    }
    private().open(file).map_err(lost)?;
    let failed = |error| explain(file, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags).map_err(failed)?;
    settle(&db).map_err(failed)?;
    judge(&db, file)?;
    journal(&db).map_err(failed)?;
    if is_empty(&db).map_err(failed)? {
        create(&db).map_err(failed)?;
    }
    check(&db, file)?;
    let id: String = db
        .query_row("SELECT id FROM store", [], |row| row.get(0))
        .map_err(failed)?;
    let id = id.parse().map_err(|_| damaged(file, "its name"))?;
    Ok((db, id))
}

/// What must be said before the first look into the file.
fn settle(db: &Connection) -> rusqlite::Result<()> {
    db.set_prepared_statement_cache_capacity(64);
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // Plans must not depend on what is bound: SQLite would parse a join anew at each use (measured: 30 → 12 µs
    // a delivery).
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Exclusive from the first access on: no shared memory file, no lock calls, one process.
    db.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA page_size = 16384;
         PRAGMA cache_size = -8192;
         PRAGMA temp_store = MEMORY;
         PRAGMA foreign_keys = OFF;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )
}

/// Refuses, before anything is written, what is not ours or newer than we know.
fn judge(db: &Connection, file: &Path) -> Result<(), OpenError> {
    let failed = |error| explain(file, error);
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(failed)?;
    let format = pragma("user_version").map_err(failed)?;
    if application != APPLICATION && !is_empty(db).map_err(failed)? {
        return Err(OpenError::Foreign {
            file: file.to_owned(),
            why: format!("a database of another application ({application:#x})"),
        });
    }
    if format > FORMAT {
        return Err(OpenError::Newer {
            file: file.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    Ok(())
}

fn is_empty(db: &Connection) -> rusqlite::Result<bool> {
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(tables == 0)
}

/// Write-ahead log, each commit synced. Checkpoints are the writer's to start, so that it sees them fail.
fn journal(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 134217728;",
    )
}

/// Fills a new file, in one transaction: a file half made is an empty one.
fn create(db: &Connection) -> rusqlite::Result<()> {
    let all = db.unchecked_transaction()?;
    all.execute_batch(TABLES)?;
    all.execute(
        "INSERT INTO store VALUES (?)",
        [StoreId::mint().to_string()],
    )?;
    all.pragma_update(None, "application_id", APPLICATION)?;
    all.pragma_update(None, "user_version", FORMAT)?;
    all.commit()
}

/// Checks the structure of a file that is small enough for it not to delay a start.
fn check(db: &Connection, file: &Path) -> Result<(), OpenError> {
    if fs::metadata(file).map_or(0, |meta| meta.len()) > CHECKED_SIZE {
        return Ok(());
    }
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| explain(file, error))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        why => Err(damaged(file, why)),
    }
}

fn damaged(file: &Path, why: &str) -> OpenError {
    OpenError::Damaged {
        file: file.to_owned(),
        why: why.to_owned(),
    }
}

/// Tells damage from other trouble.
pub(super) fn explain(file: &Path, error: rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(file, &error.to_string())
        }
        // A table or a column that the format says is there.
        Some(ErrorCode::Unknown) => damaged(file, &error.to_string()),
        _ => OpenError::Sql {
            file: file.to_owned(),
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("store.db");
        (dir, file)
    }

    #[test]
    fn a_store_keeps_its_name() {
        let (_dir, file) = made();
        let first = open(&file).unwrap().1;
        assert_eq!(open(&file).unwrap().1, first);
    }

    #[test]
    fn a_newer_format_is_refused_and_named() {
        let (_dir, file) = made();
        let (db, _) = open(&file).unwrap();
        db.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        drop(db);
        let refused = open(&file).unwrap_err();
        assert!(
            matches!(
                refused,
                OpenError::Newer {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn another_database_is_left_alone() {
        let (_dir, file) = made();
        Connection::open(&file)
            .unwrap()
            .execute_batch("CREATE TABLE mine (x)")
            .unwrap();
        let before = fs::read(&file).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Foreign { .. })));
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn a_file_of_noise_is_called_damaged() {
        let (_dir, file) = made();
        fs::write(&file, vec![0xA5; 50_000]).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn a_broken_page_is_found_at_opening() {
        let (_dir, file) = made();
        drop(open(&file).unwrap());
        let mut bytes = fs::read(&file).unwrap();
        for page in bytes.chunks_mut(16384).skip(1) {
            page[..64].fill(0xFF);
        }
        fs::write(&file, bytes).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Damaged { .. })));
    }
}
