//! What workers ask at each handshake: who we are now, and whom we believe.
//!
//! A source puts a new generation in; readers take the current one, cheaply, and see by its number that it changed. An identity that
//! has ended counts as none: nobody goes on with it, and nobody falls back to plaintext.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::watch;

use super::{
    bundles::{Bundles, Revocations},
    generation::{Generation, GenerationError},
    identity::Identity,
    metrics::Metrics,
};

/// The current generation, shared by all threads.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: watch::Sender<Option<Arc<Generation>>>,
    number: AtomicU64,
    /// Held while a generation is made, so that numbers go up in the order in which they count.
    making: Mutex<()>,
    cut_at_expiry: AtomicBool,
    metrics: Metrics,
}

impl Store {
    pub fn new(metrics: Metrics) -> Self {
        Store(Arc::new(Shared {
            current: watch::Sender::new(None),
            number: AtomicU64::new(0),
            making: Mutex::default(),
            cut_at_expiry: AtomicBool::new(false),
            metrics,
        }))
    }

    /// The generation for a handshake now; none where there is no identity yet or it has ended.
    pub fn current(&self) -> Option<Arc<Generation>> {
        let current = self.0.current.borrow();
        current
            .as_ref()
            .filter(|generation| counts(generation))
            .cloned()
    }

    /// The number of the last generation, 0 before the first: a connection that is older should drain.
    pub fn number(&self) -> u64 {
        self.0.number.load(Ordering::Acquire)
    }

    /// The last generation, even where its identity has ended.
    pub fn last(&self) -> Option<Arc<Generation>> {
        self.0.current.borrow().clone()
    }

    /// Waits until there is an identity that counts. The caller says how long.
    pub async fn ready(&self) -> Arc<Generation> {
        let mut current = self.0.current.subscribe();
        let found = current
            .wait_for(|current| current.as_ref().is_some_and(counts))
            .await;
        match found {
            Ok(found) => found.clone().expect("what was waited for is there"),
            // `self` holds the sender.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether everything that is open ends with its peer's certificate (`identity.cutAtExpiry`).
    pub fn cuts_at_expiry(&self) -> bool {
        self.0.cut_at_expiry.load(Ordering::Relaxed)
    }

    pub(super) fn cut_at_expiry(&self, cut: bool) {
        self.0.cut_at_expiry.store(cut, Ordering::Relaxed);
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Takes a new state over: what is open stays with its own generation, what begins takes this one.
    pub fn put(
        &self,
        identity: Identity,
        bundles: Bundles,
        revocations: Revocations,
    ) -> Result<Arc<Generation>, GenerationError> {
        let _making = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.0.number.load(Ordering::Acquire) + 1;
        let generation = Arc::new(Generation::new(number, identity, bundles, revocations)?);
        self.0.metrics.follow(&generation);
        self.0.current.send_replace(Some(generation.clone()));
        self.0.number.store(number, Ordering::Release);
        Ok(generation)
    }
}

fn counts(generation: &Arc<Generation>) -> bool {
    SystemTime::now() <= generation.identity().not_after()
}
