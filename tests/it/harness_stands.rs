//! What the stories stand on does what it says: each peer of the harness speaks with another one.

use std::{net::TcpListener, time::Duration};

use crate::harness::{
    Call, Frame, H2Peer, Origin, RawClient, RawOrigin, Reply, Weft, dead_address, flag,
    grpc_message, kind,
    parts::{self, GrpcCall, GrpcServer, Nghttpd, Nginx, NodeServer},
};

#[test]
fn an_origin_keeps_what_it_is_asked() {
    let origin = Origin::start();
    origin.next([Reply::status(503).header("retry-after", "1")]);
    let first = Call::post("/a?b=c", "body")
        .host("payments")
        .send(&origin.address());
    let second = Call::get("/").send(&origin.address());
    assert_eq!(
        (first.status, first.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!((second.status, second.text().as_str()), (200, "ok"));
    let seen = &origin.requests()[0];
    assert_eq!((seen.path(), seen.text().as_str()), ("/a", "body"));
    assert_eq!(seen.header("host"), Some("payments"));
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_origin_comes_back_on_its_address() {
    let mut origin = Origin::start();
    let address = origin.address();
    origin.stop();
    assert!(Call::get("/").try_send(&address).is_err());
    origin.start_again();
    assert_eq!(Call::get("/").send(&address).status, 200);
}

#[test]
fn an_origin_breaks_off_and_sends_trailers() {
    let origin = Origin::start();
    let broken = Reply::ok("half").header("content-length", "8").broken();
    let trailed = Reply::ok("all")
        .header("trailer", "x-sum")
        .trailer("x-sum", "3");
    origin.next([broken, trailed]);
    assert!(Call::get("/").try_send(&origin.address()).is_err());
    let answer = Call::get("/")
        .header("te", "trailers")
        .send(&origin.address());
    assert_eq!(answer.text(), "all");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "3".to_owned())]);
}

#[test]
fn an_origin_takes_its_time() {
    let origin = Origin::start();
    let wait = Duration::from_millis(50);
    origin.next([Reply::ok("late").after(wait)]);
    let begin = std::time::Instant::now();
    assert_eq!(Call::get("/").send(&origin.address()).text(), "late");
    assert!(begin.elapsed() >= wait);
}

#[test]
fn a_raw_origin_keeps_the_bytes() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let mut client = RawClient::connect(&origin.address());
    client.send("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer().text(), "hi");
    assert_eq!(client.answer().text(), "hi");
    assert!(client.is_quiet());
    assert_eq!(
        origin.text(0),
        "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"
    );
}

#[test]
fn a_raw_origin_follows_its_script() {
    let origin = RawOrigin::start(|connection| {
        connection.read_exact(3)?;
        connection.write("bye")
    });
    let mut client = RawClient::connect(&origin.address());
    client.send("abc");
    assert_eq!(client.read_to_end(), b"bye");
    assert_eq!(origin.wait_for_bytes(0, "abc"), "abc");
}

#[test]
fn frames_by_hand_pass_for_http2() {
    let origin = Origin::start();
    origin.next([Reply::grpc(b"pong", 0)]);
    let mut peer = H2Peer::connect(&origin.address(), &[]);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        (":authority", "payments"),
        ("content-type", "application/grpc"),
    ];
    peer.send(&Frame::headers(1, &fields, false));
    peer.send(&Frame::data(1, grpc_message(b"ping"), true));
    let (stream, head, end) = peer.read_headers();
    assert_eq!((stream, end), (1, false));
    assert!(
        head.contains(&(":status".to_owned(), "200".to_owned())),
        "{head:?}"
    );
    let (body, trailers) = peer.read_body(1);
    assert_eq!(body, grpc_message(b"pong"));
    assert!(trailers.contains(&("grpc-status".to_owned(), "0".to_owned())));
    assert_eq!(origin.requests()[0].body, grpc_message(b"ping"));
}

#[test]
fn frames_by_hand_serve_nghttp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let client = std::thread::spawn(move || parts::nghttp(&[&url]));
    let mut peer = H2Peer::accept(&listener, &[]);
    let (stream, request, end) = peer.read_headers();
    assert!(
        end && request.contains(&(":path".to_owned(), "/x".to_owned())),
        "{request:?}"
    );
    peer.send(&Frame::headers(stream, &[(":status", "200")], false));
    peer.send(&Frame::data(stream, "by hand", true));
    assert!(peer.read_kind(kind::GOAWAY).flags & flag::ACK == 0);
    assert_eq!(client.join().unwrap().stdout, b"by hand");
}

