//! Handshakes over sockets on loopback.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use rustls::{AlertDescription, HandshakeKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    issue::{Authority, Issued},
    *,
};
use crate::units::SpiffeId;

pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) static ROOT: LazyLock<Authority> = LazyLock::new(|| root("mesh.example"));

pub(super) fn root(domain: &str) -> Authority {
    Authority::new(domain, "tests", DAY).unwrap()
}

pub(super) fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh.example/{path}")).unwrap()
}

pub(super) fn identity(issued: &Issued) -> Identity {
    Identity::from_pem(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        SystemTime::now(),
    )
    .unwrap()
}

pub(super) fn bundles(roots: &[(&str, &Authority)]) -> Bundles {
    let mut bundles = Bundles::default();
    for (domain, root) in roots {
        bundles
            .add_pem(domain, root.certificate().as_bytes())
            .unwrap();
    }
    bundles
}

/// A store of a workload of `ROOT`.
pub(super) fn store(path: &str) -> Store {
    let store = Store::new(Metrics::default());
    let issued = ROOT.issue(&id(path), DAY).unwrap();
    store
        .put(
            identity(&issued),
            bundles(&[("mesh.example", &ROOT)]),
            Revocations::default(),
        )
        .unwrap();
    store
}

/// Both ends of a connection.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (client.unwrap(), server.unwrap().0)
}

