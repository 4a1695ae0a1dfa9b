//! HTTP/2 with prior knowledge and gRPC pass as they came, HTTP/1.1 and HTTP/2 stand in for each other, and what ends
//! on one side ends on the other.

use std::net::TcpListener;

use crate::harness::{
    Call, Frame, H2Peer, Origin, RawClient, RawOrigin, Reply, Weft, dead_address, flag,
    grpc_message, grpc_status, kind,
    parts::{self, GrpcAnswer, GrpcCall, GrpcServer, Nghttpd},
};

/// One upstream `payments` at `address`, with `more` of its keys.
fn to(address: &str, more: &str) -> Weft {
    Weft::start(&format!(
        "
         workers: 1
         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny }}
         upstreams:
           payments: {{ endpoints: {{ static: [\"{address}\"] }}, listen: \"127.0.0.1:0\"{more} }}"
    ))
}

fn head<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "payments"),
    ]
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str())
}

/// An origin under the test's hand, and its address.
fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

// Which version

#[test]
fn http2_is_told_by_its_preface_however_it_is_cut() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    let mut client = RawClient::connect(&weft.outbound());
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        client.send([*byte]);
    }
    client.send(Frame::settings(&[]).bytes());
    client.send(Frame::headers(1, &head("GET", "/"), true).bytes());
    // Our own SETTINGS come first, as a server's preface must.
    let first = client.read_until(&[0, 0, 0, 0]);
    assert_eq!(first[3], kind::SETTINGS);
    origin.wait_for_requests(1);
}

#[test]
fn auto_speaks_the_callers_version() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    Call::get("/1").host("payments").send(&weft.outbound());
    let url = format!("http://{}/2", weft.upstream("payments"));
    let out = parts::curl(&["--http2-prior-knowledge", "-w", "%{http_version}", &url]);
    assert_eq!(out.stdout, b"ok2");
    let versions: Vec<_> = origin.requests().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [http::Version::HTTP_11, http::Version::HTTP_2]);
}

#[test]
fn http1_callers_reach_an_http2_upstream() {
    let origin = Origin::start();
    let weft = to(&origin.address(), ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    let call = Call::post("/a?b=c", "body").header("connection", "keep-alive");
    for _ in 0..2 {
        assert_eq!(client.call(&call, "payments").text(), "ok");
    }
    let seen = origin.requests().remove(1);
    assert_eq!(seen.version, http::Version::HTTP_2);
    assert_eq!(seen.target, "http://payments/a?b=c");
    assert_eq!(
        (seen.text().as_str(), seen.header("connection")),
        ("body", None)
    );
    assert_eq!(origin.connections(), 1);
}

#[test]
fn http2_callers_reach_an_http1_upstream() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let mut fields = head("POST", "/a?b=c").to_vec();
    fields.extend([("cookie", "a=1"), ("cookie", "b=2")]);
    client.send(&Frame::headers(1, &fields, false));
    client.send(&Frame::data(1, "body", true));
    let (_, answer, _) = client.read_headers();
    assert_eq!(field(&answer, ":status"), Some("200"));
    assert!(
        field(&answer, "connection").is_none() && field(&answer, "transfer-encoding").is_none()
    );
    assert_eq!(client.read_body(1).0, b"ok");
    let got = origin.text(0);
    assert!(got.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{got}");
    assert!(got.contains("\r\nhost: payments\r\n"), "{got}");
    assert!(got.contains("\r\ncookie: a=1; b=2\r\n"), "{got}");
    assert!(got.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "{got}");
}

#[test]
fn nghttp2_speaks_with_itself_through_us() {
    let server = Nghttpd::start(&[]);
    std::fs::write(server.root().join("a"), vec![b'x'; 200_000]).unwrap();
    let weft = to(&server.address(), ", protocol: http2");
    let url = format!("http://{}/a", weft.upstream("payments"));
    assert_eq!(parts::nghttp(&[&url]).stdout.len(), 200_000);
    for version in [&[][..], &["--h1"]] {
        let load = [version, &["-n", "100", "-c", "2", &url][..]].concat();
        let told = parts::h2load(&load).stdout;
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("100 succeeded"), "{told}");
    }
}

