//! Upgrades: nothing passes before the callee has switched to what was asked for; then bytes pass both ways until
//! both sides have ended, over HTTP/1.1, over HTTP/2, and from each to the other.

use std::{
    io::{ErrorKind, Read},
    net::TcpListener,
    thread,
};

use http::HeaderValue;
use rustix::process::Signal;
use weft::http::upgrade::websocket;

use crate::harness::{
    Call, Frame, H2Peer, Origin, RawClient, RawConnection, RawOrigin, Weft, flag, kind, wait_for,
    wait_until,
};

/// RFC 6455 §1.3 has both.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3).
const ALLOWED: &[(u16, u32)] = &[(8, 1)];

const CANCEL: u32 = 8;

/// One upstream `chat` at `address`, with `more` of its keys.
fn to(address: &str, more: &str) -> Weft {
    with(address, more, "")
}

/// The same with `outbound` keys and routes.
fn with(address: &str, more: &str, outbound: &str) -> Weft {
    Weft::start(&format!(
        "
         workers: 1
         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny{outbound} }}
         upstreams:
           chat: {{ endpoints: {{ static: [\"{address}\"] }}, listen: \"127.0.0.1:0\"{more} }}"
    ))
}

fn handshake() -> String {
    format!(
        "GET /chat?x=1 HTTP/1.1\r\nHost: chat\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v2\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

fn extended(path: &str) -> [(&str, &str); 6] {
    [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "chat"),
        ("sec-websocket-version", "13"),
    ]
}

/// Answers a handshake as a server must, whoever made the key.
fn accept(connection: &mut RawConnection) -> std::io::Result<()> {
    let head = connection.read_head()?;
    let lower = head.to_ascii_lowercase();
    let at = lower
        .find("sec-websocket-key: ")
        .ok_or(std::io::ErrorKind::InvalidData)?;
    let key = head[at + 19..].lines().next().unwrap_or_default();
    let accept = websocket::accept(&HeaderValue::from_str(key).unwrap());
    let switch = SWITCH.replace(ACCEPT, accept.to_str().unwrap());
    connection.write(switch)
}

/// A WebSocket server in so far as it says back each byte.
fn echo(connection: &mut RawConnection) -> std::io::Result<()> {
    accept(connection)?;
    loop {
        let byte = connection.read_exact(1);
        let Ok(byte) = byte else {
            return connection.close_write();
        };
        connection.write(byte)?;
    }
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str())
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A caller whose WebSocket is open.
fn opened(weft: &Weft) -> RawClient {
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    let head = client.read_until(b"\r\n\r\n");
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    client
}

/// One handshake came to this end.
#[track_caller]
fn assert_upgrade(weft: &Weft, result: &str) {
    let name = format!(
        "weft_upgrades_total{{direction=\"outbound\",protocol=\"websocket\",result=\"{result}\"}}"
    );
    weft.assert_metric(&name, 1.0);
}

// HTTP/1.1 on both sides

#[test]
fn a_websocket_passes_and_is_told_at_its_end() {
    let origin = RawOrigin::start(echo);
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    let head = String::from_utf8(client.read_until(b"\r\n\r\n"))
        .unwrap()
        .to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        &format!("sec-websocket-accept: {}", ACCEPT.to_lowercase()),
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    client.send("frames");
    client.read_until(b"frames");
    weft.assert_metric("weft_request_bytes_total{route=\"direct\"}", 6.0);
    assert!(!weft.access_log().iter().any(|line| line["path"] == "/chat"));
    client.close_write();
    assert!(client.is_closed_by_peer());
    let line = weft.wait_for_access(|line| line["path"] == "/chat");
    assert_eq!(
        (&line["status"], &line["bytes_in"], &line["bytes_out"]),
        (&101.into(), &6.into(), &6.into())
    );
    assert!(line["reason"].is_null(), "{line}");
    assert_upgrade(&weft, "switched");
    let got = origin.text(0).to_lowercase();
    assert!(got.starts_with("get /chat?x=1 http/1.1\r\n"), "{got}");
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-protocol: v2",
    ] {
        assert_eq!(
            got.matches(&format!("\r\n{line}\r\n")).count(),
            1,
            "{line}: {got}"
        );
    }
    assert_eq!(got.matches("sec-websocket-key").count(), 1, "{got}");
}

#[test]
fn nothing_passes_before_the_callee_has_switched() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.read_until(b"-never-")?;
        Ok(())
    });
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send([handshake().as_bytes(), b"smuggled"].concat());
    origin.wait_for_bytes(0, "\r\n\r\n");
    // The upstream's other connection shows that the worker has had its turns.
    let mut other = RawClient::connect(&weft.outbound());
    other.send("GET / HTTP/1.1\r\nHost: chat\r\n\r\n");
    origin.wait_for_bytes(1, "\r\n\r\n");
    assert!(origin.text(0).ends_with("\r\n\r\n"), "{}", origin.text(0));
    assert!(client.is_quiet());
}

