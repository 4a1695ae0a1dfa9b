//! An identity in files: read whole, checked whole, and read again when anything of it changes.
//!
//! The folders are watched, not the files: a rename or a symlink swap leaves nothing of the old file to watch. Beside
//! that the files are compared every ten seconds, for file systems that tell nothing.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::Watcher;
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{News, SourceError, federated, read, take};
use crate::tls::{
    bundles::{Bundles, Revocations},
    identity::Identity,
    settings::{Files, Settings},
    store::Store,
};

/// Files that are written one after the other settle within this time.
const SETTLE: Duration = Duration::from_millis(100);
const COMPARE: Duration = Duration::from_secs(10);

/// Files that a store follows.
pub(super) struct Watched {
    settings: Settings,
    files: Files,
    store: Store,
    /// Digests of what was read last, good or bad: only something new is taken, and no key stays behind here.
    seen: Vec<Option<[u8; 32]>>,
}

impl Watched {
    /// Reads them once.
    pub fn new(settings: &Settings, files: &Files, store: &Store) -> Self {
        let mut watched = Watched {
            settings: settings.clone(),
            files: files.clone(),
            store: store.clone(),
            seen: Vec::new(),
        };
        watched.look();
        watched
    }

    pub async fn run(mut self) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = self.watcher(changed);
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the identity's files are not watched; they are compared every ten seconds");
        }
        let mut compare = interval_at(Instant::now() + COMPARE, COMPARE);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What changed between the first reading and the watch.
        self.look();
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {
                    sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                }
                _ = compare.tick() => {}
            }
            self.look();
        }
    }

    /// Takes over what is new.
    fn look(&mut self) {
        let seen: Vec<_> = self
            .paths()
            .map(|path| Some(Sha256::digest(std::fs::read(path).ok()?).into()))
            .collect();
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        take(
            &self.store,
            self.read(),
            &self.files.certificate.display().to_string(),
        );
    }

    fn read(&self) -> Result<News, SourceError> {
        let (certificate, key) = (read(&self.files.certificate)?, read(&self.files.key)?);
        let identity = Identity::from_pem(&certificate, &key, SystemTime::now())?;
        let mut bundles = Bundles::default();
        bundles.add_pem(identity.id().trust_domain(), &read(&self.files.roots)?)?;
        federated(&self.settings.trust_bundles, &mut bundles)?;
        let revocations = match &self.files.crl {
            Some(file) => Revocations::from_pem(&read(file)?)?,
            None => Revocations::default(),
        };
        Ok(News {
            identity,
            bundles,
            revocations,
        })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let own = [&self.files.certificate, &self.files.key, &self.files.roots];
        own.into_iter()
            .chain(&self.files.crl)
            .chain(self.settings.trust_bundles.values())
    }

    fn watcher(&self, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    // Full means that a reading is due already.
                    let _ = changed.try_send(());
                }
            })?;
        let folders: BTreeSet<&Path> = self.paths().map(|path| folder(path)).collect();
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