#[test]
fn node_reaches_an_http2_upstream() {
    let server = Nghttpd::start(&[]);
    std::fs::write(server.root().join("a"), "file").unwrap();
    let weft = to(&server.address(), ", protocol: http2");
    let answers = parts::node_calls(&weft.outbound(), "payments", "/a", 6, 3);
    let good = |answer: &&serde_json::Value| answer["status"] == 200 && answer["body"] == "file";
    assert_eq!(answers.iter().filter(good).count(), 6, "{answers:?}");
}

#[test]
fn trailers_behind_a_length_do_not_make_an_answer_look_cut() {
    let origin = Origin::answering(|_| {
        Reply::ok("ok")
            .header("content-length", "2")
            .trailer("x-sum", "1")
    });
    let weft = to(&origin.address(), ", protocol: http2");
    let answer = Call::get("/t").host("payments").send(&weft.outbound());
    assert_eq!((answer.text().as_str(), answer.trailers.len()), ("ok", 0));
    let line = weft.wait_for_access(|line| line["path"] == "/t");
    assert!(line["reason"].is_null(), "{line}");
}

#[test]
fn interim_answers_over_http2_are_dropped_and_counted() {
    let (listener, address) = listener();
    let weft = to(&address, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &head("GET", "/"), true));
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    origin.send(&Frame::headers(
        stream,
        &[(":status", "103"), ("link", "</a>")],
        false,
    ));
    origin.send(&Frame::headers(stream, &[(":status", "204")], true));
    assert_eq!(field(&client.read_headers().1, ":status"), Some("204"));
    weft.assert_metric("weft_dropped_parts_total{part=\"interim\"}", 1.0);
}

#[test]
fn connect_over_http2_is_refused() {
    let origin = Origin::start();
    let weft = to(&origin.address(), "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(
        1,
        &[(":method", "CONNECT"), (":authority", "payments:80")],
        false,
    ));
    let (_, answer, _) = client.read_headers();
    assert_eq!(field(&answer, "x-weft-reason"), Some("connect_not_allowed"));
    assert_eq!(origin.connections(), 0);
}

// gRPC

/// The four kinds of call, and one that fails behind a message; through a sidecar with these keys of the upstream.
fn four_kinds(more: &str) {
    let server = GrpcServer::start();
    let weft = to(&server.address(), more);
    let call = |method: &str, messages: &[&str], metadata: &[(&str, &str)]| -> GrpcAnswer {
        let call = GrpcCall {
            method,
            authority: "payments",
            messages,
            metadata,
            deadline: Some(15.0),
        };
        parts::grpc(&weft.outbound(), &call)
    };
    let unary = call("Unary", &["a"], &[("x-test", "t")]);
    assert_eq!(
        (unary.code, unary.messages.clone()),
        (0, vec!["a".to_owned()]),
        "{unary:?}"
    );
    assert_eq!(unary.metadata("x-seen-test"), Some("t"));
    assert_eq!(unary.metadata("x-trailing"), Some("yes"));
    let told: u64 = unary.metadata("x-seen-deadline").unwrap().parse().unwrap();
    assert!(told <= 15_000, "{told}");
    assert_eq!(call("ClientStream", &["a", "b"], &[]).messages, ["a,b"]);
    assert_eq!(call("ServerStream", &["a,b"], &[]).messages, ["a", "b"]);
    // Each message waits for the one before to come back: both directions flow at once.
    assert_eq!(
        call("BiDi", &["a", "b", "c"], &[]).messages,
        ["a", "b", "c"]
    );
    let failed = call(
        "ServerStream",
        &["a,b"],
        &[("x-fail", "9"), ("x-fail-after", "1")],
    );
    assert_eq!((failed.code, failed.messages), (9, vec!["a".to_owned()]));
    assert_eq!(failed.details, "failed on purpose");
}