/// Read as HTTP, what the caller sends would end its connection.
#[test]
fn what_came_early_on_either_side_is_not_lost() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.write([SWITCH, "server first"].concat())?;
        connection.read_until(b"\x16\x03\r\n\r\nGET / HTTP/1.1\n\n")?;
        connection.write("both")
    });
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        [
            handshake().as_bytes(),
            b"\x16\x03\r\n\r\nGET / HTTP/1.1\n\n",
        ]
        .concat(),
    );
    client.read_until(b"\r\n\r\n");
    client.read_until(b"server firstboth");
}

#[test]
fn an_end_is_passed_on_at_once_and_the_other_way_goes_on() {
    let origin = RawOrigin::start(|connection| {
        accept(connection)?;
        connection.close_write()?;
        connection.until_closed()
    });
    let weft = to(&origin.address(), "");
    let mut client = opened(&weft);
    assert!(client.is_closed_by_peer());
    client.send("still heard");
    origin.wait_for_bytes(0, "still heard");
}

#[test]
fn a_switch_to_something_else_is_no_switch() {
    let wrong = SWITCH.replace("websocket", "other");
    let origin = RawOrigin::answering(wrong);
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        [
            handshake().as_bytes(),
            b"GET /next HTTP/1.1\r\nHost: nowhere\r\n\r\n",
        ]
        .concat(),
    );
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.reason()),
        (502, Some("unasked_upgrade"))
    );
    // What was held is a request again.
    assert_eq!(client.answer().reason(), Some("unknown_host"));
    assert_upgrade(&weft, "failed");
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_switch() {
    let origin = RawOrigin::answering(SWITCH);
    let weft = to(&origin.address(), "");
    let answer = Call::get("/").host("chat").send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (502, Some("unasked_upgrade"))
    );
}

#[test]
fn a_callee_may_decline_and_the_connection_goes_on() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 403 Forbidden\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno",
    );
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    let plain = "GET /plain HTTP/1.1\r\nHost: chat\r\n\r\n";
    client.send([handshake().as_str(), plain].concat());
    for _ in 0..2 {
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.reason()),
            (403, "no", None)
        );
        assert_eq!(answer.header("upgrade"), None);
    }
    assert!(
        origin.text(0).contains("GET /plain"),
        "the connection was kept"
    );
    assert_upgrade(&weft, "declined");
}

/// RFC 9110 §15.5.22: such an answer must say what it requires. HTTP/2 has no field for it.
#[test]
fn what_a_callee_requires_is_told() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade, x-hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\n\
         Content-Length: 2\r\n\r\nno",
    );
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = RawClient::connect(&weft.outbound());
    for request in [
        handshake().as_str(),
        "GET /plain HTTP/1.1\r\nHost: chat\r\n\r\n",
    ] {
        client.send(request);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (426, "no"));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("connection"), Some("upgrade"));
        assert_eq!(answer.header("x-hop"), None);
    }

    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let get = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/plain"),
        (":authority", "chat"),
    ];
    client.send(&Frame::headers(1, &get, true));
    let (_, fields, _) = client.read_headers();
    assert_eq!(field(&fields, ":status"), Some("426"));
    assert_eq!(field(&fields, "upgrade"), None);
}

/// Without `Connection: upgrade` the field says nothing (RFC 9110 §7.8), and in HTTP/1.0 neither.
#[test]
fn an_offer_that_says_nothing_is_passed_over() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    for text in [
        "GET /1 HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\n\r\n",
        "GET /2 HTTP/1.0\r\nHost: chat\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut client = RawClient::connect(&weft.outbound());
        client.send(text);
        assert_eq!(client.answer().status, 200, "{text}");
    }
    for seen in origin.requests() {
        assert_eq!(
            (seen.header("upgrade"), seen.header("connection")),
            (None, None)
        );
    }
}

