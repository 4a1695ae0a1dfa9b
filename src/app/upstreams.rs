//! The upstreams of the process: made of the file's settings, kept over reloads while their settings stay, each
//! followed by a task that tells it who its endpoints are.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    discover::{self, Shared, Source, Watched},
    net,
    outbound::{Metrics, Strangers, Upstream, UpstreamSettings, secure::Security},
    tls::{self, Store},
    units::{Address, ServiceName},
};

/// What metrics call every upstream that the file does not name.
const STRANGER: &str = "passthrough";

pub struct Upstreams {
    metrics: Metrics,
    discovery: Shared,
    /// Who we are to them.
    store: Store,
    /// Where discovery runs.
    keeper: Handle,
    own: Arc<RwLock<Arc<[SocketAddr]>>>,
    named: Mutex<HashMap<ServiceName, Followed>>,
    strangers: Mutex<Strange>,
}

/// An upstream's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("upstreams.{upstream}.tls: {why}")]
pub struct UnsecuredError {
    upstream: ServiceName,
    #[source]
    why: tls::OrdinaryError,
}

impl UnsecuredError {
    fn new(upstream: &ServiceName, why: tls::OrdinaryError) -> Self {
        UnsecuredError {
            upstream: upstream.clone(),
            why,
        }
    }
}

/// By host and port, as callers name them.
type Strange = HashMap<(Box<str>, u16), Weak<Upstream>>;

struct Followed {
    upstream: Arc<Upstream>,
    said: UpstreamSettings,
    _task: Task,
    _files: Task,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upstreams {
    pub fn new(metrics: Metrics, discovery: Shared, store: Store, keeper: Handle) -> Arc<Self> {
        Arc::new(Upstreams {
            metrics,
            discovery,
            store,
            keeper,
            own: Arc::new(RwLock::new(Arc::new([]))),
            named: Mutex::default(),
            strangers: Mutex::default(),
        })
    }

    /// Says which addresses are our own listeners: no upstream's endpoint may be one.
    pub fn own(&self, addresses: Arc<[SocketAddr]>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The upstreams of a file, in its order.
    ///
    /// One that changed in its endpoints, limits or outlier rules alone is the same as before, with its connections,
    /// ejections and budget; what it knew of its endpoints holds until a new source has answered.
    pub fn named<'a>(
        &self,
        file: impl IntoIterator<Item = (&'a ServiceName, &'a UpstreamSettings)>,
        mesh: bool,
    ) -> Result<Vec<Arc<Upstream>>, UnsecuredError> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let secured: Vec<_> = file
            .into_iter()
            .map(|(name, settings)| {
                let security = match named.get(name) {
                    Some(same) if same.upstream.settings == settings.into() => {
                        let security = &same.upstream.security;
                        security.renew().map(|_| security.clone())
                    }
                    _ => Security::new(settings, &self.store, mesh),
                };
                let unsecured = |why| UnsecuredError::new(name, why);
                Ok((name, settings, security.map_err(unsecured)?))
            })
            .collect::<Result<_, UnsecuredError>>()?;
        let mut before = std::mem::take(&mut *named);
        let mut all = Vec::new();
        for (name, settings, security) in secured {
            let followed = match before.remove(name) {
                Some(followed) if followed.upstream.settings == settings.into() => {
                    self.retuned(followed, settings, name)
                }
                other => self.made(other, settings, security, name),
            };
            all.push(followed.upstream.clone());
            named.insert(name.clone(), followed);
        }
        Ok(all)
    }

    /// Takes over what is new in the files that ordinary TLS names; says whose.
    pub fn renew(&self) -> Result<Vec<ServiceName>, UnsecuredError> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut renewed = Vec::new();
        for (name, followed) in named.iter() {
            let security = &followed.upstream.security;
            if security
                .renew()
                .map_err(|why| UnsecuredError::new(name, why))?
            {
                renewed.push(name.clone());
            }
        }
        Ok(renewed)
    }

    fn made(
        &self,
        before: Option<Followed>,
        said: &UpstreamSettings,
        security: Security,
        name: &ServiceName,
    ) -> Followed {
        let files = Task(self.keeper.spawn(security.clone().follow()));
        let upstream = Upstream::new(name, name, said, security, &self.metrics);
        if let Some(before) = before.filter(|before| before.said.endpoints == said.endpoints) {
            upstream.succeed(&before.upstream);
        }
        let task = self.follow(&upstream, &said.endpoints, name);
        Followed {
            upstream,
            said: said.clone(),
            _task: task,
            _files: files,
        }
    }

    fn retuned(
        &self,
        mut followed: Followed,
        said: &UpstreamSettings,
        name: &ServiceName,
    ) -> Followed {
        followed.upstream.retune(said);
        if followed.said.endpoints != said.endpoints {
            followed._task = self.follow(&followed.upstream, &said.endpoints, name);
        }
        followed.said = said.clone();
        followed
    }

    /// Every upstream that is alive, for those who look.
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = named
            .values()
            .map(|followed| followed.upstream.clone())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn follow(&self, upstream: &Arc<Upstream>, source: &Source, label: &str) -> Task {
        let _keeper = self.keeper.enter();
        let watched = discover::watch(source, label, &self.discovery);
        let mut endpoints = watched.endpoints();
        let tell = {
            let own = self.own.clone();
            move |upstream: &Upstream, endpoints: &discover::Endpoints| {
                let own = own.read().unwrap_or_else(PoisonError::into_inner).clone();
                if endpoints.is_known() {
                    upstream.endpoints_are(&endpoints.addresses, |address| {
                        own.iter().any(|own| net::reaches(address, *own))
                    });
                }
            }
        };
        tell(upstream, &endpoints.borrow_and_update());
        let upstream = Arc::downgrade(upstream);
        Task(self.keeper.spawn(async move {
            let _watched: Watched = watched;
            while endpoints.changed().await.is_ok() {
                let Some(upstream) = upstream.upgrade() else {
                    return;
                };
                tell(&upstream, &endpoints.borrow_and_update());
            }
            std::future::pending::<()>().await
        }))
    }
}

impl Strangers for Upstreams {
    fn upstream(&self, host: &str, port: u16) -> Arc<Upstream> {
        let mut strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(host), port);
        if let Some(upstream) = strangers.get(&key).and_then(Weak::upgrade) {
            return upstream;
        }
        strangers.retain(|_, upstream| upstream.strong_count() > 0);
        let name = format!("{host}:{port}");
        let source = match host.parse().map(|ip| SocketAddr::new(ip, port)) {
            Ok(address) => Source::Static(vec![crate::units::SocketAddress(address)]),
            // A host that is no name resolves to nothing, and the call says so.
            Err(_) => match name.parse::<Address>() {
                Ok(address) => Source::Dns(address),
                Err(_) => Source::Static(Vec::new()),
            },
        };
        let settings = UpstreamSettings::to(source.clone());
        let upstream = Upstream::new(&name, STRANGER, &settings, Security::Plain, &self.metrics);
        let task = self.follow(&upstream, &source, STRANGER);
        upstream.keep(Box::new(task));
        strangers.insert(key, Arc::downgrade(&upstream));
        upstream
    }
}