#[test]
fn grpc_passes_in_all_four_kinds() {
    four_kinds("");
}

#[test]
fn grpc_passes_to_an_upstream_that_is_said_to_be_grpc() {
    four_kinds(", protocol: grpc");
}

#[test]
fn grpc_callers_get_a_status_of_ours() {
    let weft = to(&dead_address(), "");
    let call = |authority| {
        let call = GrpcCall {
            method: "Unary",
            authority,
            messages: &["a"],
            metadata: &[],
            deadline: Some(15.0),
        };
        parts::grpc(&weft.outbound(), &call)
    };
    let nowhere = call("payments");
    assert_eq!(nowhere.code, 14, "{nowhere:?}");
    assert!(
        nowhere.details.contains("no usable endpoint for payments"),
        "{nowhere:?}"
    );
    let stranger = call("elsewhere");
    assert_eq!(stranger.code, 7, "{stranger:?}");
}

// Who goes away

const CANCEL: u32 = 8;

#[test]
fn a_reset_of_the_caller_resets_the_stream_upstream() {
    let (listener, address) = listener();
    let weft = to(&address, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &head("GET", "/"), true));
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    client.send(&Frame::reset(1, CANCEL));
    let reset = origin.read_kind(kind::RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (stream, CANCEL));
    let line = weft.wait_for_access(|line| line["reason"] == "client_gone");
    assert_eq!(line["upstream"], "payments");
}

#[test]
fn a_caller_that_closes_resets_the_stream_upstream_in_the_middle_of_an_answer() {
    let (listener, address) = listener();
    let weft = to(&address, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &head("GET", "/"), true));
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    origin.send(&Frame::headers(stream, &[(":status", "200")], false));
    client.read_headers();
    drop(client);
    assert_eq!(origin.read_kind(kind::RST_STREAM).stream, stream);
}

#[test]
fn a_reset_of_the_caller_closes_an_http1_connection_upstream() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.until_closed()
    });
    let weft = to(&origin.address(), ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &head("GET", "/1"), true));
    origin.wait_for_bytes(0, "\r\n\r\n");
    client.send(&Frame::reset(1, CANCEL));
    weft.wait_for_access(|line| line["reason"] == "client_gone");
    // Its place in the pool is not taken by it.
    client.send(&Frame::headers(3, &head("GET", "/2"), true));
    origin.wait_for_bytes(1, "GET /2");
    assert!(!origin.text(0).contains("/2"));
}

#[test]
fn an_http1_caller_that_leaves_resets_the_stream_upstream() {
    let (listener, address) = listener();
    let weft = to(&address, ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(Call::get("/").bytes("payments"));
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    drop(client);
    assert_eq!(origin.read_kind(kind::RST_STREAM).stream, stream);
}

#[test]
fn a_reset_upstream_in_the_middle_of_an_answer_resets_the_callers_stream_alone() {
    let (listener, address) = listener();
    let weft = to(&address, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &head("GET", "/1"), true));
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    origin.send(&Frame::headers(stream, &[(":status", "200")], false));
    client.read_headers();
    origin.send(&Frame::reset(stream, CANCEL));
    assert_eq!(client.read_kind(kind::RST_STREAM).stream, 1);
    client.send(&Frame::headers(3, &head("GET", "/2"), true));
    let (next, _, _) = origin.read_headers();
    origin.send(&Frame::headers(next, &[(":status", "204")], true));
    assert_eq!(client.read_headers().0, 3);
}

// A peer that allows ten streams

const MAX_CONCURRENT_STREAMS: u16 = 3;

fn ask(client: &mut H2Peer, count: u32) {
    for number in 0..count {
        client.send(&Frame::headers(1 + 2 * number, &head("GET", "/"), true));
    }
}

