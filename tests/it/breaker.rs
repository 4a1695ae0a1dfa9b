//! Circuit breaking: limits that answer at once, endpoints that are left alone for a while, and the words for it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use serde_json::Value;

use crate::harness::{
    Answer, Call, NEVER, Origin, RawClient, Reply, Weft, dead_address, gated, grpc_call, wait_until,
};

fn start(workers: usize, endpoints: &[String], upstream: &str) -> Weft {
    let endpoints = endpoints.join("\", \"");
    Weft::start(&format!(
        r#"
        workers: {workers}
        outbound: {{ listen: "127.0.0.1:0" }}
        upstreams:
          payments:
            endpoints: {{ static: ["{endpoints}"] }}
            {upstream}
        "#
    ))
}

/// Calls go around, so that each endpoint gets its share.
fn round(endpoints: &[String], outlier: &str) -> Weft {
    let upstream =
        format!("loadBalancing: {{ policy: roundRobin }}\n            outlier: {{ {outlier} }}");
    start(1, endpoints, &upstream)
}

fn get(weft: &Weft) -> Answer {
    Call::get("/").host("payments").send(&weft.outbound())
}

/// A call whose answer nobody waits for yet.
fn begin(weft: &Weft) -> RawClient {
    let mut client = RawClient::connect(&weft.outbound());
    client.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    client
}

fn upstream(weft: &Weft) -> Value {
    weft.admin_get("/upstreams")[0].clone()
}

/// What an endpoint is: `healthy`, `ejected`, `probing`.
fn state(weft: &Weft, address: &str) -> Value {
    let upstream = upstream(weft);
    let endpoints = upstream["endpoints"].as_array().expect("a list");
    let found = endpoints
        .iter()
        .find(|endpoint| endpoint["address"] == address);
    found.expect("a known endpoint")["state"].clone()
}

const EJECTIONS: &str = "weft_endpoint_ejections_total";

/// An endpoint is no longer called.
#[track_caller]
fn assert_ejected(weft: &Weft, address: &str) {
    wait_until("the ejection", || state(weft, address)["is"] == "ejected");
}

fn ejections(weft: &Weft) -> f64 {
    weft.metric(EJECTIONS)
}

#[test]
fn a_call_over_the_limit_of_requests_is_answered_at_once() {
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let weft = start(2, &[origin.address()], "limits: { requests: 1 }");
    let _inside = begin(&weft);
    origin.wait_for_requests(1);
    let answer = get(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("requests_overflow"))
    );
    assert!(
        answer.text().contains("payments has 1 requests in flight"),
        "{}",
        answer.text()
    );
    assert_eq!(origin.count(), 1);
    weft.assert_metric("weft_breaker_rejections_total{limit=\"requests\"}", 1.0);
}

#[test]
fn a_place_is_free_again_when_the_answer_is_over() {
    let origin = Origin::start();
    let weft = start(2, &[origin.address()], "limits: { requests: 1 }");
    for _ in 0..10 {
        // The place goes back when the last byte has gone out, a moment after the caller has it.
        wait_until("the place", || get(&weft).status == 200);
    }
}

#[test]
fn a_call_over_the_limit_of_pending_is_answered_at_once_and_one_below_waits() {
    let (origin, gate, asked) = gated();
    let weft = start(
        1,
        &[origin.address()],
        "limits: { connections: 1, pending: 1 }",
    );
    let mut first = begin(&weft);
    wait_until("the first call", || asked.load(Ordering::SeqCst) == 1);
    let mut second = begin(&weft);
    wait_until("the second call to wait", || {
        upstream(&weft)["pending"] == 1
    });
    let third = get(&weft);
    assert_eq!(
        (third.status, third.reason()),
        (503, Some("pending_overflow"))
    );
    drop(gate);
    assert_eq!(first.answer().text(), "late");
    assert_eq!(second.answer().text(), "late");
    assert_eq!(origin.connections(), 1);
    weft.assert_metric("weft_breaker_rejections_total{limit=\"pending\"}", 1.0);
}

