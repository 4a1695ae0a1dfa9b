//! What an attacker sends ends here: nothing that two readers could read two ways reaches the other side, nothing slow
//! or endless holds a connection, and what goes wrong is laid at the right door.

use std::{
    io::{self, Read},
    sync::{Mutex, mpsc},
    thread,
};

use crate::harness::{
    Answer, Call, Frame, H2Peer, Origin, RawClient, RawOrigin, Reply, Weft, block, dead_address,
    flag, kind, own_address, parts, wait_until,
};

fn to(address: &str) -> Weft {
    started(address, "", "")
}

/// One upstream `payments`, with `outbound`'s and the upstream's further keys.
fn started(address: &str, outbound: &str, upstream: &str) -> Weft {
    Weft::start(&format!(
        "
         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny{outbound} }}
         upstreams:
           payments: {{ endpoints: {{ static: [\"{address}\"] }}{upstream} }}"
    ))
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nhost: payments\r\n\r\n";

/// Sends the bytes on a connection of their own and reads until it is closed.
fn exchange(weft: &Weft, bytes: &str) -> String {
    let mut client = RawClient::connect(&weft.outbound());
    // It may be closed before all is sent.
    let _ = client.try_send(bytes);
    String::from_utf8_lossy(&client.read_to_end()).into_owned()
}

// Rule 1 and 2: framing, Host

#[test]
fn what_two_readers_could_read_two_ways_ends_here() {
    let cases: &[(&str, &str)] = &[
        (
            "both lengths",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "both lengths, the other way round",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 0\r\ncontent-length: 44\r\n\r\n",
        ),
        (
            "one length twice",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
        ),
        (
            "a list of lengths",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 1, 1\r\n\r\nx",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: +1\r\n\r\nx",
        ),
        (
            "a negative length",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: -1\r\n\r\n",
        ),
        (
            "a hexadecimal length",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 0x1\r\n\r\nx",
        ),
        (
            "an empty length",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: \r\n\r\n",
        ),
        (
            "a length beyond all",
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 18446744073709551617\r\n\r\nx",
        ),
        (
            "an unknown coding",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: xchunked\r\n\r\n",
        ),
        (
            "chunked behind another coding",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two codings",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "identity",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: identity\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "a coding in HTTP/1.0",
            "POST / HTTP/1.0\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a space before the colon",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a tab before the name",
            "POST / HTTP/1.1\r\nhost: payments\r\n\ttransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a vertical tab in the coding",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a folded line",
            "GET / HTTP/1.1\r\nhost: payments\r\nx-a: b\r\n c\r\n\r\n",
        ),
        (
            "a folded coding",
            "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("bare line feeds", "GET / HTTP/1.1\nhost: payments\n\n"),
        (
            "one bare line feed",
            "GET / HTTP/1.1\r\nhost: payments\r\nx-a: b\nx-c: d\r\n\r\n",
        ),
        (
            "a head that ends in bare line feeds",
            "GET / HTTP/1.1\r\nhost: payments\r\n\n",
        ),
        (
            "a bare carriage return",
            "GET / HTTP/1.1\r\nhost: payments\r\nx-a: b\rx-c: d\r\n\r\n",
        ),
        (
            "a zero byte",
            "GET / HTTP/1.1\r\nhost: payments\r\nx-a: b\0c\r\n\r\n",
        ),
        (
            "no colon",
            "GET / HTTP/1.1\r\nhost: payments\r\nx-a\r\n\r\n",
        ),
        ("no name", "GET / HTTP/1.1\r\nhost: payments\r\n: b\r\n\r\n"),
        (
            "a name that is no token",
            "GET / HTTP/1.1\r\nhost: payments\r\nx[a]: b\r\n\r\n",
        ),
        ("no host", "GET / HTTP/1.1\r\nx-a: b\r\n\r\n"),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nhost: payments\r\nhost: payments\r\n\r\n",
        ),
        (
            "two hosts that differ",
            "GET / HTTP/1.1\r\nhost: payments\r\nHost: elsewhere\r\n\r\n",
        ),
        ("an empty host", "GET / HTTP/1.1\r\nhost: \r\n\r\n"),
        (
            "a host with a path",
            "GET / HTTP/1.1\r\nhost: payments/x\r\n\r\n",
        ),
        (
            "a host with a user",
            "GET / HTTP/1.1\r\nhost: a@payments\r\n\r\n",
        ),
        (
            "a host with a space",
            "GET / HTTP/1.1\r\nhost: pay ments\r\n\r\n",
        ),
        (
            "a list of hosts",
            "GET / HTTP/1.1\r\nhost: payments,elsewhere\r\n\r\n",
        ),
        ("port 0", "GET / HTTP/1.1\r\nhost: payments:0\r\n\r\n"),
        (
            "a port beyond all",
            "GET / HTTP/1.1\r\nhost: payments:65536\r\n\r\n",
        ),
        (
            "an address in an old short form",
            "GET / HTTP/1.1\r\nhost: 127.1\r\n\r\n",
        ),
        (
            "an absolute form with a user",
            "GET http://a@payments/ HTTP/1.1\r\nhost: payments\r\n\r\n",
        ),
        (
            "an absolute form of another scheme",
            "GET ftp://payments/ HTTP/1.1\r\nhost: payments\r\n\r\n",
        ),
        (
            "a target without a slash",
            "GET x HTTP/1.1\r\nhost: payments\r\n\r\n",
        ),
        (
            "a space in the target",
            "GET /a b HTTP/1.1\r\nhost: payments\r\n\r\n",
        ),
        ("a fragment", "GET /a#b HTTP/1.1\r\nhost: payments\r\n\r\n"),
        (
            "two spaces in the request line",
            "GET  / HTTP/1.1\r\nhost: payments\r\n\r\n",
        ),
        (
            "a space before the request line",
            " GET / HTTP/1.1\r\nhost: payments\r\n\r\n",
        ),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nhost: payments\r\n\r\n"),
        (
            "HTTP/2.0 in HTTP/1.1's form",
            "GET / HTTP/2.0\r\nhost: payments\r\n\r\n",
        ),
        ("HTTP/0.9", "GET /\r\n\r\n"),
        (
            "a body on CONNECT",
            "CONNECT payments:80 HTTP/1.1\r\nhost: payments:80\r\ncontent-length: 4\r\n\r\nabcd",
        ),
    ];
    let origin = RawOrigin::answering(OK);
    let weft = to(&origin.address());
    for (name, bytes) in cases {
        let got = exchange(&weft, &format!("{bytes}{NEXT}"));
        assert!(got.starts_with("HTTP/1.1 400 "), "{name}: {got:?}");
        assert!(
            got.contains("\r\nx-weft-reason: bad_request\r\n"),
            "{name}: {got:?}"
        );
        assert_eq!(
            got.matches("HTTP/1.1 400 ").count() + got.matches("HTTP/1.1 2").count(),
            1,
            "{name}: {got:?}"
        );
        assert_eq!(origin.connections(), 0, "{name}: {:?}", origin.text(0));
    }
}

/// Whoever merges trailers into a head is told nothing new about its sender, its framing or its cookies.
#[test]
fn trailers_say_nothing_that_belongs_in_a_head() {
    const FIELDS: [(&str, &str); 5] = [
        ("x-sum", "1"),
        ("x-forwarded-client-cert", "forged"),
        ("x-forwarded-for", "forged"),
        ("x-weft-attempt", "forged"),
        ("set-cookie", "forged"),
    ];
    let app = Origin::start();
    let weft = Weft::start(&format!(
        "
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}",
        app.address()
    ));
    let lines = FIELDS.map(|(name, value)| format!("{name}: {value}\r\n"));
    let mut client = RawClient::connect(&weft.inbound());
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: orders\r\ntrailer: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{}\r\n",
        FIELDS.map(|(name, _)| name).join(", "),
        lines.concat()
    ));
    assert_eq!(client.answer().status, 200);
    let mut client = H2Peer::connect(&weft.inbound(), &[]);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "orders"),
    ];
    client.send(&Frame::headers(1, &fields, false));
    client.send(&Frame::data(1, "x", false));
    client.send(&Frame::headers(1, &FIELDS, true));
    client.read_headers();
    let left = [("x-sum".to_owned(), "1".to_owned())];
    for seen in app.wait_for_requests(2) {
        assert_eq!(seen.trailers, left);
    }
    // Nor the other way.
    let origin = Origin::answering(|_| {
        let reply = Reply::ok("ok");
        FIELDS
            .iter()
            .fold(reply, |reply, (name, value)| reply.trailer(name, value))
    });
    let weft = started(&origin.address(), "", ", protocol: http2");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let mut fields = fields;
    fields[3].1 = "payments";
    client.send(&Frame::headers(1, &fields, true));
    client.read_headers();
    let (body, trailers) = client.read_body(1);
    assert_eq!(body, b"ok");
    assert_eq!(trailers, left);
}

