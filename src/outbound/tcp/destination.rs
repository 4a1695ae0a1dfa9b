//! Where a connection goes that is no HTTP, and the way there.
//!
//! A current endpoint of an upstream: exactly there. One of an upstream's `addresses`: balanced. Else TLS by the name
//! that it asks for, and at last `unknown`: the address itself, or nowhere.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, Method};

use super::Local;
use crate::{
    fault::{Fault, Reason},
    http::{
        Connection, Door, Trail,
        dialer::unconnected,
        tcp::{Far, Passage, TcpMeter, TcpMetrics},
    },
    net::{self, Stream, detect::OPAQUE_PORTS},
    outbound::{Plan, Protocol, Unknown, Upstream, cluster::Cluster},
    route::{Found, RouteId, View},
    telemetry::Direction,
};

/// How long an address that no upstream knows may take to accept. Longer than a peer: it may be far away.
const CONNECT: Duration = Duration::from_secs(5);
/// The port of a name that came without one.
const HTTPS: u16 = 443;

/// Handles of relayed connections, by where they go.
pub struct Meters {
    pub(super) upstreams: Vec<Arc<TcpMeter>>,
    pub(super) passthrough: Arc<TcpMeter>,
    /// Of connections that go nowhere.
    pub(super) none: Arc<TcpMeter>,
}

impl Meters {
    pub fn new(metrics: &TcpMetrics, upstreams: &[Arc<Upstream>]) -> Self {
        let meter = |upstream: &str| metrics.meter(Direction::Outbound, upstream);
        Meters {
            upstreams: upstreams.iter().map(|own| meter(&own.name)).collect(),
            passthrough: meter("passthrough"),
            none: meter("none"),
        }
    }
}

pub(super) enum Destination {
    /// An upstream of the file by its place there: exactly this endpoint, where it is one, or any.
    Upstream {
        at: usize,
        cluster: Rc<Cluster>,
        exactly: Option<SocketAddr>,
    },
    /// A name that no upstream has.
    Stranger(Rc<Cluster>),
    /// An address that no upstream knows.
    Address(SocketAddr),
    /// The connection came to us by itself: its first bytes must say.
    Unsaid,
}

/// What a connection may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Http,
    /// Nobody looks.
    Bytes,
    Any,
}

impl Destination {
    pub(super) fn speech(&self, original: Option<SocketAddr>) -> Speech {
        let detected = match original {
            Some(original) if OPAQUE_PORTS.contains(&original.port()) => Speech::Bytes,
            _ => Speech::Any,
        };
        match self {
            Destination::Upstream { cluster, .. } => match cluster.upstream().settings.protocol {
                Protocol::Tcp => Speech::Bytes,
                Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => Speech::Http,
                Protocol::Auto => detected,
            },
            _ => detected,
        }
    }

    pub(super) fn meter<'a>(&self, plan: &'a Plan) -> &'a Arc<TcpMeter> {
        match self {
            Destination::Upstream { at, .. } => &plan.tcp.upstreams[*at],
            Destination::Stranger(_) | Destination::Address(_) => &plan.tcp.passthrough,
            Destination::Unsaid => &plan.tcp.none,
        }
    }
}

/// A way that led nowhere, and how far.
pub(super) struct Unopened {
    fault: Fault,
    trail: Trail,
}

impl Unopened {
    pub(super) fn tell(self, mut passage: Passage, near: Stream) {
        passage.trail = self.trail;
        passage.fail(near, self.fault);
    }
}

impl Local {
    /// Where a connection goes by its door, or by the address that it was redirected from.
    pub(super) fn destination(&self, connection: &Connection) -> Result<Destination, Fault> {
        let plan = self.plan();
        if let Door::Upstream(name) = connection.door() {
            let named = plan.upstream_of(&name.to_ascii_lowercase());
            return Ok(named.map_or(Destination::Unsaid, |at| self.upstream(at, None)));
        }
        let Some(original) = connection.original() else {
            return Ok(Destination::Unsaid);
        };
        if plan.is_ours(original) {
            let words = "the connection was for this sidecar itself";
            return Err(Fault::new(Reason::Loop, words).inside(original.to_string()));
        }
        Ok(match self.upstream_at(original) {
            Some(at) => self.upstream(at, Some(original)),
            None => Destination::Address(original),
        })
    }

