//! Where our identity comes from: files, or a SPIFFE Workload API.
//!
//! A source fills the store and keeps it filled. What is wrong with its news is told loudly, and the last good
//! generation goes on.

mod files;
mod workload_api;

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::task::JoinHandle;

use super::{
    bundles::{BundleError, Bundles, Revocations},
    generation::{Generation, GenerationError},
    identity::{Identity, IdentityError, said},
    metrics::Rotation,
    settings::Settings,
    store::Store,
};
use crate::units::Hostname;

pub use workload_api::ApiError;
pub(super) use workload_api::fetch;

/// How often a source looks by itself, told of nothing.
const LOOK: Duration = Duration::from_secs(10);

/// A source that is followed. Dropping it stops that; the store keeps what it has.
#[derive(Debug)]
pub struct Source(JoinHandle<()>);

impl Drop for Source {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a source's news is no use.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {}: {why}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        why: io::Error,
    },
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the agent has no identity for us")]
    NoIdentity,
    #[error("the roots of {0} cannot be read")]
    Roots(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

/// What a source has to say.
struct News {
    identity: Identity,
    bundles: Bundles,
    revocations: Revocations,
}

impl Source {
    /// Follows what `identity:` says, with the first reading done where it can be done at once.
    ///
    /// Must be called on a runtime, which then runs the task. Without an identity at the start it goes on trying.
    pub fn follow(settings: &Settings, store: &Store) -> Self {
        leave_no_core();
        store.cut_at_expiry(settings.cut_at_expiry);
        let task = match (&settings.files, &settings.workload_api) {
            (Some(files), _) => tokio::spawn(files::Watched::new(settings, files, store).run()),
            (None, Some(socket)) => {
                tokio::spawn(workload_api::Followed::new(settings, socket, store).run())
            }
            (None, None) => tokio::spawn(std::future::ready(())),
        };
        Source(task)
    }
}

/// From here on the process holds a private key: a core dump of it has no memory in it.
fn leave_no_core() {
    const HEADERS_ALONE: &str = "0x10";
    if let Err(error) = fs::write("/proc/self/coredump_filter", HEADERS_ALONE) {
        tracing::warn!(%error, "a core dump of this process would hold its private key");
    }
}

/// Reads the roots of other trust domains.
fn federated(
    files: &BTreeMap<Hostname, PathBuf>,
    bundles: &mut Bundles,
) -> Result<(), SourceError> {
    for (domain, file) in files {
        let text = read(file)?;
        bundles.add_pem(domain.as_str(), &text)?;
    }
    Ok(())
}

fn read(file: &PathBuf) -> Result<Vec<u8>, SourceError> {
    fs::read(file).map_err(|why| SourceError::Read {
        file: file.clone(),
        why,
    })
}

/// Where news goes: taken over, or refused loudly, and either only once.
struct Intake {
    store: Store,
    /// Where it comes from, in words.
    from: String,
    /// A digest of what was looked at last, good or bad.
    seen: Option<[u8; 32]>,
    /// What was too early then counts from here on.
    again: Option<SystemTime>,
}

impl Intake {
    fn new(store: &Store, from: String) -> Self {
        Intake {
            store: store.clone(),
            from,
            seen: None,
            again: None,
        }
    }

    /// Whether what has this digest is still to be looked at.
    fn is_new(&self, digest: [u8; 32]) -> bool {
        let due = self.again.is_some_and(|at| at <= SystemTime::now());
        self.seen != Some(digest) || due
    }

    /// Looks at what has this digest, if that is new.
    fn look(&mut self, digest: [u8; 32], read: impl FnOnce() -> Result<News, SourceError>) {
        if !self.is_new(digest) {
            return;
        }
        self.seen = Some(digest);
        self.again = None;
        let taken = read().and_then(|news| {
            Ok(self
                .store
                .put(news.identity, news.bundles, news.revocations)?)
        });
        match taken {
            Ok(generation) => {
                self.store.metrics().rotation(Rotation::Accepted);
                told(&generation, &self.from);
            }
            Err(error) => {
                if let SourceError::Identity(IdentityError::NotYetValid { at, .. }) = &error {
                    self.again = Some(*at);
                }
                self.refuse(&error);
            }
        }
    }

    fn refuse(&self, error: &SourceError) {
        self.store.metrics().rotation(Rotation::Refused);
        let goes_on = match self.store.current() {
            Some(last) => {
                format!(
                    "the last good identity goes on, until {}",
                    said(last.identity().not_after())
                )
            }
            None => "there is no identity".to_owned(),
        };
        tracing::error!(from = %self.from, "identity refused: {error}; {goes_on}");
    }
}

fn told(generation: &Generation, from: &str) {
    let identity = generation.identity();
    let until = said(identity.not_after());
    tracing::info!(%from, identity = %identity.id(), generation = generation.number(), %until, "identity taken over");
    if !generation.trusts_itself() {
        tracing::warn!(identity = %identity.id(), "our own certificate leads to none of our own roots: peers with these roots will refuse us");
    }
}

/// Tells once of each generation what time has made of it.
#[derive(Default)]
struct Lookout {
    generation: u64,
    told_of_end: bool,
    told_of_list: bool,
}

impl Lookout {
    fn look(&mut self, store: &Store) {
        let Some(generation) = store.last() else {
            return;
        };
        if generation.number() != self.generation {
            *self = Lookout {
                generation: generation.number(),
                ..Lookout::default()
            };
        }
        let (identity, now) = (generation.identity(), SystemTime::now());
        let ended = identity.not_after() < now;
        if ended && !std::mem::replace(&mut self.told_of_end, true) {
            let (id, at) = (identity.id(), said(identity.not_after()));
            tracing::error!(identity = %id, %at, "our certificate has ended, and no new one came: nothing passes inside the mesh");
        }
        let old = generation
            .revocations()
            .next_update()
            .is_some_and(|next| next < now);
        if old && !std::mem::replace(&mut self.told_of_list, true) {
            tracing::error!(
                "a revocation list is past its date: what it revokes stays revoked, what was revoked since is not known"
            );
        }
    }
}