#[test]
fn inbound_is_as_strict() {
    let app = RawOrigin::answering(OK);
    let weft = Weft::start(&format!(
        "
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}",
        app.address()
    ));
    let mut client = RawClient::connect(&weft.inbound());
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{NEXT}"
    ));
    assert_eq!(client.answer().reason(), Some("bad_request"));
    assert!(client.is_closed_by_peer());
    assert_eq!(app.connections(), 0);
    Call::get("/")
        .host("orders")
        .header("connection", "authorization, x-hop")
        .header("authorization", "mine")
        .header("x-hop", "1")
        .header("x-forwarded-client-cert", "forged")
        .send(&weft.inbound());
    let got = app.text(0);
    assert!(got.contains("\r\nauthorization: mine\r\n"), "{got}");
    assert!(!got.contains("x-hop") && !got.contains("forged"), "{got}");
}

/// The head of such a request has passed by then: the body's error must not leave the next request behind it.
#[test]
fn chunks_that_two_readers_could_read_two_ways_end_here() {
    let cases = [
        ("no size", "x\r\nabc\r\n0\r\n\r\n"),
        ("a size in a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size beyond all", "11111111111111111\r\nabc\r\n0\r\n\r\n"),
        ("a bare line feed behind the size", "3\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a bare line feed behind the chunk", "3\r\nabc\n0\r\n\r\n"),
        (
            "a bare line feed in an extension",
            "3;a\n\r\nabc\r\n0\r\n\r\n",
        ),
        ("a bare line feed at the end", "3\r\nabc\r\n0\r\n\n"),
    ];
    for (name, body) in cases {
        let origin = RawOrigin::start(|connection| connection.until_closed());
        let weft = to(&origin.address());
        let post = "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n";
        let got = exchange(&weft, &format!("{post}{body}{NEXT}"));
        assert!(got.starts_with("HTTP/1.1 400 "), "{name}: {got:?}");
        assert_eq!(
            got.matches("HTTP/1.1 400 ").count() + got.matches("HTTP/1.1 2").count(),
            1,
            "{name}: {got:?}"
        );
        let text = origin.text(0);
        assert!(
            !text.contains("smuggled") && !text.contains("0\r\n\r\n"),
            "{name}: {text:?}"
        );
    }
}

