//! How connections to an upstream are secured, and the dialer that does it.
//!
//! Decided when the upstream is made. What is to be mutual TLS never falls back: without an identity of ours, or with
//! a peer that proves none, there is no connection.

use std::{
    any::Any,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{Protocol, UpstreamSettings};
use crate::{
    fault::{Fault, Reason},
    http::{
        Credential,
        dialer::{Dialer, Dialled, Dialling, Plain, Speak, unconnected},
        tick::Tick,
    },
    net::{self, Bond, Stream, Warrant},
    tls::{self, Alpn, Connected, Connector, Expected, HandshakeError, Store, Towards},
};

/// How connections to an upstream are secured.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all.
    Plain,
    /// By identity, inside the mesh.
    Mesh { connector: Connector, store: Store },
    /// By the server's name.
    Ordinary { connector: Connector, store: Store },
}

impl Security {
    /// What an upstream's `tls` and `identity` come to; `mesh` says whether the file gives us an identity at all.
    ///
    /// Reads the files that ordinary TLS names.
    pub fn new(
        said: &UpstreamSettings,
        store: &Store,
        mesh: bool,
    ) -> Result<Self, tls::OrdinaryError> {
        let by_identity = || Security::Mesh {
            connector: Connector::mesh(
                store,
                match &said.identity {
                    Some(id) => Expected::exactly(id.clone()),
                    None => Expected::Anyone,
                },
            ),
            store: store.clone(),
        };
        Ok(match &said.tls {
            Towards::Mesh => by_identity(),
            Towards::Auto if mesh && said.identity.is_some() => by_identity(),
            Towards::Auto | Towards::None => Security::Plain,
            Towards::Ordinary(said) => Security::Ordinary {
                connector: Connector::to_server(said)?,
                store: store.clone(),
            },
        })
    }

    /// One word, for a metric.
    pub const fn word(&self) -> &'static str {
        match self {
            Security::Plain => "none",
            Security::Mesh { .. } => "mesh",
            Security::Ordinary { .. } => "ordinary",
        }
    }

    /// Whether an endpoint may refuse us by our identity: in TLS 1.3 that comes when a request is on its way already.
    pub fn shows_identity(&self) -> bool {
        matches!(self, Security::Mesh { .. })
    }

    /// Takes over what is new in the files of ordinary TLS; true where something was.
    pub fn renew(&self) -> Result<bool, tls::OrdinaryError> {
        match self {
            Security::Plain => Ok(false),
            Security::Mesh { connector, .. } | Security::Ordinary { connector, .. } => {
                connector.renew()
            }
        }
    }

    /// Does so whenever they change, until it is dropped.
    pub async fn follow(self) {
        match self {
            Security::Plain => {}
            Security::Mesh { connector, .. } | Security::Ordinary { connector, .. } => {
                connector.follow().await
            }
        }
    }

    /// Who opens an upstream's connections.
    pub fn dialer(
        &self,
        protocol: Protocol,
        connect_timeout: Duration,
        tick: &Rc<Tick>,
    ) -> Rc<dyn Dialer> {
        match self {
            Security::Plain => Rc::new(Plain { connect_timeout }),
            Security::Mesh { connector, store } | Security::Ordinary { connector, store } => {
                Rc::new(Secured {
                    connector: connector.clone(),
                    store: store.clone(),
                    declared: protocol != Protocol::Auto,
                    connect_timeout,
                    tick: tick.clone(),
                })
            }
        }
    }
}

struct Secured {
    connector: Connector,
    store: Store,
    /// The file says which protocol it is, so that a peer that is not weft may agree to it by its usual name.
    declared: bool,
    connect_timeout: Duration,
    tick: Rc<Tick>,
}

impl Dialer for Secured {
    fn dial(&self, address: SocketAddr, speak: Speak, held: Box<dyn Any>) -> Dialling<'_> {
        Box::pin(async move {
            let begun = Instant::now();
            let tcp = net::dial(address, self.connect_timeout)
                .await
                .map_err(|error| unconnected(address, self.connect_timeout, &error))?;
            let left = self.connect_timeout.saturating_sub(begun.elapsed());
            let connected = self.shake(address, tcp, speak, left).await?;
            let speaks = self.agreed(address, speak, connected.alpn)?;
            let mut stream = Stream::from(connected.stream).holding(held);
            if let Some(peer) = connected.peer {
                let credential = Credential::new(peer, &self.store, None, &self.tick);
                stream = stream.bound(credential.bond());
            } else if let Some(setup) = connected.setup {
                stream = stream.bound(Bond {
                    leash: Rc::default(),
                    warrant: Rc::new(Outside(setup)),
                });
            }
            Ok(Dialled {
                stream,
                speaks,
                scheme: if self.connector.is_mesh() {
                    "http"
                } else {
                    "https"
                },
            })
        })
    }
}

