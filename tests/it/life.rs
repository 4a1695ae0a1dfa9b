//! A sidecar's life: reloads under load, leaving without a failed call, and want of what the system gives.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

use crate::harness::{
    Answer, Call, Frame, H2Peer, NEVER, Origin, RawClient, Reply, Weft, dead_address, free_port,
    gated, grpc_message, grpc_status, kind, wait_until,
};

fn get(weft: &Weft, host: &str) -> Answer {
    Call::get("/").host(host).send(&weft.outbound())
}

/// A call whose answer nobody waits for yet.
fn begin(weft: &Weft, host: &str) -> RawClient {
    let mut client = RawClient::connect(&weft.outbound());
    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    client
}

/// An upstream as admin shows it.
fn upstream(weft: &Weft, name: &str) -> Value {
    let all = weft.admin_get("/upstreams");
    let mut all = all.as_array().expect("a list").iter();
    let found = all.find(|upstream| upstream["name"] == name);
    found.expect("a known upstream").clone()
}

fn addresses(weft: &Weft, name: &str) -> Vec<String> {
    let upstream = upstream(weft, name);
    let endpoints = upstream["endpoints"].as_array().expect("a list");
    let address = |endpoint: &Value| endpoint["address"].as_str().unwrap_or_default().to_owned();
    endpoints.iter().map(address).collect()
}

fn wait_for_asked(asked: &AtomicUsize, count: usize) {
    wait_until("the call at the callee", || {
        asked.load(Ordering::SeqCst) >= count
    });
}

/// Callers on kept connections that never try twice. They leave a connection where they are asked to.
struct Load {
    stop: Arc<AtomicBool>,
    /// The balancer before us has seen that we are not ready: no new connections.
    turned_away: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: Vec<thread::JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(address: &str, host: &str, callers: usize) -> Self {
        let (stop, turned_away) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let done = Arc::<AtomicUsize>::default();
        let callers = (0..callers)
            .map(|_| {
                let (address, host) = (address.to_owned(), host.to_owned());
                let (stop, away) = (Arc::clone(&stop), Arc::clone(&turned_away));
                let done = Arc::clone(&done);
                thread::spawn(move || call_on(&address, &host, &stop, &away, &done))
            })
            .collect();
        Load {
            stop,
            turned_away,
            done,
            callers,
        }
    }

    fn wait_for_more(&self, calls: usize) {
        let before = self.done.load(Ordering::SeqCst);
        wait_until("more calls", || {
            self.done.load(Ordering::SeqCst) >= before + calls || self.is_over()
        });
    }

    fn is_over(&self) -> bool {
        self.callers.iter().all(thread::JoinHandle::is_finished)
    }

    fn turn_away(&self) {
        self.turned_away.store(true, Ordering::SeqCst);
    }

    /// Ends the callers; panics with the first call that failed.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller
                .join()
                .expect("a caller did not panic")
                .expect("no call fails");
        }
        self.done.load(Ordering::SeqCst)
    }
}

fn call_on(
    address: &str,
    host: &str,
    stop: &AtomicBool,
    turned_away: &AtomicBool,
    done: &AtomicUsize,
) -> Result<(), String> {
    let call = Call::get("/").host(host).bytes(host);
    let mut kept: Option<RawClient> = None;
    while !stop.load(Ordering::SeqCst) {
        let mut client = match kept.take() {
            Some(client) => client,
            None if turned_away.load(Ordering::SeqCst) => return Ok(()),
            None => RawClient::try_connect(address).map_err(|error| format!("connect: {error}"))?,
        };
        client
            .try_send(&call)
            .map_err(|error| format!("send: {error}"))?;
        let answer = client
            .try_answer_to("GET")
            .map_err(|error| format!("answer: {error}"))?;
        if answer.status != 200 {
            return Err(format!("{}: {}", answer.status, answer.text()));
        }
        done.fetch_add(1, Ordering::SeqCst);
        if answer.header("connection") != Some("close") {
            kept = Some(client);
        }
    }
    Ok(())
}