#[test]
fn what_is_between_two_hops_stays_between_them() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: x\r\n\
         upgrade: h2c\r\nx-end: 1\r\ncontent-length: 2\r\n\r\nok",
    );
    let weft = to(&origin.address());
    let answer = Call::post("/", "x")
        .host("payments")
        .header("connection", "x-hop, authorization, cookie, host, content-length, x-forwarded-for, x-request-id, traceparent")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-authorization", "x")
        .header("te", "gzip")
        .header("x-forwarded-client-cert", "forged")
        .header("x-weft-forged", "1")
        .header("authorization", "mine")
        .header("cookie", "mine")
        .header("x-forwarded-for", "192.0.2.9")
        .header("x-request-id", "mine")
        .header("traceparent", "mine")
        .send(&weft.outbound());
    let names: Vec<&str> = answer
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for gone in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert!(!names.contains(&gone), "{names:?}");
    }
    assert!(names.contains(&"x-end"));
    let got = origin.text(0).to_lowercase();
    for gone in [
        "connection:",
        "x-hop",
        "keep-alive",
        "proxy-",
        "\r\nte:",
        "forged",
    ] {
        assert!(!got.contains(gone), "{gone} in {got}");
    }
    for kept in [
        "host: payments",
        "content-length: 1",
        "authorization: mine",
        "cookie: mine",
        "x-forwarded-for: 192.0.2.9",
        "x-request-id: mine",
        "traceparent: mine",
    ] {
        assert!(
            got.contains(&format!("\r\n{kept}\r\n")),
            "{kept} not in {got}"
        );
    }
}

#[test]
fn an_absolute_form_replaces_the_host() {
    let origin = RawOrigin::answering(OK);
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET http://PAYments/a HTTP/1.1\r\nhost: elsewhere\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let got = origin.text(0);
    assert!(
        got.contains("\r\nhost: payments\r\n") && !got.contains("elsewhere"),
        "{got}"
    );
}