#[test]
fn a_request_with_a_body_cannot_switch() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    for body in [
        "content-length: 2\r\n\r\nhi",
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = RawClient::connect(&weft.outbound());
        let head = handshake();
        client.send([head.trim_end(), "\r\n", body].concat());
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.reason()),
            (501, Some("upgrade_refused")),
            "{body}"
        );
        assert_eq!(client.call(&Call::get("/"), "chat").status, 200);
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn keys_that_could_be_read_two_ways_are_refused() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    for key in [
        "Sec-WebSocket-Key: a\r\n",
        &format!("Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Key: {KEY}\r\n"),
        "",
    ] {
        let mut client = RawClient::connect(&weft.outbound());
        client.send(handshake().replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), key));
        assert_eq!(client.answer().reason(), Some("bad_request"), "{key}");
    }
    assert_eq!(origin.count(), 0);
}

// Which protocols

#[test]
fn a_route_says_which_protocols_pass() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.write(SWITCH.replace("websocket", "Chat/2"))?;
        connection.until_closed()
    });
    let routes = ", routes: [\
        { name: none, hosts: [chat], matches: [{ path: { prefix: /none } }], upgrades: [] }, \
        { name: own, hosts: [chat], matches: [{ path: { prefix: /own } }], upgrades: [chat/2] }]";
    let weft = with(&origin.address(), "", routes);
    let ask = |path: &str, offered: &str| {
        let mut client = RawClient::connect(&weft.outbound());
        let head = handshake().replace("/chat?x=1", path);
        client.send(head.replace("Upgrade: websocket", &format!("Upgrade: {offered}")));
        client.read_until(b"\r\n\r\n")[9..12].to_vec()
    };
    assert_eq!(ask("/none", "websocket"), b"501");
    assert_eq!(ask("/other", "chat/2"), b"501");
    assert_eq!(ask("/own", "websocket"), b"501");
    assert_eq!(ask("/own", "websocket, CHAT/2"), b"101");
    let got = origin.text(0);
    assert!(got.contains("\r\nupgrade: CHAT/2\r\n"), "{got}");
    assert_eq!(origin.connections(), 1);
    weft.assert_metric(
        "weft_upgrades_total{protocol=\"chat/2\",result=\"switched\"}",
        1.0,
    );
    weft.assert_metric(
        "weft_upgrades_total{protocol=\"other\",result=\"refused\"}",
        1.0,
    );
}

#[test]
fn inbound_says_which_protocols_pass() {
    let origin = RawOrigin::start(echo);
    let inbound = |upgrades: &str| {
        Weft::start(&format!(
            "inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\"{upgrades} }}",
            origin.address()
        ))
    };
    let status = |weft: &Weft| {
        let mut client = RawClient::connect(&weft.inbound());
        client.send(handshake());
        client.read_until(b"\r\n\r\n")[9..12].to_vec()
    };
    assert_eq!(status(&inbound("")), b"101");
    assert_eq!(status(&inbound(", upgrades: []")), b"501");
}

