//! The addresses we listen on: opened before anything runs, kept over reloads where they stay.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::{Map, Value, json};

use super::worker::Opening;
use crate::{
    admin::Port,
    config::Config,
    http::Door,
    net::{BindError, Family, Listener},
    telemetry::Direction,
};

/// What an address in the file is for: its direction, its door, and its words in `GET /listeners`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Purpose {
    direction: Direction,
    door: Door,
    words: String,
}

impl Purpose {
    /// `[::]` takes IPv4 too, except beside an IPv4 address of the same setting and port.
    fn family(&self, config: &Config, address: SocketAddr) -> Family {
        let mut beside = said(config).filter(|(_, purpose)| purpose == self);
        match beside.any(|(other, _)| other.is_ipv4() && other.port() == address.port()) {
            true => Family::Own,
            false => Family::Both,
        }
    }
}

/// The listeners of the process, by the address that the file says (port 0 included).
#[derive(Default)]
pub struct Listeners {
    /// Said address and purpose → real address. Several entries may say port 0, each has its own.
    open: Vec<(SocketAddr, Purpose, SocketAddr)>,
    admin: Vec<(Port, SocketAddr, Option<std::net::TcpListener>)>,
}

/// A listener that was just opened, with a socket for each worker.
pub struct Opened {
    listener: Listener,
    purpose: Purpose,
}

impl Opened {
    /// The next worker's socket.
    pub fn opening(&mut self) -> Option<Opening> {
        let socket = self.listener.take()?;
        Some(Opening {
            direction: self.purpose.direction,
            door: self.purpose.door.clone(),
            address: self.listener.address,
            socket,
        })
    }
}

impl Listeners {
    /// Opens what the file says and is not open. All or nothing: on an error everything stays as it was.
    ///
    /// What is open and no longer said stays until `drop_others`.
    pub fn follow(&mut self, config: &Config, workers: usize) -> Result<Vec<Opened>, BindError> {
        let mut opened = Vec::new();
        for (address, purpose) in said(config) {
            if self
                .open
                .iter()
                .any(|(said, own, _)| *said == address && *own == purpose)
            {
                continue;
            }
            let listener = match Listener::bind(address, workers, purpose.family(config, address)) {
                Ok(listener) => listener,
                // A machine without IPv6 has no [::1]; the IPv4 half of a default is enough.
                Err(error) if is_missing_ipv6(&error) && is_default(config, address, &purpose) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            opened.push((address, Opened { listener, purpose }));
        }
        if self.admin.is_empty() {
            let said = [
                (Port::Admin, config.admin.listen.0),
                (Port::Metrics, config.admin.metrics.0),
            ];
            for (port, address) in said {
                let mut listener = match Listener::bind(address, 1, Family::Both) {
                    Err(error) if is_missing_ipv6(&error) && address.ip().is_unspecified() => {
                        Listener::bind(([0, 0, 0, 0], address.port()).into(), 1, Family::Both)?
                    }
                    other => other?,
                };
                let socket = listener.take();
                self.admin.push((port, listener.address, socket));
            }
        }
        for (address, opened) in &opened {
            self.open
                .push((*address, opened.purpose.clone(), opened.listener.address));
        }
        Ok(opened.into_iter().map(|(_, opened)| opened).collect())
    }

    /// Forgets what the file no longer says; returns the real addresses to close.
    pub fn drop_others(&mut self, config: &Config) -> Vec<SocketAddr> {
        let kept: Vec<(SocketAddr, Purpose)> = said(config).collect();
        let mut gone = Vec::new();
        self.open.retain(|(address, purpose, real)| {
            let stays = kept
                .iter()
                .any(|(said, own)| said == address && own == purpose);
            if !stays {
                gone.push(*real);
            }
            stays
        });
        gone
    }

    /// Undoes a `follow` whose reload failed.
    pub fn forget(&mut self, opened: &[Opened]) {
        self.open
            .retain(|(_, _, real)| !opened.iter().any(|opened| opened.listener.address == *real));
    }

    /// The sockets of the operator's ports; once.
    pub fn admin(&mut self) -> Vec<(Port, std::net::TcpListener)> {
        let take = |entry: &mut (Port, SocketAddr, Option<std::net::TcpListener>)| {
            Some((entry.0, entry.2.take()?))
        };
        self.admin.iter_mut().filter_map(take).collect()
    }

    /// Every real address, the operator's included.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let open = self.open.iter().map(|(_, _, real)| *real);
        open.chain(self.admin.iter().map(|(_, real, _)| *real))
            .collect()
    }

    /// As `GET /listeners` shows them.
    pub fn json(&self) -> Value {
        let mut grouped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (_, purpose, real) in &self.open {
            grouped
                .entry(&purpose.words)
                .or_default()
                .push(real.to_string());
        }
        let mut all = Map::new();
        for (port, real, _) in &self.admin {
            let name = match port {
                Port::Admin => "admin",
                Port::Metrics => "metrics",
            };
            all.insert(name.to_owned(), json!(real.to_string()));
        }
        for (words, addresses) in grouped {
            let several = matches!(words, "inbound" | "outbound");
            let value = match addresses.as_slice() {
                [only] if !several => json!(only),
                many => json!(many),
            };
            all.insert(words.to_owned(), value);
        }
        Value::Object(all)
    }
}

fn said(config: &Config) -> impl Iterator<Item = (SocketAddr, Purpose)> + '_ {
    let purpose = |direction, door, words: String| Purpose {
        direction,
        door,
        words,
    };
    let outbound = config.outbound.listen.addresses().map(move |address| {
        (
            address,
            purpose(Direction::Outbound, Door::Main, "outbound".to_owned()),
        )
    });
    let inbound = config.inbound.listen.addresses().map(move |address| {
        (
            address,
            purpose(Direction::Inbound, Door::Main, "inbound".to_owned()),
        )
    });
    let ports = config.inbound.ports.iter().flat_map(move |(number, port)| {
        port.listen.addresses().map(move |address| {
            (
                address,
                purpose(
                    Direction::Inbound,
                    Door::Port(*number),
                    format!("inbound.ports.{number}"),
                ),
            )
        })
    });
    let upstreams = config.upstreams.iter().flat_map(move |(name, upstream)| {
        upstream.listen.addresses().map(move |address| {
            (
                address,
                purpose(
                    Direction::Outbound,
                    Door::Upstream(name.as_str().into()),
                    format!("upstreams.{name}"),
                ),
            )
        })
    });
    outbound.chain(inbound).chain(ports).chain(upstreams)
}

fn is_missing_ipv6(error: &BindError) -> bool {
    let missing = matches!(
        error.cause.kind(),
        std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::Unsupported
    ) || error.cause.raw_os_error() == Some(97);
    error.address.is_ipv6() && missing
}

/// Whether an address is one of the pairs that nobody wrote.
fn is_default(config: &Config, address: SocketAddr, purpose: &Purpose) -> bool {
    let default = Config::default();
    let listens = match purpose.direction {
        Direction::Outbound => (&config.outbound.listen, &default.outbound.listen),
        Direction::Inbound => (&config.inbound.listen, &default.inbound.listen),
    };
    purpose.door == Door::Main
        && listens.0 == listens.1
        && listens.0.addresses().any(|own| own == address)
}
