//! Bytes that are no HTTP, through ports of their own: relayed as they are, balanced by connection, guarded like calls.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
};

use crate::harness::{
    RawClient, RawConnection, RawOrigin, Weft, dead_address,
    parts::{Store, converse},
    wait_for, wait_until,
};

/// An upstream that speaks bytes, with a port of its own.
fn towards(endpoints: &[String], more: &str) -> Weft {
    let endpoints: Vec<String> = endpoints.iter().map(|one| format!("{one:?}")).collect();
    Weft::start(&format!(
        r#"
        upstreams:
          bytes: {{ endpoints: {{ static: [{}] }}, protocol: tcp, listen: "127.0.0.1:0", {more} }}
        "#,
        endpoints.join(", ")
    ))
}

/// Says its own name first, then each byte back.
fn parrot(name: &'static str) -> RawOrigin {
    RawOrigin::start(move |connection| {
        connection.write(name)?;
        loop {
            let said = connection.read_exact(1)?;
            connection.write(said)?;
        }
    })
}

#[test]
fn a_half_closed_connection_goes_on_the_other_way() {
    let origin = RawOrigin::start(|connection| {
        connection.until_closed()?;
        connection.write("all of it came")
    });
    let weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    client.send("\0 some bytes");
    client.close_write();
    assert_eq!(client.read_to_end(), b"all of it came");
    assert_eq!(origin.text(0), "\0 some bytes");
}

#[test]
fn an_end_is_passed_on_at_once() {
    let origin = RawOrigin::start(|connection| {
        connection.write("bye")?;
        connection.close_write()?;
        connection.until_closed()
    });
    let weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    assert_eq!(client.read_to_end(), b"bye");
    // The other way is still open.
    client.send("thanks");
    origin.wait_for_bytes(0, "thanks");
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let origin = RawOrigin::start(|connection| {
        connection.read_until(b"die")?;
        connection.reset();
        Ok(())
    });
    let weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    client.send("die");
    let error = client.stream().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    weft.assert_metric(
        r#"weft_tcp_closed_total{upstream="bytes",end="callee_broke"}"#,
        1.0,
    );

    let seen = RawOrigin::start(|connection| {
        connection.read_until(b"hello")?;
        match connection.read() {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                connection.write("")?;
                Err(error)
            }
            other => panic!("no reset but {other:?}"),
        }
    });
    let weft = towards(&[seen.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    client.send("hello");
    seen.wait_for_bytes(0, "hello");
    client.reset();
    weft.assert_metric(
        r#"weft_tcp_closed_total{upstream="bytes",end="caller_broke"}"#,
        1.0,
    );
}

#[test]
fn a_reader_that_pauses_slows_its_writer_and_loses_nothing() {
    const SENT: usize = 64 << 20;
    let (resume, paused) = std::sync::mpsc::channel::<()>();
    let paused = std::sync::Mutex::new(paused);
    let origin = RawOrigin::start(move |connection: &mut RawConnection| {
        let _ = paused.lock().unwrap().recv();
        let mut sum = 0u64;
        let mut buffer = vec![0; 65536];
        let mut stream = connection.stream();
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                count => {
                    sum += buffer[..count]
                        .iter()
                        .map(|byte| u64::from(*byte))
                        .sum::<u64>()
                }
            }
        }
        connection.write(sum.to_string())
    });
    let weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    let chunk: Vec<u8> = (0..65536u32).map(|n| (n % 251) as u8).collect();
    client.stream().set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut write = |stream: &mut &std::net::TcpStream| match stream.write(&chunk[sent % 65536..]) {
        Ok(count) => {
            sent += count;
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    };
    // Nobody reads: the writer comes to a stand long before all is sent, and what waits is in the kernel.
    let mut stands = 0;
    wait_until("the writer to stand", || {
        stands = if write(&mut client.stream()) {
            0
        } else {
            stands + 1
        };
        stands > 30
    });
    let relayed = weft.metric(r#"weft_tcp_bytes_total{way="from_caller"}"#);
    assert!(relayed < SENT as f64 / 2.0, "{relayed}");
    assert!(weft.peak_memory() < 60 << 20, "{}", weft.peak_memory());
    resume.send(()).unwrap();
    client.stream().set_nonblocking(false).unwrap();
    while sent < SENT {
        let end = (sent % 65536 + (SENT - sent)).min(65536);
        let count = client.stream().write(&chunk[sent % 65536..end]).unwrap();
        sent += count;
    }
    client.close_write();
    let sum: u64 = chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>() * (SENT / 65536) as u64;
    assert_eq!(client.read_to_end(), sum.to_string().as_bytes());
}

#[test]
fn connections_go_where_there_are_fewest() {
    let origins = [parrot("one"), parrot("two")];
    let endpoints: Vec<String> = origins.iter().map(RawOrigin::address).collect();
    let weft = Weft::start(&format!(
        r#"
        workers: 1
        upstreams:
          bytes:
            endpoints: {{ static: {endpoints:?} }}
            protocol: tcp
            listen: "127.0.0.1:0"
            loadBalancing: {{ policy: leastRequest }}
        "#
    ));
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut client = RawClient::connect(&weft.upstream("bytes"));
        client.send("x");
        client.read_until(b"x");
        open.push(client);
    }
    assert_eq!(origins.each_ref().map(RawOrigin::connections), [5, 5]);
}

