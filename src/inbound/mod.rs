//! From a peer to the application beside us.
//!
//! A connection's path: accept → for whom → who calls → which protocol → `http::serve` → `stack`, or `tcp`. There is one callee, so
//! nothing is balanced; a request that provably did not reach it is sent once more.

pub mod authorize;
mod habits;
mod secure;
mod settings;
mod stack;
mod tcp;
mod way;

pub use habits::Habits;
pub use secure::{Metrics as SecurityMetrics, Trust};
pub use settings::*;
pub use stack::Stack;

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc};

use crate::{
    http::{Door, Entrance, Metrics, Reception, RouteMeter, tcp::TcpMeter, upgrade::Upgrades},
    net::Accepted,
    telemetry::Direction,
    units::UrlPath,
};
pub use way::Local;
use way::Way;

/// The file's inbound half, compiled.
pub struct Plan {
    main: Option<Arc<App>>,
    ports: BTreeMap<u16, Arc<App>>,
    /// What redirected connections to ports that the file does not name share.
    others: Arc<App>,
    /// Our own listeners.
    own: Arc<[SocketAddr]>,
    /// None: everyone may call.
    policy: Option<Arc<authorize::Policy>>,
    strict: Arc<authorize::Strict>,
    upgrades: Upgrades,
    /// None: we have no identity, and nobody proves anything.
    trust: Option<Trust>,
}

/// A port of the application.
pub struct App {
    pub name: Arc<str>,
    /// The port that callers mean; `address` may have another.
    pub port: u16,
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// Nobody looks at what is spoken.
    pub opaque: bool,
    pub tls: TlsMode,
    /// Paths that stay open to callers that proved nothing.
    pub probes: Box<[UrlPath]>,
    pub plaintext: secure::Plaintext,
    pub meter: Arc<RouteMeter>,
    pub tcp: Arc<TcpMeter>,
}

impl Plan {
    /// `own` are our own listeners, `home` is our own trust domain.
    pub fn compile(
        settings: &Settings,
        own: Arc<[SocketAddr]>,
        trust: Option<Trust>,
        security: &SecurityMetrics,
        home: &authorize::Home,
        metrics: &Metrics,
        authorization: &authorize::Metrics,
    ) -> Result<Self, authorize::Problem> {
        let app = |name: String, port, address: SocketAddr, said: Option<&PortSettings>| {
            Arc::new(App {
                meter: metrics.route(Direction::Inbound, &name),
                tcp: metrics.tcp.meter(Direction::Inbound, &name),
                name: name.into(),
                port,
                address,
                protocol: said.map_or(Protocol::Auto, |said| said.protocol),
                opaque: said.is_some_and(|said| said.opaque),
                tls: settings.mode(port),
                probes: probes(settings, port),
                plaintext: match port {
                    0 => security.port("other"),
                    port => security.port(&port.to_string()),
                },
            })
        };
        let main = settings.app.map(|address| {
            let port = address.port();
            app("app".into(), port, address.0, settings.ports.get(&port))
        });
        let ports = settings.ports.iter().map(|(number, port)| {
            let here = || ([127, 0, 0, 1], *number).into();
            let address = port.app.map_or_else(here, |app| app.0);
            let name = format!("port-{number}");
            (*number, app(name, *number, address, Some(port)))
        });
        let strict = |mode: TlsMode| trust.is_some() && mode == TlsMode::Strict;
        let modes = settings.ports.iter();
        let modes = modes.filter_map(|(port, said)| said.tls.map(|mode| (*port, strict(mode))));
        let strict = authorize::Strict {
            ports: modes.collect(),
            others: strict(settings.tls.mode),
        };
        let policy = settings.authorization.as_ref();
        let policy = policy.map(|said| authorize::Policy::compile(said, home, authorization));
        Ok(Plan {
            main,
            ports: ports.collect(),
            others: app("app".into(), 0, ([0, 0, 0, 0], 0).into(), None),
            own,
            policy: policy.transpose()?,
            strict: Arc::new(strict),
            upgrades: settings.upgrades.clone(),
            trust,
        })
    }

    fn apps(&self) -> impl Iterator<Item = (Door, &Arc<App>)> {
        let main = self.main.iter().map(|app| (Door::Main, app));
        main.chain(
            self.ports
                .iter()
                .map(|(number, app)| (Door::Port(*number), app)),
        )
    }
}

fn probes(settings: &Settings, port: u16) -> Box<[UrlPath]> {
    let of_port = settings.probes.iter().filter(|probe| probe.port == port);
    of_port.map(|probe| probe.path.clone()).collect()
}

impl Reception for Stack {
    /// accept → original destination → what it speaks → `http::serve`, or bytes both ways.
    async fn receive(self: Rc<Self>, accepted: Accepted, entrance: Rc<Entrance>) {
        let connection = entrance.connection(&accepted);
        let trust = self.local().trust.clone();
        let told = match trust {
            None => self.tell(accepted.stream, &connection).await,
            Some(trust) => Box::pin(self.prove(accepted.stream, &connection, trust)).await,
        };
        if let Some((stream, opening)) = told {
            let server = &entrance.server;
            // Boxed, so that a connection that has said nothing yet does not pay for it.
            Box::pin(server.serve(stream, opening, connection, self)).await
        }
    }
}
