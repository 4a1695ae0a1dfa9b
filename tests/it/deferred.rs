//! Deferred calls: stored before they are answered, delivered in order, dead letters where nothing else helps.

use std::{collections::BTreeMap, io::Write, net::TcpStream};

use crate::harness::{
    Answer, Call, Frame, H2Peer, NEVER, Origin, RawClient, Reply, Seen, Weft, dead_address,
    grpc_message, wait_for, wait_until,
};

/// A sidecar whose calls to `email` are deferred, keyed by `x-key`; `more` goes into the route.
fn yaml(endpoint: &str, more: &str) -> String {
    format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - name: notify
      hosts: [email]
      matches: [{{ method: POST }}]
      defer:
        key: request.headers["x-key"]
        {more}
upstreams:
  email: {{ endpoints: {{ static: ["{endpoint}"] }} }}
"#
    )
}

const QUICK: &str = "deliver: { backoff: { base: 10ms, max: 50ms } }";

fn defer(weft: &Weft, key: &str, body: &str) -> Answer {
    let call = Call::post("/v1/send?a=b", body).host("email");
    let call = match key {
        "" => call,
        key => call.header("x-key", key),
    };
    call.send(&weft.outbound())
}

#[track_caller]
fn accepted(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.header("x-weft-event-id").expect("an id").to_owned()
}

fn standing(weft: &Weft, id: &str) -> Answer {
    Call::get(&format!("/.weft/events/{id}"))
        .host("email")
        .send(&weft.outbound())
}

#[track_caller]
fn wait_for_state(weft: &Weft, id: &str, state: &str) -> serde_json::Value {
    wait_for(&format!("{id} to be {state}"), || {
        let answer = standing(weft, id);
        let said: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        (said["state"] == state).then_some(said)
    })
}

/// Bodies by key, each in the order of first arrival.
fn by_key(seen: &[Seen]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in seen {
        let bodies = all
            .entry(one.header("x-key").unwrap_or("").to_owned())
            .or_default();
        if !bodies.contains(&one.text()) {
            bodies.push(one.text());
        }
    }
    all
}

#[test]
fn a_deferred_call_is_answered_at_once_and_made_later_as_it_was() {
    let origin = Origin::start();
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let answer = Call::post("/v1/send?a=%20b", "hello")
        .host("email")
        .header("x-key", "c1")
        .header("authorization", "secret")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .send(&weft.outbound());
    let id = accepted(&answer);
    assert_eq!(
        answer.header("location"),
        Some(&*format!("/.weft/events/{id}"))
    );
    assert_eq!(answer.header("x-weft-durability"), Some("disk"));
    let seen = &origin.wait_for_requests(1)[0];
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/v1/send?a=%20b")
    );
    assert_eq!(seen.text(), "hello");
    for (name, value) in [
        ("host", Some("email")),
        ("x-key", Some("c1")),
        ("authorization", None),
        ("ce-id", Some(id.as_str())),
        ("ce-type", Some("dev.weft.http.request.v1")),
        ("ce-specversion", Some("1.0")),
        ("idempotency-key", Some(id.as_str())),
        ("x-weft-attempt", Some("1")),
        (
            "traceparent",
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ),
        ("content-length", Some("5")),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    assert!(seen.header("ce-source").unwrap().ends_with("/notify"));
    let done = wait_for_state(&weft, &id, "delivered");
    assert_eq!(
        (&done["status"], &done["attempts"]),
        (&200.into(), &1.into())
    );
    weft.assert_metric("weft_events_captured_total{route=\"notify\"}", 1.0);
    weft.assert_metric("weft_events_delivered_total{outcome=\"done\"}", 1.0);
}

#[test]
fn what_a_get_asks_passes_at_once() {
    let origin = Origin::start();
    let yaml = yaml(&origin.address(), QUICK).replace("matches: [{ method: POST }]", "");
    let weft = Weft::start(&yaml);
    let answer = Call::get("/now").host("email").send(&weft.outbound());
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    accepted(&defer(&weft, "", "later"));
    let explain = ["explain", "-c", "weft.yaml", "GET", "http://email/now"];
    let told = weft.run(&explain).stdout;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("GET passes at once"), "{told}");
}

