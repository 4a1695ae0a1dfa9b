//! What a caller proves before it is served, where we have an identity: mutual TLS, told apart from an application's own
//! TLS by what the caller offers to speak, and plaintext where the port allows it.
//!
//! Nothing is guessed from silence: on a port that must be proven, whoever says nothing gets nothing. Without an
//! identity of ours that counts, callers of the mesh are refused, never served in plaintext.

use std::{
    cell::Cell,
    collections::HashSet,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec, Registry};
use tokio::net::TcpStream;

use super::{
    App, Protocol, Stack, TlsMode,
    habits::{Habit, Habits},
    tcp::Speech,
    way::Way,
};
use crate::{
    http::{Connection, Credential, Opening, SILENCE, Word, hear, tcp::Detected, tick::Ticks},
    net::{
        Early, Stream,
        client_hello::ClientHello,
        detect::{self, First, Kind},
    },
    telemetry,
    tls::{self, Alpn, HandshakeError, Store},
    units::SpiffeId,
};

/// From a caller's hello to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Identities that metrics tell apart; what comes after them is `other`.
const TOLD_APART: usize = 100;
/// A worker tells of refused callers once in so long, and counts the others.
const TELLS_EVERY: Duration = Duration::from_secs(1);

/// The metrics of this file.
#[derive(Clone)]
pub struct Metrics {
    plaintext: IntCounterVec,
    identities: IntCounterVec,
    known: Arc<Mutex<HashSet<SpiffeId>>>,
}

impl Metrics {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name, help, labels: &[&str]| telemetry::counters(registry, name, help, labels);
        Ok(Metrics {
            plaintext: counters(
                "weft_plaintext_connections_total",
                "Connections of callers that proved nothing, by the application's port and by what came of it: served or refused.",
                &["port", "result"],
            )?,
            identities: counters(
                "weft_identity_requests_total",
                "Requests by the caller's verified identity: the first 100, the others as `other`.",
                &["identity"],
            )?,
            known: Arc::default(),
        })
    }

    /// The counters of a port of the application.
    pub(super) fn port(&self, port: &str) -> Plaintext {
        let counter = |result| self.plaintext.with_label_values(&[port, result]);
        Plaintext {
            served: counter("served"),
            refused: counter("refused"),
        }
    }

    fn caller(&self, id: &SpiffeId) -> IntCounter {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let told_apart = known.contains(id) || known.len() < TOLD_APART && known.insert(id.clone());
        let label = if told_apart { id.as_str() } else { "other" };
        self.identities.with_label_values(&[label])
    }
}

/// Counts of one port.
#[derive(Clone)]
pub struct Plaintext {
    served: IntCounter,
    refused: IntCounter,
}

/// What proves who calls, for all workers.
#[derive(Clone)]
pub struct Trust {
    pub store: Store,
    pub metrics: Metrics,
    pub habits: Arc<Habits>,
}

/// When this worker last told of a caller that it refused.
#[derive(Default)]
pub(super) struct Told(Cell<Option<Ticks>>);

