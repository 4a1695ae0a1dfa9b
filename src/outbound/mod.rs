//! From the application beside us to its upstreams.
//!
//! A connection's path: accept → for whom → which protocol → `http::serve` → `stack`, or `tcp`. A request's path is told in `stack`; one
//! upstream, with its endpoints, tries and limits, is a `cluster`.

pub mod cluster;
pub mod endpoint;
mod filter;
pub mod plan;
pub mod secure;
mod settings;
mod stack;
mod tcp;
pub mod upstream;

pub use plan::{Plan, Route, Strangers};
pub use settings::*;
pub use stack::Stack;
pub use upstream::{Metrics, Upstream};

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use cluster::Cluster;

use crate::{
    http::{
        Entrance, Reception,
        tick::{Tick, Ticks},
    },
    net::Accepted,
};

/// Strangers that a worker keeps clusters for; beyond, the one that was used longest ago goes.
const STRANGERS: usize = 256;

impl Reception for Stack {
    /// accept → original destination → what it speaks → `http::serve`, or bytes both ways.
    async fn receive(self: Rc<Self>, accepted: Accepted, entrance: Rc<Entrance>) {
        let connection = entrance.connection(&accepted);
        let told = self.tell(accepted.stream, &connection).await;
        if let Some((stream, opening)) = told {
            let server = &entrance.server;
            // Boxed, so that a connection that has said nothing yet does not pay for it.
            Box::pin(server.serve(stream, opening, connection, self)).await
        }
    }
}

/// A plan as one worker follows it.
pub struct Local {
    plan: Arc<Plan>,
    clusters: Vec<Rc<Cluster>>,
    strangers: RefCell<HashMap<(Box<str>, u16), Stranger>>,
    rng: RefCell<fastrand::Rng>,
    tick: Rc<Tick>,
    interim: prometheus::IntCounter,
}

struct Stranger {
    cluster: Rc<Cluster>,
    used: Ticks,
}

impl Local {
    /// Takes over the clusters of `before` whose upstreams are the same; the others are made or retired.
    pub fn new(
        plan: Arc<Plan>,
        before: Option<&Local>,
        tick: &Rc<Tick>,
        interim: &prometheus::IntCounter,
    ) -> Rc<Self> {
        let same = |upstream: &Arc<Upstream>| {
            let clusters = &before?.clusters;
            clusters
                .iter()
                .find(|cluster| Arc::ptr_eq(cluster.upstream(), upstream))
                .cloned()
        };
        let clusters: Vec<Rc<Cluster>> = plan
            .upstreams
            .iter()
            .map(|upstream| same(upstream).unwrap_or_else(|| Cluster::new(upstream, tick, interim)))
            .collect();
        if let Some(before) = before {
            for gone in before
                .clusters
                .iter()
                .filter(|old| !clusters.iter().any(|new| Rc::ptr_eq(old, new)))
            {
                gone.retire();
            }
        }
        let strangers = before
            .map(|before| before.strangers.take())
            .unwrap_or_default();
        Rc::new(Local {
            plan,
            clusters,
            strangers: RefCell::new(strangers),
            rng: RefCell::new(fastrand::Rng::new()),
            tick: tick.clone(),
            interim: interim.clone(),
        })
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The cluster of an upstream by its place in the plan.
    pub fn cluster(&self, upstream: usize) -> Rc<Cluster> {
        self.clusters[upstream].clone()
    }

    pub fn clusters(&self) -> &[Rc<Cluster>] {
        &self.clusters
    }

    fn draw(&self, total: u64) -> u64 {
        self.rng.borrow_mut().u64(0..total.max(1))
    }

    fn stranger_cluster(&self, host: &str, port: u16) -> Rc<Cluster> {
        let mut strangers = self.strangers.borrow_mut();
        let used = self.tick.now();
        let key = (Box::from(host), port);
        if let Some(stranger) = strangers.get_mut(&key) {
            stranger.used = used;
            return stranger.cluster.clone();
        }
        if strangers.len() >= STRANGERS {
            let oldest = strangers
                .iter()
                .max_by_key(|(_, stranger)| used.since(stranger.used));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                strangers.remove(&oldest);
            }
        }
        let upstream = self.plan.strangers.upstream(host, port);
        let cluster = Cluster::new(&upstream, &self.tick, &self.interim);
        strangers.insert(
            key,
            Stranger {
                cluster: cluster.clone(),
                used,
            },
        );
        cluster
    }
}
