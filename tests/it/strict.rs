//! Strict and permissive, port by port: who is served without proof, what stays open to probes and nothing beside it,
//! and an application's own TLS.

use crate::harness::{
    Authority, Call, Frame, IdentityFolder, Origin, RawClient, RawOrigin, TlsCaller, Weft,
    parts::{self, PythonServer},
};

/// A sidecar with an identity of `cluster.local`.
struct Sidecar {
    weft: Weft,
    authority: Authority,
    _identity: IdentityFolder,
}

impl Sidecar {
    /// `inbound` is what its file says there behind `listen`.
    fn start(inbound: &str) -> Self {
        let authority = Authority::new("cluster.local");
        let identity = IdentityFolder::new(&authority.leaf("shop"), authority.root());
        let weft = Weft::start(&format!(
            "identity: {}\ninbound: {{ listen: \"127.0.0.1:0\", {inbound} }}",
            identity.yaml()
        ));
        Sidecar {
            weft,
            authority,
            _identity: identity,
        }
    }

    /// One connection in plaintext was met with this.
    #[track_caller]
    fn assert_plaintext(&self, port: u16, result: &str) {
        let labels = format!("port=\"{port}\",result=\"{result}\"");
        let name = format!("weft_plaintext_connections_total{{{labels}}}");
        self.weft.assert_metric(&name, 1.0);
    }
}

// An application's own TLS

/// curl's own TLS, to whoever is behind `address`.
fn curl(address: &str, shown: &IdentityFolder) -> std::process::Output {
    let leads = format!("payments.test:443:{address}");
    parts::curl(&[
        "--cacert",
        &shown.roots(),
        "--cert",
        &shown.certificate(),
        "--key",
        &shown.key(),
        "--connect-to",
        &leads,
        "https://payments.test/",
    ])
}

#[test]
fn an_applications_own_tls_passes_where_plaintext_does() {
    // Its authority is none that the mesh knows.
    let own = Authority::new("own.example");
    let folder = |account: &str| IdentityFolder::new(&own.leaf(account), own.root());
    let (web, payments) = (folder("web"), folder("payments"));
    let server = PythonServer::start(&payments);
    let port: u16 = server
        .address()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    for protocol in ["auto", "tls"] {
        let sidecar = Sidecar::start(&format!(
            "app: \"{}\", ports: {{ {port}: {{ protocol: {protocol} }} }}",
            server.address()
        ));
        let answer = curl(&sidecar.weft.inbound(), &web);
        let said = String::from_utf8_lossy(&answer.stdout);
        // curl believed the application's certificate, and the application curl's.
        assert!(said.contains(&own.id("web")), "{protocol}: {answer:?}");
        let line = sidecar
            .weft
            .wait_for_access(|line| line["protocol"] == "TCP");
        assert!(line.get("identity").is_none(), "{line}");
        sidecar.assert_plaintext(port, "served");
    }
}

#[test]
fn an_applications_own_tls_is_refused_under_strict() {
    let own = Authority::new("own.example");
    let web = IdentityFolder::new(&own.leaf("web"), own.root());
    let app = RawOrigin::start(|connection| connection.until_closed());
    let port: u16 = app.address().rsplit(':').next().unwrap().parse().unwrap();
    for protocol in ["auto", "tls"] {
        let sidecar = Sidecar::start(&format!(
            "app: \"{}\", ports: {{ {port}: {{ protocol: {protocol}, tls: strict }} }}",
            app.address()
        ));
        assert!(!curl(&sidecar.weft.inbound(), &web).status.success());
        let line = sidecar.weft.wait_for_log("a caller was refused");
        assert!(line.contains("plaintext"), "{line}");
        sidecar.assert_plaintext(port, "refused");
    }
    assert_eq!(app.connections(), 0);
}

// By port

#[test]
fn a_port_may_be_stricter_or_looser_than_the_others() {
    let (app, other) = (Origin::start(), Origin::start());
    for (mode, own) in [("permissive", "strict"), ("strict", "permissive")] {
        let sidecar = Sidecar::start(&format!(
            "app: \"{}\", tls: {{ mode: {mode} }}, \
             ports: {{ 7000: {{ listen: \"127.0.0.1:0\", app: \"{}\", tls: {own} }} }}",
            app.address(),
            other.address()
        ));
        let weft = &sidecar.weft;
        for (address, mode) in [
            (weft.inbound(), mode),
            (weft.address("inbound.ports.7000"), own),
        ] {
            let answered = Call::get("/").try_send(&address);
            assert_eq!(answered.is_ok(), mode == "permissive", "{answered:?}");
            let web = TlsCaller::new(Some(&sidecar.authority.leaf("web")), &["weft/http1.1"]);
            assert_eq!(web.call(&address, &Call::get("/")).unwrap().status, 200);
        }
    }
}