/// An idle connection of one worker is closed for a call of another.
#[test]
fn eight_workers_share_four_connections() {
    let origin = Origin::start();
    let weft = start(8, &[origin.address()], "limits: { connections: 4 }");
    for _ in 0..48 {
        assert_eq!(get(&weft).status, 200);
        assert!(upstream(&weft)["connections"].as_u64() <= Some(4));
    }
    let used: usize = upstream(&weft)["endpoints"][0]["workers"]
        .as_array()
        .expect("a list")
        .len();
    assert!(
        used > 4,
        "the kernel spread the callers over {used} workers"
    );
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..8 {
                    assert_eq!(get(&weft).status, 200);
                }
            });
        }
        for _ in 0..20 {
            assert!(upstream(&weft)["connections"].as_u64() <= Some(4));
        }
    });
    assert!(origin.connections() > 4, "no worker gave a connection up");
}

#[test]
fn http2_calls_share_the_connections_as_well() {
    let origin = Origin::answering(|_| Reply::grpc(b"ok", 0));
    let weft = start(
        8,
        &[origin.address()],
        "protocol: grpc\n            limits: { connections: 1 }",
    );
    for _ in 0..24 {
        let (_, status) = grpc_call(&weft.outbound(), "payments", &[], b"x");
        assert_eq!(status, Some(0));
        assert!(upstream(&weft)["connections"].as_u64() <= Some(1));
    }
}

#[test]
fn failures_in_a_row_eject_an_endpoint() {
    let (failing, fine) = (Origin::answering(|_| Reply::status(500)), Origin::start());
    let weft = round(
        &[failing.address(), fine.address()],
        "penalty: { min: 60s }",
    );
    wait_until("the ejection", || {
        get(&weft);
        ejections(&weft) > 0.0
    });
    assert_eq!(failing.count(), 5, "consecutiveFailures is 5 by default");
    for _ in 0..10 {
        assert_eq!(get(&weft).status, 200);
    }
    assert_eq!(failing.count(), 5);
    assert_ejected(&weft, &failing.address());
    weft.assert_metric("weft_endpoints{state=\"ejected\"}", 1.0);
    weft.wait_for_log("endpoint ejected");
}

#[test]
fn a_success_between_failures_is_no_row() {
    let mut turn = 0;
    let flaky = Origin::answering(move |_| {
        turn += 1;
        Reply::status(if turn % 3 == 0 { 200 } else { 500 })
    });
    let fine = Origin::start();
    let weft = round(&[flaky.address(), fine.address()], "consecutiveFailures: 3");
    for _ in 0..40 {
        get(&weft);
    }
    assert_eq!((ejections(&weft), flaky.count()), (0.0, 20));
}

#[test]
fn failed_connections_eject_an_endpoint() {
    let fine = Origin::start();
    let dead = dead_address();
    let weft = round(&[dead.clone(), fine.address()], "penalty: { min: 60s }");
    wait_until("the ejection", || {
        assert_eq!(get(&weft).status, 200);
        ejections(&weft) > 0.0
    });
    assert_ejected(&weft, &dead);
    weft.assert_metric("weft_upstream_dials_total{result=\"failed\"}", 5.0);
    for _ in 0..10 {
        assert_eq!(get(&weft).status, 200);
    }
    weft.assert_metric("weft_upstream_dials_total{result=\"failed\"}", 5.0);
}

/// Counts how many of a gRPC callee's answers with this code it takes to be ejected; none after 20.
fn grpc_ejects(code: u16) -> Option<usize> {
    let failing = Origin::answering(move |_| Reply::grpc(b"", code));
    let fine = Origin::answering(|_| Reply::grpc(b"ok", 0));
    let weft = round(
        &[failing.address(), fine.address()],
        "penalty: { min: 60s }",
    );
    for _ in 0..40 {
        grpc_call(&weft.outbound(), "payments", &[], b"x");
    }
    (ejections(&weft) > 0.0).then(|| failing.count())
}

#[test]
fn a_failing_grpc_status_under_200_counts() {
    assert_eq!(grpc_ejects(14), Some(5), "UNAVAILABLE");
    assert_eq!(grpc_ejects(13), Some(5), "INTERNAL");
}

