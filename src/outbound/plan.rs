//! The file's outbound half, compiled: routes with their policies and handles, and where each host goes.
//!
//! Made once a load and shared by all workers; a request only reads it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    RouteSettings, Settings, Unknown, UpstreamSettings, filter::Filters, tcp::Meters,
    upstream::Upstream,
};
use crate::{
    discover::Source,
    events::capture,
    http::{Metrics, RouteMeter, upgrade::Upgrades},
    net,
    resilience::Policy,
    route::{Problem, Table},
    telemetry::Direction,
};

/// Makes upstreams for hosts that the file does not name (`unknown: passthrough`).
pub trait Strangers: Send + Sync {
    /// The upstream for `host:port`; the same one while it is in use.
    fn upstream(&self, host: &str, port: u16) -> Arc<Upstream>;
}

/// One route, with what its requests need resolved.
pub struct Route {
    pub name: Arc<str>,
    pub meter: Arc<RouteMeter>,
    pub retry: Policy,
    /// The whole call.
    pub request: Option<Duration>,
    /// One try.
    pub backend_request: Option<Duration>,
    pub upgrades: Upgrades,
    pub filters: Filters,
    /// Upstreams by index, each with the sum of the weights up to and with it.
    backends: Vec<(usize, u64)>,
    /// Of a deferred route.
    pub capture: Option<capture::Plan>,
    pub settings: Option<RouteSettings>,
}

impl Route {
    /// A route of its own name with default policies: for hosts that name an upstream, and for strangers.
    fn implied(name: &str, metrics: &Metrics) -> Self {
        Route {
            name: name.into(),
            meter: metrics.route(Direction::Outbound, name),
            retry: Policy::default(),
            request: None,
            backend_request: None,
            upgrades: Upgrades::default(),
            filters: Filters::default(),
            backends: Vec::new(),
            capture: None,
            settings: None,
        }
    }

    /// The upstream that `draw`, evenly from `0..total`, chooses; none where the host names it.
    pub fn backend(&self, draw: impl FnOnce(u64) -> u64) -> Option<usize> {
        match self.backends.as_slice() {
            [] => None,
            [(only, _)] => Some(*only),
            many => {
                let drawn = draw(many.last()?.1);
                many.iter()
                    .find(|(_, upto)| drawn < *upto)
                    .map(|(upstream, _)| *upstream)
            }
        }
    }

    /// Every upstream it may go to.
    pub fn backends(&self) -> impl Iterator<Item = usize> + '_ {
        self.backends.iter().map(|(upstream, _)| *upstream)
    }

    pub fn is_deferred(&self) -> bool {
        self.capture.is_some()
    }
}

pub struct Plan {
    pub table: Table,
    pub routes: Vec<Arc<Route>>,
    /// For hosts that name an upstream and have no route.
    pub direct: Arc<Route>,
    /// For hosts that the file does not name.
    pub passthrough: Arc<Route>,
    pub upstreams: Vec<Arc<Upstream>>,
    by_host: HashMap<Box<str>, usize>,
    by_address: HashMap<SocketAddr, usize>,
    /// Of connections that are no HTTP.
    pub tcp: Meters,
    pub unknown: Unknown,
    pub strangers: Arc<dyn Strangers>,
    /// Our own listeners.
    pub own: Arc<[SocketAddr]>,
}

impl Plan {
    /// `upstreams` are those of the file, each with what the file says of it; a backend that names none was refused
    /// before.
    pub fn compile(
        settings: &Settings,
        upstreams: Vec<(Arc<Upstream>, UpstreamSettings)>,
        strangers: Arc<dyn Strangers>,
        own: Arc<[SocketAddr]>,
        author: &capture::Author,
        metrics: &Metrics,
    ) -> Result<Self, Vec<Problem>> {
        let (upstreams, said): (Vec<_>, Vec<_>) = upstreams.into_iter().unzip();
        let table = Table::compile(
            settings
                .routes
                .iter()
                .map(|route| (&route.hosts[..], &route.matches[..])),
        )?;
        let index: HashMap<&str, usize> = upstreams
            .iter()
            .enumerate()
            .map(|(at, upstream)| (&*upstream.name, at))
            .collect();
        let route = |said: &RouteSettings| {
            let mut sum = 0u64;
            let mut backends = Vec::new();
            for backend in &said.backends {
                if let Some(at) = index.get(backend.upstream.as_str())
                    && backend.weight > 0
                {
                    sum += u64::from(backend.weight);
                    backends.push((*at, sum));
                }
            }
            let name: Arc<str> = said.name.as_str().into();
            Arc::new(Route {
                capture: said.defer.as_ref().map(|defer| {
                    author.plan(&name, defer, said.idempotency.as_ref(), said.reply.as_ref())
                }),
                name,
                meter: metrics.route(Direction::Outbound, said.name.as_str()),
                retry: Policy::from(&said.retry),
                request: said.timeouts.request.map(Duration::from),
                backend_request: said.timeouts.backend_request.map(Duration::from),
                upgrades: said.upgrades.clone(),
                filters: Filters::compile(&said.filters, &said.matches),
                backends,
                settings: Some(said.clone()),
            })
        };
        let routes = settings.routes.iter().map(route).collect();
        let mut by_host = HashMap::new();
        for (at, upstream) in upstreams.iter().enumerate() {
            by_host.insert(upstream.name.to_ascii_lowercase().into_boxed_str(), at);
        }
        let mut by_address = HashMap::new();
        for (at, said) in said.iter().enumerate() {
            for address in &said.addresses {
                by_address.entry(address.0).or_insert(at);
            }
            if let Source::Dns(address) = &said.endpoints {
                let host = address
                    .host
                    .as_str()
                    .trim_end_matches('.')
                    .to_ascii_lowercase();
                by_host.entry(host.into_boxed_str()).or_insert(at);
            }
        }
        Ok(Plan {
            table,
            routes,
            direct: Arc::new(Route::implied("direct", metrics)),
            passthrough: Arc::new(Route::implied("passthrough", metrics)),
            tcp: Meters::new(&metrics.tcp, &upstreams),
            upstreams,
            by_host,
            by_address,
            unknown: settings.unknown,
            strangers,
            own,
        })
    }

    /// The upstream that a host names, by its name in the file or by the DNS name of its endpoints.
    pub fn upstream_of(&self, host: &str) -> Option<usize> {
        self.by_host.get(host).copied()
    }

    /// The upstream whose connections to this address are balanced.
    pub fn balanced_at(&self, address: SocketAddr) -> Option<usize> {
        self.by_address.get(&address).copied()
    }

    /// Whether `address` is one of our own listeners.
    pub fn is_ours(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| net::reaches(address, *own))
    }
}