/// A file that asks for proof is asked of what is open as well: a request is refused, bytes and upgrades are cut.
#[test]
fn what_is_open_in_plaintext_ends_where_proof_is_asked_for() {
    let app = RawOrigin::start(|connection| {
        if connection.read_exact(1)? == b"\0" {
            connection.write("bytes")?;
            return connection.until_closed();
        }
        loop {
            let head = connection.read_head()?;
            if head.contains("upgrade: echo") {
                connection.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")?;
                return connection.until_closed();
            }
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    });
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::new(&authority.leaf("shop"), authority.root());
    let file = |mode: &str| {
        format!(
            "identity: {}\ninbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", upgrades: [echo], tls: {{ mode: {mode} }} }}",
            identity.yaml(),
            app.address()
        )
    };
    let mut weft = Weft::start(&file("permissive"));
    let inbound = weft.inbound();
    let mut http = RawClient::connect(&inbound);
    assert_eq!(http.call(&Call::get("/"), "a").status, 200);
    let mut bytes = RawClient::connect(&inbound);
    bytes.send("\0");
    bytes.read_until(b"bytes");
    let mut upgrade = RawClient::connect(&inbound);
    upgrade.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    upgrade.read_until(b"\r\n\r\n");
    let web = TlsCaller::new(Some(&authority.leaf("web")), &["weft/http1.1"]);
    let mut proven = web.connect(&inbound).unwrap();
    assert_eq!(proven.call(&Call::get("/"), "a").unwrap().status, 200);

    weft.reload(&file("strict"));
    assert!(bytes.is_closed_by_peer() && upgrade.is_closed_by_peer());
    let refused = http.call(&Call::get("/"), "a");
    assert_eq!(
        (refused.status, refused.reason()),
        (403, Some("plaintext_refused"))
    );
    assert_eq!(proven.call(&Call::get("/"), "a").unwrap().status, 200);
}

// Probes

/// Under strict, with `/healthz` open on the application's port and `/live` on 7000.
fn probed(app: &Origin, other: &Origin, more: &str) -> Sidecar {
    Sidecar::start(&format!(
        "app: \"{}\", tls: {{ mode: strict }}, \
         probes: [{{ port: {}, path: /healthz }}, {{ port: 7000, path: /live }}], \
         ports: {{ 7000: {{ listen: \"127.0.0.1:0\", app: \"{}\" }} }}{more}",
        app.address(),
        app.port(),
        other.address()
    ))
}

#[test]
fn a_probe_opens_its_path_on_its_port_and_for_itself_alone() {
    let (app, other) = (Origin::start(), Origin::start());
    let sidecar = probed(&app, &other, "");
    let (inbound, port) = (
        sidecar.weft.inbound(),
        sidecar.weft.address("inbound.ports.7000"),
    );
    let ask = |address: &str, call: Call| {
        let mut client = RawClient::connect(address);
        client.call(&call, "10.0.0.1").status
    };
    assert_eq!(ask(&inbound, Call::get("/healthz")), 200);
    assert_eq!(ask(&inbound, Call::get("/healthz?deep=1")), 200);
    assert_eq!(ask(&port, Call::get("/live")), 200);
    // Each is of one port.
    assert_eq!(ask(&port, Call::get("/healthz")), 403);
    assert_eq!(ask(&inbound, Call::get("/live")), 403);
    assert_eq!(ask(&inbound, Call::get("/healthz/")), 403);
    assert_eq!(ask(&inbound, Call::get("/")), 403);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        assert_eq!(
            ask(&inbound, Call::new(method, "/healthz")),
            403,
            "{method}"
        );
    }
    // What follows a probe on its connection is no probe for that.
    let mut client = RawClient::connect(&inbound);
    assert_eq!(client.call(&Call::get("/healthz"), "a").status, 200);
    let refused = client.call(&Call::get("/charge"), "a");
    assert_eq!(
        (refused.status, refused.reason()),
        (403, Some("plaintext_refused"))
    );
    assert_eq!((app.count(), other.count()), (3, 1));
}

/// Who is asked for its health is asked in HTTP/1.1; an upgrade is more than a question.
#[test]
fn a_probe_opens_neither_http2_nor_an_upgrade() {
    let (app, other) = (Origin::start(), Origin::start());
    let sidecar = probed(&app, &other, "");
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/healthz"),
        (":authority", "a"),
    ];
    let mut client = RawClient::connect(&sidecar.weft.inbound());
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let frames = [Frame::settings(&[]), Frame::headers(1, &head, true)];
    // It may be closed by now.
    let _ = client.try_send(frames.map(|frame| frame.bytes()).concat());
    assert!(client.is_closed_by_peer());
    let upgrade = Call::get("/healthz")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let refused = upgrade.send(&sidecar.weft.inbound());
    assert_eq!(
        (refused.status, refused.reason()),
        (403, Some("plaintext_refused"))
    );
    assert_eq!(app.connections(), 0);
}

#[test]
fn a_probe_is_asked_of_no_rule_and_all_else_is() {
    let (app, other) = (Origin::start(), Origin::start());
    let sidecar = probed(&app, &other, ", authorization: { default: deny }");
    let inbound = sidecar.weft.inbound();
    assert_eq!(Call::get("/healthz").send(&inbound).status, 200);
    assert_eq!(Call::get("/").send(&inbound).status, 403);
    let web = TlsCaller::new(Some(&sidecar.authority.leaf("web")), &["weft/http1.1"]);
    // Who has a name is judged by it.
    let known = web.call(&inbound, &Call::get("/healthz")).unwrap();
    assert_eq!((known.status, known.reason()), (403, Some("denied")));
}

// Handshakes that go nowhere

#[test]
fn a_handshake_that_stops_is_given_up_and_counted() {
    let app = Origin::start();
    let sidecar = Sidecar::start(&format!(
        "app: \"{}\", timers: {{ head: 1s }}",
        app.address()
    ));
    let hello = TlsCaller::new(None, &["weft/http1.1"]).hello();
    let mut half = RawClient::connect(&sidecar.weft.inbound());
    half.send(&hello[..hello.len() / 2]);
    assert!(half.is_closed_by_peer());
    let mut silent = RawClient::connect(&sidecar.weft.inbound());
    silent.send(&hello);
    // Its answer to the hello comes, and then the end.
    silent.read_to_end();
    sidecar.weft.assert_metric(
        "weft_tls_handshakes_total{direction=\"inbound\",result=\"failure\",reason=\"timeout\"}",
        1.0,
    );
    assert_eq!(app.connections(), 0);
}