#[test]
fn an_id_that_nobody_knows_is_not_found() {
    let origin = Origin::start();
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    for id in ["0123456789ab-1f", "nonsense"] {
        let answer = standing(&weft, id);
        assert_eq!(
            (answer.status, answer.reason()),
            (404, Some("event_unknown"))
        );
    }
}

#[test]
fn order_within_a_key_is_kept_by_a_callee_that_fails() {
    let origin = Origin::start();
    let mut count = 0;
    origin.answer(move |_| {
        count += 1;
        Reply::status(if count % 3 == 0 { 503 } else { 200 })
    });
    let weft = Weft::start(&yaml(
        &origin.address(),
        "deliver: { attempts: 50, backoff: { base: 5ms, max: 20ms } }",
    ));
    let mut last = String::new();
    for number in 0..40 {
        last = accepted(&defer(
            &weft,
            &format!("k{}", number % 4),
            &number.to_string(),
        ));
    }
    wait_for_state(&weft, &last, "delivered");
    weft.assert_metric("weft_events_ledger{state=\"delivered\"}", 40.0);
    for (key, bodies) in by_key(&origin.requests()) {
        let numbers: Vec<u32> = bodies.iter().map(|body| body.parse().unwrap()).collect();
        assert!(
            numbers.is_sorted() && numbers.len() == 10,
            "{key}: {numbers:?}"
        );
    }
}

#[test]
fn a_poisoned_key_holds_up_no_other() {
    let origin = Origin::answering(|seen| match seen.header("x-key") {
        Some("bad") => Reply::status(500).body("cannot"),
        _ => Reply::ok(""),
    });
    let more = "deliver: { attempts: 1000, backoff: { base: 50ms, max: 100ms } }";
    let weft = Weft::start(&yaml(&origin.address(), more));
    let bad = accepted(&defer(&weft, "bad", "poison"));
    for number in 0..10 {
        let id = accepted(&defer(&weft, &format!("good{number}"), "fine"));
        wait_for_state(&weft, &id, "delivered");
    }
    assert_eq!(
        wait_for_state(&weft, &bad, "pending")["status"],
        serde_json::Value::Null
    );
}

#[test]
fn a_dead_callee_costs_no_attempt_and_gets_everything_in_order_once_back() {
    let mut origin = Origin::start();
    origin.stop();
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let ids: Vec<String> = (0..20)
        .map(|n| accepted(&defer(&weft, &format!("k{}", n % 2), &n.to_string())))
        .collect();
    weft.wait_for_metric("weft_events_delivered_total{outcome=\"waiting\"}", |n| {
        n >= 8.0
    });
    origin.start_again();
    for id in &ids {
        assert_eq!(wait_for_state(&weft, id, "delivered")["attempts"], 1);
    }
    for (key, bodies) in by_key(&origin.requests()) {
        let numbers: Vec<u32> = bodies.iter().map(|body| body.parse().unwrap()).collect();
        assert!(
            numbers.is_sorted() && numbers.len() == 10,
            "{key}: {numbers:?}"
        );
    }
}

#[test]
fn one_dead_callee_holds_up_no_other() {
    let origin = Origin::start();
    let weft = Weft::start(&format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - {{ name: all, hosts: [dead, email], matches: [{{ method: POST }}], defer: {{}} }}
upstreams:
  dead: {{ endpoints: {{ static: ["{}"] }} }}
  email: {{ endpoints: {{ static: ["{}"] }} }}
"#,
        dead_address(),
        origin.address()
    ));
    for _ in 0..200 {
        let answer = Call::post("/", "x").host("dead").send(&weft.outbound());
        accepted(&answer);
    }
    let id = accepted(&defer(&weft, "", "alive"));
    wait_for_state(&weft, &id, "delivered");
}