#[test]
fn http_itself_is_never_an_upgrade() {
    let mut weft = to("127.0.0.1:1", "");
    let answer = weft.try_reload(
        "
         outbound: { listen: \"127.0.0.1:0\", routes: [{ name: r, hosts: [chat], upgrades: [h2c] }] }
         upstreams: { chat: { endpoints: { static: [\"127.0.0.1:1\"] } } }",
    );
    assert!(
        answer.status >= 400 && answer.text().contains("h2c"),
        "{}",
        answer.text()
    );
}

// Retries

#[test]
fn a_handshake_that_may_have_been_seen_is_not_repeated() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        Ok(())
    });
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    assert_eq!(client.answer().reason(), Some("reset"));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_handshake_that_nobody_saw_is_repeated() {
    let origin = RawOrigin::start(echo);
    let dead = crate::harness::dead_address();
    let both = format!("{dead}\", \"{}", origin.address());
    let weft = to(&both, "");
    for _ in 0..4 {
        let mut client = opened(&weft);
        client.send("x");
        client.read_until(b"x");
    }
}

/// A connection from the pool may be closing, and then nobody could tell whether it saw the request.
#[test]
fn a_handshake_takes_a_connection_of_its_own() {
    let origin = RawOrigin::start(|connection| {
        let (head, _) = connection.read_request()?;
        if !head.contains("upgrade") {
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            return connection.until_closed();
        }
        connection.write(SWITCH)?;
        connection.until_closed()
    });
    let weft = to(&origin.address(), "");
    Call::get("/").host("chat").send(&weft.outbound());
    opened(&weft);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_route_that_retries_503_does_not_repeat_a_handshake() {
    let origin = RawOrigin::answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let routes =
        ", routes: [{ name: r, hosts: [chat], retry: { attempts: 3, conditions: [\"503\"] } }]";
    let weft = with(&origin.address(), "", routes);
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    assert_eq!(client.answer().status, 503);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn what_breaks_off_does_not_look_like_an_end() {
    let origin = RawOrigin::start(|connection| {
        accept(connection)?;
        connection.read_exact(1)?;
        connection.reset();
        Ok(())
    });
    let weft = to(&origin.address(), "");
    let mut client = opened(&weft);
    client.send("r");
    let read = client.stream().read(&mut [0; 9]);
    assert!(
        matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset),
        "{read:?}"
    );
}

// From HTTP/2 to HTTP/1.1

#[test]
fn an_http2_caller_is_told_that_it_may_ask() {
    let weft = to("127.0.0.1:1", "");
    let client = H2Peer::connect(&weft.outbound(), &[]);
    let settings = &client.seen[0];
    let found = settings
        .payload
        .chunks(6)
        .any(|one| one == [0, 8, 0, 0, 0, 1]);
    assert!(found, "{settings:?}");
}

#[test]
fn an_http2_caller_reaches_an_http1_server() {
    let origin = RawOrigin::start(echo);
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &extended("/chat?y"), false));
    let (_, answer, end) = client.read_headers();
    assert_eq!((field(&answer, ":status"), end), (Some("200"), false));
    for name in [
        "connection",
        "upgrade",
        "sec-websocket-accept",
        "content-length",
    ] {
        assert_eq!(field(&answer, name), None, "{answer:?}");
    }
    client.send(&Frame::data(1, "hello", false));
    let mut said = Vec::new();
    while said.len() < 5 {
        said.extend(client.read_kind(kind::DATA).payload);
    }
    assert_eq!(said, b"hello");
    client.send(&Frame::data(1, "", true));
    assert!(client.read_kind(kind::DATA).has(flag::END_STREAM));
    let got = origin.text(0);
    assert!(got.starts_with("GET /chat?y HTTP/1.1\r\n"), "{got}");
    assert!(
        got.contains("\r\nhost: chat\r\n") && got.contains("\r\nsec-websocket-version: 13\r\n"),
        "{got}"
    );
    let line = weft.wait_for_access(|line| line["path"] == "/chat");
    assert_eq!(
        (&line["status"], &line["method"], &line["bytes_in"]),
        (&200.into(), &"GET".into(), &5.into())
    );
    assert!(line["reason"].is_null(), "{line}");
}

#[test]
fn an_http1_server_must_answer_the_key_that_we_made() {
    let origin = RawOrigin::answering(SWITCH);
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let mut fields = extended("/").to_vec();
    // The caller's own key is none of ours: it would fit.
    fields.push(("sec-websocket-key", KEY));
    client.send(&Frame::headers(1, &fields, false));
    let (_, answer, _) = client.read_headers();
    assert_eq!(
        (field(&answer, ":status"), field(&answer, "x-weft-reason")),
        (Some("502"), Some("bad_answer"))
    );
}

/// Over HTTP/2 any 2xx would say yes.
#[test]
fn an_http1_server_that_does_not_switch_has_not_said_yes() {
    let origin = Origin::start();
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &extended("/"), false));
    let (_, answer, _) = client.read_headers();
    assert_eq!(
        (field(&answer, ":status"), field(&answer, "x-weft-reason")),
        (Some("502"), Some("bad_answer"))
    );
}

#[test]
fn other_protocols_are_refused_over_http2_too() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let mut fields = extended("/");
    fields[1].1 = "connect-udp";
    client.send(&Frame::headers(1, &fields, false));
    let (_, answer, _) = client.read_headers();
    assert_eq!(
        (field(&answer, ":status"), field(&answer, "x-weft-reason")),
        (Some("501"), Some("upgrade_refused"))
    );
    assert_eq!(origin.connections(), 0);
}

