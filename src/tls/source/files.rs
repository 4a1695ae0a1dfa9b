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

use super::{Intake, LOOK, Lookout, News, SourceError, federated, read};
use crate::tls::{
    bundles::{Bundles, Revocations},
    identity::Identity,
    settings::{Files, Settings},
    store::Store,
};

/// Files that are written one after the other settle within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// Files that a store follows.
pub(super) struct Watched {
    settings: Settings,
    files: Files,
    store: Store,
    intake: Intake,
}

impl Watched {
    /// Reads them once.
    pub fn new(settings: &Settings, files: &Files, store: &Store) -> Self {
        let mut watched = Watched {
            settings: settings.clone(),
            files: files.clone(),
            store: store.clone(),
            intake: Intake::new(store, files.certificate.display().to_string()),
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
        let mut compare = interval_at(Instant::now() + LOOK, LOOK);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lookout = Lookout::default();
        // What changed between the first reading and the watch.
        self.look();
        lookout.look(&self.store);
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {
                    sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                }
                _ = compare.tick() => {}
            }
            self.look();
            lookout.look(&self.store);
        }
    }

    /// Takes over what is new.
    fn look(&mut self) {
        self.look_by(news);
    }

    /// What is replaced while `read` reads it is left for the next look, which the replacement brings about: some of it
    /// may be old and some new, and would be refused as a pair that does not fit.
    fn look_by(&mut self, read: impl FnOnce(&Files, &Settings) -> Result<News, SourceError>) {
        let digest = self.digest();
        if !self.intake.is_new(digest) {
            return;
        }
        let news = read(&self.files, &self.settings);
        if self.digest() == digest {
            self.intake.look(digest, || news);
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for path in paths(&self.files, &self.settings) {
            // A digest of each, so that no byte moves unseen from one file to the next. No key stays behind here.
            digest.update(std::fs::read(path).map(Sha256::digest).unwrap_or_default());
        }
        digest.finalize().into()
    }

    fn watcher(&self, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    // Full means that a reading is due already.
                    let _ = changed.try_send(());
                }
            })?;
        let folders: BTreeSet<&Path> = paths(&self.files, &self.settings)
            .map(|path| folder(path))
            .collect();
        for folder in folders {
            watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

fn news(files: &Files, settings: &Settings) -> Result<News, SourceError> {
    let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
    let identity = Identity::from_pem(&certificate, &key, SystemTime::now())?;
    let mut bundles = Bundles::default();
    bundles.add_pem(identity.id().trust_domain(), &read(&files.roots)?)?;
    federated(&settings.trust_bundles, &mut bundles)?;
    let revocations = match &files.crl {
        Some(file) => Revocations::from_pem(&read(file)?)?,
        None => Revocations::default(),
    };
    Ok(News {
        identity,
        bundles,
        revocations,
    })
}

fn paths<'a>(files: &'a Files, settings: &'a Settings) -> impl Iterator<Item = &'a PathBuf> {
    let own = [&files.certificate, &files.key, &files.roots];
    own.into_iter()
        .chain(&files.crl)
        .chain(settings.trust_bundles.values())
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tls::{
        Metrics,
        issue::{Issued, workload},
        tests::{DAY, ROOT, id},
    };

    /// Files of an identity in a folder of their own.
    struct Place(tempfile::TempDir);

    impl Place {
        fn with(issued: &Issued) -> Self {
            let place = Place(tempfile::tempdir().unwrap());
            place.write(issued);
            fs::write(place.0.path().join("ca.crt"), ROOT.certificate()).unwrap();
            place
        }

        fn write(&self, issued: &Issued) {
            fs::write(self.0.path().join("tls.crt"), &issued.certificate).unwrap();
            fs::write(self.0.path().join("tls.key"), &issued.key).unwrap();
        }

        fn watched(&self, store: &Store) -> Watched {
            let at = |name: &str| self.0.path().join(name);
            let files = Files {
                certificate: at("tls.crt"),
                key: at("tls.key"),
                roots: at("ca.crt"),
                crl: None,
            };
            let settings = Settings {
                files: Some(files.clone()),
                workload_api: None,
                trust_bundles: Default::default(),
                cut_at_expiry: false,
            };
            Watched::new(&settings, &files, store)
        }
    }

    #[test]
    fn what_comes_too_early_is_taken_when_its_time_comes() {
        // It counts a minute before it was made for.
        let from = SystemTime::now() + Duration::from_secs(65);
        let early = ROOT
            .sign(workload(&[id("web").as_str()], from, DAY).unwrap())
            .unwrap();
        let place = Place::with(&early);
        let store = Store::new(Metrics::default());
        let mut watched = place.watched(&store);
        assert!(store.current().is_none());
        let begun = std::time::Instant::now();
        while store.current().is_none() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it is never taken"
            );
            std::thread::sleep(Duration::from_millis(50));
            watched.look();
        }
        watched.look();
        assert_eq!(store.number(), 1, "what is taken is not taken again");
    }

    /// The certificate of before with the key of now fits nobody: no reason to cry.
    #[test]
    fn what_is_replaced_while_it_is_read_is_read_again() {
        let place = Place::with(&ROOT.issue(&id("web"), DAY).unwrap());
        let store = Store::new(Metrics::default());
        let mut watched = place.watched(&store);
        place.write(&ROOT.issue(&id("web"), DAY).unwrap());
        let seen = watched.intake.seen;
        watched.look_by(|files, settings| {
            place.write(&ROOT.issue(&id("orders"), DAY).unwrap());
            news(files, settings)
        });
        assert_eq!((store.number(), watched.intake.seen), (1, seen));
        watched.look();
        assert_eq!(store.number(), 2);
        assert_eq!(store.current().unwrap().identity().id(), &id("orders"));
    }
}
