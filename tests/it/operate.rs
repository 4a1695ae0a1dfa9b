//! What an operator sees and does: the admin port and who may ask there, reloads, readiness, the access log.

use std::{fs, net::TcpListener, os::unix::fs::symlink};

use rustix::process::Signal;

use crate::harness::{Answer, Call, Origin, RawClient, Weft, parts, wait_for, wait_until};

/// The host `shop` goes to this origin.
fn to(origin: &Origin) -> String {
    format!(
        r#"
        outbound:
          listen: "127.0.0.1:0"
          unknown: deny
          routes: [{{ name: shop, hosts: [shop], backends: [{{ upstream: shop }}] }}]
        upstreams:
          shop: {{ endpoints: {{ static: ["{}"] }} }}
        "#,
        origin.address()
    )
}

fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| crate::harness::Reply::ok(name))
}

fn shop(weft: &Weft) -> Answer {
    Call::get("/").host("shop").send(&weft.outbound())
}

#[test]
fn a_web_page_can_neither_drain_nor_read() {
    let weft = Weft::start("");
    let admin = weft.admin();
    let by_name = Call::post("/drain", "")
        .host("evil.example:15000")
        .send(&admin);
    assert_eq!(by_name.status, 403, "{}", by_name.text());
    assert!(
        by_name.text().contains("evil.example"),
        "{}",
        by_name.text()
    );
    let by_origin = Call::post("/drain", "")
        .header("origin", "https://evil.example")
        .send(&admin);
    assert_eq!(by_origin.status, 403);
    assert!(by_origin.text().contains("Origin"), "{}", by_origin.text());
    let absolute = Call::post("http://evil.example/drain", "")
        .host("localhost")
        .send(&admin);
    assert_eq!(absolute.status, 403);
    let read = Call::get("/config").host("evil.example").send(&admin);
    assert_eq!(read.status, 403);
    assert!(weft.is_ready(), "it drains though nobody who may ask did");
}

#[test]
fn loopback_goes_by_three_names() {
    let weft = Weft::start("");
    for host in ["localhost", "127.0.0.1:15000", "[::1]:15000"] {
        let answer = Call::get("/live").host(host).send(&weft.admin());
        assert_eq!(
            (answer.status, answer.text().trim()),
            (200, "live"),
            "{host}"
        );
    }
}

#[test]
fn what_changes_something_takes_post() {
    let weft = Weft::start("");
    for page in ["/reload", "/drain", "/log"] {
        let answer = Call::get(page).send(&weft.admin());
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
        assert!(answer.text().contains("takes POST"), "{}", answer.text());
    }
    let nothing = Call::get("/nothing").send(&weft.admin());
    assert_eq!(nothing.status, 404);
    assert!(
        nothing.text().contains("no page /nothing"),
        "{}",
        nothing.text()
    );
    assert!(weft.is_ready());
}

#[test]
fn the_metrics_port_shows_nothing_else() {
    let weft = Weft::start("");
    let metrics = weft.metrics_address();
    for page in ["/live", "/ready", "/metrics"] {
        assert_eq!(
            Call::get(page).host("10.1.2.3:15020").send(&metrics).status,
            200
        );
    }
    for (method, page) in [
        ("GET", "/config"),
        ("GET", "/"),
        ("POST", "/drain"),
        ("POST", "/reload"),
    ] {
        assert_eq!(Call::new(method, page).send(&metrics).status, 404, "{page}");
    }
    assert_eq!(Call::post("/ready", "").send(&metrics).status, 405);
}

#[test]
fn a_body_has_a_bound() {
    let weft = Weft::start("");
    let answer = weft.admin_post("/log", &"x".repeat(4096));
    assert_eq!(answer.status, 413, "{}", answer.text());
}

#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    let weft = Weft::start("");
    assert_eq!(weft.admin_post("/log", "error").status, 200);
    assert_eq!(weft.admin_post("/reload", "").status, 200);
    assert_eq!(weft.admin_post("/log?level=info", "").status, 200);
    assert_eq!(weft.admin_post("/reload", "").status, 200);
    weft.wait_for_log("nothing changed");
    let told = weft.logs().matches("nothing changed").count();
    assert_eq!(told, 1, "the first reload was to be silent");
    let wrong = weft.admin_post("/log", "loud");
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text().contains("`loud` is not a log level"),
        "{}",
        wrong.text()
    );
}

#[test]
fn the_port_that_zero_became_is_told() {
    let origin = named("here");
    let weft = Weft::start(&format!(
        r#"
        upstreams:
          shop: {{ endpoints: {{ static: ["{}"] }}, listen: "127.0.0.1:0" }}
        "#,
        origin.address()
    ));
    let told = weft.admin_get("/listeners");
    assert_eq!(told["upstreams.shop"], weft.upstream("shop"));
    assert!(!weft.upstream("shop").ends_with(":0"));
    assert_eq!(Call::get("/").send(&weft.upstream("shop")).text(), "here");
    weft.wait_for_log("weft runs");
}

