//! HTTP/2 in bad faith or in no hurry: what floods ends with its connection, what stalls with its stream, and memory
//! stays where it was. `hardening` has the floods of callers.

use std::{
    net::TcpListener,
    sync::{Mutex, mpsc},
};

use crate::harness::{Call, Frame, H2Peer, Origin, RawClient, RawOrigin, Reply, Weft, block, kind};

const SHORT: &str =
    ", timers: { head: 1s, idle: 1s, bodyRate: { bytesPerSecond: 64, over: 1s }, writeStall: 1s }";

/// One upstream `payments`, with `outbound`'s and the upstream's further keys.
fn started(address: &str, outbound: &str, upstream: &str) -> Weft {
    Weft::start(&format!(
        "
         outbound: {{ listen: \"127.0.0.1:0\", unknown: deny{outbound} }}
         upstreams:
           payments: {{ endpoints: {{ static: [\"{address}\"] }}{upstream} }}"
    ))
}

fn get(path: &str) -> [(&str, &str); 4] {
    [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "payments"),
    ]
}

/// What is fatal to an HTTP/2 connection upstream: these frames, over and over. True when we close it.
fn upstream_is_cut(before: &[Frame], frames: impl Fn(u32) -> Vec<u8>) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let weft = started(
        &listener.local_addr().unwrap().to_string(),
        "",
        ", protocol: http2",
    );
    let mut client = RawClient::connect(&weft.outbound());
    client.send(Call::get("/").bytes("payments"));
    let mut origin = H2Peer::accept(&listener, &[]);
    origin.read_headers();
    for frame in before {
        origin.send(frame);
    }
    let cut = is_cut(&mut origin, frames);
    // The caller hears of it, and the next call takes another connection.
    let heard = client.answer();
    assert!(heard.status >= 500, "{}", heard.text());
    client.send(Call::get("/").bytes("payments"));
    H2Peer::accept(&listener, &[]).read_headers();
    cut
}

fn is_cut(peer: &mut H2Peer, frames: impl Fn(u32) -> Vec<u8>) -> bool {
    (0..400).any(|round| {
        let flood: Vec<u8> = (0..100)
            .flat_map(|number| frames(round * 100 + number))
            .collect();
        peer.try_send_bytes(&flood).is_err()
    })
}

/// An answer has begun: its caller must not take it for whole.
#[test]
fn an_answer_of_nothing_for_ever_costs_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let weft = started(&address, "", ", protocol: http2");
    let mut client = RawClient::connect(&weft.outbound());
    client.send(Call::get("/").bytes("payments"));
    let mut origin = H2Peer::accept(&listener, &[]);
    origin.read_headers();
    origin.send(&Frame::headers(1, &[(":status", "200")], false));
    client.read_until(b"\r\n\r\n");
    assert!(is_cut(&mut origin, |_| Frame::data(1, "", false).bytes()));
    assert!(client.is_closed_by_peer(), "the last chunk came");
    let mut other = RawClient::connect(&weft.outbound());
    other.send(Call::get("/").bytes("payments"));
    H2Peer::accept(&listener, &[]).read_headers();
}

#[test]
fn floods_of_frames_from_an_upstream_cost_its_connection() {
    let of = |kind: u8, flags: u8, stream: u32, payload: Vec<u8>| {
        move |_: u32| Frame::new(kind, flags, stream, payload.clone()).bytes()
    };
    let table = |number: u32| Frame::settings(&[(1, number % 2 * 4096)]).bytes();
    assert!(
        upstream_is_cut(&[], of(kind::PING, 0, 0, vec![0; 8])),
        "PING"
    );
    assert!(upstream_is_cut(&[], table), "SETTINGS of the header table");
    let window = of(kind::WINDOW_UPDATE, 0, 1, vec![0, 0, 0, 1]);
    assert!(upstream_is_cut(&[], window), "WINDOW_UPDATE");
    let priority = of(kind::PRIORITY, 0, 1, vec![0, 0, 0, 0, 1]);
    assert!(upstream_is_cut(&[], priority), "PRIORITY");
    assert!(
        upstream_is_cut(&[], of(0xee, 0, 0, vec![1; 300])),
        "an unknown kind"
    );
    let goaway = of(kind::GOAWAY, 0, 0, vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert!(upstream_is_cut(&[], goaway), "GOAWAY");
    assert!(
        upstream_is_cut(&[], of(kind::RST_STREAM, 0, 1, vec![0, 0, 0, 8])),
        "RST_STREAM"
    );
    let begun = Frame::new(kind::HEADERS, 0, 1, block(&[(":status", "200")]));
    assert!(
        upstream_is_cut(&[begun], of(kind::CONTINUATION, 0, 1, vec![])),
        "CONTINUATION"
    );
}

/// The table is as large as a peer allows, up to ours: what it holds is our memory.
#[test]
fn a_header_table_of_any_size_costs_us_no_more_than_ours() {
    let origin = Origin::answering(|seen| {
        Reply::ok("").header("x-unique", &format!("{}{}", seen.path(), "x".repeat(2_000)))
    });
    let weft = started(&origin.address(), "", "");
    let mut client = H2Peer::connect(&weft.outbound(), &[(1, u32::MAX)]);
    let mut peak = 0;
    for number in 0..4_000 {
        client.send(&Frame::headers(
            1 + 2 * number,
            &get(&format!("/{number}")),
            true,
        ));
        client.read_kind(kind::HEADERS);
        if number == 400 {
            peak = weft.peak_memory();
        }
    }
    let more = weft.peak_memory().saturating_sub(peak);
    assert!(more < 4 << 20, "{more} bytes for 7 MB of unique fields");
}

// Rule 5 and 6: slow HTTP/2

#[test]
fn a_slow_preface_is_cut_and_so_is_a_handshake_that_stops_there() {
    let origin = Origin::start();
    let weft = started(&origin.address(), SHORT, "");
    for begin in [
        &b"PRI * HTTP/2.0\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = RawClient::connect(&weft.outbound());
        client.send(begin);
        client.read_to_end();
    }
    weft.assert_metric("weft_connections_closed_total{rule=\"head_timeout\"}", 2.0);
}

/// One stream's window is never opened: that stream goes, its connection and the others stay.
#[test]
fn a_stream_that_nobody_reads_is_reset_alone() {
    let origin = RawOrigin::start(|connection| {
        loop {
            let (head, _) = connection.read_request()?;
            let length = if head.contains("/long") { 1_000_000 } else { 2 };
            connection.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
            ))?;
            connection.write(vec![b'x'; length])?;
        }
    });
    let weft = started(&origin.address(), SHORT, ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &get("/long"), true));
    client.read_headers();
    let reset = client.read_kind(kind::RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (1, 8));
    client.send(&Frame::window(0, 1 << 20));
    client.send(&Frame::headers(3, &get("/short"), true));
    client.read_headers();
    assert_eq!(client.read_body(3).0, b"xx");
    let line = weft.wait_for_access(|line| line["path"] == "/long");
    assert_eq!(line["reason"], "client_gone");
    assert!(
        line["detail"].as_str().unwrap().contains("writeStall"),
        "{line}"
    );
    // Of a window that was never open at all, the same is true.
    let mut client = H2Peer::connect(&weft.outbound(), &[(4, 0)]);
    client.send(&Frame::headers(1, &get("/short"), true));
    assert_eq!(client.read_kind(kind::RST_STREAM).stream, 1);
}

/// A stream that waits for its callee waits as long as it must.
#[test]
fn a_stream_whose_callee_is_slow_is_not_stalled() {
    let (sender, receiver) = mpsc::channel::<()>();
    let receiver = Mutex::new(receiver);
    let origin = RawOrigin::start(move |connection| {
        connection.read_request()?;
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")?;
        let _ = receiver.lock().unwrap().recv();
        connection.write("cd")
    });
    let weft = started(&origin.address(), SHORT, ", protocol: http1");
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.send(&Frame::headers(1, &get("/"), true));
    client.read_kind(kind::DATA);
    for _ in 0..2 {
        assert!(RawClient::connect(&weft.outbound()).is_closed_by_peer());
    }
    sender.send(()).unwrap();
    assert_eq!(client.read_body(1).0, b"cd");
}
