//! The store as the flow has it: open, or shut and why.
//!
//! A store that cannot be had never stops the sidecar: deferred calls are refused, the rest goes on. One that another
//! process holds is asked for again until it is free.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use crate::outbox::{self, Limits, OpenError, Options, Store};

/// What can be had of the store now.
#[derive(Clone)]
pub enum Access {
    Open(Store),
    /// In words: why deferred calls are refused.
    Shut(Arc<str>),
}

/// Who opens the store, once a process. Clones are the same one.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    path: PathBuf,
    limits: Mutex<Limits>,
    metrics: outbox::Metrics,
    access: watch::Sender<Access>,
    /// It was not free when it was asked for: asking again may help.
    awaited: AtomicBool,
    closed: AtomicBool,
}

/// What came of an attempt to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    Yes,
    /// Another process holds it, or the disk failed us: asking again may help.
    NotYet,
    /// Only a person can help.
    Never,
}

impl Vault {
    /// Nothing is opened before [`Vault::open`].
    pub fn new(path: PathBuf, limits: Limits, metrics: outbox::Metrics) -> Self {
        Vault(Arc::new(Inner {
            path,
            limits: Mutex::new(limits),
            metrics,
            access: watch::Sender::new(Access::Shut("the outbox is not open yet".into())),
            awaited: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }))
    }

    /// Around a store that is open already.
    pub fn over(store: Store) -> Self {
        let vault = Vault::new(
            store.path().to_owned(),
            Limits::default(),
            outbox::Metrics::default(),
        );
        vault.0.access.send_replace(Access::Open(store));
        vault
    }

    /// True where a store is on disk already: it may hold what a sidecar before us accepted.
    pub fn exists(&self) -> bool {
        std::fs::read_dir(&self.0.path).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// True where opening failed in a way that may pass.
    pub fn is_awaited(&self) -> bool {
        self.0.awaited.load(Ordering::Acquire)
    }

    /// Opens the store if it is not open. Blocks while its log is read.
    ///
    /// `needed`: a route defers, so that not having it is an error.
    pub fn open(&self, needed: bool) -> Opened {
        if matches!(*self.0.access.borrow(), Access::Open(_)) {
            return Opened::Yes;
        }
        if self.0.closed.load(Ordering::Acquire) {
            return Opened::Never;
        }
        let options = Options {
            limits: self.limits(),
            ..Options::default()
        };
        match Store::open(&self.0.path, &options, self.0.metrics.clone()) {
            Ok(store) => {
                let figures = store.figures();
                tracing::info!(path = %self.0.path.display(), events = figures.events, "the outbox is open");
                self.0.access.send_replace(Access::Open(store.clone()));
                // They may have changed while the store was being opened.
                store.retune(self.limits());
                Opened::Yes
            }
            Err(error) => {
                let words: Arc<str> = error.to_string().into();
                // Said once, not every time it is asked for again.
                let news = match &*self.0.access.borrow() {
                    Access::Shut(before) => *before != words,
                    Access::Open(_) => true,
                };
                if news {
                    match needed {
                        true => {
                            tracing::error!(%error, "deferred calls are refused with 503 store_unavailable")
                        }
                        false => {
                            tracing::warn!(%error, "what an outbox holds from before is not delivered")
                        }
                    }
                    self.0.access.send_replace(Access::Shut(words));
                }
                let opened = match error {
                    OpenError::Held { .. } | OpenError::Io { .. } | OpenError::Sql { .. } => {
                        Opened::NotYet
                    }
                    _ => Opened::Never,
                };
                let again = opened == Opened::NotYet;
                self.0.awaited.store(again, Ordering::Release);
                opened
            }
        }
    }

    /// Takes other limits, for a store that is opened later as well.
    pub fn retune(&self, limits: Limits) {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        if let Access::Open(store) = &*self.0.access.borrow() {
            store.retune(limits);
        }
    }

    fn limits(&self) -> Limits {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn access(&self) -> Access {
        self.0.access.borrow().clone()
    }

    /// Tells when the access changes.
    pub fn follow(&self) -> watch::Receiver<Access> {
        self.0.access.subscribe()
    }

    /// Commits what was handed over and lets go of the directory, for good.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        let before = self
            .0
            .access
            .send_replace(Access::Shut("the sidecar is leaving".into()));
        if let Access::Open(store) = before {
            store.close().await;
        }
    }
}
