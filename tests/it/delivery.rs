//! How deferred calls are delivered beside each other, and how often.

use std::collections::BTreeSet;

use crate::harness::{
    Answer, Call, NEVER, Origin, RawOrigin, Reply, Seen, Weft, wait_for, wait_until,
};

/// A sidecar whose POSTs to `email` are deferred, keyed by `x-key`; `more` are the route's further keys.
fn file(endpoint: &str, deliver: &str, more: &str) -> String {
    format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - name: notify
      hosts: [email]
      matches: [{{ method: POST }}]
      defer: {{ key: 'request.headers["x-key"]', deliver: {{ {deliver} }} }}
      {more}
upstreams:
  email: {{ endpoints: {{ static: ["{endpoint}"] }} }}
"#
    )
}

#[track_caller]
fn defer(weft: &Weft, key: &str, body: &str) -> String {
    let call = Call::post("/", body).host("email").header("x-key", key);
    let answer = call.send(&weft.outbound());
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.header("x-weft-event-id").expect("an id").to_owned()
}

fn standing(weft: &Weft, id: &str) -> Answer {
    let call = Call::get(&format!("/.weft/events/{id}"));
    call.host("email").send(&weft.outbound())
}

#[track_caller]
fn wait_for_state(weft: &Weft, id: &str, state: &str) {
    wait_until(state, || {
        let answer = standing(weft, id);
        serde_json::from_slice::<serde_json::Value>(&answer.body)
            .is_ok_and(|said| said["state"] == state)
    });
}

#[test]
fn the_routes_retries_do_not_multiply_the_attempts() {
    let origin = Origin::answering(|_| Reply::status(503));
    let weft = Weft::start(&file(
        &origin.address(),
        "attempts: 3, backoff: { base: 1ms, max: 2ms }",
        "retry: { attempts: 9, conditions: [gateway], methods: [POST], backoff: { base: 1ms, max: 1ms } }",
    ));
    let id = defer(&weft, "k", "x");
    wait_for_state(&weft, &id, "dead_lettered");
    let attempts: Vec<String> = origin
        .requests()
        .iter()
        .map(|seen| seen.header("x-weft-attempt").unwrap_or("").to_owned())
        .collect();
    assert_eq!(attempts, ["1", "2", "3"]);
}

#[test]
fn a_slow_key_holds_up_no_other() {
    let origin = Origin::answering(|seen| match seen.header("x-key") {
        Some("slow") => Reply::ok("").after(NEVER),
        _ => Reply::ok(""),
    });
    let weft = Weft::start(&file(&origin.address(), "timeout: 3m", ""));
    let slow = defer(&weft, "slow", "1");
    origin.wait_for_requests(1);
    let behind = defer(&weft, "slow", "2");
    for number in 0..20 {
        let id = defer(&weft, &format!("quick{}", number % 3), "x");
        wait_for_state(&weft, &id, "delivered");
    }
    for id in [slow, behind] {
        assert_eq!(standing(&weft, &id).json()["state"], "pending");
    }
    let slow = origin.requests();
    let slow = slow
        .iter()
        .filter(|seen| seen.header("x-key") == Some("slow"));
    assert_eq!(slow.count(), 1, "the second waits for the first");
}

/// It may have been processed: the same call comes again under the same id, counted.
fn comes_again(endpoint: &str, received: impl Fn() -> Vec<(Option<String>, Option<String>)>) {
    let weft = Weft::start(&file(
        endpoint,
        "timeout: 2s, backoff: { base: 1ms, max: 2ms }",
        "",
    ));
    let id = defer(&weft, "k", "x");
    wait_for_state(&weft, &id, "delivered");
    let tries = ["1", "2"].map(|attempt| (Some(id.clone()), Some(attempt.to_owned())));
    assert_eq!(received(), tries);
}