/// A connection to a server outside the mesh takes no new call once its files were renewed; what goes on goes on.
struct Outside(tls::Setup);

impl Warrant for Outside {
    fn holds(&self) -> bool {
        self.0.is_current()
    }
}

impl Secured {
    async fn shake(
        &self,
        address: SocketAddr,
        tcp: TcpStream,
        speak: Speak,
        left: Duration,
    ) -> Result<Connected, Fault> {
        let metrics = self.store.metrics();
        let offer = self.offer(speak);
        match tokio::time::timeout(left, self.connector.connect(tcp, offer)).await {
            Ok(Ok(connected)) => {
                metrics.handshake(tls::Direction::Outbound, None);
                Ok(connected)
            }
            Ok(Err(error)) => {
                metrics.handshake(tls::Direction::Outbound, Some(&error));
                Err(fault(address, &error))
            }
            Err(_) if self.connector.lacks_identity() => Err(Fault::new(
                Reason::NoIdentity,
                "this sidecar has no identity to show to the endpoint",
            )
            .inside(format!("identity: none that is valid, for {address}"))),
            Err(_) => {
                metrics.handshake_timeout(tls::Direction::Outbound);
                Err(Fault::new(
                    Reason::ConnectTimeout,
                    "the endpoint did not finish the TLS handshake in time",
                )
                .inside(format!("{address}, within {:?}", self.connect_timeout)))
            }
        }
    }

    fn offer(&self, speak: Speak) -> &'static [Alpn] {
        match (self.connector.is_mesh(), speak, self.declared) {
            (true, Speak::Http1, false) => &[Alpn::Http1],
            (true, Speak::Http1, true) => &[Alpn::Http1, Alpn::ForeignHttp1],
            (true, Speak::Http2, false) => &[Alpn::Http2],
            (true, Speak::Http2, true) => &[Alpn::Http2, Alpn::ForeignHttp2],
            (true, Speak::Tcp, _) => &[Alpn::Tcp],
            (false, Speak::Http1, _) => &[Alpn::ForeignHttp1],
            (false, Speak::Http2, true) => &[Alpn::ForeignHttp2],
            (false, Speak::Http2, false) => &[Alpn::ForeignHttp2, Alpn::ForeignHttp1],
            (false, Speak::Tcp, _) => &[],
        }
    }

    /// What is spoken from here on. A server that names no protocol speaks what the file says.
    fn agreed(
        &self,
        address: SocketAddr,
        asked: Speak,
        alpn: Option<Alpn>,
    ) -> Result<Speak, Fault> {
        let speaks = match alpn {
            Some(Alpn::Http1 | Alpn::ForeignHttp1) => Speak::Http1,
            Some(Alpn::Http2 | Alpn::ForeignHttp2) => Speak::Http2,
            Some(Alpn::Tcp) => Speak::Tcp,
            None if self.declared || asked == Speak::Tcp => asked,
            None if !self.connector.is_mesh() => Speak::Http1,
            None => {
                let words = "the endpoint agreed to none of the mesh's protocols";
                return Err(Fault::new(Reason::TlsFailed, words).inside(address.to_string()));
            }
        };
        Ok(speaks)
    }
}

#[cold]
fn fault(address: SocketAddr, error: &HandshakeError) -> Fault {
    let (reason, words) = match error {
        HandshakeError::NoTls => (
            Reason::PeerSpeaksNoTls,
            "the endpoint speaks no TLS, and is to be spoken to by nothing else",
        ),
        HandshakeError::Untrusted(_) => (
            Reason::WrongIdentity,
            "the endpoint did not prove the identity that is expected",
        ),
        HandshakeError::Refused(alert) if net::refuses_identity(*alert) => (
            Reason::RefusedIdentity,
            "the endpoint refuses this sidecar's identity",
        ),
        HandshakeError::Refused(_) | HandshakeError::Protocol(_) | HandshakeError::Gone(_) => (
            Reason::TlsFailed,
            "the TLS handshake with the endpoint failed",
        ),
    };
    Fault::new(reason, words).inside(format!("{address}: {error}"))
}