/// `auto` asks in the caller's version first; few WebSocket servers speak HTTP/2.
#[test]
fn an_http2_callers_server_may_speak_http1_alone() {
    let origin = RawOrigin::start(|connection| {
        if connection.read_exact(4)? == b"PRI " {
            return connection.write("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
        echo(connection)
    });
    let weft = to(&origin.address(), "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &extended("/"), false));
    assert_eq!(field(&client.read_headers().1, ":status"), Some("200"));
    client.send(&Frame::data(1, "x", false));
    assert_eq!(client.read_kind(kind::DATA).payload, b"x");
}

#[test]
fn a_reset_of_either_side_is_a_reset_on_the_other() {
    let origin = RawOrigin::start(|connection| {
        accept(connection)?;
        if connection.read_exact(1)? == b"r" {
            connection.reset();
            return Ok(());
        }
        connection.write("heard")?;
        connection.until_closed()?;
        connection.write("too late")
    });
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &extended("/1"), false));
    client.read_headers();
    client.send(&Frame::data(1, "r", false));
    let reset = client.read_kind(kind::RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
    let line = weft.wait_for_access(|line| line["path"] == "/1");
    assert_eq!(line["reason"], "reset");

    client.send(&Frame::headers(3, &extended("/3"), false));
    client.read_headers();
    client.send(&Frame::data(3, "x", false));
    assert_eq!(client.read_kind(kind::DATA).payload, b"heard");
    client.send(&Frame::reset(3, CANCEL));
    let line = weft.wait_for_access(|line| line["path"] == "/3");
    assert_eq!(line["reason"], "client_gone");
}

// Towards HTTP/2

#[test]
fn an_http1_caller_reaches_an_http2_server() {
    let (listener, address) = listener();
    let weft = to(&address, ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    client.send([handshake().as_str(), "early"].concat());
    let mut origin = H2Peer::accept(&listener, ALLOWED);
    let (stream, fields, end) = origin.read_headers();
    assert!(!end);
    for (name, value) in [
        (":method", Some("CONNECT")),
        (":protocol", Some("websocket")),
        (":path", Some("/chat?x=1")),
        (":authority", Some("chat")),
        (":scheme", Some("http")),
        ("sec-websocket-protocol", Some("v2")),
        ("sec-websocket-key", Some(KEY)),
        ("upgrade", None),
        ("connection", None),
    ] {
        assert_eq!(field(&fields, name), value, "{name}");
    }
    assert!(client.is_quiet());
    origin.send(&Frame::headers(stream, &[(":status", "200")], false));
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains(&format!("sec-websocket-accept: {ACCEPT}\r\n")),
        "{head}"
    );
    assert!(
        head.contains("upgrade: websocket\r\n") && !head.contains("length"),
        "{head}"
    );
    assert_eq!(origin.read_kind(kind::DATA).payload, b"early");
    origin.send(&Frame::data(stream, "from afar", false));
    client.read_until(b"from afar");
    // Both ends pass, one at a time.
    origin.send(&Frame::data(stream, "", true));
    assert!(client.is_closed_by_peer());
    client.send("late");
    assert_eq!(origin.read_kind(kind::DATA).payload, b"late");
    client.close_write();
    assert!(origin.read_kind(kind::DATA).has(flag::END_STREAM));
}

/// A key may have gone on to an HTTP/1.1 server behind it: its answer is none of a WebSocket's server then.
#[test]
fn an_http2_servers_answer_to_a_key_must_fit() {
    let (listener, address) = listener();
    let weft = to(&address, ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    let mut origin = H2Peer::accept(&listener, ALLOWED);
    let (stream, _, _) = origin.read_headers();
    let answer = [(":status", "200"), ("sec-websocket-accept", KEY)];
    origin.send(&Frame::headers(stream, &answer, false));
    let answer = client.answer();
    assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")));
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    let (stream, _, _) = origin.read_headers();
    let answer = [(":status", "200"), ("sec-websocket-accept", ACCEPT)];
    origin.send(&Frame::headers(stream, &answer, false));
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
    assert_eq!(head.matches(ACCEPT).count(), 1, "{head}");
}

/// It may have an HTTP/1.1 caller behind it who checks the answer.
#[test]
fn a_key_over_http2_is_answered_where_one_came() {
    let origin = RawOrigin::start(echo);
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    for (stream, key, accept) in [
        (1, Some(KEY), Some(ACCEPT)),
        (3, None, None),
        (5, Some("none"), None),
    ] {
        let mut fields = extended("/").to_vec();
        fields.extend(key.map(|key| ("sec-websocket-key", key)));
        client.send(&Frame::headers(stream, &fields, false));
        let (_, answer, _) = client.read_headers();
        assert_eq!(field(&answer, ":status"), Some("200"));
        assert_eq!(field(&answer, "sec-websocket-accept"), accept, "{key:?}");
    }
    // The server was asked by a key of ours.
    assert!(!origin.text(0).contains(KEY), "{}", origin.text(0));
}

#[test]
fn an_http2_server_may_decline() {
    let (listener, address) = listener();
    let weft = to(&address, ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    let mut origin = H2Peer::accept(&listener, ALLOWED);
    let (stream, _, _) = origin.read_headers();
    origin.send(&Frame::headers(
        stream,
        &[(":status", "404"), ("content-length", "2")],
        false,
    ));
    origin.send(&Frame::data(stream, "no", true));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (404, "no"));
    assert_upgrade(&weft, "declined");
}

#[test]
fn an_http2_server_that_does_not_allow_it_is_asked_over_http1() {
    let (listener, address) = listener();
    let weft = to(&address, ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(handshake());
    let mut origin = H2Peer::accept(&listener, &[]);
    let mut second = crate::harness::wait_for_connection(&listener);
    let mut buffer = [0; 4096];
    let count = second.read(&mut buffer).unwrap();
    let head = String::from_utf8_lossy(&buffer[..count]);
    assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\n"), "{head}");
    // Another call shows that no stream was opened before it.
    let mut other = RawClient::connect(&weft.outbound());
    other.send("GET /plain HTTP/1.1\r\nHost: chat\r\n\r\n");
    let (stream, fields, _) = origin.read_headers();
    assert_eq!((stream, field(&fields, ":path")), (1, Some("/plain")));
}

#[test]
fn http2_passes_from_end_to_end() {
    let (listener, address) = listener();
    let weft = to(&address, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &extended("/"), false));
    let mut origin = H2Peer::accept(&listener, ALLOWED);
    let (stream, fields, _) = origin.read_headers();
    assert_eq!(
        (field(&fields, ":method"), field(&fields, ":protocol")),
        (Some("CONNECT"), Some("websocket"))
    );
    origin.send(&Frame::headers(stream, &[(":status", "200")], false));
    assert_eq!(field(&client.read_headers().1, ":status"), Some("200"));
    client.send(&Frame::data(1, "there", false));
    assert_eq!(origin.read_kind(kind::DATA).payload, b"there");
    origin.send(&Frame::data(stream, "back", false));
    assert_eq!(client.read_kind(kind::DATA).payload, b"back");
    client.send(&Frame::reset(1, CANCEL));
    assert_eq!(origin.read_kind(kind::RST_STREAM).stream, stream);
    weft.wait_for_access(|line| line["reason"] == "client_gone");
}

#[test]
fn two_sidecars_speak_http2_between_them() {
    let origin = RawOrigin::start(echo);
    let near_app = Weft::start(&format!(
        "inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", ports: {{ {}: {{ protocol: http }} }} }}",
        origin.address(),
        origin.address().rsplit_once(':').unwrap().1
    ));
    let near_caller = to(&near_app.inbound(), ", protocol: http2");
    let mut clients: Vec<RawClient> = (0..3).map(|_| opened(&near_caller)).collect();
    for client in &mut clients {
        client.send("hello");
        client.read_until(b"hello");
    }
    near_app.assert_metric("weft_connections{direction=\"inbound\"}", 1.0);
    drop(clients);
    wait_until("the ends of all three", || {
        near_app
            .access_log()
            .iter()
            .filter(|line| line["status"] == 200)
            .count()
            == 3
    });
}

// How long

#[test]
fn a_tunnel_is_not_cut_for_being_idle() {
    let origin = RawOrigin::start(echo);
    let timers = ", timers: { head: 1s, idle: 1s, writeStall: 1s, bodyRate: { bytesPerSecond: 64, over: 1s } }";
    let weft = with(&origin.address(), "", timers);
    let mut tunnel = opened(&weft);
    let mut over_http2 = H2Peer::connect(&weft.outbound(), &[]);
    over_http2.send(&Frame::headers(1, &extended("/"), false));
    over_http2.read_headers();
    // Two connections that have nothing to say are closed one after the other: time enough.
    for _ in 0..2 {
        let mut idle = RawClient::connect(&weft.outbound());
        assert!(idle.is_closed_by_peer());
    }
    tunnel.send("x");
    tunnel.read_until(b"x");
    over_http2.send(&Frame::data(1, "y", false));
    assert_eq!(over_http2.read_kind(kind::DATA).payload, b"y");
}

#[test]
fn a_caller_that_takes_nothing_from_a_tunnel_is_cut() {
    let origin = RawOrigin::start(|connection| {
        accept(connection)?;
        loop {
            connection.write([7; 65_536])?;
        }
    });
    let weft = with(&origin.address(), "", ", timers: { writeStall: 1s }");
    let client = opened(&weft);
    let line = weft.wait_for_access(|line| line["path"] == "/chat");
    assert!(!line["reason"].is_null(), "{line}");
    weft.assert_metric("weft_connections_closed_total{rule=\"write_stall\"}", 1.0);
    drop(client);

    // Over HTTP/2 only the stream is.
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &extended("/2"), false));
    client.read_headers();
    let reset = client.read_kind(kind::RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
    client.send(&Frame::new(kind::PING, 0, 0, [1; 8]));
    client.read_kind(kind::PING);
}

