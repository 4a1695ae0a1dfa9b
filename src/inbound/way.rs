//! The ways to the application that one worker knows: those of the file, and those that redirected connections take.

use std::{
    cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use super::{
    App, Plan, Trust,
    authorize::{Policy, Strict},
};
use crate::{
    http::{
        Connection, Door,
        client::{Keeping, Landlord, Peer},
        dialer::{Beside, Dialer, Plain},
        tick::{Tick, Ticks},
        upgrade::Upgrades,
    },
    net,
};

/// The application is on this machine: it accepts at once or not at all.
pub(super) const CONNECT: Duration = Duration::from_millis(300);
/// Its kernel does; its own first word of HTTP/2 waits for the rest that it has to do, or for its collector of garbage.
const OPEN: Duration = Duration::from_secs(5);
/// Shorter than Node's 5 s, so that no connection is reused as the application closes it.
const IDLE: Duration = Duration::from_secs(3);
/// Addresses of the application that redirected connections meant, at once; beyond, the one used longest ago goes.
const REDIRECTED: usize = 64;

/// A port of the application, and the connections to it.
pub(super) struct Way {
    pub(super) app: Arc<App>,
    pub(super) peer: Rc<Peer>,
    /// A redirected connection meant it: it is called from the address that the machine's rules exempt.
    pub(super) beside: bool,
}

/// A plan as one worker follows it.
pub struct Local {
    ways: Vec<(Door, Rc<Way>)>,
    redirected: RefCell<HashMap<SocketAddr, (Rc<Way>, Ticks)>>,
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) strict: Arc<Strict>,
    pub(super) trust: Option<Trust>,
    pub(super) upgrades: Upgrades,
    ports: Vec<Arc<App>>,
    others: Option<Arc<App>>,
    own: Arc<[SocketAddr]>,
    landlord: Rc<dyn Landlord>,
    tick: Rc<Tick>,
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
    pub fn empty(tick: &Rc<Tick>, interim: &prometheus::IntCounter) -> Rc<Self> {
        Rc::new(Local {
            ways: Vec::new(),
            redirected: RefCell::default(),
            policy: None,
            strict: Arc::default(),
            trust: None,
            upgrades: Upgrades::default(),
            ports: Vec::new(),
            others: None,
            own: Arc::new([]),
            landlord: Rc::new(Open {
                interim: interim.clone(),
            }),
            tick: tick.clone(),
        })
    }

    /// Takes over the connections of `before` to addresses that are still the application's.
    pub fn new(plan: &Plan, before: &Local) -> Rc<Self> {
        let dialer: Rc<dyn Dialer> = Rc::new(Plain {
            connect_timeout: CONNECT,
        });
        let mut ways = Vec::new();
        for (door, app) in plan.apps() {
            let same = before
                .door(&door)
                .filter(|way| way.app.address == app.address);
            let peer = match same {
                Some(way) => way.peer.clone(),
                None => before.peer(app.address, dialer.clone()),
            };
            let way = Way {
                app: app.clone(),
                peer,
                beside: false,
            };
            ways.push((door, Rc::new(way)));
        }
        for (_, old) in &before.ways {
            if !ways.iter().any(|(_, new)| Rc::ptr_eq(&new.peer, &old.peer)) {
                old.peer.retire();
            }
        }
        // What the file says of their ports may be new; the next call makes them again.
        for (_, (old, _)) in before.redirected.borrow_mut().drain() {
            old.peer.retire();
        }
        Rc::new(Local {
            ways,
            redirected: RefCell::default(),
            policy: plan.policy.clone(),
            strict: plan.strict.clone(),
            trust: plan.trust.clone(),
            upgrades: plan.upgrades.clone(),
            ports: plan.ports.values().cloned().collect(),
            others: Some(plan.others.clone()),
            own: plan.own.clone(),
            landlord: before.landlord.clone(),
            tick: before.tick.clone(),
        })
    }

    fn peer(&self, address: SocketAddr, dialer: Rc<dyn Dialer>) -> Rc<Peer> {
        let keeping = Keeping {
            connect_timeout: OPEN,
            idle: IDLE,
        };
        Peer::new(address, keeping, self.landlord.clone(), dialer, &self.tick)
    }

    /// The way of a connection: by where its caller meant to go, or by its door. None where there is none.
    pub(super) fn way(&self, connection: &Connection) -> Option<Rc<Way>> {
        match connection.original() {
            Some(original) => self.by_address(original),
            None => self.door(connection.door()).cloned(),
        }
    }

    /// What the file says of every port that it does not name; none before the first plan.
    pub(super) fn others(&self) -> Option<&App> {
        self.others.as_deref()
    }

    fn door(&self, door: &Door) -> Option<&Rc<Way>> {
        let found = self.ways.iter().find(|(own, _)| own == door);
        found.map(|(_, way)| way)
    }

    fn by_address(&self, original: SocketAddr) -> Option<Rc<Way>> {
        let mut redirected = self.redirected.borrow_mut();
        let now = self.tick.now();
        if let Some((way, used)) = redirected.get_mut(&original) {
            *used = now;
            return Some(way.clone());
        }
        if self.own.iter().any(|own| net::reaches(original, *own)) {
            return None;
        }
        let said = self.ports.iter().find(|app| app.port == original.port());
        let said = said.or(self.others.as_ref())?;
        let app = Arc::new(App {
            name: said.name.clone(),
            port: original.port(),
            address: original,
            protocol: said.protocol,
            opaque: said.opaque,
            tls: said.tls,
            probes: said.probes.clone(),
            plaintext: said.plaintext.clone(),
            meter: said.meter.clone(),
            tcp: said.tcp.clone(),
        });
        if redirected.len() >= REDIRECTED {
            let oldest = redirected
                .iter()
                .max_by_key(|(_, (_, used))| now.since(*used));
            if let Some(oldest) = oldest.map(|(address, _)| *address)
                && let Some((gone, _)) = redirected.remove(&oldest)
            {
                gone.peer.retire();
            }
        }
        let dialer: Rc<dyn Dialer> = Rc::new(Beside {
            connect_timeout: CONNECT,
        });
        let way = Rc::new(Way {
            peer: self.peer(original, dialer),
            app,
            beside: true,
        });
        redirected.insert(original, (way.clone(), now));
        Some(way)
    }
}
