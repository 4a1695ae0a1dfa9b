//! Bytes between two sidecars that know each other: the protocol inside is as it was, the wire shows none of it.

use std::{io::ErrorKind, io::Read};

use crate::harness::{
    Authority, IdentityFolder, Origin, RawClient, RawOrigin, Weft,
    netns::{APPLICATION, Capture, Greeter, Pod},
    parts::{Store, converse, openssl_client},
    wait_until,
};

struct Pair {
    _folders: [IdentityFolder; 2],
    authority: Authority,
    callee: Weft,
    caller: Weft,
}

impl Pair {
    /// Two sidecars with an application that speaks bytes behind the second.
    fn before(app: &str) -> Self {
        let authority = Authority::new("cluster.local");
        let folder = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
        let (web, store) = (folder("web"), folder("store"));
        let callee = Weft::start(&format!(
            r#"
            identity: {}
            inbound:
              listen: "127.0.0.1:0"
              ports: {{ 7000: {{ protocol: tcp, tls: strict, listen: "127.0.0.1:0", app: "{app}" }} }}
            "#,
            store.yaml()
        ));
        let caller = Weft::start(&format!(
            r#"
            identity: {}
            upstreams:
              store:
                endpoints: {{ static: ["{}"] }}
                protocol: tcp
                tls: mesh
                identity: {}
                listen: "127.0.0.1:0"
            "#,
            web.yaml(),
            callee.address("inbound.ports.7000"),
            authority.id("store"),
        ));
        Pair {
            _folders: [web, store],
            authority,
            callee,
            caller,
        }
    }

    fn connect(&self) -> RawClient {
        RawClient::connect(&self.caller.upstream("store"))
    }
}

#[test]
fn stores_speak_through_two_sidecars_that_prove_who_they_are() {
    for (kind, told) in super::peers::CONVERSATIONS {
        let store = Store::start(kind);
        let pair = Pair::before(&store.address());
        assert_eq!(
            converse(kind, &pair.caller.upstream("store")),
            told,
            "{kind:?}"
        );
        let line = pair
            .callee
            .wait_for_access(|line| line["protocol"] == "TCP");
        assert_eq!(line["identity"], pair.authority.id("web"), "{kind:?}");
    }
}

#[test]
fn ends_and_resets_pass_through_tls() {
    let app = RawOrigin::start(|connection| {
        if connection.read_until(b"\n")? == b"die\n" {
            connection.reset();
            return Ok(());
        }
        connection.until_closed()?;
        connection.write("all of it came")
    });
    let pair = Pair::before(&app.address());
    let mut client = pair.connect();
    client.send("one\ntwo");
    client.close_write();
    assert_eq!(client.read_to_end(), b"all of it came");
    assert_eq!(app.text(0), "one\ntwo");

    let mut client = pair.connect();
    client.send("die\n");
    let error = client.stream().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_server_that_speaks_first_is_heard_through_tls() {
    let app = RawOrigin::start(|connection| {
        connection.write("welcome")?;
        connection.until_closed()
    });
    let pair = Pair::before(&app.address());
    pair.connect().read_until(b"welcome");
}

#[test]
fn requests_in_bytes_of_the_mesh_are_requests_all_the_same() {
    let authority = Authority::new("cluster.local");
    let folder = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
    let (web, shop) = (folder("web"), folder("shop"));
    let app = Origin::start();
    let weft = Weft::start(&format!(
        r#"
        identity: {}
        inbound: {{ listen: "127.0.0.1:0", app: "{}", tls: {{ mode: strict }} }}
        "#,
        shop.yaml(),
        app.address()
    ));
    let arguments = [
        "-cert",
        &web.certificate(),
        "-key",
        &web.key(),
        "-alpn",
        "weft/tcp",
    ];
    let forged = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                  x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\r\n";
    let output = openssl_client(&weft.inbound(), &arguments, forged);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("HTTP/1.1 200 "), "{output:?}");
    let seen = app.requests();
    let told = seen[0]
        .header("x-forwarded-client-cert")
        .expect("who called");
    assert!(
        told.ends_with(&format!("URI={}", authority.id("web"))),
        "{told}"
    );
}

#[test]
fn a_lost_first_packet_makes_no_greeting_in_plaintext() {
    let (client, server) = Pod::pair();
    let authority = Authority::new("cluster.local");
    let folder = |name| IdentityFolder::new(&authority.leaf(name), authority.root()).open_to_all();
    let (web, store) = (folder("web"), folder("store"));
    let doors = "inbound: { listen: [\"0.0.0.0:15006\", \"[::]:15006\"] }\n\
                 outbound: { listen: [\"127.0.0.1:15001\", \"[::1]:15001\"] }";
    let _callee = server.sidecar(&format!("identity: {}\n{doors}", store.yaml()));
    let _caller = client.sidecar(&format!(
        "identity: {}\n{doors}\nupstreams: {{ store: {{ endpoints: {{ static: [\"{}\"] }}, tls: mesh }} }}",
        web.yaml(),
        server.at(3306)
    ));
    let _application = Greeter::start(&server, "0.0.0.0:3306", "application");
    for pod in [&client, &server] {
        pod.redirect(&["apply"]);
    }
    // The first ClientHello is lost, twice: it comes through after 600 ms, when whoever guesses has guessed.
    for command in [
        "add table inet lose",
        "add chain inet lose before { type filter hook prerouting priority -300 ; }",
        "add rule inet lose before tcp dport 3306 meta length gt 60 quota until 4000 bytes counter drop",
    ] {
        server.prints("nft", &command.split(' ').collect::<Vec<_>>());
    }
    let wire = Capture::on(&client);
    for _ in 0..2 {
        let heard = client.hears(APPLICATION, server.at(3306));
        assert_eq!(heard, Ok(format!("application for {}", server.at(3306))));
    }
    let lost = server.prints("nft", &["list", "table", "inet", "lose"]);
    assert!(!lost.contains("packets 0"), "nothing was lost: {lost}");
    wait_until("the wire to be seen", || wire.size() > 5000);
    assert!(!wire.holds("application for"), "in plaintext on the wire");
}