impl Told {
    fn may_tell(&self, now: Ticks) -> bool {
        let due = self
            .0
            .get()
            .is_none_or(|last| now.since(last) >= TELLS_EVERY);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

impl Stack {
    /// What a caller's connection turns out to be once it has proved what it must, if that is HTTP; all else is
    /// relayed here to its end, or refused.
    pub(super) async fn prove(
        &self,
        tcp: TcpStream,
        connection: &Rc<Connection>,
        trust: Trust,
    ) -> Option<(Stream, Opening)> {
        let local = self.local();
        let way = local.way(connection);
        // Where no application is configured, callers prove as much as on a port that the file does not name.
        let app = way.as_deref().map_or(local.others()?, |way| &*way.app);
        let speech = way.as_deref().map_or(Speech::Any, Way::speech);
        let strict = app.tls == TlsMode::Strict;
        let silence = trust.habits.silence(connection);
        let may_open = !strict && speech == Speech::Bytes && silence.is_some();
        let open = async || match &way {
            Some(way) if may_open => self.open(way, connection).await.ok(),
            _ => None,
        };
        let first = First::of(detect::Caller::Stranger);
        let mut near = Stream::from(tcp);
        let silence = silence.unwrap_or(SILENCE);
        let Some(heard) = hear(connection, &mut near, first, silence, open).await else {
            connection.meter().detected(Detected::None);
            return None;
        };
        let detected = Detected::from(&heard.word);
        if let Word::Caller(Kind::Tls(hello)) = &heard.word
            && is_for_us(hello, app.protocol)
        {
            drop(heard.far);
            let (tcp, _) = near.into_tcp().ok()?;
            return self.shake(tcp, &heard.read, connection, app, &trust).await;
        }
        if strict {
            let probes = matches!(heard.word, Word::Caller(Kind::Http1)) && !app.probes.is_empty();
            if !probes {
                app.plaintext.refused.inc();
                self.refuse(connection, app.port, "plaintext", detected.word());
                return None;
            }
            // Each request is asked whether it is one.
            return Some((near, Opening::Http1(heard.read)));
        }
        app.plaintext.served.inc();
        trust.habits.spoke(connection, Habit::Plain);
        match heard.word {
            Word::Caller(Kind::Http1) if speech != Speech::Bytes => {
                connection.meter().detected(detected);
                Some((near, Opening::Http1(heard.read)))
            }
            Word::Caller(Kind::Http2) if speech != Speech::Bytes => {
                connection.meter().detected(detected);
                Some((near, Opening::Http2(heard.read)))
            }
            word => {
                let early = Early {
                    of_near: heard.read,
                    of_far: match word {
                        Word::Callee(said) => said,
                        Word::Caller(_) => Bytes::new(),
                    },
                };
                self.relay(connection, near, detected, early, heard.far)
                    .await;
                None
            }
        }
    }

    async fn shake(
        &self,
        tcp: TcpStream,
        read: &[u8],
        connection: &Rc<Connection>,
        app: &App,
        trust: &Trust,
    ) -> Option<(Stream, Opening)> {
        let metrics = trust.store.metrics();
        let Some(generation) = trust.store.current() else {
            let why = "this sidecar has no valid identity";
            self.refuse(connection, app.port, "no_identity", why);
            return None;
        };
        let shaken = tokio::time::timeout(HANDSHAKE, tls::accept(&generation, tcp, read)).await;
        let accepted = match shaken {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                metrics.handshake(tls::Direction::Inbound, Some(&error));
                if !matches!(error, HandshakeError::Gone(_)) {
                    self.refuse(connection, app.port, "tls_handshake", &error.to_string());
                }
                return None;
            }
            Err(_) => {
                metrics.handshake_timeout(tls::Direction::Inbound);
                self.refuse(
                    connection,
                    app.port,
                    "tls_handshake",
                    "it took more than 5 s",
                );
                return None;
            }
        };
        metrics.handshake(tls::Direction::Inbound, None);
        trust.habits.spoke(connection, Habit::Mesh);
        let calls = trust.metrics.caller(&accepted.peer.id);
        let tick = &connection.desk().tick;
        let credential = Credential::new(accepted.peer, &trust.store, Some(calls), tick);
        let stream = Stream::from(accepted.stream).bound(credential.bond());
        connection.proves(credential);
        match accepted.alpn {
            Some(Alpn::Http2 | Alpn::ForeignHttp2) => Some((stream, Opening::Http2(Bytes::new()))),
            Some(Alpn::Http1 | Alpn::ForeignHttp1) => Some((stream, Opening::Http1(Bytes::new()))),
            Some(Alpn::Tcp) => self.tell_mesh(stream, connection).await,
            None => Some((stream, Opening::Unknown)),
        }
    }

    #[cold]
    pub(super) fn refuse(&self, connection: &Connection, port: u16, rule: &'static str, why: &str) {
        connection.meter().closed_by_rule(rule);
        if self.told.may_tell(connection.desk().tick.now()) {
            let peer = connection.peer();
            tracing::warn!(%peer, port, rule, "a caller was refused: {why}");
        }
    }
}

/// The mesh's own words make TLS ours; usual ones, or none, only where the file says that the application speaks HTTP.
fn is_for_us(hello: &ClientHello, protocol: Protocol) -> bool {
    let offers = |alpn: Alpn| hello.speaks(alpn.wire());
    if Alpn::MESH.into_iter().any(offers) {
        return true;
    }
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            hello.alpn.is_empty() || offers(Alpn::ForeignHttp2) || offers(Alpn::ForeignHttp1)
        }
        Protocol::Auto | Protocol::Tcp | Protocol::Tls => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(offers: &[&str]) -> ClientHello {
        ClientHello {
            server_name: None,
            alpn: offers.iter().map(|offer| offer.as_bytes().into()).collect(),
        }
    }

    #[test]
    fn an_applications_own_tls_is_told_apart() {
        for protocol in [Protocol::Auto, Protocol::Http, Protocol::Tcp] {
            assert!(is_for_us(&hello(&["h2", "weft/http1.1"]), protocol));
        }
        for offers in [&["h2"][..], &["http/1.1"], &[]] {
            assert!(!is_for_us(&hello(offers), Protocol::Auto), "{offers:?}");
            assert!(!is_for_us(&hello(offers), Protocol::Tls), "{offers:?}");
            assert!(is_for_us(&hello(offers), Protocol::Http), "{offers:?}");
        }
        assert!(!is_for_us(&hello(&["postgresql"]), Protocol::Http));
    }

    #[test]
    fn only_so_many_identities_have_a_label() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let id = |n| SpiffeId::parse(&format!("spiffe://a/w/{n}")).unwrap();
        for n in 0..TOLD_APART + 5 {
            metrics.caller(&id(n)).inc();
        }
        metrics.caller(&id(0)).inc();
        let count = |label: &str| metrics.identities.with_label_values(&[label]).get();
        assert_eq!(count("spiffe://a/w/0"), 2);
        assert_eq!(count("other"), 5);
    }
}