fn h2_head(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "payments"),
    ]
}

#[test]
fn http2_requests_that_lie_end_here() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("a host that is not the authority", &[("host", "elsewhere")]),
        ("two hosts", &[("host", "payments"), ("host", "payments")]),
        (
            "two lengths",
            &[("content-length", "1"), ("content-length", "2")],
        ),
        ("a length that is none", &[("content-length", "+1")]),
        ("a coding", &[("transfer-encoding", "chunked")]),
        ("a connection field", &[("connection", "x-a"), ("x-a", "1")]),
        ("an upper case name", &[("X-A", "1")]),
        ("a line end in a value", &[("x-a", "b\r\nhost: elsewhere")]),
        ("a space in a name", &[("x a", "1")]),
        ("a second path", &[(":path", "/b")]),
    ];
    let origin = RawOrigin::answering(OK);
    let weft = started(&origin.address(), "", ", protocol: http1");
    for (name, fields) in cases {
        let mut client = H2Peer::connect(&weft.outbound(), &[]);
        client.send(&Frame::headers(
            1,
            &[&h2_head("/")[..], fields].concat(),
            true,
        ));
        let refused = loop {
            let Some(frame) = client.read() else {
                break true;
            };
            match frame.kind {
                kind::RST_STREAM | kind::GOAWAY => break true,
                kind::HEADERS => {
                    // The status is the first field: 400 as a literal, or its place in the static table.
                    break frame.payload.first() == Some(&0x8c);
                }
                _ => {}
            }
        };
        assert!(refused, "{name}: {:?}", client.seen);
        assert_eq!(origin.connections(), 0, "{name}: {:?}", origin.text(0));
    }
}

/// The next request on that connection would begin in the middle of this one.
#[test]
fn an_http2_body_of_another_length_than_its_own_costs_the_connection_upstream() {
    for body in ["abc", "abcdefghijklm"] {
        let origin = RawOrigin::start(|connection| {
            connection.read_head()?;
            connection.until_closed()
        });
        let weft = started(&origin.address(), "", ", protocol: http1");
        let mut client = H2Peer::connect(&weft.outbound(), &[]);
        let mut fields = h2_head("/1");
        fields.push(("content-length", "10"));
        client.send(&Frame::headers(1, &fields, false));
        origin.wait_for_bytes(0, "content-length: 10\r\n\r\n");
        client.send(&Frame::data(1, body, true));
        assert_eq!(client.read_kind(kind::RST_STREAM).stream, 1);
        client.send(&Frame::headers(3, &h2_head("/2"), true));
        origin.wait_for_bytes(1, "POST /2 ");
        let got = origin.text(0);
        let (_, passed) = got.split_once("\r\n\r\n").unwrap();
        assert!(
            passed.len() < 10 && "abcdefghi".starts_with(passed),
            "{got}"
        );
    }
}

#[test]
fn a_path_is_read_once_and_forwarded_as_it_was_read() {
    let origin = Origin::start();
    let weft = started(
        &origin.address(),
        ", routes: [{ name: public, hosts: [shop], matches: [{ path: { prefix: /public } }], backends: [{ upstream: payments }] }]",
        "",
    );
    let refused = |path: &str| -> (u16, Option<String>) {
        let answer = Call::get(path).host("shop").send(&weft.outbound());
        (answer.status, answer.reason().map(str::to_owned))
    };
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/a/../../admin",
        "/admin",
        "/Public",
        "/publicly",
    ] {
        assert_eq!(refused(path), (404, Some("no_route".to_owned())), "{path}");
    }
    for path in [
        "/public//a",
        "/public/%2fa",
        "/public%5ca",
        "/public/..;/admin",
        "/public/;a",
    ] {
        assert_eq!(
            refused(path),
            (400, Some("ambiguous_path".to_owned())),
            "{path}"
        );
    }
    for path in ["/public/%zz", "/public/%", "/public/%00"] {
        assert_eq!(refused(path).0, 400, "{path}");
    }
    assert_eq!(origin.count(), 0);
    for (path, forwarded) in [
        ("/public/a?b=../c", "/public/a?b=../c"),
        ("/%70ublic/a", "/public/a"),
        ("/public/./a/../b", "/public/b"),
        ("/x/../public/%41%7e%20", "/public/A~%20"),
    ] {
        let answer = Call::get(path).host("shop").send(&weft.outbound());
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(
            origin.requests().last().unwrap().target,
            forwarded,
            "{path}"
        );
    }
}