    /// The upstream that has this address: as an endpoint, or as one that is balanced.
    pub(in crate::outbound) fn upstream_at(&self, address: SocketAddr) -> Option<usize> {
        let mut clusters = self.clusters().iter();
        let of_endpoint = clusters.position(|cluster| cluster.endpoint_at(address).is_some());
        of_endpoint.or_else(|| self.plan().balanced_at(address))
    }

    fn upstream(&self, at: usize, exactly: Option<SocketAddr>) -> Destination {
        Destination::Upstream {
            at,
            cluster: self.cluster(at),
            exactly,
        }
    }

    /// Where the name that a TLS client asks for leads, where nothing else has said it: the route of that host, as for
    /// a request without a path, or the upstream of that name.
    pub(super) fn by_server_name(
        &self,
        before: &Destination,
        name: Option<&str>,
    ) -> Option<Destination> {
        let name = name?;
        let port = match before {
            Destination::Upstream { .. } | Destination::Stranger(_) => return None,
            Destination::Address(address) => address.port(),
            Destination::Unsaid => HTTPS,
        };
        let plan = self.plan();
        let found = plan.table.find(&View {
            host: name,
            port: Some(port),
            method: &Method::CONNECT,
            path: "",
            query: None,
            headers: &HeaderMap::new(),
        });
        let routed = match found {
            Found::Route(RouteId(at)) => plan.routes.get(at as usize),
            Found::NoRoute | Found::UnknownHost => None,
        };
        let chosen = routed
            .filter(|route| !route.is_deferred())
            .and_then(|route| route.backend(|total| self.draw(total)))
            .or_else(|| plan.upstream_of(name));
        match (chosen, before) {
            (Some(at), _) => Some(self.upstream(at, None)),
            (None, Destination::Unsaid) if plan.unknown == Unknown::Passthrough => {
                Some(Destination::Stranger(self.stranger_cluster(name, port)))
            }
            (None, _) => None,
        }
    }

    /// A connection to there.
    pub(super) async fn open(&self, to: &Destination) -> Result<Far, Unopened> {
        let mut trail = Trail::default();
        let cluster = match to {
            Destination::Upstream {
                cluster, exactly, ..
            } => {
                trail.exactly = *exactly;
                cluster
            }
            Destination::Stranger(cluster) => cluster,
            Destination::Address(address) => return self.open_address(*address, trail).await,
            Destination::Unsaid => {
                let words = "the connection does not say where it goes";
                let fault = Fault::new(Reason::UnknownHost, words);
                return Err(Unopened { fault, trail });
            }
        };
        match cluster.tunnel(&mut trail).await {
            Ok(dialled) => Ok(Far {
                stream: dialled.stream,
                trail,
            }),
            Err(fault) => Err(Unopened { fault, trail }),
        }
    }

    async fn open_address(&self, address: SocketAddr, mut trail: Trail) -> Result<Far, Unopened> {
        trail.endpoint = Some(address);
        if self.plan().unknown == Unknown::Deny {
            let words =
                "no upstream has this address, and unknown ones are denied (outbound.unknown)";
            let fault = Fault::new(Reason::UnknownHost, words).inside(address.to_string());
            return Err(Unopened { fault, trail });
        }
        trail.tries = 1;
        match net::dial(address, CONNECT).await {
            Ok(tcp) => Ok(Far {
                stream: tcp.into(),
                trail,
            }),
            Err(error) => {
                trail.unconnected = 1;
                let fault = unconnected(address, CONNECT, &error);
                Err(Unopened { fault, trail })
            }
        }
    }
}