/// Generation `number` of a file: its route says the number, its endpoints change, and `gate` lets one or two in.
fn generation(number: usize, pool: &[String], gate: &str) -> String {
    let (one, two) = (&pool[number % 3], &pool[(number + 1) % 3]);
    let limit = 1 + number % 2;
    format!(
        r#"
        outbound:
          listen: "127.0.0.1:0"
          routes:
            - name: pay
              hosts: [payments]
              backends: [{{ upstream: payments }}]
              filters: [{{ responseHeaderModifier: {{ set: {{ x-generation: "{number}" }} }} }}]
        upstreams:
          payments: {{ endpoints: {{ static: ["{one}", "{two}"] }} }}
          gate: {{ endpoints: {{ static: ["{gate}"] }}, limits: {{ requests: {limit} }} }}
        "#
    )
}

#[test]
fn twenty_reloads_under_load_fail_no_call() {
    let origins = [Origin::start(), Origin::start(), Origin::start()];
    let pool: Vec<String> = origins.iter().map(Origin::address).collect();
    let gate = Origin::answering(|seen| match seen.header("x-stay") {
        Some(_) => Reply::ok("late").after(NEVER),
        None => Reply::ok("ok"),
    });
    let weft = Weft::start(&generation(0, &pool, &gate.address()));
    // It holds one place under `limits.requests` through all generations.
    let mut stays = RawClient::connect(&weft.outbound());
    stays.send("GET / HTTP/1.1\r\nhost: gate\r\nx-stay: 1\r\n\r\n");
    gate.wait_for_requests(1);
    let load = Load::start(&weft.outbound(), "payments", 4);
    load.wait_for_more(20);
    let mut took = Vec::new();
    for number in 1..=20 {
        let begin = Instant::now();
        weft.write_config(&generation(number, &pool, &gate.address()));
        match number % 3 {
            0 => assert_eq!(weft.admin_post("/reload", "").status, 200),
            1 => weft.signal(Signal::HUP),
            _ => {}
        }
        let told = number.to_string();
        wait_until("the route's change", || {
            get(&weft, "payments").header("x-generation") == Some(&told)
        });
        let mut wanted = [&pool[number % 3], &pool[(number + 1) % 3]].map(String::clone);
        wanted.sort();
        let sorted = |mut addresses: Vec<String>| {
            addresses.sort();
            addresses
        };
        wait_until("the endpoints' change", || {
            sorted(addresses(&weft, "payments")) == wanted
        });
        let status = if number % 2 == 0 { 503 } else { 200 };
        wait_until("the limit's change", || get(&weft, "gate").status == status);
        took.push(begin.elapsed());
        load.wait_for_more(10);
    }
    load.end();
    took.sort();
    assert!(took[10] < Duration::from_secs(1), "{took:?}");
    assert!(stays.is_quiet(), "a reload cut a call");
    weft.wait_for_metric("weft_config_reload_total{result=\"success\"}", |n| {
        n >= 20.0
    });
    assert_eq!(
        weft.metric("weft_config_reload_total{result=\"failure\"}"),
        0.0
    );
}

/// `steady` with these endpoints and extra keys, and a neighbour whose endpoint is the reload's change.
fn beside(steady: &[&str], keys: &str, other: &str) -> String {
    let steady = steady.join("\", \"");
    format!(
        r#"
        workers: 1
        outbound: {{ listen: "127.0.0.1:0" }}
        upstreams:
          steady:
            endpoints: {{ static: ["{steady}"] }}
            loadBalancing: {{ policy: roundRobin }}
            outlier: {{ consecutiveFailures: 2, penalty: {{ min: 60s }} }}
            {keys}
          other: {{ endpoints: {{ static: ["{other}"] }} }}
        "#
    )
}

