//! What comes in by Host, by an absolute form, by CONNECT or on an upstream's own port goes where the file says, over
//! HTTP/1.1, and loses nothing that HTTP/1.1 can carry.

use std::{
    io::Write,
    net::TcpStream,
    sync::{Mutex, mpsc},
};

use crate::harness::{
    Answer, Call, Origin, RawClient, RawOrigin, Reply, Weft, dead_address,
    parts::{self, Nginx, NodeServer},
    wait_for, wait_until,
};

/// One upstream `payments` at `address`, with a port of its own; strangers are refused.
fn to(address: &str) -> Weft {
    Weft::start(&format!(
        "\n         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny }}
         upstreams:
           payments: {{ endpoints: {{ static: [\"{address}\"] }}, listen: \"127.0.0.1:0\" }}"
    ))
}

/// `to` with these routes, in YAML's flow style.
fn with_routes(address: &str, routes: &str) -> Weft {
    Weft::start(&format!(
        "\n         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny, routes: [{routes}] }}
         upstreams:
           payments: {{ endpoints: {{ static: [\"{address}\"] }}, listen: \"127.0.0.1:0\" }}"
    ))
}

fn get(weft: &Weft, path: &str) -> Answer {
    Call::get(path).host("payments").send(&weft.outbound())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

// Connections

#[test]
fn connections_are_kept_on_both_sides() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    for _ in 0..3 {
        assert_eq!(client.call(&Call::get("/"), "payments").status, 200);
    }
    assert!(client.is_quiet());
    assert_eq!((origin.count(), origin.connections()), (3, 1));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::answering(|seen| Reply::ok(seen.path().to_owned()));
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    let calls = [Call::get("/1"), Call::post("/2", "body"), Call::get("/3")];
    let bytes: Vec<u8> = calls
        .iter()
        .flat_map(|call| call.bytes("payments"))
        .collect();
    client.send(bytes);
    let answers: Vec<String> = calls.iter().map(|_| client.answer().text()).collect();
    assert_eq!(answers, ["/1", "/2", "/3"]);
    assert_eq!(origin.requests()[1].text(), "body");
}

#[test]
fn a_client_of_http_1_0_gets_its_body_until_the_close() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.0\r\nhost: payments\r\n\r\n");
    let all = String::from_utf8(client.read_to_end()).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 ") && !head.contains("chunked"), "{all}");
    assert_eq!(body, "ok");
    assert!(origin.text(0).starts_with("GET / HTTP/1.1\r\n"));
}

#[test]
fn a_client_of_http_1_0_may_keep_its_connection() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nhost: payments\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().text(), "ok");
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn node_calls_node() {
    let node = NodeServer::start();
    let weft = to(&node.address());
    let answers = parts::node_calls(&weft.outbound(), "payments", "/n?q=1", 8, 2);
    for answer in &answers {
        assert_eq!(answer["status"], 200, "{answer}");
        let told: serde_json::Value =
            serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(told["url"], "/n?q=1");
    }
}

#[test]
fn a_client_that_leaves_closes_the_connection_upstream() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.until_closed()?;
        connection.write("unheard")
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    origin.wait_for_bytes(0, "\r\n\r\n");
    drop(client);
    let line = weft.wait_for_access(|line| line["reason"] == "client_gone");
    assert_eq!(line["status"].as_u64().unwrap_or(499), 499, "{line}");
    weft.assert_metric("weft_connections{direction=\"outbound\"}", 0.0);
}

// Bodies

#[test]
fn chunks_pass_both_ways() {
    let origin = RawOrigin::start(|connection| {
        connection.read_request()?;
        connection.write(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        )?;
        connection.until_closed()
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n2;ext\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(answer.text(), "abcd");
    assert_eq!(answer.headers_named("transfer-encoding"), ["chunked"]);
    assert_eq!(answer.header("content-length"), None);
    let got = origin.text(0);
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\ntransfer-encoding: chunked"), "{got}");
    assert!(!head.contains("content-length"), "{got}");
    assert!(
        !body.contains("ext") && body.ends_with("0\r\n\r\n"),
        "{got}"
    );
}

#[test]
fn a_body_of_a_length_keeps_its_length() {
    let origin = RawOrigin::answering(OK);
    let weft = to(&origin.address());
    let answer = Call::post("/", "12345")
        .host("payments")
        .send(&weft.outbound());
    assert_eq!(answer.header("content-length"), Some("2"));
    let got = origin.text(0);
    assert!(
        got.contains("\r\ncontent-length: 5\r\n") && got.ends_with("\r\n\r\n12345"),
        "{got}"
    );
}

/// Events that a server sends are worth little at the end of the answer.
#[test]
fn each_piece_of_a_body_passes_before_the_next_is_there() {
    let origin = RawOrigin::start(|connection| {
        connection.read_until(b"one\r\n")?;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nein\r\n")?;
        connection.read_until(b"two\r\n0\r\n\r\n")?;
        connection.write("4\r\nzwei\r\n0\r\n\r\n")
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        "POST / HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
    );
    client.read_until(b"ein");
    client.send("3\r\ntwo\r\n0\r\n\r\n");
    client.read_until(b"zwei");
}

#[test]
fn announced_trailers_pass_both_ways() {
    let origin = RawOrigin::start(|connection| {
        connection.read_until(b"x-sum: 9\r\n\r\n")?;
        connection.write(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-back\r\n\r\n2\r\nok\r\n0\r\nx-back: 7\r\n\r\n",
        )?;
        connection.until_closed()
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        "POST / HTTP/1.1\r\nhost: payments\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
         1\r\na\r\n0\r\nx-sum: 9\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(answer.trailers, [("x-back".to_owned(), "7".to_owned())]);
    assert!(origin.text(0).contains("\r\ntrailer: x-sum\r\n"));
    assert_eq!(
        weft.metric("weft_dropped_parts_total{part=\"trailers\"}"),
        0.0
    );
}

#[test]
fn unannounced_trailers_are_dropped_and_counted() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-back: 7\r\n\r\n",
    );
    let weft = to(&origin.address());
    let answer = Call::get("/")
        .host("payments")
        .header("te", "trailers")
        .send(&weft.outbound());
    assert_eq!(
        (answer.text(), answer.trailers),
        ("ok".to_owned(), Vec::new())
    );
    weft.assert_metric("weft_dropped_parts_total{part=\"trailers\"}", 1.0);
}

#[test]
fn interim_answers_are_dropped_and_counted() {
    let origin = RawOrigin::answering(format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{OK}"
    ));
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    let got = client.read_until(b"\r\n\r\nok");
    assert!(
        got.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&got)
    );
    weft.assert_metric("weft_dropped_parts_total{part=\"interim\"}", 1.0);
}

#[test]
fn head_says_what_get_would_and_has_no_body() {
    let origin = RawOrigin::start(|connection| {
        loop {
            connection.read_head()?;
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")?;
        }
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: payments\r\n\r\n");
        let answer = client.answer_to("HEAD");
        assert_eq!(answer.header("content-length"), Some("1000"));
    }
    assert!(client.is_quiet());
    assert_eq!(origin.connections(), 1);
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::answering(|seen| Reply::status(seen.path()[1..].parse().unwrap()));
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    for status in [204, 304] {
        client.send(Call::get(&format!("/{status}")).bytes("payments"));
        let head = client.read_until(b"\r\n\r\n");
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
    assert!(client.is_quiet());
    assert_eq!(origin.connections(), 1);
}

#[test]
fn nginx_is_understood() {
    let nginx = Nginx::start("location = /none { return 204; }", "");
    std::fs::write(nginx.root().join("a"), vec![b'x'; 300_000]).unwrap();
    let weft = to(&nginx.address());
    let mut client = RawClient::connect(&weft.outbound());
    let whole = client.call(&Call::get("/a"), "payments");
    assert_eq!((whole.status, whole.body.len()), (200, 300_000));
    let part = client.call(&Call::get("/a").header("range", "bytes=10-19"), "payments");
    assert_eq!((part.status, part.body.len()), (206, 10));
    let tag = whole.header("etag").unwrap().to_owned();
    let same = client.call(&Call::get("/a").header("if-none-match", &tag), "payments");
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(client.call(&Call::get("/none"), "payments").status, 204);
    assert_eq!(client.call(&Call::get("/gone"), "payments").status, 404);
}

// Expect: 100-continue

#[test]
fn a_body_is_asked_for_once_a_connection_is_there() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n",
    );
    assert_eq!(
        client.read_until(b"\r\n\r\n"),
        b"HTTP/1.1 100 Continue\r\n\r\n"
    );
    wait_until("the connection that waits for the body", || {
        origin.connections() == 1
    });
    client.send("body");
    assert_eq!(client.answer().status, 200);
    let seen = &origin.requests()[0];
    assert_eq!(
        (seen.text().as_str(), seen.header("expect")),
        ("body", None)
    );
}

#[test]
fn a_body_that_nobody_would_take_is_not_asked_for() {
    let weft = to(&dead_address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n",
    );
    let got = client.read_until(b"\r\n\r\n");
    assert!(
        got.starts_with(b"HTTP/1.1 503"),
        "{}",
        String::from_utf8_lossy(&got)
    );
}

#[test]
fn curl_uploads_after_100_continue() {
    let node = NodeServer::start();
    let weft = to(&node.address());
    let body = "b".repeat(2_000_000);
    let file = weft.path().join("body");
    std::fs::write(&file, &body).unwrap();
    let out = parts::curl(&[
        "-H",
        "host: payments",
        "-H",
        "expect: 100-continue",
        "--data-binary",
        &format!("@{}", file.display()),
        &format!("http://{}/up", weft.outbound()),
    ]);
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told["body"].as_str().map(str::len), Some(body.len()));
}

#[test]
fn other_expectations_are_refused() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let answer = Call::get("/")
        .host("payments")
        .header("expect", "a-miracle")
        .send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (417, Some("expectation_failed"))
    );
    assert_eq!(origin.count(), 0);
}

// Ways in

#[test]
fn clients_of_a_proxy_are_understood() {
    let origin = RawOrigin::answering(OK);
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(
        "GET http://payments/a?b=c HTTP/1.1\r\nhost: payments\r\nproxy-connection: keep-alive\r\nproxy-authorization: Basic eA==\r\n\r\n",
    );
    assert_eq!(client.answer().text(), "ok");
    let got = origin.text(0);
    assert!(got.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{got}");
    assert!(
        got.contains("\r\nhost: payments\r\n") && !got.contains("proxy-"),
        "{got}"
    );
}

#[test]
fn curl_takes_us_for_its_proxy() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let proxy = format!("http://{}", weft.outbound());
    let out = parts::curl(&["-x", &proxy, "http://payments/a"]);
    assert_eq!(out.stdout, b"ok");
    let out = parts::curl(&["-x", &proxy, "--proxytunnel", "http://payments/b"]);
    assert_eq!(out.stdout, b"ok");
    let paths: Vec<String> = origin
        .requests()
        .iter()
        .map(|seen| seen.target.clone())
        .collect();
    assert_eq!(paths, ["/a", "/b"]);
}

#[test]
fn a_tunnel_passes_bytes_both_ways_until_both_sides_end() {
    let origin = RawOrigin::start(|connection| {
        connection.write("hello")?;
        connection.read_exact(3)?;
        connection.write("bye")?;
        connection.close_write()?;
        connection.until_closed()
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("CONNECT payments:443 HTTP/1.1\r\nhost: payments:443\r\n\r\n");
    assert_eq!(client.answer_to("CONNECT").status, 200);
    assert_eq!(client.read_until(b"hello"), b"hello");
    client.send("abc");
    assert_eq!(client.read_to_end(), b"bye");
    client.send("after the other side's end");
    client.close_write();
    origin.wait_for_bytes(0, "after the other side's end");
}

/// A client that does not wait for our answer sends for the tunnel, not for us.
#[test]
fn what_follows_a_connect_goes_through_its_tunnel() {
    let origin = RawOrigin::start(|connection| connection.until_closed());
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send(format!(
        "CONNECT payments:80 HTTP/1.1\r\nhost: payments:80\r\n\r\n{}",
        "GET / HTTP/1.1\r\n\r\n"
    ));
    assert_eq!(client.answer_to("CONNECT").status, 200);
    assert_eq!(
        origin.wait_for_bytes(0, "\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n"
    );
}

#[test]
fn a_tunnel_to_a_stranger_is_refused_where_strangers_are() {
    let origin = RawOrigin::answering(OK);
    let weft = to(&dead_address());
    let answer = Call::new("CONNECT", &origin.address()).try_send(&weft.outbound());
    let answer = answer.expect("an answer");
    assert_eq!(
        (answer.status, answer.reason()),
        (403, Some("unknown_host"))
    );
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_refused_tunnel_leaves_the_connection_usable() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    client.send("CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n");
    assert_eq!(client.answer_to("CONNECT").status, 403);
    assert_eq!(client.call(&Call::get("/"), "payments").status, 200);
}

#[test]
fn a_tunnel_to_a_stranger_passes_where_strangers_do() {
    let origin = RawOrigin::start(|connection| connection.write("hello"));
    let weft = Weft::start("");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(format!(
        "CONNECT {0} HTTP/1.1\r\nhost: {0}\r\n\r\n",
        origin.address()
    ));
    assert_eq!(client.answer_to("CONNECT").status, 200);
    assert_eq!(client.read_to_end(), b"hello");
}

#[test]
fn an_upstreams_own_port_needs_no_host() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let own = weft.upstream("payments");
    // The address that was dialled says nothing to the callee.
    assert_eq!(Call::get("/a").send(&own).status, 200);
    // A name does.
    assert_eq!(Call::get("/b").host("pay.example").send(&own).status, 200);
    let hosts: Vec<_> = origin
        .requests()
        .iter()
        .map(|seen| seen.header("host").unwrap().to_owned())
        .collect();
    assert_eq!(hosts, ["payments", "pay.example"]);
}

#[test]
fn strangers_pass_by_address_and_by_name() {
    let origin = Origin::start();
    let weft = Weft::start("");
    let by_address = Call::get("/a")
        .host(&origin.address())
        .send(&weft.outbound());
    let name = format!("localhost:{}", origin.port());
    let by_name = Call::get("/b").host(&name).send(&weft.outbound());
    assert_eq!((by_address.status, by_name.status), (200, 200));
    assert_eq!(origin.requests()[1].header("host"), Some(&name[..]));
}

#[test]
fn strangers_are_refused_where_the_file_says_so() {
    let origin = Origin::start();
    let weft = to(&dead_address());
    let answer = Call::get("/")
        .host(&origin.address())
        .send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (403, Some("unknown_host"))
    );
    assert!(
        answer.text().contains("outbound.unknown"),
        "{}",
        answer.text()
    );
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_target_that_is_ourselves_is_refused() {
    let weft = Weft::start("");
    for own in [
        weft.outbound(),
        weft.inbound(),
        weft.admin(),
        weft.metrics_address(),
    ] {
        let answer = Call::get("/").host(&own).send(&weft.outbound());
        assert_eq!(
            (answer.status, answer.reason()),
            (508, Some("loop")),
            "{own}"
        );
        let answer = Call::new("CONNECT", &own)
            .try_send(&weft.outbound())
            .unwrap();
        assert_eq!(answer.reason(), Some("loop"), "CONNECT {own}");
    }
    let name = weft.outbound().replace("127.0.0.1", "localhost");
    let answer = Call::get("/").host(&name).send(&weft.outbound());
    assert_eq!(
        (answer.status, answer.reason()),
        (508, Some("loop")),
        "{name}"
    );
}

/// An upstream whose endpoint we are would call itself for ever.
#[test]
fn an_endpoint_that_is_ourselves_is_refused() {
    let mut weft = to(&dead_address());
    // Port 0 hides it from the check of the file.
    let own = weft.outbound();
    weft.reload(&format!(
        "
         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny }}
         upstreams:
           payments: {{ endpoints: {{ static: [\"{own}\"] }}, listen: \"127.0.0.1:0\" }}"
    ));
    assert_eq!(weft.outbound(), own);
    let answer = get(&weft, "/");
    assert_eq!(
        (answer.status, answer.reason()),
        (508, Some("loop")),
        "{}",
        answer.text()
    );
}

// Upgrades

#[test]
fn an_upgrade_to_what_no_route_passes_is_refused_and_the_connection_stays() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    let call = Call::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "spdy/3.1");
    let answer = client.call(&call, "payments");
    assert_eq!(
        (answer.status, answer.reason()),
        (501, Some("upgrade_refused"))
    );
    assert_eq!(client.call(&Call::get("/"), "payments").status, 200);
    assert_eq!(origin.count(), 1);
}

/// Java's HttpClient offers h2c with every first request, and is content with HTTP/1.1.
#[test]
fn an_offer_of_h2c_is_passed_over() {
    let origin = RawOrigin::answering(OK);
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    let call = Call::post("/", "body")
        .header("connection", "Upgrade, HTTP2-Settings")
        .header("upgrade", "h2c")
        .header(
            "http2-settings",
            "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
        );
    for _ in 0..2 {
        let answer = client.call(&call, "payments");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    let got = origin.text(0).to_lowercase();
    assert!(
        !got.contains("upgrade") && !got.contains("h2c") && !got.contains("http2"),
        "{got}"
    );
}

#[test]
fn curl_that_offers_h2c_is_answered() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let url = format!("http://{}/", weft.upstream("payments"));
    assert_eq!(parts::curl(&["--http2", &url]).stdout, b"ok");
    assert_eq!(origin.requests()[0].header("upgrade"), None);
}

// Filters

#[test]
fn request_headers_are_changed_by_the_route() {
    let origin = Origin::start();
    let weft = with_routes(
        &origin.address(),
        "{ name: r, hosts: [payments], filters: [{ requestHeaderModifier: { set: { x-set: new }, add: { x-add: more }, remove: [x-gone] } }] }",
    );
    Call::get("/")
        .host("payments")
        .header("x-set", "old")
        .header("x-add", "some")
        .header("x-gone", "1")
        .send(&weft.outbound());
    let seen = &origin.requests()[0];
    let all = |name: &str| -> Vec<&str> {
        let named = seen.headers.iter().filter(|(found, _)| found == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(all("x-set"), ["new"]);
    assert_eq!(all("x-add"), ["some", "more"]);
    assert!(all("x-gone").is_empty());
}

#[test]
fn answer_headers_are_changed_by_the_route() {
    let origin = Origin::answering(|_| {
        Reply::ok("ok")
            .header("server", "app")
            .header("x-set", "old")
    });
    let weft = with_routes(
        &origin.address(),
        "{ name: r, hosts: [payments], filters: [{ responseHeaderModifier: { set: { x-set: new }, add: { x-add: more }, remove: [server] } }] }",
    );
    let answer = get(&weft, "/");
    assert_eq!(answer.headers_named("x-set"), ["new"]);
    assert_eq!(answer.header("x-add"), Some("more"));
    assert_eq!(answer.header("server"), None);
}

#[test]
fn host_and_path_are_rewritten_by_the_route() {
    let origin = Origin::start();
    let weft = with_routes(
        &origin.address(),
        "{ name: p, hosts: [payments], matches: [{ path: { prefix: /old } }], backends: [{ upstream: payments }],
           filters: [{ urlRewrite: { hostname: pay.internal, path: { replacePrefixMatch: /new } } }] },
         { name: f, hosts: [payments], backends: [{ upstream: payments }], filters: [{ urlRewrite: { path: { replaceFullPath: /all } } }] }",
    );
    get(&weft, "/old/a?q=1");
    get(&weft, "/x?q=2");
    let seen = origin.requests();
    assert_eq!(
        (&seen[0].target[..], seen[0].header("host")),
        ("/new/a?q=1", Some("pay.internal"))
    );
    assert_eq!(
        (&seen[1].target[..], seen[1].header("host")),
        ("/all?q=2", Some("payments"))
    );
}

#[test]
fn a_redirect_asks_no_upstream() {
    let origin = Origin::start();
    let weft = with_routes(
        &origin.address(),
        "{ name: r, hosts: [payments], filters: [{ requestRedirect: { scheme: https, hostname: docs.example.com, path: { replaceFullPath: /new }, statusCode: 308 } }] }",
    );
    let answer = get(&weft, "/old?q=1");
    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.header("location"),
        Some("https://docs.example.com/new?q=1")
    );
    assert_eq!(origin.connections(), 0);
}

// Marks

#[test]
fn a_request_without_an_id_gets_one() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    get(&weft, "/made");
    let made = origin.requests()[0]
        .header("x-request-id")
        .expect("an id")
        .to_owned();
    let line = weft.wait_for_access(|line| line["path"] == "/made");
    assert_eq!(line["request_id"], made.as_str());
    get(&weft, "/made");
    assert_ne!(origin.requests()[1].header("x-request-id"), Some(&made[..]));
}

#[test]
fn ids_and_traces_pass_as_they_are() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let origin = Origin::start();
    let weft = to(&origin.address());
    Call::get("/traced")
        .host("payments")
        .header("x-request-id", "mine")
        .header("traceparent", TRACE)
        .send(&weft.outbound());
    let seen = &origin.requests()[0];
    assert_eq!(seen.header("x-request-id"), Some("mine"));
    assert_eq!(seen.header("traceparent"), Some(TRACE));
    let line = weft.wait_for_access(|line| line["path"] == "/traced");
    assert_eq!(
        (&line["request_id"], &line["traceparent"]),
        (&"mine".into(), &TRACE.into())
    );
}

#[test]
fn a_call_that_is_refused_has_an_id_and_its_trace_in_the_log() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let weft = to(&dead_address());
    let cases = [
        ("no host of ours", "GET / HTTP/1.1\r\nhost: nobody\r\n"),
        ("two hosts", "GET http://a/ HTTP/1.1\r\nhost: b\r\n"),
        (
            "a head that hyper never sees",
            "GET / HTTP/1.1\r\nhost: payments\r\nx y: 1\r\n",
        ),
    ];
    for (number, (what, head)) in cases.into_iter().enumerate() {
        let mut client = RawClient::connect(&weft.outbound());
        client.send(format!("{head}TraceParent: {TRACE}\r\n\r\n"));
        assert!(client.answer().status >= 400, "{what}");
        let line = wait_for("its line", || weft.access_log().into_iter().nth(number));
        assert_eq!(line["traceparent"], TRACE, "{what}");
        let id = line["request_id"].as_str().unwrap_or_default();
        assert_eq!(id.len(), 32, "{what}: {line}");
    }
}

// Inbound

#[test]
fn inbound_goes_to_the_application() {
    let app = Origin::start();
    let weft = Weft::start(&format!(
        "inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}",
        app.address()
    ));
    let answer = Call::post("/in", "body")
        .host("orders")
        .send(&weft.inbound());
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let seen = &app.requests()[0];
    assert_eq!(
        (seen.header("host"), seen.text().as_str()),
        (Some("orders"), "body")
    );
    assert!(seen.header("x-request-id").is_some());
}

#[test]
fn an_inbound_port_has_its_own_listener_and_application() {
    let (app, other) = (Origin::start(), Origin::answering(|_| Reply::ok("other")));
    let weft = Weft::start(&format!(
        "\n         inbound:
           listen: \"127.0.0.1:0\"
           app: \"{}\"
           ports: {{ 7000: {{ listen: \"127.0.0.1:0\", app: \"{}\" }} }}",
        app.address(),
        other.address()
    ));
    assert_eq!(
        Call::get("/")
            .send(&weft.address("inbound.ports.7000"))
            .text(),
        "other"
    );
    assert_eq!(Call::get("/").send(&weft.inbound()).text(), "ok");
}

#[test]
fn an_inbound_port_speaks_its_protocol() {
    let app = Origin::start();
    let weft = Weft::start(&format!(
        "
         inbound:
           listen: \"127.0.0.1:0\"
           app: \"{0}\"
           ports: {{ 7000: {{ listen: \"127.0.0.1:0\", app: \"{0}\", protocol: http2 }} }}",
        app.address()
    ));
    Call::get("/").send(&weft.address("inbound.ports.7000"));
    Call::get("/").send(&weft.inbound());
    let versions: Vec<_> = app.requests().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [http::Version::HTTP_2, http::Version::HTTP_11]);
}

#[test]
fn inbound_without_an_application_says_so() {
    let weft = Weft::start("");
    let answer = Call::get("/").send(&weft.inbound());
    assert_eq!((answer.status, answer.reason()), (503, Some("no_app")));
}

#[test]
fn inbound_tunnels_nothing() {
    let origin = RawOrigin::answering(OK);
    let weft = Weft::start("");
    let answer = Call::new("CONNECT", &origin.address())
        .try_send(&weft.inbound())
        .unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (403, Some("connect_not_allowed"))
    );
    assert_eq!(origin.connections(), 0);
}

/// Bytes may come as slowly as a terminal types them.
#[test]
fn a_request_may_come_byte_by_byte() {
    let origin = Origin::start();
    let weft = to(&origin.address());
    let mut stream = TcpStream::connect(weft.outbound()).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in Call::post("/slow", "body").bytes("payments") {
        stream.write_all(&[byte]).unwrap();
    }
    let seen = origin.wait_for_requests(1);
    assert_eq!(seen[0].text(), "body");
}

/// The pool never hands out a connection that the other side has closed.
#[test]
fn a_pooled_connection_that_was_closed_is_not_used() {
    let (closed, heard) = mpsc::channel();
    let closed = Mutex::new(closed);
    let origin = RawOrigin::start(move |connection| {
        connection.read_request()?;
        connection.write(OK)?;
        connection.close_write()?;
        // The test may be over.
        let _ = closed.lock().expect("no panic here").send(());
        connection.until_closed()
    });
    let weft = to(&origin.address());
    let mut client = RawClient::connect(&weft.outbound());
    for _ in 0..3 {
        // POST: it would not be tried again.
        let answer = client.call(&Call::post("/", "x"), "payments");
        assert_eq!(answer.status, 200, "{}", answer.text());
        heard.recv().unwrap();
    }
    assert_eq!(origin.connections(), 3);
}
