//! Where our identity comes from: files, or a SPIFFE Workload API.
//!
//! A source fills the store and keeps it filled. What is wrong with its news is told loudly, and the last good
//! generation goes on.

mod files;
mod workload_api;

use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc};

use tokio::task::JoinHandle;

use super::{
    bundles::{BundleError, Bundles, Revocations},
    generation::{Generation, GenerationError},
    identity::{Identity, IdentityError},
    metrics::Rotation,
    settings::Settings,
    store::Store,
};
use crate::units::Hostname;

pub use workload_api::ApiError;
pub(super) use workload_api::fetch;

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

/// Takes the news over, or says loudly why not.
fn take(store: &Store, news: Result<News, SourceError>, from: &str) -> Option<Arc<Generation>> {
    let taken =
        news.and_then(|news| Ok(store.put(news.identity, news.bundles, news.revocations)?));
    match taken {
        Ok(generation) => {
            store.metrics().rotation(Rotation::Accepted);
            told(&generation, from);
            Some(generation)
        }
        Err(error) => {
            store.metrics().rotation(Rotation::Refused);
            let goes_on = match store.current() {
                Some(last) => format!(
                    "the last good identity goes on, until {}",
                    super::identity::said(last.identity().not_after())
                ),
                None => "there is no identity".to_owned(),
            };
            tracing::error!(%from, "identity refused: {error}; {goes_on}");
            None
        }
    }
}

fn told(generation: &Generation, from: &str) {
    let identity = generation.identity();
    let until = super::identity::said(identity.not_after());
    tracing::info!(%from, identity = %identity.id(), generation = generation.number(), %until, "identity taken over");
    if !generation.trusts_itself() {
        tracing::warn!(identity = %identity.id(), "our own certificate leads to none of our own roots: peers with these roots will refuse us");
    }
    if generation
        .revocations()
        .next_update()
        .is_some_and(|next| next < std::time::SystemTime::now())
    {
        tracing::error!(
            "a revocation list is past its date: it keeps counting, and what was revoked since is not known"
        );
    }
}