#[test]
fn leaving_waits_for_tunnels_and_cuts_them_at_the_end_of_grace() {
    let origin = RawOrigin::start(echo);
    let mut weft = Weft::start(&format!(
        "
         workers: 1
         shutdown: {{ lameDuck: 100ms, grace: 5s }}
         outbound: {{ listen: \"127.0.0.1:0\" }}
         upstreams:
           chat: {{ endpoints: {{ static: [\"{}\"] }}, listen: \"127.0.0.1:0\" }}",
        origin.address()
    ));
    let mut client = opened(&weft);
    let mut over_http2 = H2Peer::connect(&weft.outbound(), &[]);
    over_http2.send(&Frame::headers(1, &extended("/2"), false));
    over_http2.read_headers();
    weft.term();
    weft.wait_for_log("leaving");
    client.send("x");
    client.read_until(b"x");
    over_http2.send(&Frame::data(1, "y", false));
    assert_eq!(over_http2.read_kind(kind::DATA).payload, b"y");
    assert!(client.is_closed_by_peer());
    assert_eq!(over_http2.read_kind(kind::RST_STREAM).stream, 1);
    assert!(weft.wait_for_exit().success());
    for path in ["/chat", "/2"] {
        let line = weft.wait_for_access(|line| line["path"] == path);
        assert_eq!(line["reason"], "draining");
    }
}

#[test]
fn a_second_signal_cuts_tunnels_at_once() {
    let origin = RawOrigin::start(echo);
    let mut weft = Weft::start(&format!(
        "
         workers: 1
         shutdown: {{ lameDuck: 1h, grace: 1h }}
         outbound: {{ listen: \"127.0.0.1:0\" }}
         upstreams:
           chat: {{ endpoints: {{ static: [\"{}\"] }}, listen: \"127.0.0.1:0\" }}",
        origin.address()
    ));
    let mut client = opened(&weft);
    weft.term();
    weft.wait_for_log("leaving");
    weft.signal(Signal::TERM);
    assert!(client.is_closed_by_peer());
    weft.wait_for_exit();
    let line = weft.wait_for_access(|line| line["path"] == "/chat");
    assert_eq!(line["reason"], "draining");
}

/// While a caller leaves its bytes unread, its callee is slowed and not our memory filled.
#[test]
fn a_slow_reader_slows_its_writer() {
    let origin = RawOrigin::start(|connection| {
        accept(connection)?;
        for _ in 0..2_000 {
            connection.write([7; 65_536])?;
        }
        connection.close_write()
    });
    let weft = to(&origin.address(), "");
    let mut clients: Vec<RawClient> = (0..4).map(|_| opened(&weft)).collect();
    wait_for("the flow to stand still", {
        let mut before = -1.0;
        let weft = &weft;
        move || {
            let now = weft.metric("weft_response_bytes_total");
            let still = now == before && now > 0.0;
            before = now;
            still.then_some(())
        }
    });
    // All at once: who is not read for long is given up.
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| assert_eq!(client.read_to_end().len(), 2_000 * 65_536));
        }
    });
    assert!(weft.peak_memory() < 100 << 20, "{}", weft.peak_memory());
}