#[test]
fn a_callee_that_asks_for_time_gets_it() {
    let origin = Origin::start();
    origin.next([Reply::status(503).header("retry-after", "1")]);
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let id = accepted(&defer(&weft, "k", "x"));
    wait_for_state(&weft, &id, "delivered");
    let seen = origin.requests();
    assert!((seen[1].at - seen[0].at).as_millis() >= 1000);
    assert_eq!(seen[1].header("x-weft-attempt"), Some("2"));
    assert_eq!(seen[0].header("ce-id"), seen[1].header("ce-id"));
}

#[test]
fn a_longer_wish_counts_as_the_longest_that_is_honoured() {
    let origin = Origin::start();
    origin.next([Reply::status(429).header("retry-after", "3600")]);
    let more = "deliver: { retryAfterMax: 100ms, backoff: { base: 10ms, max: 20ms } }";
    let weft = Weft::start(&yaml(&origin.address(), more));
    let id = accepted(&defer(&weft, "k", "x"));
    wait_for_state(&weft, &id, "delivered");
}

#[test]
fn used_up_attempts_and_plain_refusals_are_dead_letters() {
    let origin = Origin::answering(|seen| match seen.header("x-key") {
        Some("refused") => Reply::status(422).body("not like this"),
        _ => Reply::status(500).body("broken"),
    });
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let refused = accepted(&defer(&weft, "refused", "x"));
    let dead = wait_for_state(&weft, &refused, "dead_lettered");
    assert_eq!(
        (&dead["reason"], &dead["status"]),
        (&"rejected".into(), &422.into())
    );
    let used = accepted(&defer(&weft, "used", "x"));
    let dead = wait_for_state(&weft, &used, "dead_lettered");
    assert_eq!(
        (&dead["reason"], &dead["attempts"]),
        (&"exhausted".into(), &5.into())
    );
    weft.assert_metric("weft_dead_letters{subscription=\"notify\"}", 2.0);
    weft.assert_metric("weft_dead_letters_added_total{reason=\"rejected\"}", 1.0);
}