#[test]
fn what_a_reload_does_not_change_keeps_connections_estimates_and_ejections() {
    let failing = Origin::answering(|_| Reply::status(500));
    let (fine, third) = (Origin::start(), Origin::start());
    let (bad, good) = (failing.address(), fine.address());
    let mut weft = Weft::start(&beside(&[&bad, &good], "", "127.0.0.1:1"));
    wait_until("the ejection", || {
        get(&weft, "steady");
        weft.metric("weft_endpoint_ejections_total{upstream=\"steady\"}") == 1.0
    });
    let estimate = |weft: &Weft| {
        let endpoints = upstream(weft, "steady")["endpoints"].clone();
        let found = endpoints
            .as_array()
            .expect("a list")
            .iter()
            .find(|endpoint| endpoint["address"] == good)
            .expect("it is there")
            .clone();
        found["workers"][0]["ewmaMs"].as_f64().expect("a number")
    };
    let files = [
        (
            "another upstream's endpoints",
            beside(&[&bad, &good], "", "127.0.0.1:2"),
        ),
        (
            "a limit",
            beside(&[&bad, &good], "limits: { connections: 7 }", "127.0.0.1:2"),
        ),
        (
            "an endpoint more",
            beside(&[&bad, &good, &third.address()], "", "127.0.0.1:2"),
        ),
    ];
    for (what, file) in files {
        // A new estimate is 30 ms; this one is more, and forgotten little by little.
        fine.next([Reply::ok("slow").after(Duration::from_secs(1))]);
        assert_eq!(get(&weft, "steady").status, 200);
        let (asked, connections) = (failing.count(), fine.connections());
        weft.reload(&file);
        assert!(estimate(&weft) > 100.0, "{what} forgot the estimate");
        for _ in 0..6 {
            assert_eq!(get(&weft, "steady").status, 200, "after {what}");
        }
        assert_eq!(failing.count(), asked, "{what} forgot the ejection");
        assert_eq!(fine.connections(), connections, "{what} closed connections");
    }
    assert!(third.count() > 0, "the new endpoint is used");
}

#[test]
fn a_spent_budget_stays_spent_over_a_changed_limit() {
    let failing = Origin::answering(|_| Reply::status(503));
    let file = |limit: u32| {
        format!(
            r#"
            outbound:
              listen: "127.0.0.1:0"
              routes:
                - name: pay
                  hosts: [payments]
                  backends: [{{ upstream: payments }}]
                  retry: {{ attempts: 100, conditions: [gateway], backoff: {{ base: 1ms, max: 1ms }} }}
            upstreams:
              payments:
                endpoints: {{ static: ["{}"] }}
                limits: {{ connections: {limit} }}
            "#,
            failing.address()
        )
    };
    let mut weft = Weft::start(&file(10));
    for _ in 0..3 {
        get(&weft, "payments");
    }
    let before = failing.count();
    weft.reload(&file(11));
    assert_eq!(get(&weft, "payments").status, 503);
    let tries = failing.count() - before;
    assert!(tries < 60, "{tries} tries: the budget began anew");
}

const SIMPLE: &str = r#"
    outbound: { listen: "127.0.0.1:0" }
    upstreams:
"#;

/// A file with one upstream `payments` at this address.
fn simple(endpoint: &str) -> String {
    format!("{SIMPLE}      payments: {{ endpoints: {{ static: [\"{endpoint}\"] }} }}\n")
}

/// With its common indentation off, to stand below a line without any.
fn dedented(yaml: &str) -> String {
    yaml.replace("\n    ", "\n")
}

#[test]
fn a_wrong_file_is_refused_whole_and_counted() {
    let origin = Origin::start();
    let mut weft = Weft::start(&simple(&origin.address()));
    let wrong = simple("127.0.0.1:1").replace("endpoints", "endpiont");
    let refused = weft.try_reload(&wrong);
    assert_ne!(refused.status, 200);
    assert!(refused.text().contains("endpiont"), "{}", refused.text());
    assert_eq!(get(&weft, "payments").status, 200);
    weft.wait_for_metric("weft_config_reload_total{result=\"failure\"}", |n| n >= 1.0);
    weft.assert_metric("weft_config_last_reload_successful", 0.0);
    weft.reload(&simple(&origin.address()));
    weft.assert_metric("weft_config_last_reload_successful", 1.0);
}

#[test]
fn what_needs_a_restart_is_refused_by_name_with_all_beside_it() {
    let origin = Origin::start();
    let mut weft = Weft::start(&simple(&dead_address()));
    let more = format!("workers: 3\n{}", dedented(&simple(&origin.address())));
    let refused = weft.try_reload(&more);
    assert_ne!(refused.status, 200);
    assert!(
        refused
            .text()
            .contains("workers cannot change without a restart"),
        "{}",
        refused.text()
    );
    assert_eq!(get(&weft, "payments").status, 503, "a part was taken over");
}

