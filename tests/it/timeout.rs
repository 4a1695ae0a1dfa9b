//! Timeouts: the whole call, one try, a connection; `grpc-timeout` as a deadline; and none that nobody set.

use std::{net::TcpStream, time::Duration};

use serde_json::Value;

use crate::harness::{
    Answer, Call, NEVER, Origin, RawClient, RawOrigin, Reply, Weft, grpc_call, wait_until,
};

fn start(endpoint: &str, upstream: &str, route: &str) -> Weft {
    Weft::start(&format!(
        r#"
        workers: 1
        outbound:
          listen: "127.0.0.1:0"
          routes:
            - {{ name: pay, hosts: [payments], backends: [{{ upstream: payments }}], {route} }}
        upstreams:
          payments: {{ endpoints: {{ static: ["{endpoint}"] }}, {upstream} }}
        "#
    ))
}

fn get(weft: &Weft) -> Answer {
    Call::get("/").host("payments").send(&weft.outbound())
}

/// Failures in a row that stand against the only endpoint.
fn failures(weft: &Weft) -> Value {
    weft.admin_get("/upstreams")[0]["endpoints"][0]["state"]["failuresInARow"].clone()
}

/// The status of a gRPC call with a `grpc-timeout`.
fn grpc(weft: &Weft, timeout: &str) -> Option<u16> {
    let timeout = [("grpc-timeout", timeout)];
    grpc_call(&weft.outbound(), "payments", &timeout, b"x").1
}

#[test]
fn a_call_ends_at_its_request_timeout() {
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let weft = start(&origin.address(), "", "timeouts: { request: 150ms }");
    let answer = get(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (504, Some("request_timeout"))
    );
    // It was the operator's patience.
    wait_until("the failure", || failures(&weft) == 1);
}

#[test]
fn all_tries_together_end_at_the_request_timeout() {
    let origin = Origin::answering(|_| Reply::status(503));
    let weft = start(
        &origin.address(),
        "outlier: { consecutiveFailures: 0 }",
        "timeouts: { request: 1s }, retry: { attempts: 100, conditions: [gateway], backoff: { base: 20s, max: 20s } }",
    );
    // A wait that would end behind the deadline is not begun: the answer passes.
    let wanted = "weft_retries_withheld_total{why=\"deadline\"}";
    wait_until("a retry to be withheld", || {
        assert!(matches!(get(&weft).status, 503 | 504));
        weft.metric(wanted) > 0.0
    });
}

#[test]
fn a_try_ends_at_its_own_timeout() {
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let weft = start(&origin.address(), "", "timeouts: { backendRequest: 150ms }");
    let answer = get(&weft);
    assert_eq!((answer.status, answer.reason()), (504, Some("try_timeout")));
    wait_until("the failure", || failures(&weft) == 1);
}

#[test]
fn a_body_may_take_longer_than_one_try_or_the_answer_of_a_stream() {
    let origin = RawOrigin::start(|connection| {
        connection.read_request()?;
        connection.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        connection.write("6\r\ndata:\n\r\n")?;
        // The caller asks for the rest on a way of its own, long behind the timeout.
        connection.until_closed()
    });
    let weft = start(&origin.address(), "", "timeouts: { backendRequest: 1s }");
    let mut slow = RawClient::connect(&weft.outbound());
    slow.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    slow.read_until(b"data:\n\r\n");
    // Another try that is cut shows that the time has passed, and more.
    let late = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let other = start(&late.address(), "", "timeouts: { backendRequest: 2s }");
    assert_eq!(get(&other).status, 504);
    assert!(slow.is_quiet(), "the stream was cut");
}

#[test]
fn a_stream_ends_at_the_request_timeout_where_it_is_set() {
    let origin = RawOrigin::start(|connection| {
        connection.read_request()?;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
        connection.until_closed()
    });
    let weft = start(&origin.address(), "", "timeouts: { request: 2s }");
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    let all = String::from_utf8_lossy(&client.read_to_end()).into_owned();
    assert!(
        all.contains("first") && !all.ends_with("0\r\n\r\n"),
        "{all}"
    );
}

#[test]
fn a_connection_that_is_not_accepted_ends_at_the_connect_timeout() {
    let deaf = Deaf::new();
    let weft = start(&deaf.address, "timeouts: { connect: 150ms }", "");
    let answer = get(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("connect_timeout"))
    );
}

/// A listener whose queue is full: the kernel drops what comes.
struct Deaf {
    address: String,
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl Deaf {
    fn new() -> Self {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queue.push(stream);
        }
        Deaf {
            address: address.to_string(),
            _listener: listener,
            _queue: queue,
        }
    }
}

#[test]
fn a_grpc_timeout_is_a_deadline_and_no_fault_of_the_callee() {
    let origin = Origin::answering(|_| Reply::grpc(b"late", 0).after(NEVER));
    let weft = start(&origin.address(), "protocol: grpc", "");
    assert_eq!(grpc(&weft, "150m"), Some(4));
    assert_eq!(failures(&weft), 0, "it was the caller's patience");
}

#[test]
fn a_grpc_timeout_shrinks_on_its_way() {
    let origin = Origin::answering(|_| Reply::grpc(b"ok", 0));
    let weft = start(&origin.address(), "protocol: grpc", "");
    assert_eq!(grpc(&weft, "20S"), Some(0));
    let said = told(&origin, 0);
    assert!(
        said > Duration::ZERO && said < Duration::from_secs(20),
        "{said:?}"
    );
}

#[test]
fn the_route_and_the_caller_share_the_shorter_deadline() {
    let origin = Origin::answering(|_| Reply::grpc(b"ok", 0));
    let weft = start(
        &origin.address(),
        "protocol: grpc",
        "timeouts: { request: 5s }",
    );
    assert_eq!(grpc(&weft, "20S"), Some(0));
    assert!(told(&origin, 0) < Duration::from_secs(5));
}

/// What the callee was told is left.
fn told(origin: &Origin, request: usize) -> Duration {
    let seen = &origin.requests()[request];
    let said = seen.header("grpc-timeout").expect("it is passed on");
    let (count, unit) = said.split_at(said.len() - 1);
    let count: u64 = count.parse().expect("digits");
    match unit {
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        other => panic!("an odd unit {other}"),
    }
}