#[test]
fn the_callee_has_the_last_word() {
    let origin = Origin::start();
    origin.next([
        Reply::ok("not yet").header("x-weft-outcome", "retry"),
        Reply::status(503).header("x-weft-outcome", "reject"),
    ]);
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let id = accepted(&defer(&weft, "k", "x"));
    wait_for_state(&weft, &id, "dead_lettered");
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_refusal_for_want_of_credentials_names_what_was_not_kept() {
    let origin = Origin::answering(|_| Reply::status(401));
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let answer = Call::post("/", "x")
        .host("email")
        .header("authorization", "Bearer s3cret")
        .send(&weft.outbound());
    let dead = wait_for_state(&weft, &accepted(&answer), "dead_lettered");
    let error = dead["error"].as_str().unwrap();
    assert!(
        error.contains("authorization") && !error.contains("s3cret"),
        "{error}"
    );
}

#[test]
fn credentials_are_kept_where_the_file_says_so() {
    let origin = Origin::start();
    let weft = Weft::start(&yaml(&origin.address(), "keepHeaders: [authorization]"));
    let call = Call::post("/", "x").host("email");
    let call = call.header("authorization", "a").header("cookie", "b");
    accepted(&call.send(&weft.outbound()));
    let seen = &origin.wait_for_requests(1)[0];
    assert_eq!(
        (seen.header("authorization"), seen.header("cookie")),
        (Some("a"), None)
    );
}

#[test]
fn what_cannot_be_delivered_in_time_expires() {
    let weft = Weft::start(&yaml(&dead_address(), "expiry: 200ms"));
    let id = accepted(&defer(&weft, "k", "x"));
    let said = wait_for_state(&weft, &id, "expired");
    assert_eq!(said["reason"], "expired");
    let answer = standing(&weft, &id);
    assert_eq!(
        (answer.status, answer.reason()),
        (410, Some("event_expired"))
    );
}

#[test]
fn a_delayed_call_is_not_made_before_its_time() {
    let origin = Origin::start();
    let weft = Weft::start(&yaml(&origin.address(), "delay: 500ms"));
    let begin = std::time::Instant::now();
    accepted(&defer(&weft, "k", "x"));
    let seen = origin.wait_for_requests(1);
    assert!((seen[0].at - begin).as_millis() >= 495);
}

#[test]
fn a_stream_is_not_kept() {
    let origin = Origin::start();
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    // A call of two messages is a stream.
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/mail.v1.Mailer/Send"),
        (":authority", "email"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    client.send(&Frame::headers(1, &head, false));
    let two = [grpc_message(b"one"), grpc_message(b"two")].concat();
    client.send(&Frame::data(1, two, true));
    let (_, fields, _) = client.read_headers();
    let field = |wanted: &str| {
        let found = fields.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    };
    assert_eq!(field("grpc-status").as_deref(), Some("12"), "{fields:?}");
    assert_eq!(field("x-weft-reason").as_deref(), Some("not_deferrable"));
    assert_eq!(weft.metric("weft_outbox_events"), 0.0);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_key_that_cannot_be_computed_is_told_and_nothing_is_stored() {
    let origin = Origin::start();
    let file = yaml(&origin.address(), QUICK).replace(
        "key: request.headers[\"x-key\"]",
        "key: string(int(request.headers[\"x-key\"]))",
    );
    let weft = Weft::start(&file);
    accepted(&defer(&weft, "7", "x"));
    let refused = defer(&weft, "seven", "x");
    assert_eq!(
        (refused.status, refused.reason()),
        (422, Some("key_failed")),
        "{}",
        refused.text()
    );
    assert_eq!(origin.wait_for_requests(1)[0].header("x-key"), Some("7"));
    assert_eq!(sum_of_ledger(&weft), 1.0);
}

/// Every event ever accepted.
fn sum_of_ledger(weft: &Weft) -> f64 {
    weft.metric("weft_events_ledger")
}

#[test]
fn what_is_too_large_is_refused_and_leaves_nothing() {
    let origin = Origin::start();
    let yaml = yaml(&origin.address(), QUICK)
        + "outbox: { path: \"${WEFT_DIR}/outbox\", limits: { event: 4KiB } }\n";
    let weft = Weft::start(&yaml);
    let answer = defer(&weft, "k", &"x".repeat(5000));
    assert_eq!(
        (answer.status, answer.reason()),
        (413, Some("body_too_large"))
    );
    let mut chunked = RawClient::connect(&weft.outbound());
    chunked.send("POST / HTTP/1.1\r\nhost: email\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..5 {
        chunked.send(format!("400\r\n{}\r\n", "x".repeat(1024)).as_str());
    }
    assert_eq!(chunked.answer().status, 413);
    assert_eq!(weft.metric("weft_outbox_events"), 0.0);
}

#[test]
fn a_full_outbox_refuses_the_next_call_and_keeps_what_it_has() {
    let yaml = yaml(&dead_address(), QUICK)
        + "outbox: { path: \"${WEFT_DIR}/outbox\", limits: { count: 4, perUpstream: 100 } }\n";
    let weft = Weft::start(&yaml);
    for _ in 0..4 {
        accepted(&defer(&weft, "", "x"));
    }
    let answer = defer(&weft, "", "x");
    assert_eq!((answer.status, answer.reason()), (503, Some("outbox_full")));
    assert!(answer.header("retry-after").is_some());
    weft.assert_metric("weft_outbox_events", 4.0);
}

#[test]
fn one_dead_callee_never_fills_the_outbox_for_all() {
    let origin = Origin::start();
    let weft = Weft::start(&format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - {{ name: all, hosts: [dead, email], matches: [{{ method: POST }}], defer: {{}} }}
upstreams:
  dead: {{ endpoints: {{ static: ["{}"] }} }}
  email: {{ endpoints: {{ static: ["{}"] }} }}
outbox: {{ path: "${{WEFT_DIR}}/outbox", limits: {{ count: 10, perUpstream: 50 }} }}
"#,
        dead_address(),
        origin.address()
    ));
    let dead = || Call::post("/", "x").host("dead").send(&weft.outbound());
    for _ in 0..5 {
        accepted(&dead());
    }
    assert_eq!((dead().status, dead().reason()), (503, Some("outbox_full")));
    accepted(&defer(&weft, "", "x"));
}

const ONCE: &str = "      idempotency: { window: 1h }\n";

fn once(weft: &Weft, key: Option<&str>, body: &str, trace: &str) -> Answer {
    let call = Call::post("/v1/send", body)
        .host("email")
        .header("traceparent", trace);
    let call = match key {
        Some(key) => call.header("idempotency-key", key),
        None => call,
    };
    call.send(&weft.outbound())
}

fn idempotent_yaml(endpoint: &str) -> String {
    yaml(endpoint, QUICK).replace("upstreams:", &format!("{ONCE}upstreams:"))
}

#[test]
fn the_same_call_under_the_same_key_is_the_same_event_even_over_a_death() {
    let mut origin = Origin::start();
    origin.stop();
    let mut weft = Weft::start(&idempotent_yaml(&origin.address()));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let first = accepted(&once(&weft, Some("k1"), "x", trace));
    assert_eq!(accepted(&once(&weft, Some("k1"), "x", "00-1-2-01")), first);
    let other = once(&weft, Some("k1"), "y", trace);
    assert_eq!(
        (other.status, other.reason()),
        (422, Some("idempotency_mismatch"))
    );
    weft.kill9();
    weft.restart();
    assert_eq!(accepted(&once(&weft, Some("k1"), "x", trace)), first);
    assert_ne!(accepted(&once(&weft, Some("k2"), "x", trace)), first);
    origin.start_again();
    wait_for_state(&weft, &first, "delivered");
    assert_eq!(accepted(&once(&weft, Some("k1"), "x", trace)), first);
    weft.assert_metric("weft_events_ledger{state=\"delivered\"}", 2.0);
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_key_that_is_required_is_missed_and_one_that_is_taken_conflicts() {
    let origin = Origin::start();
    let yaml = idempotent_yaml(&origin.address()).replace("window: 1h", "required: true");
    let weft = Weft::start(&yaml);
    let missing = once(&weft, None, "x", "t");
    assert_eq!(
        (missing.status, missing.reason()),
        (400, Some("idempotency_key_missing"))
    );
    // Whichever of two calls is read first takes the key: another pair where that was the whole one.
    let mut pairs = 0;
    let conflict = wait_for("a conflict", || {
        pairs += 1;
        let key = format!("k{pairs}");
        let mut half = RawClient::connect(&weft.outbound());
        half.send(format!(
            "POST /v1/send HTTP/1.1\r\nhost: email\r\nidempotency-key: {key}\r\ncontent-length: 2\r\n\r\nx"
        ));
        let answer = once(&weft, Some(&key), "xx", "t");
        (answer.status == 409).then_some(answer)
    });
    assert_eq!(conflict.reason(), Some("idempotency_conflict"));
}

#[test]
fn a_client_that_dies_in_its_body_leaves_nothing() {
    let origin = Origin::start();
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let mut stream = TcpStream::connect(weft.outbound()).unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: email\r\ncontent-length: 100\r\n\r\nhalf")
        .unwrap();
    drop(stream);
    weft.wait_for_access(|line| line["reason"] == "client_gone" || line["reason"] == "body_broken");
    assert_eq!(weft.metric("weft_events_captured_total"), 0.0);
}

#[test]
fn no_accepted_call_is_lost_by_a_death() {
    let mut origin = Origin::start();
    origin.stop();
    let mut weft = Weft::start(&yaml(&origin.address(), QUICK));
    let ids: Vec<String> = (0..50)
        .map(|n| accepted(&defer(&weft, &format!("k{}", n % 5), &n.to_string())))
        .collect();
    weft.kill9();
    origin.start_again();
    weft.restart();
    weft.assert_metric("weft_events_ledger{state=\"delivered\"}", 50.0);
    let seen = origin.requests();
    for id in &ids {
        assert!(
            seen.iter().any(|one| one.header("ce-id") == Some(id)),
            "{id} is lost"
        );
    }
    for (key, bodies) in by_key(&seen) {
        let numbers: Vec<u32> = bodies.iter().map(|body| body.parse().unwrap()).collect();
        assert!(
            numbers.is_sorted() && numbers.len() == 10,
            "{key}: {numbers:?}"
        );
    }
}

/// Dies at `point`, starts again, and everything that was accepted comes once more or for the first time.
fn survives(point: &str) {
    let origin = Origin::start();
    let armed = [("WEFT_CRASH_AT", point)];
    let mut weft = Weft::start_with(&yaml(&origin.address(), QUICK), &armed);
    let call = Call::post("/", "x").host("email").header("x-key", "k");
    let answer = call.try_send(&weft.outbound());
    let status = wait_for("its death", || weft.exited());
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    weft.disarm();
    weft.restart();
    if let Ok(answer) = answer {
        wait_for_state(&weft, &accepted(&answer), "delivered");
    }
    weft.assert_metric("weft_outbox_events", 0.0);
    let seen = origin.requests();
    let ids: Vec<_> = seen.iter().map(|one| one.header("ce-id")).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
}

#[test]
fn a_death_after_the_sync_loses_nothing() {
    survives("after-fsync");
}

#[test]
fn a_death_before_a_delivery_loses_nothing() {
    survives("before-delivery");
}

#[test]
fn a_death_behind_an_answer_brings_the_call_again_with_its_id() {
    survives("after-answer");
}

#[test]
fn a_unary_grpc_call_is_kept_and_made_later() {
    let origin = Origin::answering(|_| Reply::grpc(b"pong", 0));
    let weft = Weft::start(&format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - {{ name: mail, hosts: [echo], defer: {{}}, reply: {{ message: "CgNhYmM=" }},
        matches: [{{ grpc: {{ service: weft.test.Echo, method: Unary }} }}] }}
upstreams:
  echo: {{ endpoints: {{ static: ["{}"] }}, protocol: grpc }}
"#,
        origin.address()
    ));
    let mut peer = H2Peer::connect(&weft.outbound(), &[]);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/weft.test.Echo/Unary"),
        (":authority", "echo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    peer.send(&Frame::headers(1, &fields, false));
    peer.send(&Frame::data(1, grpc_message(b"ping"), true));
    let (_, head, _) = peer.read_headers();
    assert!(
        head.contains(&(":status".to_owned(), "200".to_owned())),
        "{head:?}"
    );
    let (body, trailers) = peer.read_body(1);
    assert_eq!(body, grpc_message(b"\n\x03abc"));
    assert!(trailers.contains(&("grpc-status".to_owned(), "0".to_owned())));
    let seen = &origin.wait_for_requests(1)[0];
    assert_eq!(seen.body, grpc_message(b"ping"));
    assert_eq!(seen.header("ce-type"), Some("dev.weft.grpc.request.v1"));
    weft.assert_metric("weft_events_ledger{state=\"delivered\"}", 1.0);
}

#[test]
fn a_stored_call_keeps_its_upstream_and_waits_where_that_is_gone() {
    let (first, second) = (Origin::start(), Origin::start());
    let text = |name: &str, origin: &Origin, delay: &str| {
        format!(
            r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - {{ name: notify, hosts: [email], matches: [{{ method: POST }}], defer: {{ delay: {delay} }},
        backends: [{{ upstream: {name} }}] }}
upstreams:
  {name}: {{ endpoints: {{ static: ["{}"] }} }}
"#,
            origin.address()
        )
    };
    // Longer than it takes to take its upstream away.
    let mut weft = Weft::start(&text("one", &first, "5s"));
    let kept = accepted(&defer(&weft, "", "for one"));
    weft.reload(&text("two", &second, "0s"));
    let next = accepted(&defer(&weft, "", "for two"));
    wait_for_state(&weft, &next, "delivered");
    weft.wait_for_log("parked");
    let listed = &weft.admin_get("/outbox")["parkedUpstreams"];
    assert_eq!(listed, &serde_json::json!(["one"]));
    weft.term();
    weft.wait_until_gone();
    let check = weft.run(&["check", "-c", "weft.yaml"]);
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(told.contains("calls for `one` are parked"), "{told}");
    weft.restart();
    weft.reload(&text("one", &first, "0s"));
    wait_for_state(&weft, &kept, "delivered");
    assert_eq!(first.requests()[0].text(), "for one");
    assert_eq!(second.count(), 1);
}

#[test]
fn a_held_store_is_taken_over_once_it_is_free() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let text = yaml(&origin.address(), QUICK)
        + &format!("outbox: {{ path: \"{}\" }}\n", folder.path().display());
    let mut holder = Weft::start(&text);
    let weft = Weft::start(&text);
    let answer = defer(&weft, "", "x");
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("store_unavailable"))
    );
    let now = Call::get("/now").host("email").send(&weft.outbound());
    assert_eq!(now.status, 200);
    holder.kill9();
    wait_until("the store to be free", || {
        defer(&weft, "", "x").status == 202
    });
}