/// The alert that an error of a read tells of.
fn refusal(error: &std::io::Error) -> Option<AlertDescription> {
    match super::failure::tls_error(error)? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Shakes hands: `client`, expecting `expected`, with `server`.
async fn shake(
    client: &Store,
    expected: Expected,
    offer: &[Alpn],
    server: &Store,
) -> (
    Result<Connected, HandshakeError>,
    Result<Accepted, HandshakeError>,
) {
    let (ours, theirs) = pair().await;
    let connector = Connector::mesh(client, expected);
    let generation = server.last().unwrap();
    tokio::join!(
        connector.connect(ours, offer),
        accept(&generation, theirs, b"")
    )
}

/// A store of what another root issued.
fn stranger(domain: &str, path: &str, believes: &[(&str, &Authority)], by: &Authority) -> Store {
    let id = SpiffeId::parse(&format!("spiffe://{domain}/{path}")).unwrap();
    let store = Store::new(Metrics::default());
    store
        .put(
            identity(&by.issue(&id, DAY).unwrap()),
            bundles(believes),
            Revocations::default(),
        )
        .unwrap();
    store
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let (web, orders) = (store("ns/shop/sa/web"), store("ns/shop/sa/orders"));
    let expected = Expected::exactly(id("ns/shop/sa/orders"));
    let (connected, accepted) = shake(&web, expected, &[Alpn::Http2], &orders).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!(connected.peer.as_ref().unwrap().id, id("ns/shop/sa/orders"));
    assert_eq!(accepted.peer.id, id("ns/shop/sa/web"));
    assert_eq!(
        (connected.alpn, accepted.alpn),
        (Some(Alpn::Http2), Some(Alpn::Http2))
    );
    connected.stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    accepted.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_callee_that_is_not_expected_is_left() {
    let (web, orders) = (store("web"), store("orders"));
    let expected = Expected::Of([id("payments"), id("billing")].into());
    let (connected, accepted) = shake(&web, expected, &[Alpn::Http1], &orders).await;
    assert!(
        matches!(connected, Err(HandshakeError::Untrusted(Untrusted::Unexpected(who))) if who == id("orders"))
    );
    assert!(matches!(
        accepted,
        Err(HandshakeError::Refused(
            AlertDescription::CertificateUnknown
        ))
    ));
    let either = Expected::Of([id("payments"), id("orders")].into());
    assert!(shake(&web, either, &[Alpn::Http1], &orders).await.0.is_ok());
}

#[tokio::test]
async fn a_callee_of_an_unknown_domain_is_left() {
    let partner = root("partner.example");
    let theirs = stranger(
        "partner.example",
        "a",
        &[("partner.example", &partner), ("mesh.example", &ROOT)],
        &partner,
    );
    let (connected, _) = shake(&store("web"), Expected::Anyone, &[Alpn::Http1], &theirs).await;
    assert!(matches!(
        connected,
        Err(HandshakeError::Untrusted(Untrusted::UnknownDomain(_)))
    ));
}

/// In TLS 1.3 the client is done before it is refused: the alert comes with the first read, and a request that was
/// written meanwhile does not turn it into a reset.
#[tokio::test]
async fn a_caller_that_is_not_believed_reads_an_alert() {
    let partner = root("partner.example");
    let theirs = stranger(
        "partner.example",
        "a",
        &[("partner.example", &partner), ("mesh.example", &ROOT)],
        &partner,
    );
    let orders = store("orders");
    let (ours, other) = pair().await;
    let server = tokio::spawn(async move {
        accept(&orders.current().unwrap(), other, b"")
            .await
            .map(drop)
    });
    let connector = Connector::mesh(&theirs, Expected::Anyone);
    let mut connected = connector.connect(ours, &[Alpn::Http1]).await.unwrap();
    connected.stream.write_all(&[b'x'; 30_000]).await.unwrap();
    connected.stream.flush().await.unwrap();
    let error = connected.stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(refusal(&error), Some(AlertDescription::CertificateUnknown));
    drop(connected);
    let refused = server.await.unwrap().unwrap_err();
    assert!(
        matches!(
            refused,
            HandshakeError::Untrusted(Untrusted::UnknownDomain(_))
        ),
        "{refused}"
    );
    assert_eq!(refused.word(), "unknown_trust_domain");
}

/// Whoever has copied a certificate has not its key.
#[tokio::test]
async fn a_certificate_without_its_key_proves_nothing() {
    let (web, orders) = (store("web"), store("orders"));
    let key = rustls::sign::CertifiedKey {
        cert: orders.current().unwrap().identity().chain().to_vec(),
        key: web.current().unwrap().identity().key().key.clone(),
        ocsp: None,
    };
    let config = rustls::ServerConfig::builder_with_provider(super::provider::provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(
            key,
        )));
    let (ours, theirs) = pair().await;
    let connector = Connector::mesh(&web, Expected::exactly(id("orders")));
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let (connected, _) = tokio::join!(connector.connect(ours, &[]), acceptor.accept(theirs));
    assert!(
        matches!(
            connected,
            Err(HandshakeError::Untrusted(Untrusted::Signature))
        ),
        "{connected:?}"
    );
}

#[tokio::test]
async fn a_caller_that_shows_nothing_is_refused() {
    let orders = store("orders");
    let (ours, theirs) = pair().await;
    let config = rustls::ClientConfig::builder_with_provider(super::provider::provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Blind))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let generation = orders.current().unwrap();
    let name = "orders.example".try_into().unwrap();
    let client = async {
        let mut stream = connector.connect(name, ours).await.unwrap();
        stream.read(&mut [0; 10]).await.unwrap_err()
    };
    let (error, accepted) = tokio::join!(client, accept(&generation, theirs, b""));
    assert_eq!(refusal(&error), Some(AlertDescription::CertificateRequired));
    assert!(matches!(
        accepted,
        Err(HandshakeError::Untrusted(Untrusted::NoCertificate))
    ));
}

#[tokio::test]
async fn tls_below_1_3_is_not_spoken() {
    let orders = store("orders");
    let (ours, theirs) = pair().await;
    let config = rustls::ClientConfig::builder_with_provider(super::provider::provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Blind))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let generation = orders.current().unwrap();
    let name = "orders.example".try_into().unwrap();
    let (connected, accepted) = tokio::join!(
        connector.connect(name, ours),
        accept(&generation, theirs, b"")
    );
    assert_eq!(
        refusal(&connected.unwrap_err()),
        Some(AlertDescription::ProtocolVersion)
    );
    assert!(matches!(accepted, Err(HandshakeError::Protocol(_))));
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_apart() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"",
        b"-ERR unknown command\r\n",
    ] {
        let (ours, mut theirs) = pair().await;
        let plain = tokio::spawn(async move {
            assert!(theirs.read(&mut [0; 100]).await.unwrap() > 0);
            theirs.write_all(answer).await.unwrap();
        });
        let connector = Connector::mesh(&store("web"), Expected::Anyone);
        let error = connector.connect(ours, &[Alpn::Http1]).await.unwrap_err();
        assert!(
            matches!(error, HandshakeError::NoTls),
            "{answer:?}: {error}"
        );
        plain.await.unwrap();
    }
}

