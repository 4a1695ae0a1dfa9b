//! A source of endpoints as a watch: fixed addresses or DNS.
//!
//! Promises that a change of the watch is a change of the addresses: they are sorted, told once each, and an answer that
//! says the same again wakes nobody. What the addresses are used for is others' business.

mod answer;
mod dns;
mod fixed;
mod hosts_file;
mod metrics;
mod resolv_conf;
mod settings;
mod system;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use tokio::{sync::watch::Receiver, task::JoinHandle};

use answer::Bounds;

pub use metrics::Metrics;
pub use settings::Source;
pub use system::{Files, System};

/// What is known of an upstream's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub state: State,
    /// In order, each once.
    pub addresses: Arc<[SocketAddr]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No answer yet: a call may wait for one. Says why the last try failed, if one did.
    Waiting(Option<Arc<str>>),
    /// The addresses are what was last answered; none if the name has none.
    Known,
}

impl Endpoints {
    fn known(mut addresses: Vec<SocketAddr>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        Endpoints {
            state: State::Known,
            addresses: addresses.into(),
        }
    }

    fn waiting(why: Option<Arc<str>>) -> Self {
        Endpoints {
            state: State::Waiting(why),
            addresses: Arc::new([]),
        }
    }

    pub fn is_known(&self) -> bool {
        self.state == State::Known
    }
}

/// What all sources share.
#[derive(Clone)]
pub struct Shared {
    system: Arc<System>,
    metrics: Metrics,
    bounds: Bounds,
}

impl Shared {
    pub fn new(system: Arc<System>, metrics: Metrics) -> Self {
        Shared {
            system,
            metrics,
            bounds: Bounds::default(),
        }
    }
}

/// A source that is being watched. Dropping it stops its task; the last endpoints stay readable.
#[derive(Debug)]
pub struct Watched {
    endpoints: Receiver<Endpoints>,
    task: Option<JoinHandle<()>>,
}

impl Watched {
    pub fn endpoints(&self) -> Receiver<Endpoints> {
        self.endpoints.clone()
    }

    /// Stops the task and waits until it is gone.
    pub async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Aborted or panicked, and told by the runtime's hook: gone either way.
            let _ = task.await;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Watches a source for the upstream of this name. Must be called on a runtime, which then runs the task.
pub fn watch(source: &Source, upstream: &str, shared: &Shared) -> Watched {
    match source {
        Source::Static(addresses) => fixed::watch(addresses.iter().map(|address| address.0)),
        Source::Dns(address) => match address.host.ip() {
            Some(ip) => fixed::watch([SocketAddr::new(ip, address.port)]),
            None => dns::watch(address, upstream, shared),
        },
    }
}