#[test]
fn a_path_that_no_rule_reads_passes_as_it_is() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    for path in ["//a", "/a%2fb", "/a;b=c", "/a%5cb", "/a//b?c//d"] {
        Call::get(path).host("payments").send(&weft.outbound());
        assert_eq!(origin.requests().last().unwrap().target, path);
    }
}

// Rule 3: switches

#[test]
fn a_switch_that_nobody_asked_for_is_no_answer() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    let weft = to(&origin.address());
    let answer = Call::get("/").host("payments").send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (502, Some("unasked_upgrade"))
    );
}

// Rule 4: counts

fn with_fields(count: usize) -> Call {
    // Host and connection are two of them.
    (2..count).fold(Call::get("/").host("payments"), |call, number| {
        call.header(&format!("x-{number}"), "1")
    })
}

#[test]
fn heads_are_bounded() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let told = |call: Call| -> (u16, Option<String>) {
        let answer = call.send(&weft.outbound());
        (answer.status, answer.reason().map(str::to_owned))
    };
    let long = |length: usize| {
        Call::get("/")
            .host("payments")
            .header("x-long", &"x".repeat(length))
    };
    let path = |length: usize| Call::get(&format!("/{}", "x".repeat(length))).host("payments");
    assert_eq!(told(with_fields(100)).0, 200);
    assert_eq!(
        told(with_fields(101)),
        (431, Some("head_too_large".to_owned()))
    );
    assert_eq!(told(long(60 << 10)).0, 200);
    assert_eq!(
        told(long(64 << 10)),
        (431, Some("head_too_large".to_owned()))
    );
    assert_eq!(told(path(8191)).0, 200);
    assert_eq!(told(path(8192)), (414, Some("uri_too_long".to_owned())));
    assert_eq!(origin.count(), 3);
}

#[test]
fn http2_heads_are_counted_by_field() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let mut stream = 1;
    let mut status = |fields: usize| {
        let names: Vec<String> = (0..fields).map(|number| format!("x-{number}")).collect();
        let more = names.iter().map(|name| (name.as_str(), "1"));
        let head: Vec<_> = h2_head("/").into_iter().chain(more).collect();
        client.send(&Frame::headers(stream, &head, true));
        stream += 2;
        let (_, answer, end) = client.read_headers();
        if !end {
            client.read_body(stream - 2);
        }
        answer[0].1.clone()
    };
    assert_eq!(status(99), "200");
    assert_eq!(status(101), "431");
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_answer_with_too_many_fields_is_none() {
    let fields: String = (0..101)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    let origin = RawOrigin::answering(format!(
        "HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"
    ));
    let weft = to(&origin.address());
    let answer = Call::get("/").host("payments").send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (502, Some("answer_head_too_large"))
    );
}

// Rule 5: timers

const SHORT: &str =
    ", timers: { head: 1s, idle: 1h, bodyRate: { bytesPerSecond: 64, over: 1s }, writeStall: 1s }";

const HEAD_TIMEOUTS: &str = "weft_connections_closed_total{rule=\"head_timeout\"}";

#[test]
fn slow_heads_are_cut_and_idle_connections_are_not() {
    let origin = Origin::start();
    let weft = started(&origin.address(), SHORT, "");
    let mut idle = RawClient::connect(&weft.outbound());
    assert_eq!(idle.call(&Call::get("/"), "payments").status, 200);
    let mut silent = RawClient::connect(&weft.outbound());
    let mut slow = RawClient::connect(&weft.outbound());
    slow.send("GET / HTTP/1.1\r\nhost: pay");
    assert!(silent.is_closed_by_peer());
    assert!(slow.is_closed_by_peer());
    weft.assert_metric(HEAD_TIMEOUTS, 2.0);
    // A second head on a kept connection is as slow; the connection had been idle for longer than a head may take.
    assert_eq!(idle.call(&Call::get("/"), "payments").status, 200);
    idle.send("G");
    assert!(idle.is_closed_by_peer());
    weft.assert_metric(HEAD_TIMEOUTS, 3.0);
}