#[test]
fn a_call_that_timed_out_comes_again_with_its_id() {
    let origin = Origin::start();
    origin.next([Reply::ok("").after(NEVER)]);
    comes_again(&origin.address(), || {
        let seen = origin.requests();
        let header = |seen: &Seen, name| seen.header(name).map(str::to_owned);
        seen.iter()
            .map(|seen| (header(seen, "ce-id"), header(seen, "x-weft-attempt")))
            .collect()
    });
}

#[test]
fn a_call_that_was_cut_off_comes_again_with_its_id() {
    let origin = RawOrigin::start(|connection| {
        loop {
            connection.read_request()?;
            if connection.number == 0 {
                connection.reset();
                return Ok(());
            }
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    });
    comes_again(&origin.address(), || {
        let header = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        (0..origin.connections())
            .map(|number| origin.text(number))
            .map(|text| (header(&text, "ce-id:"), header(&text, "x-weft-attempt:")))
            .collect()
    });
}

/// A canary may not split a key: which upstream a call is for is drawn from its key.
#[test]
fn the_calls_of_one_key_go_to_one_of_several_upstreams() {
    let (one, two) = (Origin::start(), Origin::start());
    let weft = Weft::start(&format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - name: notify
      hosts: [email]
      matches: [{{ method: POST }}]
      defer: {{ key: 'request.headers["x-key"]' }}
      backends: [{{ upstream: one }}, {{ upstream: two }}]
upstreams:
  one: {{ endpoints: {{ static: ["{}"] }} }}
  two: {{ endpoints: {{ static: ["{}"] }} }}
"#,
        one.address(),
        two.address()
    ));
    for number in 0..60 {
        defer(&weft, &format!("k{}", number % 20), &number.to_string());
    }
    wait_until("all of them", || one.count() + two.count() == 60);
    let keys = |origin: &Origin| -> BTreeSet<String> {
        let seen = origin.requests();
        let keys = seen.iter().filter_map(|seen| seen.header("x-key"));
        keys.map(str::to_owned).collect()
    };
    let (one, two) = (keys(&one), keys(&two));
    assert!(one.is_disjoint(&two), "{one:?} {two:?}");
    // Twenty keys on one side alone: once in half a million runs, were it not the same in each.
    assert!(!one.is_empty() && !two.is_empty());
}

/// A person's replay that is interrupted by a death, or asked for twice, delivers each call once more and no more.
#[test]
fn a_replay_that_died_goes_on_and_is_not_run_twice() {
    let origin = Origin::answering(|_| Reply::status(400));
    let mut weft = Weft::start(&file(&origin.address(), "attempts: 2", ""));
    let ids: Vec<String> = (0..5)
        .map(|number| defer(&weft, &format!("k{number}"), "x"))
        .collect();
    for id in &ids {
        wait_for_state(&weft, id, "dead_lettered");
    }
    // The callee hangs: replayed, and not yet delivered.
    origin.answer(|_| Reply::ok("").after(NEVER));
    let replay = |weft: &Weft, id: &str| {
        let answer = weft.admin_post(&format!("/deadletters/{id}/replay"), "");
        answer.status
    };
    assert_eq!(replay(&weft, &ids[0]), 200);
    assert_eq!(replay(&weft, &ids[1]), 200);
    assert_eq!(replay(&weft, &ids[0]), 409, "it is under way");
    origin.wait_for_requests(7);
    weft.kill9();
    origin.answer(|_| Reply::ok(""));
    weft.restart();
    for id in &ids[..2] {
        wait_for("the delivery", || {
            (standing(&weft, id).json()["state"] == "delivered").then_some(())
        });
        assert_eq!(replay(&weft, id), 409, "it is delivered");
    }
    for id in &ids[2..] {
        assert_eq!(standing(&weft, id).json()["state"], "dead_lettered");
    }
    let last: Vec<_> = origin.requests()[7..]
        .iter()
        .filter_map(|seen| seen.header("ce-id").map(str::to_owned))
        .collect();
    let mut wanted = ids[..2].to_vec();
    wanted.sort();
    let mut found = last;
    found.sort();
    assert_eq!(found, wanted, "once more, with the id it had");
}