#[test]
fn an_occupied_port_ends_the_start() {
    let strangers = TcpListener::bind("127.0.0.1:0").unwrap();
    occupied(&strangers.local_addr().unwrap().to_string());
}

#[test]
fn a_port_that_would_be_shared_is_occupied_as_well() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    occupied(&address.to_string());
}

#[track_caller]
fn occupied(address: &str) {
    for yaml in [
        format!("outbound: {{ listen: \"{address}\" }}"),
        format!("admin: {{ listen: \"{address}\", metrics: \"127.0.0.1:0\" }}"),
    ] {
        let failed = Weft::try_start(&yaml, &[])
            .err()
            .expect("the port is taken");
        assert!(!failed.status.expect("it ended").success());
        let words = format!("cannot listen on {address}");
        assert!(failed.stderr.contains(&words), "{}", failed.stderr);
        assert!(
            failed.stderr.contains("another process has this port"),
            "{}",
            failed.stderr
        );
    }
}

#[test]
fn a_changed_file_is_followed() {
    let (one, two) = (named("one"), named("two"));
    let weft = Weft::start(&to(&one));
    assert_eq!(shop(&weft).text(), "one");
    weft.write_config(&to(&two));
    wait_until("the new upstream", || shop(&weft).text() == "two");
    weft.assert_metric("weft_config_last_reload_successful", 1.0);
}