/// Whoever is told so by `POST /reload` need not wait for anything: every worker has done it.
#[test]
fn a_door_is_closed_once_the_reload_was_answered() {
    let origin = Origin::start();
    let door = format!("127.0.0.1:{}", free_port());
    let without = format!("workers: 8\n{}", dedented(&simple(&origin.address())));
    let with = without.replace("payments: {", &format!("payments: {{ listen: \"{door}\","));
    let mut weft = Weft::start(&without);
    for turn in 1..=40 {
        weft.reload(&with);
        assert_eq!(Call::get("/").host("payments").send(&door).status, 200);
        let mut admin = RawClient::connect(&weft.admin());
        weft.write_config(&without);
        let host = weft.admin();
        admin.send(format!(
            "POST /reload HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"
        ));
        admin.read_until(b"HTTP/1.1 200");
        assert!(
            TcpStream::connect(&door).is_err(),
            "reload {turn} was not followed"
        );
    }
}

#[test]
fn a_changed_listen_applies() {
    let origin = Origin::start();
    let mut weft = Weft::start(&simple(&origin.address()));
    let old = weft.outbound();
    let new = format!("127.0.0.1:{}", free_port());
    let own = simple(&origin.address())
        .replace("127.0.0.1:0", &new)
        .replace("payments: {", "payments: { listen: \"127.0.0.1:0\",");
    weft.reload(&own);
    assert_eq!(weft.outbound(), new);
    wait_until("the old one to close", || {
        Call::get("/").host("payments").try_send(&old).is_err()
    });
    assert_eq!(get(&weft, "payments").status, 200);
    let port = Call::get("/")
        .host("anyone")
        .send(&weft.upstream("payments"));
    assert_eq!(port.status, 200);
}

#[test]
fn a_reload_onto_an_occupied_port_is_refused_whole() {
    let origin = Origin::start();
    let mut weft = Weft::start(&simple(&origin.address()));
    let listeners = weft.admin_get("/listeners");
    let file = simple(&dead_address()).replace("127.0.0.1:0", &origin.address());
    let refused = weft.try_reload(&file);
    assert_ne!(refused.status, 200);
    assert!(
        refused.text().contains("another process has this port"),
        "{}",
        refused.text()
    );
    assert_eq!(weft.admin_get("/listeners"), listeners);
    assert_eq!(get(&weft, "payments").status, 200);
}