#[test]
fn beyond_ten_streams_another_connection_opens() {
    let (listener, address) = listener();
    let weft = to(&address, "");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    ask(&mut client, 25);
    let mut open = Vec::new();
    for expected in [10, 10, 5] {
        let mut origin = H2Peer::accept(&listener, &[(MAX_CONCURRENT_STREAMS, 10)]);
        for _ in 0..expected {
            origin.read_headers();
        }
        open.push(origin);
    }
    weft.assert_metric("weft_upstream_dials_total{result=\"connected\"}", 3.0);
    drop(open);
}

#[test]
fn beyond_the_limit_of_connections_requests_wait_and_are_counted() {
    let (listener, address) = listener();
    let weft = to(&address, ", limits: { connections: 1, pending: 5 }");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    // The first makes the connection known, so that the others do not wait for it.
    ask(&mut client, 1);
    let mut origin = H2Peer::accept(&listener, &[(MAX_CONCURRENT_STREAMS, 10)]);
    let (first, _, _) = origin.read_headers();
    for number in 1..16 {
        client.send(&Frame::headers(1 + 2 * number, &head("GET", "/"), true));
    }
    for _ in 1..10 {
        origin.read_headers();
    }
    // Ten are under way, five wait, one is too many.
    let (_, refused, _) = client.read_headers();
    assert_eq!(field(&refused, ":status"), Some("503"));
    assert_eq!(field(&refused, "x-weft-reason"), Some("pending_overflow"));
    weft.assert_metric("weft_breaker_rejections_total{limit=\"pending\"}", 1.0);
    // A stream that ends lets one go on.
    origin.send(&Frame::headers(first, &[(":status", "204")], true));
    assert_eq!(client.read_headers().0, 1);
    origin.read_headers();
}

#[test]
fn nghttpd_with_ten_streams_serves_a_hundred_at_once() {
    let server = Nghttpd::start(&["-m", "10"]);
    std::fs::write(server.root().join("a"), "file").unwrap();
    let weft = to(&server.address(), "");
    let url = format!("http://{}/a", weft.upstream("payments"));
    let told = parts::h2load(&["-n", "500", "-c", "1", "-m", "100", &url]).stdout;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("500 succeeded"), "{told}");
}

// The end of the grace

/// A call that has begun to answer and one that has not, when the grace of `yaml`'s sidecar is over.
fn told_unavailable(yaml: &str, listener: &TcpListener, door: fn(&Weft) -> String) {
    let mut weft = Weft::start(&format!(
        "{yaml}
         shutdown: {{ lameDuck: 10ms, grace: 200ms }}"
    ));
    let mut client = H2Peer::connect(&door(&weft), &[]);
    client.ask_grpc(1, "payments", &[], b"stream");
    let mut origin = H2Peer::accept(listener, &[]);
    let (stream, _, _) = origin.read_headers();
    let begin = [(":status", "200"), ("content-type", "application/grpc")];
    origin.send(&Frame::headers(stream, &begin, false));
    origin.send(&Frame::data(stream, grpc_message(b"one"), false));
    client.read_headers();
    client.read_kind(kind::DATA);
    client.ask_grpc(3, "payments", &[], b"unary");
    origin.read_headers();
    weft.term();
    let mut told = [client.read_headers(), client.read_headers()];
    told.sort_by_key(|(stream, _, _)| *stream);
    assert_eq!([told[0].0, told[1].0], [1, 3]);
    for (stream, fields, end) in &told {
        assert_eq!(
            (grpc_status(fields), *end),
            (Some(14), true),
            "stream {stream}: {fields:?}"
        );
    }
    assert!(weft.wait_for_exit().success());
}