#[test]
fn a_swapped_symlink_is_a_changed_file() {
    let (one, two) = (named("one"), named("two"));
    let mut weft = Weft::folder(&to(&one));
    // As the kubelet lays a ConfigMap out: the file points into `..data`, which points to the version.
    let folder = weft.path().to_owned();
    for (version, origin) in [("..v1", &one), ("..v2", &two)] {
        weft.write_config(&to(origin));
        fs::create_dir(folder.join(version)).unwrap();
        fs::rename(weft.config_path(), folder.join(version).join("weft.yaml")).unwrap();
    }
    symlink("..v1", folder.join("..data")).unwrap();
    symlink("..data/weft.yaml", weft.config_path()).unwrap();
    weft.launch().expect("it starts");
    assert_eq!(shop(&weft).text(), "one");
    symlink("..v2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    wait_until("the new upstream", || shop(&weft).text() == "two");
}

#[test]
fn sighup_reads_the_file_again() {
    let weft = Weft::start("");
    let reloads = "weft_config_reload_total{result=\"success\"}";
    assert_eq!(weft.metric(reloads), 0.0);
    weft.signal(Signal::HUP);
    weft.assert_metric(reloads, 1.0);
}

#[test]
fn a_refused_reload_leaves_the_last_good_file_in_force() {
    let origin = named("one");
    let mut weft = Weft::start(&to(&origin));
    let refused = weft.try_reload(&to(&origin).replace("unknown: deny", "unknwn: deny"));
    assert_eq!(refused.status, 422);
    for part in [
        "weft.yaml:",
        "unknown key `unknwn`",
        "did you mean `unknown`?",
    ] {
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    assert_eq!(shop(&weft).text(), "one");
    weft.assert_metric("weft_config_last_reload_successful", 0.0);
    weft.wait_for_metric("weft_config_reload_total{result=\"failure\"}", |n| n >= 1.0);
    weft.reload(&to(&origin));
    weft.assert_metric("weft_config_last_reload_successful", 1.0);
}

#[test]
fn a_key_that_needs_a_restart_is_named() {
    let origin = named("one");
    let mut weft = Weft::start(&to(&origin));
    let refused = weft.try_reload(&format!("workers: 3\n{}", dedented(&to(&origin))));
    assert_eq!(refused.status, 422);
    let words = refused.text();
    assert!(
        words.contains("workers cannot change without a restart"),
        "{words}"
    );
    assert_eq!(shop(&weft).text(), "one");
}

#[test]
fn a_listener_comes_and_goes_with_the_file() {
    let origin = named("one");
    let mut weft = Weft::start(&to(&origin));
    let outbound = weft.outbound();
    let own = to(&origin).replace("] } }", "] }, listen: \"127.0.0.1:0\" }");
    weft.reload(&own);
    let listener = weft.upstream("shop");
    assert_eq!(Call::get("/").send(&listener).text(), "one");
    assert_eq!(
        weft.outbound(),
        outbound,
        "a listener that stays keeps its port"
    );
    weft.reload(&to(&origin));
    assert!(weft.admin_get("/listeners").get("upstreams.shop").is_none());
    wait_until("the closed port", || {
        RawClient::try_connect(&listener).is_err()
    });
}

#[test]
fn ready_ends_with_the_first_word_of_leaving_and_live_does_not() {
    let weft = Weft::start("shutdown: { lameDuck: 1h, grace: 5s }");
    assert!(weft.is_ready());
    assert_eq!(weft.admin_post("/drain", "").status, 202);
    let ready = wait_for("a ready that is over", || {
        let answer = Call::get("/ready").send(&weft.metrics_address());
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(ready.text().trim(), "leaving");
    assert_eq!(Call::get("/live").send(&weft.metrics_address()).status, 200);
}

#[test]
fn upstreams_are_shown_with_their_endpoints() {
    let origin = named("one");
    let weft = Weft::start(&to(&origin));
    shop(&weft);
    let told = weft.admin_get("/upstreams");
    let endpoint = &told[0]["endpoints"][0];
    assert_eq!(told[0]["name"], "shop");
    assert_eq!(endpoint["address"], origin.address());
    assert_eq!(endpoint["state"]["is"], "healthy");
    let workers = endpoint["workers"].as_array().expect("one entry a worker");
    assert!(
        workers.iter().any(|one| one["ewmaMs"].as_f64() > Some(0.0)),
        "{told}"
    );
}

#[test]
fn the_effective_config_hides_secrets() {
    let weft = Weft::start_with(
        r#"
        outbound:
          listen: "127.0.0.1:0"
          routes:
            - name: shop
              hosts: [shop]
              filters: [{ requestHeaderModifier: { set: { authorization: "${TOKEN}", x-token: "s3cret" } } }]
        upstreams:
          shop: { endpoints: { static: ["127.0.0.1:7001"] } }
        "#,
        &[("TOKEN", "Bearer s3cret")],
    );
    let told = weft.admin_get("/config");
    assert_eq!(told["outbound"]["unknown"], "passthrough");
    assert_eq!(told["outbound"]["routes"][0]["retry"]["attempts"], 2);
    assert!(!told.to_string().contains("s3cret"), "{told}");
}

#[test]
fn the_access_log_tells_every_call_or_only_failures() {
    let origin = named("one");
    let mut weft = Weft::start(&to(&origin));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Call::get("/a?b=1")
        .host("shop")
        .header("x-request-id", "mine")
        .header("traceparent", trace)
        .send(&weft.outbound());
    let line = weft.wait_for_access(|line| {
        line["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/a"))
    });
    assert_eq!(
        (line["request_id"].as_str(), line["traceparent"].as_str()),
        (Some("mine"), Some(trace))
    );
    assert_eq!(
        (line["route"].as_str(), line["status"].as_u64()),
        (Some("shop"), Some(200))
    );
    assert_eq!(line["endpoint"], origin.address());

    weft.reload(&format!(
        "telemetry: {{ accessLog: onError }}\n{}",
        dedented(&to(&origin))
    ));
    Call::get("/quiet").host("shop").send(&weft.outbound());
    let denied = Call::get("/denied")
        .host("nobody")
        .header("x-request-id", "theirs")
        .send(&weft.outbound());
    assert_eq!(
        (denied.status, denied.reason()),
        (403, Some("unknown_host"))
    );
    let line = weft.wait_for_access(|line| line["path"] == "/denied");
    assert_eq!(line["reason"], "unknown_host");
    assert_eq!(line["request_id"], "theirs");
    assert!(
        !weft
            .access_log()
            .iter()
            .any(|line| line["path"] == "/quiet")
    );
}

/// More lines than the pipe and the queue behind it hold.
#[test]
fn a_log_that_nobody_reads_costs_lines_and_no_call() {
    const CALLS: &str = "10000";
    let origin = Origin::start();
    let weft = Weft::start_unread(&to(&origin).replace("] } }", "] }, listen: \"127.0.0.1:0\" }"));
    let url = format!("http://{}/", weft.upstream("shop"));
    let load = parts::h2load(&["--h1", "-n", CALLS, "-c", "8", &url]);
    let told = String::from_utf8_lossy(&load.stdout);
    assert!(told.contains("10000 succeeded, 0 failed"), "{told}");
    weft.wait_for_metric("weft_access_log_dropped_total", |lost| lost > 0.0);
    let answer = Call::get("/").host("shop").send(&weft.outbound());
    assert_eq!(answer.status, 200);
}

/// With its common indentation off, to stand below a line without any.
fn dedented(yaml: &str) -> String {
    yaml.lines()
        .map(|line| line.get(8..).unwrap_or_default().to_owned() + "\n")
        .collect()
}