#[test]
fn a_symlink_swap_is_a_change() {
    let (old, new) = (
        Origin::answering(|_| Reply::ok("old")),
        Origin::answering(|_| Reply::ok("new")),
    );
    let weft = Weft::start(&simple(&old.address()));
    let text = fs::read_to_string(weft.config_path()).unwrap();
    let at = |name: &str| weft.path().join(name);
    for (version, endpoint) in [("..1", &old), ("..2", &new)] {
        fs::create_dir(at(version)).unwrap();
        let text = text.replace(&old.address(), &endpoint.address());
        fs::write(at(version).join("weft.yaml"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/weft.yaml", at("link")).unwrap();
    fs::rename(at("link"), weft.config_path()).unwrap();
    assert_eq!(get(&weft, "payments").text(), "old");
    // As a kubelet does it: a new link beside the old, then one rename over it.
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    wait_until("the new file", || get(&weft, "payments").text() == "new");
}

#[test]
fn sighup_reads_a_file_whose_change_cannot_be_seen() {
    let (old, new) = (
        Origin::answering(|_| Reply::ok("old")),
        Origin::answering(|_| Reply::ok("new")),
    );
    let weft = Weft::start(&simple(&old.address()));
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("weft.yaml");
    let text = fs::read_to_string(weft.config_path()).unwrap();
    fs::write(&file, &text).unwrap();
    symlink(&file, weft.path().join("link")).unwrap();
    fs::rename(weft.path().join("link"), weft.config_path()).unwrap();
    fs::write(&file, text.replace(&old.address(), &new.address())).unwrap();
    weft.signal(Signal::HUP);
    wait_until("the new file", || get(&weft, "payments").text() == "new");
}

/// The file with `shutdown` as said.
fn leaving(endpoint: &str, lame_duck: &str, grace: &str) -> String {
    let shutdown = format!("\n    shutdown: {{ lameDuck: {lame_duck}, grace: {grace} }}\n");
    shutdown + simple(endpoint).trim_start_matches('\n')
}

fn is_ready(weft: &Weft) -> Option<u16> {
    let answer = Call::get("/ready").try_send(&weft.metrics_address());
    answer.ok().map(|answer| answer.status)
}

#[test]
fn in_its_lame_duck_time_nothing_idle_is_closed_and_callers_are_asked_to_go() {
    let origin = Origin::start();
    let mut weft = Weft::start(&leaving(&origin.address(), "5s", "20s"));
    let call = Call::get("/").host("payments");
    let mut clients = [(); 2].map(|()| RawClient::connect(&weft.outbound()));
    for client in &mut clients {
        assert_eq!(client.call(&call, "").header("connection"), None);
    }
    weft.term();
    wait_until("/ready to say no", || is_ready(&weft) == Some(503));
    let [asked, idle] = &mut clients;
    assert!(idle.is_quiet(), "an idle connection was closed");
    let answer = asked.call(&call, "");
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    let newcomer = get(&weft, "payments");
    assert_eq!(
        (newcomer.status, newcomer.header("connection")),
        (200, Some("close"))
    );
    assert!(
        idle.is_closed_by_peer(),
        "it is closed when the time is over"
    );
    assert!(weft.wait_for_exit().success());
}

#[test]
fn an_http2_caller_gets_goaway_twice_and_its_answer() {
    let (origin, gate, asked) = gated();
    let mut weft = Weft::start(&leaving(&origin.address(), "100ms", "20s"));
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "payments"),
    ];
    client.send(&Frame::headers(1, &fields, true));
    wait_for_asked(&asked, 1);
    weft.term();
    let first = client.read_kind(kind::GOAWAY);
    assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, 0));
    // It waits for the answer to its PING: what was sent before is then known.
    let ping = client.seen.iter().rfind(|frame| frame.kind == kind::PING);
    let ping = ping
        .cloned()
        .unwrap_or_else(|| client.read_kind(kind::PING));
    client.send(&Frame::new(kind::PING, 1, 0, ping.payload));
    let second = client.read_kind(kind::GOAWAY);
    assert_eq!((second.number(0), second.number(4)), (1, 0));
    drop(gate);
    let (stream, head, _) = client.read_headers();
    assert_eq!(stream, 1);
    assert!(head.contains(&(":status".to_owned(), "200".to_owned())));
    assert_eq!(client.read_body(1).0, b"late");
    assert!(weft.wait_for_exit().success());
}

#[test]
fn what_is_under_way_is_finished_and_then_nothing_is_waited_for() {
    let (origin, gate, asked) = gated();
    let mut weft = Weft::start(&leaving(&origin.address(), "50ms", "10m"));
    let mut caller = begin(&weft, "payments");
    wait_for_asked(&asked, 1);
    weft.term();
    wait_until("the listener to close", || {
        RawClient::try_connect(&weft.outbound()).is_err()
    });
    assert_eq!(weft.exited(), None);
    // The admin ports close last: who watches us leave can.
    assert_eq!(is_ready(&weft), Some(503));
    drop(gate);
    assert_eq!(caller.answer().text(), "late");
    assert!(weft.wait_for_exit().success());
}

#[test]
fn at_the_end_of_grace_what_is_left_is_cut() {
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let mut weft = Weft::start(&leaving(&origin.address(), "50ms", "300ms"));
    let mut caller = begin(&weft, "payments");
    origin.wait_for_requests(1);
    weft.term();
    assert!(weft.wait_for_exit().success());
    assert!(caller.is_closed_by_peer());
    weft.wait_for_log("grace is over");
}