#[test]
fn a_grpc_status_that_is_an_answer_does_not_count() {
    assert_eq!(grpc_ejects(5), None, "NOT_FOUND");
}

/// The first call after the penalty decides; until it has, no other goes there.
#[test]
fn probation_is_one_real_request() {
    let (answers, gate) = mpsc::channel::<Reply>();
    let gate = Mutex::new(gate);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let doubtful = Origin::answering(move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) < 2 {
            return Reply::status(500);
        }
        let told = gate.lock().expect("no panic here").recv();
        told.unwrap_or_else(|_| Reply::ok("ok"))
    });
    let fine = Origin::start();
    let weft = round(
        &[doubtful.address(), fine.address()],
        "consecutiveFailures: 2, penalty: { min: 50ms, max: 100ms }",
    );
    wait_until("the ejection", || {
        get(&weft);
        ejections(&weft) > 0.0
    });
    // Callers that nobody waits for: one of them is the probation.
    let mut callers = Vec::new();
    wait_until("the probation", || {
        callers.push(begin(&weft));
        asked.load(Ordering::SeqCst) == 3
    });
    for _ in 0..10 {
        assert_eq!(get(&weft).status, 200);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "two were on probation");
    assert_eq!(state(&weft, &doubtful.address())["is"], "probing");

    answers.send(Reply::status(500)).expect("it waits");
    wait_until("the longer ejection", || {
        state(&weft, &doubtful.address())["times"] == 2
    });
    // The next probation passes, and so does what follows.
    drop(answers);
    wait_until("the return", || {
        assert_eq!(get(&weft).status, 200);
        state(&weft, &doubtful.address())["is"] == "healthy"
    });
    let before = asked.load(Ordering::SeqCst);
    for _ in 0..4 {
        assert_eq!(get(&weft).status, 200);
    }
    assert!(asked.load(Ordering::SeqCst) >= before + 2);
}

#[test]
fn at_most_half_are_ejected() {
    let origins: Vec<Origin> = (0..5)
        .map(|_| Origin::answering(|_| Reply::status(500)))
        .collect();
    let addresses: Vec<String> = origins.iter().map(Origin::address).collect();
    let weft = round(&addresses, "consecutiveFailures: 1, penalty: { min: 60s }");
    for _ in 0..20 {
        assert_eq!(get(&weft).status, 500);
    }
    // The floor of 2.5.
    weft.assert_metric(EJECTIONS, 2.0);
    weft.assert_metric("weft_endpoints{state=\"healthy\"}", 3.0);
}

#[test]
fn the_last_endpoint_is_never_ejected() {
    let origins = [500, 500].map(|status| Origin::answering(move |_| Reply::status(status)));
    let weft = round(
        &[origins[0].address(), origins[1].address()],
        "consecutiveFailures: 1, maxEjection: 100, penalty: { min: 60s }",
    );
    for _ in 0..20 {
        let answer = get(&weft);
        assert_eq!((answer.status, answer.reason()), (500, None));
    }
    weft.assert_metric(EJECTIONS, 1.0);
}

#[test]
fn the_words_say_what_is_known_and_what_was_tried() {
    let failing = Origin::answering(|_| Reply::status(500));
    // Nothing is kept: a connection that closed unnoticed would be another word than "refused".
    let fine = || Origin::answering(|_| Reply::ok("ok").header("connection", "close"));
    let (mut one, mut two) = (fine(), fine());
    let weft = round(
        &[failing.address(), one.address(), two.address()],
        "consecutiveFailures: 2, penalty: { min: 60s }",
    );
    wait_until("the ejection", || {
        get(&weft);
        ejections(&weft) > 0.0
    });
    one.stop();
    two.stop();
    let answer = get(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("connect_failed"))
    );
    let words =
        "no usable endpoint for payments: 3 known, 1 ejected, 2 refused (last: connect refused ";
    let last = answer.text();
    let last = last.strip_prefix(words).unwrap_or_else(|| panic!("{last}"));
    let last = last.trim_end().trim_end_matches(')');
    assert!(
        [one.address(), two.address()].contains(&last.to_owned()),
        "{last}"
    );
}