#[tokio::test]
async fn a_protocol_that_is_not_ours_is_refused() {
    let (web, orders) = (store("web"), store("orders"));
    let (ours, theirs) = pair().await;
    let config = web.current().unwrap().client(&Expected::Anyone).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let generation = orders.current().unwrap();
    let name = "orders.example".try_into().unwrap();
    let connector = connector.with_alpn(vec![b"imap".to_vec()]);
    let (connected, accepted) = tokio::join!(
        connector.connect(name, ours),
        accept(&generation, theirs, b"")
    );
    assert_eq!(
        refusal(&connected.unwrap_err()),
        Some(AlertDescription::NoApplicationProtocol)
    );
    assert!(matches!(accepted, Err(HandshakeError::Protocol(_))));
}

#[tokio::test]
async fn what_was_read_to_tell_the_protocol_is_not_lost() {
    for taken in [1, 5, 700, 100_000] {
        let (web, orders) = (store("web"), store("orders"));
        let (ours, mut theirs) = pair().await;
        let connector = Connector::mesh(&web, Expected::Anyone);
        let generation = orders.current().unwrap();
        let server = async {
            let mut read = vec![0; taken];
            let length = theirs.read(&mut read).await.unwrap();
            accept(&generation, theirs, &read[..length]).await
        };
        let (connected, accepted) = tokio::join!(connector.connect(ours, &[Alpn::Tcp]), server);
        assert_eq!(
            (connected.unwrap().alpn, accepted.unwrap().alpn),
            (Some(Alpn::Tcp), Some(Alpn::Tcp))
        );
    }
    // Nor is what is wrong with it.
    let orders = store("orders");
    let (_ours, theirs) = pair().await;
    let refused = accept(
        &orders.current().unwrap(),
        theirs,
        b"\x16\x03\x01\x00\x05\x01\0\0\x01\0",
    )
    .await;
    assert!(matches!(refused, Err(HandshakeError::Protocol(_))));
}

/// Reads a little of each stream, so that the tickets which came behind the handshake are taken in.
async fn settle(connected: &mut Connected, accepted: &mut Accepted) {
    accepted.stream.write_all(b"x").await.unwrap();
    accepted.stream.flush().await.unwrap();
    connected.stream.read_exact(&mut [0]).await.unwrap();
}

fn kind(connected: &Connected) -> HandshakeKind {
    connected.stream.get_ref().1.handshake_kind().unwrap()
}

/// A listener that every connection of a test goes to: tickets are kept by address.
async fn shake_at(
    listener: &TcpListener,
    client: &Generation,
    server: &Generation,
) -> (
    Result<Connected, HandshakeError>,
    Result<Accepted, HandshakeError>,
) {
    let accepted = async {
        let (theirs, _) = listener.accept().await.unwrap();
        accept(server, theirs, b"").await
    };
    let connected = async {
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client::connect(client, &Expected::Anyone, ours, &[Alpn::Http2]).await
    };
    tokio::join!(connected, accepted)
}

