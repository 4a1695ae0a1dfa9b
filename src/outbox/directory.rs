//! The store's directory: made private, held by one process, and which of its files is the store.
//!
//! `store.db` is the first generation. Surviving a failed sync writes the next, `store.2.db`, which becomes the store
//! by one rename, complete and synced; the highest generation is the store, and what is lower is removed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use tracing::warn;

use super::error::OpenError;

/// A directory that this process holds until it is dropped.
pub(super) struct Directory {
    path: PathBuf,
    /// The kernel lets go of the lock when this closes, however the process ends.
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be and takes its lock, without waiting.
    pub(super) fn hold(path: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let fresh = !path.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed(path))?;
        if fresh && let Some(parent) = path.parent() {
            // Best effort: a file system that cannot sync a directory still keeps the files in it.
            let _ = sync_directory(parent);
        }
        let mode = fs::metadata(path)
            .map_err(failed(path))?
            .permissions()
            .mode();
        if mode & 0o077 != 0
            && let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        {
            // A mounted volume may belong to another user; the files in it are private all the same.
            warn!(dir = %path.display(), %error, "outbox directory is open to others");
        }
        let lock = path.join("lock");
        let lock = Self::lock(path, private().open(&lock).map_err(failed(&lock))?)?;
        Ok(Directory {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    fn lock(dir: &Path, mut file: File) -> Result<File, OpenError> {
        let failed = |source| OpenError::Io {
            path: dir.join("lock"),
            source,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.take(20).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "pid unknown".to_owned(),
                    pid => format!("pid {pid}"),
                };
                return Err(OpenError::Held {
                    dir: dir.to_owned(),
                    holder,
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // The pid is for whoever finds the directory held; the lock does not depend on it.
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(file)
    }

    /// The file of a generation, from 1.
    pub(super) fn database(&self, generation: u32) -> PathBuf {
        match generation {
            1 => self.path.join("store.db"),
            n => self.path.join(format!("store.{n}.db")),
        }
    }

    /// Where the next generation is written before it is one.
    pub(super) fn draft(&self) -> PathBuf {
        self.path.join("store.draft")
    }

    /// The generation that is the store, 1 if there is none yet.
    pub(super) fn generation(&self) -> io::Result<u32> {
        let mut highest = 1;
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            highest = highest.max(name.to_str().and_then(generation_of).unwrap_or(1));
        }
        Ok(highest)
    }

    /// Removes what lower generations and an unfinished draft left behind.
    pub(super) fn tidy(&self, generation: u32) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let main = name
                .strip_suffix("-wal")
                .or(name.strip_suffix("-shm"))
                .or(name.strip_suffix("-journal"))
                .unwrap_or(name);
            if name.starts_with("store.draft")
                || generation_of(main).is_some_and(|n| n < generation)
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes renames in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }
}

fn generation_of(name: &str) -> Option<u32> {
    match name {
        "store.db" => Some(1),
        name => name
            .strip_prefix("store.")?
            .strip_suffix(".db")?
            .parse()
            .ok()
            .filter(|n| *n > 1),
    }
}

/// How every file of the store is opened: for its owner alone.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/outbox");
        let held = Directory::hold(&path).unwrap();
        let refused = Directory::hold(&path).err().unwrap().to_string();
        assert!(
            refused.contains(&format!("pid {}", std::process::id())),
            "{refused}"
        );
        drop(held);
        Directory::hold(&path).unwrap();
    }

    #[test]
    fn the_highest_generation_is_the_store_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let held = Directory::hold(dir.path()).unwrap();
        for name in [
            "store.db",
            "store.db-wal",
            "store.2.db",
            "store.2.db-wal",
            "store.10.db",
            "store.10.db-wal",
            "store.draft",
            "store.old.db",
            "flight",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(held.generation().unwrap(), 10);
        held.tidy(10).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "flight",
                "lock",
                "store.10.db",
                "store.10.db-wal",
                "store.old.db"
            ]
        );
    }

    #[test]
    fn the_directory_and_its_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox");
        let _held = Directory::hold(&path).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o600));
    }
}
