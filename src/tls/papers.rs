//! The files that something is made of: compared by a digest, read whole, and looked at again when one changes.
//!
//! The folders are watched, not the files: a rename or a symlink swap leaves nothing of the old file to watch. Beside
//! that the files are compared every ten seconds, for file systems that tell nothing.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::Watcher;
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

/// Files that are written one after the other settle within this time.
const SETTLE: Duration = Duration::from_millis(100);
/// How often they are compared where nothing was told.
const COMPARE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Papers(Vec<PathBuf>);

impl Papers {
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Papers(paths.into_iter().cloned().collect())
    }

    /// A digest of them all. No key stays behind here.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for path in &self.0 {
            // A digest of each, so that no byte moves unseen from one file to the next.
            digest.update(fs::read(path).map(Sha256::digest).unwrap_or_default());
        }
        digest.finalize().into()
    }

    /// What `read` makes of them while they have this digest.
    ///
    /// None where they were replaced meanwhile: some of it may be old and some new, and would be refused as a pair that
    /// does not fit. The replacement brings about another look.
    pub fn settled<T>(&self, digest: [u8; 32], read: impl FnOnce() -> T) -> Option<T> {
        let made = read();
        (self.digest() == digest).then_some(made)
    }

    /// Has `look` look at once and whenever one of them may have changed, for ever.
    pub async fn follow(&self, mut look: impl FnMut()) -> Infallible {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = self.watcher(changed);
        if let Err(error) = &watcher {
            tracing::warn!(%error, files = ?self.0, "files are not watched; they are compared every ten seconds");
        }
        let mut compare = interval_at(Instant::now() + COMPARE, COMPARE);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What changed between the first reading and the watch.
        look();
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {
                    sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                }
                _ = compare.tick() => {}
            }
            look();
        }
    }

    fn watcher(&self, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    // Full means that a reading is due already.
                    let _ = changed.try_send(());
                }
            })?;
        let folders: BTreeSet<&Path> = self.0.iter().map(|path| folder(path)).collect();
        for folder in folders {
            watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