#[test]
fn a_grpc_stream_that_is_cut_gets_unavailable_in_its_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let file =
        leaving(&address, "50ms", "500ms").replace("{ endpoints", "{ protocol: grpc, endpoints");
    let mut weft = Weft::start(&file);
    let mut client = H2Peer::connect(&weft.outbound(), &[]);
    client.ask_grpc(1, "payments", &[], b"x");
    let mut peer = H2Peer::accept(&listener, &[]);
    let (stream, _, _) = peer.read_headers();
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    peer.send(&Frame::headers(stream, &head, false));
    peer.send(&Frame::data(stream, grpc_message(b"first"), false));
    let (_, _, end) = client.read_headers();
    assert!(!end);
    assert_eq!(client.read_kind(kind::DATA).payload, grpc_message(b"first"));
    weft.term();
    let (body, trailers) = client.read_body(1);
    assert_eq!((body, grpc_status(&trailers)), (Vec::new(), Some(14)));
    assert!(weft.wait_for_exit().success());
}

#[test]
fn a_second_sigterm_forces() {
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let mut weft = Weft::start(&leaving(&origin.address(), "10m", "10m"));
    let mut caller = begin(&weft, "payments");
    origin.wait_for_requests(1);
    weft.term();
    weft.wait_for_log("leaving");
    weft.term();
    weft.wait_for_exit();
    assert!(caller.is_closed_by_peer());
}

/// An inbound call under way may still call out: the way out closes last.
#[test]
fn inbound_empties_before_outbound() {
    let callee = Origin::start();
    let way_out: Arc<Mutex<String>> = Arc::default();
    let (gate, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let asked = Arc::new(AtomicUsize::new(0));
    let (out, counted) = (Arc::clone(&way_out), Arc::clone(&asked));
    let app = Origin::answering(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = told.lock().expect("no panic here").recv();
        let address = out.lock().expect("no panic here").clone();
        let answer = Call::get("/").host("payments").try_send(&address);
        Reply::ok(answer.map_or_else(|error| error.to_string(), |answer| answer.text()))
    });
    let file = leaving(&callee.address(), "50ms", "20s");
    let inbound = format!(
        "\n    inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}\n",
        app.address()
    );
    let mut weft = Weft::start(&(inbound + file.trim_start_matches('\n')));
    way_out.lock().unwrap().push_str(&weft.outbound());
    let mut caller = RawClient::connect(&weft.inbound());
    caller.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n");
    wait_for_asked(&asked, 1);
    weft.term();
    wait_until("inbound to close", || {
        RawClient::try_connect(&weft.inbound()).is_err()
    });
    drop(gate);
    assert_eq!(caller.answer().text(), "ok", "the way out was closed");
    assert!(weft.wait_for_exit().success());
}

/// A delivery under way ends before the application loses its way out; nothing new is begun.
#[test]
fn the_outbox_empties_before_outbound() {
    let (callee, gate, asked) = gated();
    let other = Origin::start();
    let file = format!(
        r#"
    shutdown: {{ lameDuck: 50ms, grace: 20s }}
    outbound:
      listen: "127.0.0.1:0"
      routes: [{{ name: notify, hosts: [email], matches: [{{ method: POST }}], defer: {{ key: '"one"' }} }}]
    upstreams:
      email: {{ endpoints: {{ static: ["{}"] }} }}
      payments: {{ endpoints: {{ static: ["{}"] }} }}
"#,
        callee.address(),
        other.address()
    );
    let mut weft = Weft::start(&file);
    for _ in 0..2 {
        let kept = Call::post("/", "x").host("email").send(&weft.outbound());
        assert_eq!(kept.status, 202, "{}", kept.text());
    }
    wait_for_asked(&asked, 1);
    weft.term();
    wait_until("inbound to close", || {
        RawClient::try_connect(&weft.inbound()).is_err()
    });
    assert_eq!(get(&weft, "payments").status, 200, "the way out was closed");
    drop(gate);
    assert!(weft.wait_for_exit().success());
    assert_eq!(callee.count(), 1, "one was begun after we were told to go");
}

