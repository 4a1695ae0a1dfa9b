//! Handshakes over sockets on loopback.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

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

#[tokio::test]
async fn both_ends_know_each_other() {
    let (web, orders) = (store("ns/shop/sa/web"), store("ns/shop/sa/orders"));
    let (client, server) = pair().await;
    let connector = Connector::mesh(&web, Expected::exactly(id("ns/shop/sa/orders")));
    let generation = orders.current().unwrap();
    let (connected, accepted) = tokio::join!(
        connector.connect(client, &[Alpn::Http2]),
        accept(&generation, server, b"")
    );
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
