//! Server-sent events and long polling: each event passes as it comes, silence is no reason to cut, and who leaves is
//! missed at once.

use std::{io, net::TcpListener};

use crate::harness::{Frame, H2Peer, RawClient, RawConnection, RawOrigin, Weft, kind};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Every timer there is, and short.
const SHORT: &str =
    ", timers: { head: 1s, idle: 1s, writeStall: 1s, bodyRate: { bytesPerSecond: 64, over: 1s } }";

fn to(address: &str, more: &str, outbound: &str) -> Weft {
    Weft::start(&format!(
        "
         workers: 1
         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny{outbound} }}
         upstreams:
           news: {{ endpoints: {{ static: [\"{address}\"] }}, listen: \"127.0.0.1:0\"{more} }}"
    ))
}

fn event(connection: &mut RawConnection, text: &str) -> io::Result<()> {
    connection.write(format!("{:x}\r\ndata: {text}\n\n\r\n", text.len() + 8))
}

/// Sends an event for each byte that comes on its other connection, so that a test says when.
fn on_demand() -> RawOrigin {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    RawOrigin::start(move |connection| {
        let (head, _) = connection.read_request()?;
        if head.starts_with("POST /next ") {
            let _ = sender.send(());
            return connection.write("HTTP/1.1 204 No Content\r\n\r\n");
        }
        connection.write(STREAM)?;
        for number in 1.. {
            let next = receiver.lock().expect("no panic here").recv();
            if next.is_err() {
                break;
            }
            event(connection, &format!("event {number}"))?;
        }
        Ok(())
    })
}

fn next(origin: &RawOrigin) {
    let mut client = RawClient::connect(&origin.address());
    client.send("POST /next HTTP/1.1\r\nhost: news\r\ncontent-length: 0\r\n\r\n");
    client.answer();
}

/// Long enough for every timer of `SHORT` to have run out twice: two connections that have nothing to say are closed
/// one after the other.
fn timers_run_out(weft: &Weft) {
    for _ in 0..2 {
        assert!(RawClient::connect(&weft.outbound()).is_closed_by_peer());
    }
}

#[test]
fn each_event_passes_as_it_comes_whatever_the_silence() {
    let origin = on_demand();
    let weft = to(&origin.address(), "", SHORT);
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET /events HTTP/1.1\r\nhost: news\r\naccept: text/event-stream\r\n\r\n");
    client.read_until(b"\r\n\r\n");
    for number in 1..=2 {
        timers_run_out(&weft);
        next(&origin);
        client.read_until(format!("data: event {number}\n\n").as_bytes());
    }
}

#[test]
fn events_pass_over_http2_whatever_the_silence() {
    let origin = on_demand();
    let weft = to(&origin.address(), ", protocol: http1", SHORT);
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/events"),
        (":authority", "news"),
    ];
    client.send(&Frame::headers(1, &head, true));
    client.read_headers();
    for number in 1..=2 {
        timers_run_out(&weft);
        next(&origin);
        let said = client.read_kind(kind::DATA).payload;
        assert_eq!(said, format!("data: event {number}\n\n").into_bytes());
    }
}

#[test]
fn events_of_an_http2_server_pass_as_they_come() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let weft = to(
        &listener.local_addr().unwrap().to_string(),
        ", protocol: http2",
        SHORT,
    );
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET /events HTTP/1.1\r\nhost: news\r\n\r\n");
    let mut origin = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = origin.read_headers();
    let head = [(":status", "200"), ("content-type", "text/event-stream")];
    origin.send(&Frame::headers(stream, &head, false));
    client.read_until(b"\r\n\r\n");
    timers_run_out(&weft);
    origin.send(&Frame::data(stream, "data: late\n\n", false));
    client.read_until(b"data: late\n\n");
}

#[test]
fn a_long_poll_is_answered_when_there_is_something_to_say() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let weft = to(&address, "", SHORT);
    let mut client = RawClient::connect(&weft.outbound());
    client.send("POST /poll HTTP/1.1\r\nhost: news\r\ncontent-length: 2\r\n\r\n{}");
    let mut origin = crate::harness::wait_for_connection(&listener);
    timers_run_out(&weft);
    io::Write::write_all(
        &mut origin,
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnews",
    )
    .unwrap();
    assert_eq!(client.answer().text(), "news");
}

/// The one way in which a stream is bounded in time: somebody said so.
#[test]
fn a_time_that_is_set_ends_a_stream() {
    let origin = on_demand();
    let routes = ", routes: [{ name: r, hosts: [news], timeouts: { request: 2s } }]";
    let weft = to(&origin.address(), "", routes);
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET /events HTTP/1.1\r\nhost: news\r\n\r\n");
    client.read_until(b"\r\n\r\n");
    assert!(client.is_closed_by_peer());
    let line = weft.wait_for_access(|line| line["path"] == "/events");
    assert_eq!(line["reason"], "request_timeout");
}

#[test]
fn a_listener_that_leaves_is_missed_at_once() {
    let origin = RawOrigin::start(|connection| {
        connection.read_head()?;
        connection.write(STREAM)?;
        event(connection, "one")?;
        connection.until_closed()?;
        Err(io::ErrorKind::BrokenPipe.into())
    });
    let weft = to(&origin.address(), "", "");
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET /events HTTP/1.1\r\nhost: news\r\n\r\n");
    client.read_until(b"data: one\n\n");
    drop(client);
    weft.wait_for_access(|line| line["reason"] == "client_gone");
    weft.assert_metric("weft_connections{direction=\"outbound\"}", 0.0);
}
