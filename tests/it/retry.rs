//! Retries: what is tried again by default, what each condition adds, and what never is.

use std::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    thread,
    time::Instant,
};

use crate::harness::{
    Answer, Call, Frame, H2Peer, NEVER, Origin, RawClient, RawOrigin, Reply, Weft, dead_address,
    grpc_call, grpc_message, grpc_status, kind, wait_until,
};

const REFUSED_STREAM: u32 = 7;

/// One worker, the host `payments`, one upstream of these endpoints. `upstream` and `route` add keys.
fn start(endpoints: &[String], upstream: &str, route: &str) -> Weft {
    start_with(endpoints, upstream, route, &[])
}

fn start_with(
    endpoints: &[String],
    upstream: &str,
    route: &str,
    environment: &[(&str, &str)],
) -> Weft {
    let endpoints = endpoints.join("\", \"");
    Weft::start_with(
        &format!(
            r#"
            workers: 1
            outbound:
              listen: "127.0.0.1:0"
              routes:
                - {{ name: pay, hosts: [payments], backends: [{{ upstream: payments }}], {route} }}
            upstreams:
              payments: {{ endpoints: {{ static: ["{endpoints}"] }}, {upstream} }}
            "#
        ),
        environment,
    )
}

fn get(weft: &Weft) -> Answer {
    Call::get("/").host("payments").send(&weft.outbound())
}

fn call(weft: &Weft, method: &str, body: &[u8]) -> Answer {
    Call::new(method, "/")
        .host("payments")
        .body(body)
        .send(&weft.outbound())
}

#[track_caller]
fn assert_withheld_once(weft: &Weft, why: &str) {
    let name = format!("weft_retries_withheld_total{{why=\"{why}\"}}");
    weft.assert_metric(&name, 1.0);
}

fn grpc(weft: &Weft, message: &[u8]) -> (Vec<u8>, Option<u16>) {
    grpc_call(&weft.outbound(), "payments", &[], message)
}

