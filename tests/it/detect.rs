//! What a connection speaks is told by the first byte of either side, never by silence.

use crate::harness::{
    Authority, Call, IdentityFolder, Origin, RawClient, RawOrigin, Reply, Weft,
    parts::{self, PythonServer},
};

/// An upstream of which nothing is said but where it is.
fn towards(address: &str) -> Weft {
    Weft::start(&format!(
        r#"
        upstreams:
          callee: {{ endpoints: {{ static: ["{address}"] }}, listen: "127.0.0.1:0" }}
        "#
    ))
}

fn behind(address: &str, more: &str) -> Weft {
    Weft::start(&format!(
        r#"
        inbound: {{ listen: "127.0.0.1:0", app: "{address}" {more} }}
        "#
    ))
}

#[track_caller]
fn detected(weft: &Weft, what: &str) {
    weft.assert_metric(
        &format!(r#"weft_detections_total{{detected="{what}"}}"#),
        1.0,
    );
}

#[test]
fn http_is_http_on_a_port_for_anything() {
    let origin = Origin::answering(|_| Reply::ok("fine"));
    let weft = towards(&origin.address());
    let answer = Call::get("/").host("callee").send(&weft.upstream("callee"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    detected(&weft, "http1");
    weft.assert_metric("weft_requests_total", 1.0);
}

#[test]
fn bytes_are_relayed_on_the_same_port() {
    let origin = RawOrigin::start(|connection| {
        connection.read_until(b"\xff")?;
        connection.write("understood")
    });
    let weft = towards(&origin.address());
    let mut client = RawClient::connect(&weft.upstream("callee"));
    client.send(b"\x00\x00\x00\x05call\xff");
    assert_eq!(client.read_to_end(), b"understood");
    assert_eq!(origin.received()[0], b"\x00\x00\x00\x05call\xff");
    detected(&weft, "other");
}

#[test]
fn a_callee_may_speak_first() {
    let origin = RawOrigin::start(|connection| {
        connection.write("220 welcome\r\n")?;
        connection.read_until(b"\n")?;
        connection.write("250 hello\r\n")
    });
    let weft = towards(&origin.address());
    let mut client = RawClient::connect(&weft.upstream("callee"));
    client.read_until(b"220 welcome\r\n");
    client.send("EHLO me\r\n");
    client.read_until(b"250 hello\r\n");
    detected(&weft, "callee_first");
}

#[test]
fn who_was_silent_for_long_may_still_speak_http() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
    let weft = Weft::start(&format!(
        r#"
        outbound: {{ listen: "127.0.0.1:0", timers: {{ head: 300ms }} }}
        upstreams:
          callee: {{ endpoints: {{ static: ["{}"] }}, listen: "127.0.0.1:0" }}
        "#,
        origin.address()
    ));
    let mut client = RawClient::connect(&weft.upstream("callee"));
    // The callee was asked whether it speaks first, and says nothing either.
    crate::harness::wait_until("a connection that waits", || origin.connections() == 1);
    let mut other = RawClient::connect(&weft.outbound());
    assert!(other.is_closed_by_peer(), "the time for a head is over");
    assert!(client.is_quiet(), "two that wait for each other may do so");
    let answer = client.call(&Call::get("/"), "callee");
    assert_eq!(answer.status, 200);
    weft.assert_metric("weft_requests_total{route=\"direct\"}", 1.0);
}

#[test]
fn silence_brings_no_stranger_to_the_application() {
    let app = RawOrigin::start(|connection| connection.write("secret"));
    let weft = behind(&app.address(), r#", timers: { head: 400ms }"#);
    let mut client = RawClient::connect(&weft.inbound());
    assert!(client.is_closed_by_peer());
    assert_eq!(app.connections(), 0);
    detected(&weft, "none");
}

#[test]
fn a_strangers_bytes_reach_the_application_and_what_is_like_a_request_is_one() {
    let app = RawOrigin::start(|connection| {
        connection.read_until(b"\xff")?;
        connection.write("understood")
    });
    let weft = behind(&app.address(), "");
    let mut client = RawClient::connect(&weft.inbound());
    client.send(b"\x80\x01\xff");
    assert_eq!(client.read_to_end(), b"understood");
    detected(&weft, "other");
    // A server that skips what comes before a request would take this for one of a trusted peer.
    for head in [
        "\r\n \r\nGET /admin HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://a/b\r\n\r\n",
        "GET\t/admin\tHTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /admin\r\n\r\n",
    ] {
        let mut client = RawClient::connect(&weft.inbound());
        client.send(head);
        let said = client.read_to_end();
        assert!(
            said.starts_with(b"HTTP/1.1 400 "),
            "{head:?}: {:?}",
            String::from_utf8_lossy(&said)
        );
    }
    assert_eq!(app.connections(), 1);
}

#[test]
fn tls_goes_where_its_name_says() {
    let authority = Authority::new("cluster.local");
    let identity = |account: &str| IdentityFolder::new(&authority.leaf(account), authority.root());
    let (web, payments) = (identity("web"), identity("payments"));
    let server = PythonServer::start(&payments);
    let weft = Weft::start(&format!(
        r#"
        outbound:
          listen: "127.0.0.1:0"
          unknown: deny
          routes:
            - {{ name: by-host, hosts: [payments.test], backends: [{{ upstream: secure }}] }}
        upstreams:
          secure: {{ endpoints: {{ static: ["{}"] }} }}
        "#,
        server.address()
    ));
    let fetch = |host: &str| {
        parts::curl(&[
            "--cacert",
            &web.roots(),
            "--cert",
            &web.certificate(),
            "--key",
            &web.key(),
            "--connect-to",
            &format!("{host}:443:{}", weft.outbound()),
            &format!("https://{host}/"),
        ])
    };
    let answer = fetch("payments.test");
    let said = String::from_utf8_lossy(&answer.stdout);
    // The application's own certificate came through: its TLS is its own.
    assert!(said.contains(&authority.id("web")), "{answer:?}");
    let line = weft.wait_for_access(|line| line["protocol"] == "TCP");
    assert_eq!(line["server_name"], "payments.test");
    assert_eq!(
        (&line["detected"], &line["upstream"]),
        (&"tls".into(), &"secure".into())
    );

    assert!(!fetch("unknown.test").status.success());
    let line = weft.wait_for_access(|line| line["server_name"] == "unknown.test");
    assert_eq!(line["reason"], "unknown_host");
}