#[test]
fn where_one_endpoint_refuses_another_is_tried() {
    let origin = parrot("here");
    let weft = towards(
        &[dead_address(), origin.address()],
        "loadBalancing: { policy: roundRobin }, outlier: { consecutiveFailures: 2, penalty: { min: 1m, max: 1m } }",
    );
    for _ in 0..12 {
        let mut client = RawClient::connect(&weft.upstream("bytes"));
        client.read_until(b"here");
    }
    // What refuses connections is left alone after a while, as it is for calls.
    weft.assert_metric(r#"weft_endpoints{upstream="bytes",state="ejected"}"#, 1.0);
}

#[test]
fn without_an_endpoint_the_caller_hears_a_reset_and_the_log_why() {
    let weft = towards(&[dead_address()], "");
    let client = RawClient::connect(&weft.upstream("bytes"));
    let error = client.stream().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = weft.wait_for_access(|line| line["protocol"] == "TCP");
    assert_eq!(line["reason"], "connect_failed");
    assert_eq!(line["upstream"], "bytes");
    weft.assert_metric(r#"weft_faults_total{reason="connect_failed"}"#, 1.0);
}

#[test]
fn a_connection_above_the_limit_waits_for_a_place() {
    let origin = parrot("here");
    let weft = towards(
        &[origin.address()],
        "limits: { connections: 1 }, timeouts: { connect: 10s }",
    );
    let mut first = RawClient::connect(&weft.upstream("bytes"));
    first.read_until(b"here");
    let mut second = RawClient::connect(&weft.upstream("bytes"));
    weft.assert_metric("weft_tcp_connections{upstream=\"bytes\"}", 2.0);
    assert!(second.is_quiet());
    assert_eq!(origin.connections(), 1);
    drop(first);
    second.read_until(b"here");
}

#[test]
fn its_end_is_a_line_in_the_log() {
    let origin = parrot("abc");
    let weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    client.read_until(b"abc");
    client.send("hello");
    client.read_until(b"hello");
    let peer = client.local_address().to_string();
    client.stream().shutdown(Shutdown::Both).unwrap();
    let line = weft.wait_for_access(|line| line["protocol"] == "TCP");
    assert_eq!(line["direction"], "outbound");
    assert_eq!(line["detected"], "opaque");
    assert_eq!(line["upstream"], "bytes");
    assert_eq!(line["endpoint"], origin.address());
    assert_eq!(line["peer"], peer);
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &8.into())
    );
    assert!(line["duration_us"].as_u64() > Some(0));
    assert!(
        line.get("reason").is_none() && line.get("method").is_none(),
        "{line}"
    );
    for (way, count) in [("from_caller", 5.0), ("to_caller", 8.0)] {
        let name = format!(r#"weft_tcp_bytes_total{{upstream="bytes",way="{way}"}}"#);
        weft.assert_metric(&name, count);
    }
}

#[test]
fn bytes_are_counted_while_they_pass() {
    let origin = parrot("abc");
    let weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    client.read_until(b"abc");
    weft.assert_metric(r#"weft_tcp_bytes_total{way="to_caller"}"#, 3.0);
    weft.assert_metric(r#"weft_tcp_connections{upstream="bytes"}"#, 1.0);
}

/// A database's connection may rest for hours.
#[test]
fn silence_cuts_nothing() {
    const SHORT: &str = "timers: { head: 300ms, idle: 300ms, writeStall: 300ms, bodyRate: { bytesPerSecond: 64, over: 300ms } }";
    let origin = parrot("abc");
    let weft = Weft::start(&format!(
        r#"
        inbound:
          listen: "127.0.0.1:0"
          {SHORT}
          ports: {{ 5433: {{ protocol: tcp, listen: "127.0.0.1:0", app: "{0}" }} }}
        outbound: {{ listen: "127.0.0.1:0", {SHORT} }}
        upstreams:
          bytes: {{ endpoints: {{ static: ["{0}"] }}, protocol: tcp, listen: "127.0.0.1:0" }}
          any: {{ endpoints: {{ static: ["{0}"] }}, listen: "127.0.0.1:0" }}
        "#,
        origin.address()
    ));
    let addresses = [
        weft.upstream("bytes"),
        weft.upstream("any"),
        weft.address("inbound.ports.5433"),
    ];
    let mut open = addresses.map(|address| {
        let mut client = RawClient::connect(&address);
        client.read_until(b"abc");
        client
    });
    // Connections that may have a request are closed, one after the other: time enough for every timer.
    for _ in 0..3 {
        for address in [weft.outbound(), weft.inbound()] {
            assert!(RawClient::connect(&address).is_closed_by_peer());
        }
    }
    for client in &mut open {
        client.send("x");
        client.read_until(b"x");
    }
}

#[test]
fn an_open_connection_outlives_a_reload_and_ends_with_the_process() {
    let origin = parrot("abc");
    let mut weft = towards(&[origin.address()], "");
    let mut client = RawClient::connect(&weft.upstream("bytes"));
    client.read_until(b"abc");
    let file = std::fs::read_to_string(weft.config_path()).unwrap();
    weft.reload(&file.replace("protocol: tcp", "protocol: tcp, limits: { connections: 7 }"));
    client.send("still");
    client.read_until(b"still");
    weft.reload(&format!(
        "{}\nshutdown: {{ lameDuck: 0s, grace: 500ms }}\n",
        file.replace("shutdown:", "#")
    ));
    weft.term();
    // An end in order would say that all had come.
    let error = client.stream().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(weft.wait_for_exit().success());
}

#[test]
fn a_port_of_the_application_may_speak_first() {
    let app = parrot("welcome");
    let weft = Weft::start(&format!(
        r#"
        inbound:
          listen: "127.0.0.1:0"
          ports:
            5433: {{ protocol: tcp, listen: "127.0.0.1:0", app: "{0}" }}
            5434: {{ opaque: true, listen: "127.0.0.1:0", app: "{0}" }}
            5435: {{ protocol: tls, listen: "127.0.0.1:0", app: "{0}" }}
        "#,
        app.address()
    ));
    for port in [5433, 5434, 5435] {
        let mut client = RawClient::connect(&weft.address(&format!("inbound.ports.{port}")));
        client.read_until(b"welcome");
        client.send("GET / HTTP/1.1\r\n\r\n");
        client.read_until(b"GET / HTTP/1.1\r\n\r\n");
    }
    let passed = r#"weft_tcp_connections_total{direction="inbound",upstream="port-5434"}"#;
    weft.assert_metric(passed, 1.0);
}

#[test]
fn who_may_not_call_is_refused_and_a_reload_cuts_who_no_longer_may() {
    let app = parrot("welcome");
    let file = |rules: &str| {
        format!(
            r#"
            inbound:
              listen: "127.0.0.1:0"
              ports:
                5433: {{ protocol: tcp, listen: "127.0.0.1:0", app: "{0}" }}
                5434: {{ protocol: tcp, listen: "127.0.0.1:0", app: "{0}" }}
              authorization: {{ default: deny, rules: [{rules}] }}
            "#,
            app.address()
        )
    };
    let open = "{ name: open, action: allow, to: [{ ports: [5433] }] }";
    let http = "{ name: http, action: allow, to: [{ ports: [5434], methods: [GET] }] }";
    let mut weft = Weft::start(&file(&format!("{open}, {http}")));
    let mut allowed = RawClient::connect(&weft.address("inbound.ports.5433"));
    allowed.read_until(b"welcome");
    // A rule with fields of HTTP lets no bytes pass, whatever they look like.
    let mut denied = RawClient::connect(&weft.address("inbound.ports.5434"));
    let _ = denied.try_send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(denied.is_closed_by_peer());
    assert_eq!(app.connections(), 1);
    let line = weft.wait_for_access(|line| line["reason"] == "denied");
    assert_eq!(line["protocol"], "TCP");
    let line = weft.wait_for_log("\"audit\"");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [("action", "deny"), ("rule", "default"), ("ip", "127.0.0.1")] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["port"], 5434, "{line}");
    assert!(line.get("path").is_none(), "{line}");

    weft.reload(&file(http));
    let error = wait_for("the cut", || allowed.stream().read(&mut [0]).err());
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_dry_run_counts_bytes_and_lets_them_pass() {
    let app = parrot("welcome");
    let weft = Weft::start(&format!(
        r#"
        inbound:
          listen: "127.0.0.1:0"
          ports: {{ 5433: {{ protocol: tcp, listen: "127.0.0.1:0", app: "{}" }} }}
          authorization:
            default: allow
            rules: [{{ name: try-it, action: deny, dryRun: true, from: [{{ ip: 127.0.0.0/8 }}] }}]
        "#,
        app.address()
    ));
    let mut client = RawClient::connect(&weft.address("inbound.ports.5433"));
    client.read_until(b"welcome");
    client.send("x");
    client.read_until(b"x");
    weft.assert_metric(
        "weft_authorization_total{rule=\"try-it\",action=\"would_deny\"}",
        1.0,
    );
    let line = weft.wait_for_log("would_deny");
    assert!(line.contains("\"audit\""), "{line}");
}

#[test]
fn stores_speak_through_two_sidecars() {
    for (kind, told) in super::peers::CONVERSATIONS {
        let store = Store::start(kind);
        let callee = Weft::start(&format!(
            r#"
            inbound:
              listen: "127.0.0.1:0"
              ports: {{ 7000: {{ protocol: tcp, listen: "127.0.0.1:0", app: "{}" }} }}
            "#,
            store.address()
        ));
        let caller = towards(&[callee.address("inbound.ports.7000")], "");
        assert_eq!(converse(kind, &caller.upstream("bytes")), told, "{kind:?}");
        // Once the connection is over, all of it is counted.
        for weft in [&caller, &callee] {
            weft.assert_metric("weft_tcp_connections", 0.0);
        }
        let passed = |weft: &Weft| weft.metric("weft_tcp_bytes_total{way=\"from_caller\"}");
        assert!(passed(&caller) > 0.0, "{kind:?}");
        assert_eq!(passed(&caller), passed(&callee), "{kind:?}");
    }
}