#[test]
fn nginx_serves_its_files() {
    let nginx = Nginx::start("location /fixed { return 418; }", "");
    std::fs::write(nginx.root().join("a"), "file").unwrap();
    assert_eq!(Call::get("/a").send(&nginx.address()).text(), "file");
    assert_eq!(Call::get("/fixed").send(&nginx.address()).status, 418);
    assert!(nginx.access_log().contains("GET /a"));
}

#[test]
fn nghttp2_speaks_with_itself() {
    let server = Nghttpd::start(&["-m", "10"]);
    std::fs::write(server.root().join("a"), "file").unwrap();
    let url = format!("http://{}/a", server.address());
    assert_eq!(parts::nghttp(&[&url]).stdout, b"file");
    let load = parts::h2load(&["-n", "20", "-c", "2", &url]).stdout;
    assert!(String::from_utf8_lossy(&load).contains("20 succeeded"));
}

#[test]
fn curl_calls_node() {
    let node = NodeServer::start();
    let url = format!("http://{}/p", node.address());
    let told = parts::curl(&["-d", "x=1", &url]).stdout;
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(
        (&told["method"], &told["body"]),
        (&"POST".into(), &"x=1".into())
    );
}

#[test]
fn node_calls_on_kept_connections() {
    let origin = Origin::start();
    let answers = parts::node_calls(&origin.address(), "payments", "/n", 6, 2);
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer["status"] == 200)
            .count(),
        6
    );
    assert_eq!(origin.connections(), 2);
    let refused = parts::node_calls(&dead_address(), "payments", "/n", 1, 1);
    assert!(refused[0]["error"].is_string(), "{refused:?}");
}

#[test]
fn grpcio_makes_all_four_kinds_of_call() {
    let server = GrpcServer::start();
    let call = |method: &str, messages: &[&str], metadata: &[(&str, &str)]| {
        let call = GrpcCall {
            method,
            authority: "echo",
            messages,
            metadata,
            deadline: Some(10.0),
        };
        parts::grpc(&server.address(), &call)
    };
    let unary = call("Unary", &["a"], &[("x-test", "t")]);
    assert_eq!((unary.code, unary.metadata("x-seen-test")), (0, Some("t")));
    assert_eq!(unary.messages, ["a"]);
    assert_eq!(call("ClientStream", &["a", "b"], &[]).messages, ["a,b"]);
    assert_eq!(call("ServerStream", &["a,b"], &[]).messages, ["a", "b"]);
    assert_eq!(
        call("BiDi", &["a", "b", "c"], &[]).messages,
        ["a", "b", "c"]
    );
    let failed = call(
        "ServerStream",
        &["a,b"],
        &[("x-fail", "14"), ("x-fail-after", "1")],
    );
    assert_eq!((failed.code, failed.messages), (14, vec!["a".to_owned()]));
}

#[test]
fn a_sidecar_starts_tells_its_addresses_and_forwards() {
    let origin = Origin::start();
    let mut weft = Weft::start(&format!(
        "
        upstreams:
          payments: {{ endpoints: {{ static: ['{}'] }}, listen: '127.0.0.1:0' }}
        ",
        origin.address()
    ));
    let answer = Call::get("/a").host("payments").send(&weft.outbound());
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(Call::get("/b").send(&weft.upstream("payments")).status, 200);
    weft.wait_for_access(|line| line["path"] == "/b");
    assert_eq!(weft.metric("weft_build_info"), 1.0);
    weft.kill9();
    weft.restart();
    assert_eq!(Call::get("/c").send(&weft.upstream("payments")).status, 200);
    weft.reload("upstreams: {}");
    weft.term();
    assert!(weft.wait_for_exit().success());
}

#[test]
fn a_sidecar_that_cannot_start_says_why() {
    let Err(failed) = Weft::try_start("outboundd: {}", &[]) else {
        panic!("it started")
    };
    assert!(failed.status.is_some_and(|status| !status.success()));
    assert!(failed.stderr.contains("outboundd"), "{}", failed.stderr);
}
