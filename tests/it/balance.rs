//! Balancing: each policy by what reaches the endpoints, and changes of the endpoints themselves.

use std::{collections::HashSet, thread, time::Duration};

use crate::harness::{Call, NEVER, Origin, RawClient, Reply, Weft, wait_until};

fn file(policy: &str, endpoints: &[&Origin]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|origin| origin.address()).collect();
    let endpoints = endpoints.join("\", \"");
    format!(
        r#"
        workers: 1
        outbound: {{ listen: "127.0.0.1:0" }}
        upstreams:
          payments:
            endpoints: {{ static: ["{endpoints}"] }}
            loadBalancing: {{ policy: {policy} }}
            outlier: {{ consecutiveFailures: 0 }}
        "#
    )
}

/// So many callers, each with so many calls on a connection of its own.
fn load(weft: &Weft, callers: usize, calls: usize) {
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let mut client = RawClient::connect(&weft.outbound());
                for _ in 0..calls {
                    client.call(&Call::get("/").host("payments"), "payments");
                }
            });
        }
    });
}

#[test]
fn peak_ewma_avoids_a_slow_endpoint() {
    let slow = Origin::answering(|_| Reply::ok("slow").after(Duration::from_secs(1)));
    let fast = Origin::start();
    let weft = Weft::start(&file("peakEwma", &[&slow, &fast]));
    load(&weft, 4, 60);
    assert_eq!(slow.count() + fast.count(), 240);
    assert!(slow.count() > 0, "it was never measured");
    assert!(
        slow.count() < 40,
        "{} of 240 met the slow one",
        slow.count()
    );
}

/// Answers that fail at once look fast; they must not draw the traffic.
#[test]
fn peak_ewma_avoids_an_endpoint_that_fails_fast() {
    let failing = Origin::answering(|_| Reply::status(503));
    let fine = || Origin::answering(|_| Reply::ok("ok").after(Duration::from_millis(10)));
    let (one, two) = (fine(), fine());
    let weft = Weft::start(&file("peakEwma", &[&failing, &one, &two]));
    load(&weft, 4, 60);
    assert!(failing.count() > 0, "it was never tried");
    assert!(failing.count() < 60, "{} of 240 failed", failing.count());
}

#[test]
fn least_request_avoids_the_endpoint_that_is_busy() {
    let answering = |seen: &crate::harness::Seen| match seen.path() {
        "/hang" => Reply::ok("late").after(NEVER),
        _ => Reply::ok("ok"),
    };
    let origins = [Origin::answering(answering), Origin::answering(answering)];
    let weft = Weft::start(&file("leastRequest", &[&origins[0], &origins[1]]));
    let mut hanging = RawClient::connect(&weft.outbound());
    hanging.send("GET /hang HTTP/1.1\r\nhost: payments\r\n\r\n");
    wait_until("the call that hangs", || {
        origins.iter().any(|origin| origin.count() == 1)
    });
    let busy = origins.iter().position(|origin| origin.count() == 1);
    let busy = busy.expect("just seen");
    load(&weft, 1, 20);
    assert_eq!((origins[busy].count(), origins[1 - busy].count()), (1, 20));
}

#[test]
fn round_robin_goes_around() {
    let origins = [Origin::start(), Origin::start(), Origin::start()];
    let weft = Weft::start(&file(
        "roundRobin",
        &[&origins[0], &origins[1], &origins[2]],
    ));
    load(&weft, 1, 9);
    let counts: Vec<usize> = origins.iter().map(Origin::count).collect();
    assert_eq!(counts, [3, 3, 3]);
}

#[test]
fn random_takes_any() {
    let origins = [Origin::start(), Origin::start(), Origin::start()];
    let weft = Weft::start(&file("random", &[&origins[0], &origins[1], &origins[2]]));
    load(&weft, 1, 90);
    let mut order: Vec<(std::time::Instant, usize)> = Vec::new();
    for (number, origin) in origins.iter().enumerate() {
        assert!(origin.count() >= 10, "{} of 90", origin.count());
        order.extend(origin.requests().iter().map(|seen| (seen.at, number)));
    }
    order.sort();
    let steps: HashSet<usize> = order
        .windows(2)
        .map(|pair| (pair[1].1 + 3 - pair[0].1) % 3)
        .collect();
    assert_eq!(steps.len(), 3, "there is a pattern");
}

/// What is under way at an endpoint that left ends there; nothing new goes to it.
#[test]
fn endpoints_come_and_go_without_a_failed_call() {
    let (old, new) = (Origin::start(), Origin::start());
    let mut weft = Weft::start(&file("peakEwma", &[&old]));
    old.next([Reply::ok("from the old one").after(Duration::from_millis(600))]);
    let mut caller = RawClient::connect(&weft.outbound());
    caller.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n");
    old.wait_for_requests(1);
    weft.reload(&file("peakEwma", &[&new]));
    wait_until("the new endpoint's first call", || {
        let answer = Call::get("/").host("payments").send(&weft.outbound());
        assert_eq!(answer.status, 200);
        new.count() > 0
    });
    let before = old.count();
    load(&weft, 1, 10);
    assert_eq!(old.count(), before);
    assert_eq!(caller.answer().text(), "from the old one");
    wait_until("the old one's last connection to close", || {
        old.open_connections() == 0
    });
}
