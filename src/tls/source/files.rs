//! An identity in files: read whole, checked whole, and read again when anything of it changes (`papers`).

use std::{path::PathBuf, time::SystemTime};

use super::{Intake, Lookout, News, SourceError, federated, read};
use crate::tls::{
    bundles::{Bundles, Revocations},
    identity::Identity,
    papers::Papers,
    settings::{Files, Settings},
    store::Store,
};

/// Files that a store follows.
pub(super) struct Watched {
    settings: Settings,
    files: Files,
    papers: Papers,
    store: Store,
    intake: Intake,
}

impl Watched {
    /// Reads them once.
    pub fn new(settings: &Settings, files: &Files, store: &Store) -> Self {
        let mut watched = Watched {
            settings: settings.clone(),
            files: files.clone(),
            papers: Papers::new(paths(files, settings)),
            store: store.clone(),
            intake: Intake::new(store, files.certificate.display().to_string()),
        };
        watched.look();
        watched
    }

    pub async fn run(mut self) {
        let papers = self.papers.clone();
        let mut lookout = Lookout::default();
        let look = || {
            self.look();
            lookout.look(&self.store);
        };
        match papers.follow(look).await {}
    }

    /// Takes over what is new.
    fn look(&mut self) {
        self.look_by(news);
    }

    fn look_by(&mut self, read: impl FnOnce(&Files, &Settings) -> Result<News, SourceError>) {
        let digest = self.papers.digest();
        if !self.intake.is_new(digest) {
            return;
        }
        let read = || read(&self.files, &self.settings);
        if let Some(news) = self.papers.settled(digest, read) {
            self.intake.look(digest, || news);
        }
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

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

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