#[test]
fn idle_connections_are_closed_in_order() {
    let origin = Origin::start();
    let weft = started(&origin.address(), ", timers: { idle: 1s }", "");
    let mut client = RawClient::connect(&weft.outbound());
    assert_eq!(client.call(&Call::get("/"), "payments").status, 200);
    assert!(client.is_closed_by_peer());
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &h2_head("/"), true));
    client.read_headers();
    client.read_body(1);
    assert_eq!(client.read_kind(kind::GOAWAY).number(4), 0);
}

#[test]
fn a_slow_body_is_408_and_no_fault_of_the_endpoint() {
    let origin = RawOrigin::start(|connection| connection.until_closed());
    let weft = started(
        &origin.address(),
        SHORT,
        ", outlier: { consecutiveFailures: 1, maxEjection: 100 }",
    );
    let mut client = RawClient::connect(&weft.outbound());
    client.send("POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 100\r\n\r\nx");
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.reason()),
        (408, Some("body_timeout"))
    );
    assert!(client.is_closed_by_peer());
    assert_eq!(
        weft.metric("weft_upstream_tries_total{outcome=\"failed\"}"),
        0.0
    );
    assert_eq!(weft.metric("weft_endpoint_ejections_total"), 0.0);
}

/// A body that comes too slowly and is cut for it: time that passes.
fn slow_body(weft: &Weft) {
    let mut slow = RawClient::connect(&weft.outbound());
    slow.send("POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 100\r\n\r\nx");
    assert_eq!(slow.answer().status, 408);
}

#[test]
fn a_slow_body_over_http2_is_408_and_costs_its_stream_alone() {
    let origin = Origin::start();
    let weft = started(&origin.address(), SHORT, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &h2_head("/"), false));
    client.send(&Frame::data(1, "x", false));
    let (_, answer, _) = client.read_headers();
    assert_eq!(answer[0].1, "408");
    client.send(&Frame::headers(3, &h2_head("/"), true));
    let (stream, answer, _) = client.read_headers();
    assert_eq!((stream, answer[0].1.as_str()), (3, "200"));
}

#[test]
fn a_body_that_we_hold_back_is_not_slow() {
    const LENGTH: usize = 24 << 20;
    let (go, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let origin = RawOrigin::start(move |connection| {
        if connection
            .read_head()?
            .contains(&format!("content-length: {LENGTH}"))
        {
            let _ = told.lock().expect("no panic here").recv();
            connection.read_exact(LENGTH)?;
            return connection.write(OK);
        }
        connection.until_closed()
    });
    let weft = started(&origin.address(), SHORT, "");
    let address = weft.outbound();
    let upload = thread::spawn(move || {
        let call = Call::post("/", vec![b'x'; LENGTH]).host("payments");
        call.send(&address).status
    });
    origin.wait_for_bytes(0, "\r\n\r\n");
    for _ in 0..2 {
        slow_body(&weft);
    }
    go.send(()).unwrap();
    assert_eq!(upload.join().unwrap(), 200);
}

#[test]
fn grpc_streams_may_stand_still() {
    let origin = Origin::answering(|_| Reply::grpc(b"late", 0));
    let weft = started(&origin.address(), SHORT, "");
    let mut call = H2Peer::connect(&weft.outbound(), &[]);
    let mut fields = h2_head("/a.B/C");
    fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
    call.send(&Frame::headers(1, &fields, false));
    for _ in 0..2 {
        slow_body(&weft);
    }
    call.send(&Frame::data(1, [0, 0, 0, 0, 0], true));
    assert_eq!(call.read_headers().1[0].1, "200");
}

#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let origin = RawOrigin::start(|connection| {
        connection.read_request()?;
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")?;
        let piece = vec![b'x'; 1 << 20];
        loop {
            connection.write(&piece)?;
        }
    });
    let weft = started(&origin.address(), SHORT, "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(Call::get("/").bytes("payments"));
    weft.assert_metric("weft_connections_closed_total{rule=\"write_stall\"}", 1.0);
    weft.assert_metric("weft_connections{direction=\"outbound\"}", 0.0);
}

// Rule 7 and 8: whose fault, and what is left behind