#[test]
fn grpc_streams_are_told_unavailable_when_the_grace_is_over() {
    let (listener, address) = listener();
    let yaml = format!(
        "
         upstreams: {{ payments: {{ endpoints: {{ static: [\"{address}\"] }} }} }}"
    );
    told_unavailable(&yaml, &listener, Weft::outbound);
}

#[test]
fn inbound_grpc_streams_are_told_unavailable_as_well() {
    let (listener, address) = listener();
    let yaml = format!(
        "
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{address}\" }}"
    );
    told_unavailable(&yaml, &listener, Weft::inbound);
}

#[test]
fn grpc_streams_are_told_unavailable_at_a_second_signal() {
    let (listener, address) = listener();
    let mut weft = Weft::start(&format!(
        "
         shutdown: {{ lameDuck: 1h, grace: 1h }}
         upstreams: {{ payments: {{ endpoints: {{ static: [\"{address}\"] }} }} }}"
    ));
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.ask_grpc(1, "payments", &[], b"x");
    let mut server = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = server.read_headers();
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    server.send(&Frame::headers(stream, &head, false));
    client.read_headers();
    weft.term();
    weft.wait_for_log("leaving");
    weft.term();
    assert_eq!(grpc_status(&client.read_body(1).1), Some(14));
    weft.wait_for_exit();
}

#[test]
fn an_inbound_grpc_call_ends_at_its_deadline_which_shrinks() {
    let (listener, address) = listener();
    let weft = Weft::start(&format!(
        "
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{address}\" }}"
    ));
    let mut client = H2Peer::connect(&weft.inbound(), &[]);
    client.ask_grpc(1, "orders", &[("grpc-timeout", "2000m")], b"slow");
    let mut app = H2Peer::accept(&listener, &[]);
    let (stream, seen, _) = app.read_headers();
    let left = field(&seen, "grpc-timeout").expect("a deadline");
    let (digits, unit) = left.split_at(left.len() - 1);
    let nanos = digits.parse::<u64>().unwrap()
        * [("m", 1_000_000), ("u", 1_000), ("n", 1)]
            .into_iter()
            .find_map(|(name, scale)| (name == unit).then_some(scale))
            .unwrap_or_else(|| panic!("{left}"));
    assert!(nanos < 2_000_000_000, "{left}");
    assert_eq!(grpc_status(&client.read_headers().1), Some(4));
    assert_eq!(app.read_kind(kind::RST_STREAM).stream, stream);
}

/// A kernel accepts at once; the process behind it may be busy.
#[test]
fn an_application_may_take_its_time_to_open_http2() {
    let (listener, address) = listener();
    let weft = Weft::start(&format!(
        "
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{address}\" }}"
    ));
    let mut client = H2Peer::connect(&weft.inbound(), &[]);
    client.ask_grpc(1, "orders", &[], b"patient");
    client.ask_grpc(3, "orders", &[("grpc-timeout", "600m")], b"hasty");
    // Its end shows that time has passed.
    let (stream, hasty, _) = client.read_headers();
    assert_eq!((stream, grpc_status(&hasty)), (3, Some(4)));
    let mut app = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = app.read_headers();
    let answer = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "0"),
    ];
    app.send(&Frame::headers(stream, &answer, true));
    let (stream, patient, _) = client.read_headers();
    assert_eq!((stream, grpc_status(&patient)), (1, Some(0)));
}

#[test]
fn goaway_comes_in_two_steps_and_streams_end_in_peace() {
    let (listener, address) = listener();
    let mut weft = Weft::start(&format!(
        "
         upstreams: {{ payments: {{ endpoints: {{ static: [\"{address}\"] }} }} }}
         shutdown: {{ lameDuck: 10ms, grace: 15s }}"
    ));
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &head("GET", "/"), true));
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    weft.term();
    assert_eq!(
        client.read_kind(kind::GOAWAY).number(0) & 0x7fff_ffff,
        0x7fff_ffff
    );
    let ping = client.read_kind(kind::PING);
    client.send(&Frame::new(kind::PING, flag::ACK, 0, ping.payload));
    assert_eq!(client.read_kind(kind::GOAWAY).number(0), 1);
    origin.send(&Frame::headers(stream, &[(":status", "204")], true));
    assert_eq!(field(&client.read_headers().1, ":status"), Some("204"));
    assert!(weft.wait_for_exit().success());
}
