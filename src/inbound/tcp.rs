//! A connection's path from a peer where it may be no HTTP: what it speaks, whether it may pass, bytes both ways.
//!
//! A peer is a stranger: what a lenient server might still read as a request is HTTP and judged as such, and silence
//! brings nobody past the rules of an HTTP port. Ports that the file calls `tcp`, `tls` or opaque, and the well-known
//! ones of protocols whose servers speak first, are not looked at.

use std::rc::Rc;

use tokio::net::TcpStream;

use super::{Protocol, Stack, Way, authorize::Caller, way::CONNECT};
use crate::{
    fault::{Fault, Reason},
    http::{
        Connection, Opening, SILENCE, Trail, Word,
        dialer::unconnected,
        hear,
        tcp::{Detected, Far, Passage},
    },
    net::{
        self, Early, Stream,
        detect::{self, First, Kind, OPAQUE_PORTS},
    },
};

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Http,
    /// Nobody looks.
    Bytes,
    Any,
}

impl Way {
    pub(super) fn speech(&self) -> Speech {
        match self.app.protocol {
            Protocol::Tcp | Protocol::Tls => Speech::Bytes,
            _ if self.app.opaque => Speech::Bytes,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => Speech::Http,
            Protocol::Auto if self.beside && OPAQUE_PORTS.contains(&self.app.port) => Speech::Bytes,
            Protocol::Auto => Speech::Any,
        }
    }
}

impl Stack {
    /// What a peer's connection turns out to be, if that is HTTP; all else is relayed here to its end.
    pub(super) async fn tell(
        &self,
        tcp: TcpStream,
        connection: &Rc<Connection>,
    ) -> Option<(Stream, Opening)> {
        let way = self.local().way(connection);
        match way.as_ref().map_or(Speech::Http, |way| way.speech()) {
            Speech::Http => Some((tcp.into(), Opening::Unknown)),
            Speech::Bytes => {
                Box::pin(self.relay(
                    connection,
                    tcp.into(),
                    Detected::Opaque,
                    Early::default(),
                    None,
                ))
                .await;
                None
            }
            Speech::Any => Box::pin(self.listen(tcp.into(), connection)).await,
        }
    }

    /// Bytes that a verified peer sends as such: on a port that may speak HTTP they are looked at all the same, or a
    /// peer could bring requests past the port's rules, and forged names of itself with them.
    pub(super) async fn tell_mesh(
        &self,
        near: Stream,
        connection: &Rc<Connection>,
    ) -> Option<(Stream, Opening)> {
        let way = self.local().way(connection);
        match way.map_or(Speech::Any, |way| way.speech()) {
            Speech::Http => Some((near, Opening::Unknown)),
            Speech::Any => self.listen(near, connection).await,
            Speech::Bytes => {
                self.relay(connection, near, Detected::Opaque, Early::default(), None)
                    .await;
                None
            }
        }
    }

    async fn listen(
        &self,
        mut near: Stream,
        connection: &Rc<Connection>,
    ) -> Option<(Stream, Opening)> {
        let first = First::of(detect::Caller::Stranger);
        let nothing = async || None;
        let Some(heard) = hear(connection, &mut near, first, SILENCE, nothing).await else {
            connection.meter().detected(Detected::None);
            return None;
        };
        let detected = Detected::from(&heard.word);
        match heard.word {
            Word::Caller(Kind::Http1) => {
                connection.meter().detected(detected);
                Some((near, Opening::Http1(heard.read)))
            }
            Word::Caller(Kind::Http2) => {
                connection.meter().detected(detected);
                Some((near, Opening::Http2(heard.read)))
            }
            _ => {
                let early = Early {
                    of_near: heard.read,
                    ..Early::default()
                };
                self.relay(connection, near, detected, early, None).await;
                None
            }
        }
    }

    /// Passes bytes both ways between a peer and the application, if the rules let it, until they no longer do.
    pub(super) async fn relay(
        &self,
        connection: &Rc<Connection>,
        near: Stream,
        detected: Detected,
        early: Early,
        opened: Option<Far>,
    ) {
        connection.meter().detected(detected);
        let Some(way) = self.local().way(connection) else {
            let port = connection.local().port();
            self.refuse(connection, port, Reason::NoApp.word(), detected.word());
            return net::reset(near.tcp());
        };
        let passage = Passage::new(connection, detected, &way.app.tcp);
        let caller = way.caller(connection);
        let opened = match opened {
            Some(far) => Ok(far),
            None => self.open(&way, connection).await,
        };
        match opened {
            Ok(far) => {
                let denied = self.gate().until_denied(&caller);
                passage.relay(near, far, early, denied).await
            }
            Err(fault) => passage.fail(near, fault),
        }
    }
}

impl Stack {
    /// A connection to the application for bytes, if the rules let this caller have one.
    pub(super) async fn open(&self, way: &Way, connection: &Connection) -> Result<Far, Fault> {
        self.gate().connection(&way.caller(connection))?;
        way.open().await
    }
}

impl Way {
    /// Who calls it, to its rules.
    pub(super) fn caller<'a>(&self, connection: &'a Connection) -> Caller<'a> {
        Caller::of(connection, self.app.port)
    }

    /// A connection to the application for bytes.
    async fn open(&self) -> Result<Far, Fault> {
        let address = self.app.address;
        let dialled = match self.beside {
            true => net::dial_beside(address, CONNECT).await,
            false => net::dial(address, CONNECT).await,
        };
        let tcp = dialled.map_err(|error| unconnected(address, CONNECT, &error))?;
        let trail = Trail {
            tries: 1,
            endpoint: Some(address),
            ..Trail::default()
        };
        Ok(Far {
            stream: tcp.into(),
            trail,
        })
    }
}
