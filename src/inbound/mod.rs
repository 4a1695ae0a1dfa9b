//! From a peer to the application beside us.
//!
//! A connection's path: accept → which HTTP → `http::serve` → `stack`. There is one callee, so nothing is balanced;
//! a request that provably did not reach it is sent once more.

pub mod authorize;
mod settings;
mod stack;

pub use settings::*;
pub use stack::Stack;

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use crate::{
    http::{
        Door, Entrance, Facts, Metrics, Opening, Reception, RouteMeter,
        client::{Keeping, Landlord, Peer},
        dialer::{Dialer, Plain},
        tick::Tick,
        upgrade::Upgrades,
    },
    net::Accepted,
    telemetry::Direction,
};

/// The application is on this machine: it accepts at once or not at all.
const CONNECT: Duration = Duration::from_millis(300);
/// Shorter than Node's 5 s, so that no connection is reused as the application closes it.
const IDLE: Duration = Duration::from_secs(3);

/// The file's inbound half, compiled.
pub struct Plan {
    main: Option<Arc<App>>,
    ports: BTreeMap<u16, Arc<App>>,
    /// None: everyone may call.
    policy: Option<Arc<authorize::Policy>>,
    upgrades: Upgrades,
}

/// A port of the application.
pub struct App {
    pub name: Arc<str>,
    /// The port that callers mean; `address` may have another.
    pub port: u16,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub meter: Arc<RouteMeter>,
}

impl Plan {
    /// `home` is our own trust domain.
    pub fn compile(
        settings: &Settings,
        home: &authorize::Home,
        metrics: &Metrics,
        authorization: &authorize::Metrics,
    ) -> Result<Self, authorize::Problem> {
        let app = |name: String, port, address: SocketAddr, protocol| {
            let meter = metrics.route(Direction::Inbound, &name);
            Arc::new(App {
                name: name.into(),
                port,
                address,
                protocol,
                meter,
            })
        };
        let main = settings.app.map(|address| {
            let port = settings.ports.get(&address.0.port());
            app(
                "app".into(),
                address.port(),
                address.0,
                port.map_or(Protocol::Auto, |port| port.protocol),
            )
        });
        let ports = settings
            .ports
            .iter()
            .map(|(number, port)| {
                (
                    *number,
                    app(
                        format!("port-{number}"),
                        *number,
                        port.app
                            .map_or_else(|| ([127, 0, 0, 1], *number).into(), |app| app.0),
                        port.protocol,
                    ),
                )
            })
            .collect();
        let policy = settings.authorization.as_ref();
        let policy = policy.map(|said| authorize::Policy::compile(said, home, authorization));
        Ok(Plan {
            main,
            ports,
            policy: policy.transpose()?,
            upgrades: settings.upgrades.clone(),
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

impl Reception for Stack {
    async fn receive(self: Rc<Self>, accepted: Accepted, entrance: Rc<Entrance>) {
        let connection = entrance.connection(Facts::plain(&accepted, &entrance.door));
        let server = &entrance.server;
        server
            .serve(accepted.stream.into(), Opening::Unknown, connection, self)
            .await
    }
}

/// A plan as one worker follows it.
pub struct Local {
    ways: Vec<(Door, Way)>,
    policy: Option<Arc<authorize::Policy>>,
    upgrades: Upgrades,
}

#[derive(Clone)]
struct Way {
    app: Arc<App>,
    peer: Rc<Peer>,
}

/// The application's connections have no limit of ours: it is what callers came for.
struct Open {
    interim: prometheus::IntCounter,
}

impl Landlord for Open {
    fn wants_back(&self) -> bool {
        false
    }

    fn freed(&self) {}

    fn changed(&self) {}

    fn interim(&self, count: u16) {
        self.interim.inc_by(count.into());
    }
}

impl Local {
    /// Before the first plan.
    pub fn empty() -> Rc<Self> {
        Rc::new(Local {
            ways: Vec::new(),
            policy: None,
            upgrades: Upgrades::default(),
        })
    }

    /// Takes over the connections of `before` to addresses that are still the application's.
    pub fn new(
        plan: &Plan,
        before: Option<&Local>,
        tick: &Rc<Tick>,
        interim: &prometheus::IntCounter,
    ) -> Rc<Self> {
        let landlord: Rc<dyn Landlord> = Rc::new(Open {
            interim: interim.clone(),
        });
        let dialer: Rc<dyn Dialer> = Rc::new(Plain {
            connect_timeout: CONNECT,
        });
        let ways: Vec<(Door, Way)> = plan
            .apps()
            .map(|(door, app)| {
                let same = before
                    .and_then(|before| before.way(&door))
                    .filter(|way| way.app.address == app.address);
                let peer = same.map(|way| way.peer.clone()).unwrap_or_else(|| {
                    let keeping = Keeping {
                        connect_timeout: CONNECT,
                        idle: IDLE,
                    };
                    Peer::new(app.address, keeping, landlord.clone(), dialer.clone(), tick)
                });
                (
                    door,
                    Way {
                        app: app.clone(),
                        peer,
                    },
                )
            })
            .collect();
        if let Some(before) = before {
            for (_, old) in &before.ways {
                if !ways.iter().any(|(_, new)| Rc::ptr_eq(&new.peer, &old.peer)) {
                    old.peer.retire();
                }
            }
        }
        Rc::new(Local {
            ways,
            policy: plan.policy.clone(),
            upgrades: plan.upgrades.clone(),
        })
    }

    fn way(&self, door: &Door) -> Option<&Way> {
        self.ways
            .iter()
            .find(|(own, _)| own == door)
            .map(|(_, way)| way)
    }
}