#[tokio::test]
async fn a_resumed_handshake_knows_its_peer_and_ends_with_its_generation() {
    let (web, orders) = (store("web"), store("orders"));
    let (client, server) = (web.current().unwrap(), orders.current().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) = shake_at(&listener, &client, &server).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!(kind(&connected), HandshakeKind::Full);
    settle(&mut connected, &mut accepted).await;

    let (again, accepted) = shake_at(&listener, &client, &server).await;
    let (mut again, mut accepted) = (again.unwrap(), accepted.unwrap());
    assert_eq!(kind(&again), HandshakeKind::Resumed);
    assert_eq!(
        (
            again.peer.as_ref().unwrap().id.clone(),
            accepted.peer.id.clone()
        ),
        (id("orders"), id("web"))
    );
    settle(&mut again, &mut accepted).await;

    // The same identity, taken over anew: its predecessor's tickets are worth nothing.
    let renewed = store("orders").current().unwrap();
    let (full, _) = shake_at(&listener, &client, &renewed).await;
    assert_eq!(kind(&full.unwrap()), HandshakeKind::Full);
}

/// The callee would take them: it is the caller that must not come as who it was, nor as whom it did not look for.
#[tokio::test]
async fn a_ticket_is_shown_by_one_generation_and_for_one_expected_callee() {
    let (web, orders) = (store("web"), store("orders"));
    let (client, server) = (web.current().unwrap(), orders.current().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shaken = async |client: &Generation, expected: &Expected| {
        let accepted = async {
            let (theirs, _) = listener.accept().await.unwrap();
            accept(&server, theirs, b"").await
        };
        let connected = async {
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await;
            client::connect(client, expected, ours.unwrap(), &[Alpn::Http2]).await
        };
        let (connected, accepted) = tokio::join!(connected, accepted);
        let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
        settle(&mut connected, &mut accepted).await;
        kind(&connected)
    };
    let anyone = Expected::Anyone;
    assert_eq!(shaken(&client, &anyone).await, HandshakeKind::Full);
    assert_eq!(shaken(&client, &anyone).await, HandshakeKind::Resumed);
    let exactly = Expected::exactly(id("orders"));
    assert_eq!(shaken(&client, &exactly).await, HandshakeKind::Full);
    assert_eq!(shaken(&client, &exactly).await, HandshakeKind::Resumed);
    // The same identity and roots, put once more.
    let again = ROOT.issue(&id("web"), DAY).unwrap();
    let roots = bundles(&[("mesh.example", &ROOT)]);
    web.put(identity(&again), roots, Revocations::default())
        .unwrap();
    let renewed = web.current().unwrap();
    assert_eq!(shaken(&renewed, &anyone).await, HandshakeKind::Full);
    assert_eq!(shaken(&renewed, &exactly).await, HandshakeKind::Full);
}

/// rustls takes the certificate of a resumed handshake from the ticket and looks at nothing of it.
#[tokio::test]
async fn a_resumed_handshake_with_an_ended_certificate_is_refused() {
    // Long enough for two handshakes before it ends.
    let soon = Duration::from_secs(5);
    let brief = Store::new(Metrics::default());
    let issued = ROOT.issue(&id("brief"), soon).unwrap();
    brief
        .put(
            identity(&issued),
            bundles(&[("mesh.example", &ROOT)]),
            Revocations::default(),
        )
        .unwrap();
    let (web, brief_one) = (store("web").current().unwrap(), brief.current().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (client, server) in [(&web, &brief_one), (&brief_one, &web)] {
        let (connected, accepted) = shake_at(&listener, client, server).await;
        settle(&mut connected.unwrap(), &mut accepted.unwrap()).await;
    }
    // A certificate counts for the whole of its last second.
    let over = brief_one.identity().not_after() + Duration::from_secs(1);
    while SystemTime::now() < over {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        brief.current().is_none(),
        "an identity that has ended counts as none"
    );
    let (connected, _) = shake_at(&listener, &web, &brief_one).await;
    assert!(
        matches!(
            connected,
            Err(HandshakeError::Untrusted(Untrusted::Expired))
        ),
        "{connected:?}"
    );
    let (_, accepted) = shake_at(&listener, &brief_one, &web).await;
    assert!(
        matches!(accepted, Err(HandshakeError::Untrusted(Untrusted::Expired))),
        "{accepted:?}"
    );
}

#[tokio::test]
async fn a_connection_waits_for_an_identity() {
    let none = Store::new(Metrics::default());
    let connector = Connector::mesh(&none, Expected::Anyone);
    let (ours, theirs) = pair().await;
    assert!(connector.lacks_identity());
    let orders = store("orders");
    let generation = orders.current().unwrap();
    let handshake = async {
        tokio::join!(
            connector.connect(ours, &[Alpn::Http1]),
            accept(&generation, theirs, b"")
        )
    };
    let comes = async {
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        none.put(
            identity(&web),
            bundles(&[("mesh.example", &ROOT)]),
            Revocations::default(),
        )
        .unwrap();
    };
    let ((connected, _), ()) = tokio::join!(handshake, comes);
    assert!(connected.is_ok());
    assert!(!connector.lacks_identity());
}

#[tokio::test]
async fn a_change_is_seen_by_its_number() {
    let web = store("web");
    let (before, issued) = (web.current().unwrap(), ROOT.issue(&id("web"), DAY).unwrap());
    let roots = bundles(&[("mesh.example", &ROOT)]);
    web.put(identity(&issued), roots, Revocations::default())
        .unwrap();
    assert_eq!((before.number(), web.number()), (1, 2));
    assert_eq!(web.current().unwrap().number(), 2);
}

#[tokio::test]
async fn our_own_domain_needs_a_bundle() {
    let web = ROOT.issue(&id("web"), DAY).unwrap();
    let partner = root("partner.example");
    let put = Store::new(Metrics::default()).put(
        identity(&web),
        bundles(&[("partner.example", &partner)]),
        Revocations::default(),
    );
    assert!(matches!(put, Err(GenerationError::NoOwnBundle(_))));
    let replaced = stranger(
        "mesh.example",
        "web",
        &[("mesh.example", &ROOT)],
        &root("mesh.example"),
    );
    assert!(!replaced.current().unwrap().trusts_itself());
    assert!(store("web").current().unwrap().trusts_itself());
}

/// Reads the ServerHello from the bytes between the two ends.
#[tokio::test]
async fn the_key_exchange_on_the_wire_outlives_quantum_computers() {
    const X25519MLKEM768: u16 = 0x11ec;
    let (web, orders) = (store("web"), store("orders"));
    let (ours, tap_client) = pair().await;
    let (tap_server, theirs) = pair().await;
    let connector = Connector::mesh(&web, Expected::Anyone);
    let generation = orders.current().unwrap();
    let tap = async {
        let (mut from_client, mut to_client) = tap_client.into_split();
        let (mut from_server, mut to_server) = tap_server.into_split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        let mut seen = vec![0; 4096];
        let down = async {
            let length = from_server.read(&mut seen).await.unwrap();
            to_client.write_all(&seen[..length]).await.unwrap();
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        };
        let _ = tokio::join!(up, down);
        seen
    };
    let hands = async {
        let (connected, accepted) = tokio::join!(
            connector.connect(ours, &[Alpn::Http2]),
            accept(&generation, theirs, b"")
        );
        connected.unwrap();
        accepted.unwrap();
    };
    let (seen, ()) = tokio::join!(tap, hands);
    assert_eq!(server_group(&seen), Some(X25519MLKEM768));
}

/// The group of the key share in a ServerHello.
fn server_group(record: &[u8]) -> Option<u16> {
    const KEY_SHARE: u16 = 51;
    let number = |at: usize| Some(u16::from_be_bytes([*record.get(at)?, *record.get(at + 1)?]));
    assert_eq!((record[0], record[5]), (22, 2), "a ServerHello");
    let session_id = 5 + 4 + 2 + 32;
    let mut at = session_id + 1 + usize::from(record[session_id]) + 2 + 1 + 2;
    loop {
        if number(at)? == KEY_SHARE {
            return number(at + 4);
        }
        at += 4 + usize::from(number(at + 2)?);
    }
}

/// Believes anything: a client that only wants to see what the server does.
#[derive(Debug)]
struct Blind;

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        super::provider::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