/// Whether the listener has a connection that nobody took. The answer is here, so a retry would be too.
fn has_another(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_ok()
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn a_post_that_found_no_connection_goes_elsewhere_whole() {
    let origin = Origin::start();
    let weft = start(
        &[dead_address(), origin.address()],
        "loadBalancing: { policy: roundRobin }",
        "",
    );
    let body = vec![b'x'; 300 * 1024];
    for _ in 0..2 {
        assert_eq!(call(&weft, "POST", &body).status, 200);
    }
    weft.wait_for_metric("weft_retries_total", |count| count >= 1.0);
    let seen = origin.requests();
    assert!(
        seen.len() == 2 && seen.iter().all(|seen| seen.body == body),
        "the body was not read before there was a connection"
    );
}

#[test]
fn a_refused_stream_is_tried_again_even_for_a_post() {
    let (listener, address) = listener();
    let weft = start(&[address], "protocol: http2", "");
    let peer = thread::spawn(move || {
        let mut peer = H2Peer::accept(&listener, &[]);
        let (first, _, _) = peer.read_headers();
        peer.send(&Frame::reset(first, REFUSED_STREAM));
        let (second, _, _) = peer.read_headers();
        let (body, _) = peer.read_body(second);
        peer.send(&Frame::headers(second, &[(":status", "204")], true));
        (first != second, body)
    });
    assert_eq!(call(&weft, "POST", b"charge").status, 204);
    assert_eq!(peer.join().unwrap(), (true, b"charge".to_vec()));
}

#[test]
fn a_stream_above_goaways_last_id_is_tried_again_even_for_a_post() {
    let (listener, address) = listener();
    let weft = start(&[address], "protocol: http2", "");
    let peer = thread::spawn(move || {
        let mut leaving = H2Peer::accept(&listener, &[]);
        let (stream, _, _) = leaving.read_headers();
        leaving.read_body(stream);
        leaving.send(&Frame::goaway(0, 0));
        let mut peer = H2Peer::accept(&listener, &[]);
        let (stream, _, _) = peer.read_headers();
        let (body, _) = peer.read_body(stream);
        peer.send(&Frame::headers(stream, &[(":status", "204")], true));
        body
    });
    assert_eq!(call(&weft, "POST", b"charge").status, 204);
    assert_eq!(peer.join().unwrap(), b"charge");
}

/// A callee that said it would still answer may have charged someone.
#[test]
fn a_stream_at_goaways_last_id_that_closes_is_never_tried_again() {
    let (listener, address) = listener();
    let weft = start(&[address], "protocol: http2", "retry: { attempts: 5 }");
    let peer = thread::spawn(move || {
        let mut peer = H2Peer::accept(&listener, &[]);
        let (stream, _, _) = peer.read_headers();
        peer.read_body(stream);
        peer.send(&Frame::goaway(stream, 0));
        drop(peer);
        listener
    });
    let answer = call(&weft, "POST", b"charge");
    assert_eq!((answer.status, answer.reason()), (503, Some("reset")));
    assert!(
        !has_another(&peer.join().unwrap()),
        "the charge was sent twice"
    );
}

/// Answers the first request of each connection and closes on the second, but for connection 1.
fn forgetful() -> RawOrigin {
    RawOrigin::start(|connection| {
        loop {
            connection.read_request()?;
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
            if connection.number == 0 {
                connection.read_request()?;
                return Ok(());
            }
        }
    })
}

#[test]
fn a_get_that_met_a_stale_connection_is_tried_again() {
    let origin = forgetful();
    let weft = start(&[origin.address()], "", "");
    assert_eq!(get(&weft).status, 200);
    assert_eq!(get(&weft).status, 200);
    assert_eq!(origin.text(0).matches("GET /").count(), 2);
    assert_eq!(origin.text(1).matches("GET /").count(), 1);
}

#[test]
fn a_post_that_met_a_stale_connection_is_not() {
    let origin = forgetful();
    let weft = start(&[origin.address()], "", "");
    assert_eq!(get(&weft).status, 200);
    let answer = call(&weft, "POST", b"charge");
    assert_eq!((answer.status, answer.reason()), (503, Some("reset")));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_get_that_broke_off_on_a_new_connection_is_not_tried_again_unless_said() {
    let origin = RawOrigin::start(|connection| {
        connection.read_request()?;
        if connection.number < 2 {
            return Ok(());
        }
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    });
    let by_default = start(&[origin.address()], "", "");
    assert_eq!(get(&by_default).reason(), Some("reset"));
    assert_eq!(origin.connections(), 1);
    let said = start(&[origin.address()], "", "retry: { conditions: [reset] }");
    assert_eq!(get(&said).status, 200);
    assert_eq!(origin.connections(), 3);
}

/// Each condition on a route of its own, before one callee that fails once and then answers.
#[test]
fn each_condition_has_its_answers_tried_again() {
    let table = [
        ("gateway", 502),
        ("gateway", 503),
        ("gateway", 504),
        ("5xx", 500),
        ("5xx", 599),
        ("\"418\"", 418),
    ];
    let origin = Origin::start();
    for (condition, status) in table {
        let route = format!("retry: {{ conditions: [{condition}], backoff: {{ base: 1ms }} }}");
        let weft = start(&[origin.address()], "", &route);
        let before = origin.count();
        origin.next([Reply::status(status)]);
        assert_eq!(get(&weft).status, 200, "{condition} and {status}");
        assert_eq!(origin.count() - before, 2);
        origin.next([Reply::status(429)]);
        assert_eq!(get(&weft).status, 429, "{condition} names no 429");
    }
}

#[test]
fn a_try_that_takes_too_long_is_tried_again_where_said() {
    let origin = Origin::start();
    let weft = start(
        &[origin.address()],
        "",
        "timeouts: { backendRequest: 1s }, retry: { conditions: [timeout] }",
    );
    origin.next([Reply::ok("late").after(NEVER)]);
    assert_eq!(get(&weft).text(), "ok");
    assert_eq!(origin.count(), 2);
}

#[test]
fn what_may_have_been_processed_is_repeated_for_listed_methods_alone() {
    let origin = Origin::start();
    let start = |methods| {
        let retry = format!("retry: {{ conditions: [\"503\"], {methods} }}");
        start(&[origin.address()], "", &retry)
    };
    let by_default = start("");
    origin.next([Reply::status(503)]);
    assert_eq!(call(&by_default, "POST", b"charge").status, 503);
    origin.next([Reply::status(503)]);
    assert_eq!(call(&by_default, "PUT", b"charge").status, 200);
    let listed = start("methods: [POST]");
    origin.next([Reply::status(503)]);
    assert_eq!(call(&listed, "POST", b"charge").status, 200);
    origin.next([Reply::status(503)]);
    assert_eq!(call(&listed, "PUT", b"charge").status, 503);
}

#[test]
fn attempts_are_tries_in_all_and_the_last_answer_passes() {
    let origin = Origin::answering(|_| Reply::status(503).body("theirs"));
    let weft = start(
        &[origin.address()],
        "",
        "retry: { attempts: 3, conditions: [gateway], backoff: { base: 1ms } }",
    );
    let answer = get(&weft);
    assert_eq!((answer.status, answer.text().as_str()), (503, "theirs"));
    assert_eq!(answer.reason(), None);
    assert_eq!(origin.count(), 3);
    assert_withheld_once(&weft, "attempts");
    assert_eq!(
        weft.wait_for_access(|line| line["status"] == 503)["attempts"],
        3
    );
}

/// Waits in the log, in microseconds.
fn waits(weft: &Weft, count: usize) -> Vec<u64> {
    crate::harness::wait_for("the retries in the log", || {
        let lines = weft.logs();
        let waits: Vec<u64> = lines
            .lines()
            .filter(|line| line.contains("trying again"))
            .filter_map(|line| {
                let (_, rest) = line.split_once("wait_us\":")?;
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        (waits.len() >= count).then_some(waits)
    })
}

#[test]
fn waits_double_to_their_bound_with_full_jitter() {
    let origin = Origin::answering(|_| Reply::status(503));
    let weft = start_with(
        &[origin.address()],
        "",
        "retry: { attempts: 6, conditions: [gateway], backoff: { base: 4ms, max: 16ms } }",
        &[("WEFT_LOG", "weft=debug")],
    );
    for _ in 0..6 {
        assert_eq!(get(&weft).status, 503);
    }
    let waits = waits(&weft, 30);
    let ceilings = [4_000, 8_000, 16_000, 16_000, 16_000];
    for call in waits.chunks(5) {
        for (wait, ceiling) in call.iter().zip(ceilings) {
            assert!(*wait <= ceiling, "{waits:?}");
        }
    }
    let first: Vec<_> = waits.iter().step_by(5).collect();
    assert!(first.iter().any(|wait| *wait != first[0]), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > 8_000), "{waits:?}");
}

#[test]
fn retry_after_is_honoured_within_the_longest_wait() {
    let origin = Origin::start();
    let weft = start_with(
        &[origin.address()],
        "",
        "retry: { conditions: [gateway], backoff: { base: 1ms, max: 1s } }",
        &[("WEFT_LOG", "weft=debug")],
    );
    origin.next([Reply::status(503).header("retry-after", "1")]);
    assert_eq!(get(&weft).status, 200);
    assert_eq!(waits(&weft, 1), [1_000_000]);
}

#[test]
fn a_longer_retry_after_passes_at_once() {
    let origin = Origin::start();
    let weft = start(
        &[origin.address()],
        "",
        "retry: { conditions: [gateway], backoff: { base: 1ms, max: 999ms } }",
    );
    origin.next([Reply::status(503).header("retry-after", "1")]);
    let answer = get(&weft);
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(origin.count(), 1);
    assert_withheld_once(&weft, "retry_after");
}

#[test]
fn another_endpoint_is_preferred() {
    let failing = Origin::answering(|_| Reply::status(503));
    let origin = Origin::start();
    let weft = start(
        &[failing.address(), origin.address()],
        "loadBalancing: { policy: random }, outlier: { consecutiveFailures: 0 }",
        "retry: { conditions: [gateway], backoff: { base: 1ms } }",
    );
    for _ in 0..20 {
        assert_eq!(get(&weft).status, 200);
    }
    assert!(failing.count() > 0, "nothing was tried again");
}

#[test]
fn retries_stop_when_the_budget_is_spent() {
    let origin = Origin::answering(|_| Reply::status(503));
    let weft = start(
        &[origin.address()],
        "outlier: { consecutiveFailures: 0 }",
        "retry: { attempts: 100, conditions: [gateway], backoff: { base: 1ms, max: 1ms } }",
    );
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(get(&weft).status, 503);
    }
    // 10 a second over 10 s, and no more; on a busy machine it may take longer than that.
    let windows = 1 + begin.elapsed().as_secs() as usize / 10;
    let tries = origin.count();
    assert!(tries <= 3 + 100 * windows + 20, "{tries} tries");
    let withheld = "weft_retries_withheld_total{why=\"budget\"}";
    weft.wait_for_metric(withheld, |count| count >= 1.0);
    wait_until("a spent budget", || {
        assert_eq!(get(&weft).status, 503);
        weft.metric("weft_retry_budget_balance") == 0.0
    });
}

#[test]
fn a_body_longer_than_the_replay_buffer_is_given_up_and_said() {
    let origin = Origin::start();
    let weft = start(&[origin.address()], "", "retry: { conditions: [gateway] }");
    origin.next([Reply::status(503)]);
    assert_eq!(call(&weft, "PUT", &vec![b'x'; 100 * 1024]).status, 503);
    assert_eq!(origin.count(), 1);
    assert_withheld_once(&weft, "replay");
    weft.wait_for_log("longer than the replay buffer");
}

#[test]
fn a_body_within_the_replay_buffer_is_sent_again_as_it_was() {
    let origin = Origin::start();
    let weft = start(&[origin.address()], "", "retry: { conditions: [gateway] }");
    let body: Vec<u8> = (0..60 * 1024).map(|at| (at % 251) as u8).collect();
    origin.next([Reply::status(503)]);
    assert_eq!(call(&weft, "PUT", &body).status, 200);
    let seen = origin.requests();
    assert!(seen.len() == 2 && seen.iter().all(|seen| seen.body == body));
    assert_eq!(
        seen[0].header("content-length"),
        seen[1].header("content-length")
    );
}

#[test]
fn a_retry_is_never_appended_to_an_answer_that_began() {
    let (breaks, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let origin = RawOrigin::start(move |connection| {
        connection.read_request()?;
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")?;
        // Until the caller has it.
        let _ = told.lock().expect("no panic here").recv();
        Ok(())
    });
    let weft = start(
        &[origin.address()],
        "",
        "retry: { attempts: 5, conditions: [reset, 5xx, timeout] }",
    );
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    client.read_until(b"\r\n\r\nhalf");
    drop(breaks);
    assert_eq!(client.read_to_end(), b"");
    assert_eq!(origin.connections(), 1);
}

const ON_UNAVAILABLE: &str = "retry: { conditions: [{ grpc: [unavailable] }] }";

fn trailers_only(code: &str) -> Reply {
    Reply::status(200)
        .header("content-type", "application/grpc")
        .header("grpc-status", code)
}

#[test]
fn a_grpc_status_in_the_head_is_tried_again_where_said() {
    let origin = Origin::answering(|_| Reply::grpc(b"done", 0));
    let weft = start(&[origin.address()], "protocol: grpc", ON_UNAVAILABLE);
    origin.next([trailers_only("14")]);
    assert_eq!(grpc(&weft, b"x"), (grpc_message(b"done"), Some(0)));
    origin.next([trailers_only("13")]);
    assert_eq!(grpc(&weft, b"x").1, Some(13));
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_grpc_status_in_the_trailers_is_tried_again_where_said() {
    let origin = Origin::answering(|_| Reply::grpc(b"done", 0));
    let unavailable = || {
        Reply::status(200)
            .header("content-type", "application/grpc")
            .trailer("grpc-status", "14")
    };
    let weft = start(&[origin.address()], "protocol: grpc", ON_UNAVAILABLE);
    origin.next([unavailable()]);
    assert_eq!(grpc(&weft, b"x"), (grpc_message(b"done"), Some(0)));
    assert_eq!(origin.requests()[1].body, grpc_message(b"x"));
    let by_default = start(&[origin.address()], "protocol: grpc", "");
    origin.next([unavailable()]);
    assert_eq!(grpc(&by_default, b"x").1, Some(14));
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_grpc_status_behind_a_message_passes() {
    let origin = Origin::start();
    let weft = start(&[origin.address()], "protocol: grpc", ON_UNAVAILABLE);
    origin.next([Reply::grpc(b"half", 14)]);
    assert_eq!(grpc(&weft, b"x"), (grpc_message(b"half"), Some(14)));
    assert_eq!(origin.count(), 1);
}

/// The caller sees the head although the callee says nothing more; what comes then is no longer tried again.
#[test]
fn a_held_grpc_head_is_released_and_the_call_not_tried_again() {
    let (listener, address) = listener();
    let weft = start(&[address], "protocol: grpc", ON_UNAVAILABLE);
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.ask_grpc(1, "payments", &[], b"x");
    let mut peer = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = peer.read_headers();
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    peer.send(&Frame::headers(stream, &head, false));
    let (_, head, end) = client.read_headers();
    assert!(!end && grpc_status(&head).is_none(), "{head:?}");
    peer.send(&Frame::headers(stream, &[("grpc-status", "14")], true));
    assert_eq!(grpc_status(&client.read_body(1).1), Some(14));
    let streams = peer.seen.iter().filter(|frame| frame.kind == kind::HEADERS);
    assert_eq!(streams.count(), 1);
    assert!(!has_another(&listener));
}

/// Both ways out are closed: the call is over, told so, and was not sent a third time.
#[test]
fn a_call_that_found_no_connection_twice_is_told_so() {
    let weft = start(&[dead_address(), dead_address()], "", "");
    let answer = call(&weft, "POST", b"charge");
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("connect_failed"))
    );
    assert!(
        answer
            .text()
            .contains("2 refused (last: connect refused 127.0.0.1:"),
        "{}",
        answer.text()
    );
}
