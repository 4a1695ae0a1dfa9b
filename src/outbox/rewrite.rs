//! Survives a failed sync: everything committed goes into a new file, which becomes the store.
//!
//! After a failed `fsync` the kernel may have forgotten the pages, and a second one on the same file would lie
//! (LWN 752063). Nothing that failed was acknowledged; what was acknowledged before is synced and still seen by the
//! open connection. So it is copied from there, synced with its directory, and only then is the old file let go.

use std::{
    fs::{self, File},
    io,
};

use rusqlite::{ErrorCode, config::DbConfig};
use tracing::warn;

use super::{
    desk::Desk,
    directory::{Directory, private},
    error::OpenError,
    schema,
};

#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteError {
    #[error("cannot copy the store to a new file: {0}")]
    Copy(#[from] rusqlite::Error),
    #[error("cannot make the new file durable: {0}")]
    Sync(#[from] io::Error),
    #[error("cannot open the new file: {0}")]
    Open(#[from] OpenError),
}

impl RewriteError {
    /// True when there was no space, and nothing was changed: it may be tried again, to another new file.
    pub(super) fn is_space(&self) -> bool {
        match self {
            RewriteError::Copy(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            RewriteError::Sync(error) => error.kind() == io::ErrorKind::StorageFull,
            RewriteError::Open(_) => false,
        }
    }
}

/// Moves the desk to the next generation and returns its number.
pub(super) fn rewrite(
    desk: &mut Desk,
    directory: &Directory,
    generation: u32,
) -> Result<u32, RewriteError> {
    let (draft, next) = (directory.draft(), generation + 1);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(private().open(&draft)?);
    let target = draft.to_string_lossy().into_owned();
    desk.db.execute("VACUUM INTO ?", [target])?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, directory.database(next))?;
    directory.sync()?;

    let (db, _) = schema::open(&directory.database(next))?;
    // The old file is not to be written again, not even by a last checkpoint.
    let _ = desk
        .db
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    desk.db = db;
    if let Err(error) = directory.tidy(next) {
        warn!(%error, "old generation of the outbox not removed");
    }
    Ok(next)
}