#[test]
fn a_broken_body_is_the_clients_fault() {
    let origin = RawOrigin::start(|connection| connection.until_closed());
    let weft = started(
        &origin.address(),
        "",
        ", outlier: { consecutiveFailures: 1, maxEjection: 100 }",
    );
    for _ in 0..3 {
        let mut client = RawClient::connect(&weft.outbound());
        client.send("POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nno size\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.reason()), (400, Some("body_broken")));
    }
    // One that goes away in the middle gets no answer and is nobody's fault either.
    let mut client = RawClient::connect(&weft.outbound());
    client.send("POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 10\r\n\r\nabc");
    origin.wait_for_bytes(3, "abc");
    drop(client);
    weft.assert_metric("weft_connections{direction=\"outbound\"}", 0.0);
    assert_eq!(
        weft.metric("weft_upstream_tries_total{outcome=\"failed\"}"),
        0.0
    );
    assert_eq!(weft.metric("weft_endpoint_ejections_total"), 0.0);
    assert_eq!(weft.metric("weft_retries_total"), 0.0);
}

#[test]
fn an_answer_of_ours_is_read_though_the_body_was_not() {
    let weft = to(&dead_address());
    let file = weft.path().join("body");
    std::fs::write(&file, vec![b'x'; 3_000_000]).unwrap();
    let out = parts::curl(&[
        "-H",
        "host: elsewhere",
        "-H",
        "expect:",
        "-w",
        "%{http_code}",
        "-o",
        "-",
        "--data-binary",
        &format!("@{}", file.display()),
        &format!("http://{}/", weft.outbound()),
    ]);
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        told.ends_with("403"),
        "{told} {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn an_early_answer_passes_and_its_connection_is_not_used_again() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.write("HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno")?;
        connection.until_closed()
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("POST /1 HTTP/1.1\r\nhost: payments\r\ncontent-length: 10\r\n\r\nabc");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    drop(client);
    let again = Call::get("/2").host("payments").send(&weft.outbound());
    assert_eq!(again.status, 413);
    assert_eq!(origin.connections(), 2);
    assert!(!origin.text(0).contains("/2"));
}

#[test]
fn an_answer_that_leaves_bytes_behind_is_the_last_of_its_connection() {
    let origin = RawOrigin::answering(format!(
        "{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    ));
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    for _ in 0..3 {
        assert_eq!(client.call(&Call::get("/"), "payments").text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn answers_that_two_readers_could_read_two_ways_are_none() {
    for (name, head) in [
        (
            "both lengths",
            "content-length: 2\r\ntransfer-encoding: chunked\r\n",
        ),
        ("two lengths", "content-length: 2\r\ncontent-length: 3\r\n"),
        ("an unknown coding", "transfer-encoding: gzip\r\n"),
        ("a folded line", "x-a: b\r\n c\r\ncontent-length: 2\r\n"),
        ("a space before the colon", "content-length : 2\r\n"),
        ("a bare line feed", "x-a: b\ncontent-length: 2\r\n"),
    ] {
        let origin = RawOrigin::answering(format!("HTTP/1.1 200 OK\r\n{head}\r\nok"));
        let weft = to(&origin.address());
        let answer = Call::get("/").host("payments").send(&weft.outbound());
        assert_eq!(
            (answer.status, answer.reason()),
            (502, Some("bad_answer")),
            "{name}"
        );
    }
}

// Rule 9: words

#[test]
fn our_own_user_reads_who_and_why() {
    let dead = dead_address();
    let weft = to(&dead);
    let answer = Call::get("/").host("payments").send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("connect_failed"))
    );
    let text = answer.text();
    assert!(
        text.contains("no usable endpoint for payments: 1 known"),
        "{text}"
    );
    assert!(text.contains(&format!("connect refused {dead}")), "{text}");
}

#[test]
fn strangers_read_no_addresses() {
    let Some(own) = own_address() else {
        return println!("this machine has but loopback");
    };
    let app = dead_address();
    let weft = Weft::start(&format!(
        "
         inbound: {{ listen: \"0.0.0.0:0\", app: \"{app}\" }}"
    ));
    let port = weft.inbound().rsplit(':').next().unwrap().to_owned();
    let of = |address: &str| -> Answer { Call::get("/").send(&format!("{address}:{port}")) };
    let (stranger, ours) = (of(&own.to_string()), of("127.0.0.1"));
    assert_eq!(
        (stranger.status, stranger.reason()),
        (503, Some("connect_failed"))
    );
    assert!(
        !stranger.text().contains("127.0.0.1"),
        "{}",
        stranger.text()
    );
    assert!(ours.text().contains(&app), "{}", ours.text());
}

// Rule 6: HTTP/2's own floods

/// Sends `frames` over and over until the connection is closed; false when it never is.
fn is_cut(weft: &Weft, before: &[Frame], frames: impl Fn(u32) -> Vec<u8>) -> bool {
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    for frame in before {
        client.send(frame);
    }
    for round in 0..400 {
        let flood: Vec<u8> = (0..100)
            .flat_map(|number| frames(round * 100 + number))
            .collect();
        if client.try_send_bytes(&flood).is_err() {
            return true;
        }
    }
    // What was sent last may be on its way: read what comes, to the close.
    let mut stream = client.stream();
    let mut scrap = [0; 16_384];
    loop {
        match stream.read(&mut scrap) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn floods_of_frames_cost_a_connection_and_nothing_else() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let get = || Frame::headers(1, &h2_head("/"), false);
    let of = |kind: u8, flags: u8, stream: u32, payload: Vec<u8>| {
        move |_: u32| Frame::new(kind, flags, stream, payload.clone()).bytes()
    };
    assert!(is_cut(&weft, &[], of(kind::PING, 0, 0, vec![0; 8])), "PING");
    assert!(
        is_cut(&weft, &[], of(kind::SETTINGS, 0, 0, Vec::new())),
        "SETTINGS"
    );
    let table = |number: u32| Frame::settings(&[(1, number % 2 * 4096)]).bytes();
    assert!(is_cut(&weft, &[], table), "SETTINGS of the header table");
    assert!(
        is_cut(
            &weft,
            &[get()],
            of(kind::WINDOW_UPDATE, 0, 1, vec![0, 0, 0, 1])
        ),
        "WINDOW_UPDATE"
    );
    assert!(
        is_cut(&weft, &[], of(kind::PRIORITY, 0, 1, vec![0, 0, 0, 0, 1])),
        "PRIORITY"
    );
    assert!(
        is_cut(&weft, &[], of(0xee, 0, 0, Vec::new())),
        "an unknown kind"
    );
    assert!(
        is_cut(&weft, &[get()], of(kind::DATA, 0, 1, Vec::new())),
        "empty DATA"
    );
    let begun = Frame::new(kind::HEADERS, 0, 1, block(&h2_head("/")));
    assert!(
        is_cut(&weft, &[begun], of(kind::CONTINUATION, 0, 1, vec![])),
        "CONTINUATION"
    );
    let rapid = |number: u32| {
        let stream = 1 + 2 * number;
        let head = Frame::headers(stream, &h2_head("/"), true).bytes();
        [head, Frame::reset(stream, 8).bytes()].concat()
    };
    assert!(is_cut(&weft, &[], rapid), "rapid resets");
    assert_eq!(
        Call::get("/")
            .host("payments")
            .send(&weft.outbound())
            .status,
        200
    );
}

#[test]
fn a_header_bomb_is_refused() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    // One entry of 4,000 bytes goes into the peer's table; each further byte refers to it.
    let mut bomb = block(&h2_head("/"));
    bomb.extend([0x40, 3]);
    bomb.extend(b"x-a");
    bomb.extend([0x7f, 0xa1, 0x1e]);
    bomb.extend(vec![b'a'; 4_000]);
    bomb.extend(vec![0xbe; 10_000]);
    client.send(&Frame::new(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        bomb,
    ));
    let refused = loop {
        match client.read() {
            None => break true,
            Some(frame) if matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY) => break true,
            // 431 is no status of the static table.
            Some(frame) if frame.kind == kind::HEADERS => {
                break frame.payload.first() != Some(&0x88);
            }
            Some(_) => {}
        }
    };
    assert!(refused);
    assert_eq!(origin.count(), 0);
    wait_until("another call", || {
        Call::get("/")
            .host("payments")
            .send(&weft.outbound())
            .status
            == 200
    });
}

/// 251 streams at once are one too many; those before it go on.
#[test]
fn streams_beyond_250_are_refused() {
    let origin = RawOrigin::start(|connection| connection.until_closed());
    let weft = started(&origin.address(), "", ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    for number in 0..251 {
        client.send(&Frame::headers(1 + 2 * number, &h2_head("/"), true));
    }
    let reset = client.read_kind(kind::RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (501, 7));
}

/// A half-written request that is followed by nothing holds nothing.
#[test]
fn a_request_that_ends_in_the_middle_of_its_head_reaches_nobody() {
    let origin = RawOrigin::answering(OK);
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.1\r\nhost: payments\r\n");
    client.close_write();
    assert!(client.is_closed_by_peer());
    assert_eq!(origin.connections(), 0);
}