#[test]
fn a_stop_burns_no_attempt_and_the_next_process_goes_on() {
    let origin = Origin::start();
    origin.answer(|_| Reply::ok("").after(NEVER));
    let yaml = yaml(&origin.address(), QUICK) + "shutdown: { lameDuck: 0s, grace: 100ms }\n";
    let mut weft = Weft::start(&yaml);
    let id = accepted(&defer(&weft, "k", "x"));
    origin.wait_for_requests(1);
    weft.term();
    assert!(weft.wait_for_exit().success());
    origin.answer(|_| Reply::ok(""));
    weft.restart();
    wait_for_state(&weft, &id, "delivered");
    assert_eq!(origin.requests()[1].header("x-weft-attempt"), Some("1"));
}

#[test]
fn a_dead_letter_is_edited_replayed_or_given_up_by_a_person() {
    let origin = Origin::answering(|seen| match seen.text().as_str() {
        "good" => Reply::ok(""),
        _ => Reply::status(400).body("cannot read this"),
    });
    let weft = Weft::start(&yaml(&origin.address(), QUICK));
    let ids: Vec<String> = ["edit", "replay", "discard"]
        .iter()
        .map(|body| accepted(&defer(&weft, body, body)))
        .collect();
    for id in &ids {
        wait_for_state(&weft, id, "dead_lettered");
    }
    weft.assert_metric("weft_dead_letters{subscription=\"notify\"}", 3.0);
    let told = weft
        .admin_get(&format!("/deadletters/{}", ids[0]))
        .to_string();
    assert!(told.contains("cannot read this"), "{told}");

    let edited = weft.admin_post(
        &format!("/deadletters/{}/edit", ids[0]),
        r#"{"body":"good"}"#,
    );
    assert_eq!(edited.status, 200, "{}", edited.text());
    let fresh = edited.json()["id"].as_str().unwrap().to_owned();
    assert_ne!(fresh, ids[0]);
    wait_for_state(&weft, &fresh, "delivered");
    let last = origin.requests().pop().unwrap();
    assert_eq!(last.header("ce-causationid"), Some(ids[0].as_str()));

    origin.answer(|_| Reply::ok(""));
    assert_eq!(
        weft.admin_post(&format!("/deadletters/{}/replay", ids[1]), "")
            .status,
        200
    );
    wait_for_state(&weft, &ids[1], "delivered");
    assert_eq!(
        weft.admin_post(&format!("/deadletters/{}/discard", ids[2]), "")
            .status,
        200
    );
    assert_eq!(
        wait_for_state(&weft, &ids[2], "discarded")["reason"],
        "rejected"
    );
    weft.assert_metric("weft_dead_letters{subscription=\"notify\"}", 0.0);
}

#[test]
fn what_kills_the_sidecar_three_times_alone_is_a_dead_letter() {
    let origin = Origin::start();
    let armed = [("WEFT_CRASH_AT", "in-flight")];
    let mut weft = Weft::start_with(&yaml(&origin.address(), QUICK), &armed);
    let call = Call::post("/", "x").host("email").header("x-key", "k");
    let _ = call.try_send(&weft.outbound());
    weft.wait_until_gone();
    for _ in 0..2 {
        // It may die before it is ready.
        if weft.launch().is_ok() {
            weft.wait_until_gone();
        }
    }
    weft.restart();
    weft.assert_metric("weft_dead_letters_added_total{reason=\"crash\"}", 1.0);
    assert_eq!(origin.count(), 0);
}