#[test]
fn leaving_under_load_fails_no_call() {
    let origin = Origin::answering(|_| Reply::ok("ok").after(Duration::from_millis(5)));
    let mut weft = Weft::start(&leaving(&origin.address(), "5s", "20s"));
    let load = Load::start(&weft.outbound(), "payments", 8);
    load.wait_for_more(100);
    weft.term();
    wait_until("/ready to say no", || is_ready(&weft) != Some(200));
    load.turn_away();
    wait_until("the callers to go", || load.is_over());
    assert!(load.end() >= 100);
    assert!(weft.wait_for_exit().success());
}

#[test]
fn want_of_file_descriptors_is_said_rested_on_and_survived() {
    let origin = Origin::start();
    let weft = Weft::start(&format!(
        "workers: 1\n{}",
        dedented(&simple(&origin.address()))
    ));
    assert_eq!(get(&weft, "payments").status, 200);
    let files = format!("/proc/{}/fd", weft.pid().as_raw_nonzero());
    let open = fs::read_dir(files).unwrap().count() as u64;
    let before = rustix::process::getrlimit(Resource::Nofile);
    // Only the soft limit: the hard one stays, so that the test can raise it again.
    let lower = Rlimit {
        current: Some(open + 2),
        maximum: before.maximum,
    };
    prlimit(Some(weft.pid()), Resource::Nofile, lower).unwrap();
    let begun = Instant::now();
    let held: Vec<RawClient> = (0..12)
        .map(|_| RawClient::connect(&weft.outbound()))
        .collect();
    let line = weft.wait_for_log("cannot accept connections");
    assert!(line.contains("Too many open files"), "{line}");
    // Long enough to tell a rest from a busy loop.
    wait_until("the window to pass", || begun.elapsed().as_millis() > 400);
    drop(held);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    prlimit(Some(weft.pid()), Resource::Nofile, raised).unwrap();
    wait_until("a call to pass again", || {
        Call::get("/")
            .host("payments")
            .try_send(&weft.outbound())
            .is_ok_and(|answer| answer.status == 200)
    });
    let rests = weft.metric("weft_accept_errors_total");
    // Each failure is followed by a rest of 50 ms.
    let most = begun.elapsed().as_millis() as f64 / 50.0 + 1.0;
    assert!(
        rests >= 1.0 && rests <= 3.0 * most,
        "{rests} failures, at most {most} rests a listener"
    );
}

#[test]
fn connections_beyond_a_share_of_the_descriptors_are_closed_at_once() {
    const DESCRIPTORS: u32 = 300;
    const MOST: usize = 240;
    let origin = Origin::start();
    let weft = Weft::start_within(DESCRIPTORS, &simple(&origin.address()));
    let connect = |_| RawClient::connect(&weft.outbound());
    let mut held: Vec<RawClient> = (0..MOST).map(connect).collect();
    // Each has its place once it is answered.
    for client in &mut held {
        assert_eq!(client.call(&Call::get("/"), "payments").status, 200);
    }
    for mut client in (0..10).map(connect) {
        assert!(client.is_closed_by_peer());
    }
    weft.assert_metric(
        "weft_connections_closed_total{rule=\"too_many_connections\"}",
        10.0,
    );
    let kept = held[0].call(&Call::get("/"), "payments");
    assert_eq!(kept.status, 200, "a connection within the share goes on");
    held.truncate(MOST - 1);
    wait_until("a place for a new connection", || {
        Call::get("/")
            .host("payments")
            .try_send(&weft.outbound())
            .is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn an_occupied_port_is_an_error_at_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = simple(&dead_address()).replace("127.0.0.1:0", &address);
    let failed = Weft::try_start(&file, &[]).err().expect("it cannot start");
    assert!(failed.status.is_some_and(|status| !status.success()));
    assert!(
        failed.stderr.contains(&address) && failed.stderr.contains("another process has this port"),
        "{}",
        failed.stderr
    );
}

/// Two sidecars of one user: SO_REUSEPORT would let them share, and each get half of the calls.
#[test]
fn a_port_of_another_sidecar_is_occupied_as_well() {
    let first = Weft::start(&simple(&dead_address()));
    let file = simple(&dead_address()).replace("127.0.0.1:0", &first.outbound());
    let failed = Weft::try_start(&file, &[]).err().expect("it cannot start");
    assert!(
        failed.stderr.contains("another process has this port"),
        "{}",
        failed.stderr
    );
}
