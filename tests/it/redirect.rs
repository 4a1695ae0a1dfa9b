//! What the rules do to connections, in network namespaces of the test's own, with plain sockets in a sidecar's place.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
};

use crate::harness::{
    netns::{APPLICATION, Greeter, Pod, SIDECAR},
    wait_for_connection,
};

/// Greeters in the place of a sidecar.
fn sidecar(pod: &Pod) -> [Greeter; 4] {
    [
        Greeter::start(pod, "0.0.0.0:15006", "inbound"),
        Greeter::start(pod, "[::]:15006", "inbound"),
        Greeter::start(pod, "127.0.0.1:15001", "outbound"),
        Greeter::start(pod, "[::1]:15001", "outbound"),
    ]
}

/// Greeters in the place of an application, on one port of every address.
fn application(pod: &Pod, port: u16) -> [Greeter; 2] {
    [
        Greeter::start(pod, &format!("0.0.0.0:{port}"), "application"),
        Greeter::start(pod, &format!("[::]:{port}"), "application"),
    ]
}

fn both(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    [pod.at(port), pod.at_v6(port)]
}

#[track_caller]
fn says(heard: Result<String, ErrorKind>, name: &str, address: SocketAddr) {
    assert_eq!(heard, Ok(format!("{name} for {address}")));
}

#[test]
fn what_comes_in_and_what_leaves_go_to_the_sidecar_and_keep_their_address() {
    let (client, server) = Pod::pair();
    let (_sidecar, _application) = (sidecar(&server), application(&server, 8080));
    for address in both(&server, 8080) {
        says(client.hears(APPLICATION, address), "application", address);
    }
    server.redirect(&["apply"]);
    for address in both(&server, 8080) {
        says(client.hears(APPLICATION, address), "inbound", address);
    }
    // Whether or not anyone listens there.
    for address in both(&client, 9999) {
        says(server.hears(APPLICATION, address), "outbound", address);
    }
}

#[test]
fn the_sidecars_own_connections_leave_as_they_are() {
    let (client, server) = Pod::pair();
    let _sidecar = sidecar(&client);
    let _application = application(&server, 8080);
    client.redirect(&["apply"]);
    for address in both(&server, 8080) {
        says(client.hears(SIDECAR, address), "application", address);
        says(client.hears(APPLICATION, address), "outbound", address);
        says(client.hears(0, address), "outbound", address);
    }
    client.redirect(&["apply", "--user", &APPLICATION.to_string()]);
    for address in both(&server, 8080) {
        says(client.hears(APPLICATION, address), "application", address);
        says(client.hears(SIDECAR, address), "outbound", address);
    }
}

#[test]
fn excluded_ports_are_left_alone() {
    let (client, server) = Pod::pair();
    let _sidecars = (sidecar(&client), sidecar(&server));
    let _applications = [22, 9001, 9100, 15020].map(|port| application(&server, port));
    server.redirect(&["apply", "--exclude-inbound-ports", "22,9000-9099"]);
    // Metrics are asked for from outside, in plain HTTP.
    for port in [22, 9001, 15020] {
        for address in both(&server, port) {
            says(client.hears(APPLICATION, address), "application", address);
        }
    }
    for address in both(&server, 9100) {
        says(client.hears(APPLICATION, address), "inbound", address);
    }
    // The admin port listens on loopback alone: redirecting to the sidecar would say so no better.
    for address in both(&server, 15000) {
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(client.hears(APPLICATION, address), refused);
    }
    client.redirect(&["apply", "--exclude-outbound-ports", "22,9000-9099"]);
    for port in [22, 9001] {
        for address in both(&server, port) {
            says(client.hears(APPLICATION, address), "application", address);
        }
    }
    for address in both(&server, 9100) {
        says(client.hears(APPLICATION, address), "outbound", address);
    }
}

#[test]
fn excluded_ranges_and_interfaces_are_left_alone() {
    let (client, server) = Pod::pair();
    let (_sidecar, _application) = (sidecar(&client), application(&server, 8080));
    let near = format!("{}/31,{}", server.v4, server.v6);
    client.redirect(&["apply", "--exclude-outbound-ranges", &near]);
    for address in both(&server, 8080) {
        says(client.hears(APPLICATION, address), "application", address);
    }
    let far = "10.66.0.4/30,fd66::2:0/112";
    client.redirect(&["apply", "--exclude-outbound-ranges", far]);
    for address in both(&server, 8080) {
        says(client.hears(APPLICATION, address), "outbound", address);
    }
    let _redirected = sidecar(&server);
    for (interface, name) in [("eth1", "inbound"), ("eth0", "application")] {
        server.redirect(&["apply", "--exclude-interfaces", interface]);
        for address in both(&server, 8080) {
            says(client.hears(SIDECAR, address), name, address);
        }
    }
}

#[test]
fn the_ports_of_the_routing_file_are_taken() {
    let (client, server) = Pod::pair();
    let _sidecar = [
        Greeter::start(&server, "0.0.0.0:7006", "inbound"),
        Greeter::start(&server, "127.0.0.1:7001", "outbound"),
    ];
    let _own = [application(&server, 7020), application(&server, 17000)];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("weft.yaml");
    let text = r#"
        version: weft/v1
        inbound: { listen: "0.0.0.0:7006", ports: { 9000: { listen: "0.0.0.0:17000" } } }
        outbound: { listen: "127.0.0.1:7001" }
        admin: { metrics: "[::]:7020" }
    "#;
    std::fs::write(&file, text).expect("our own folder");
    server.redirect(&["apply", "-c", file.to_str().expect("UTF-8")]);
    for (port, name) in [
        (8080, "inbound"),
        (7020, "application"),
        (17000, "application"),
    ] {
        says(
            client.hears(APPLICATION, server.at(port)),
            name,
            server.at(port),
        );
    }
    let address = client.at(80);
    says(server.hears(APPLICATION, address), "outbound", address);
}

#[test]
fn loopback_is_kept_as_it_is() {
    let (_other, pod) = Pod::pair();
    let (_sidecar, _application) = (sidecar(&pod), application(&pod, 8080));
    pod.redirect(&["apply"]);
    let own = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    for address in own.map(|ip| SocketAddr::new(ip, 8080)) {
        for user in [APPLICATION, SIDECAR, 0] {
            says(pod.hears(user, address), "application", address);
        }
    }
    // An application that calls its own pod's address does not leave the pod.
    for address in both(&pod, 8080) {
        says(pod.hears(APPLICATION, address), "application", address);
    }
}

#[test]
fn the_sidecars_call_to_its_own_pod_comes_in_like_any_other() {
    let (_other, pod) = Pod::pair();
    let _sidecar = sidecar(&pod);
    let _applications = [
        application(&pod, 8080),
        application(&pod, 15020),
        application(&pod, 22),
    ];
    pod.redirect(&["apply", "--exclude-inbound-ports", "22"]);
    for address in both(&pod, 8080) {
        says(pod.hears(SIDECAR, address), "inbound", address);
    }
    // What inbound leaves alone, it leaves alone here too.
    for address in [both(&pod, 15020), both(&pod, 22)].concat() {
        says(pod.hears(SIDECAR, address), "application", address);
    }
}

#[test]
fn what_the_sidecar_sends_on_to_the_application_is_not_taken_again() {
    let (_other, pod) = Pod::pair();
    let (_sidecar, _application) = (sidecar(&pod), application(&pod, 8080));
    pod.redirect(&["apply"]);
    let from: [IpAddr; 2] = [
        Ipv4Addr::new(127, 0, 0, 6).into(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
    ];
    for (from, address) in from.into_iter().zip(both(&pod, 8080)) {
        says(
            pod.hears_from(SIDECAR, from, address),
            "application",
            address,
        );
    }
    // The address that makes it possible is given to no connection unasked.
    let addresses = pod.prints("ip", &["-6", "address", "show", "dev", "lo"]);
    let line = addresses.lines().find(|line| line.contains("::6/128"));
    assert!(
        line.is_some_and(|line| line.contains("deprecated")),
        "{addresses}"
    );
}

#[test]
fn udp_is_untouched() {
    let (client, server) = Pod::pair();
    for pod in [&client, &server] {
        pod.redirect(&["apply"]);
    }
    // A port each: a closed one is kept for a moment by a process that another test is forking.
    for family in ["0.0.0.0:8080", "[::]:8081"] {
        let origin = server
            .inside(|| UdpSocket::bind(family))
            .expect("a new pod");
        let to = match family.starts_with('[') {
            true => server.at_v6(8081),
            false => server.at(8080),
        };
        client.inside_as(APPLICATION, || {
            let any = (origin.local_addr().expect("bound").ip(), 0);
            let caller = UdpSocket::bind(any).expect("a port");
            caller.send_to(b"ping", to).expect("a route");
        });
        origin
            .set_read_timeout(Some(crate::harness::DEADLINE))
            .expect("a socket");
        let mut buffer = [0; 8];
        let (length, from) = origin.recv_from(&mut buffer).expect("the datagram comes");
        assert_eq!(&buffer[..length], b"ping");
        assert!(
            [IpAddr::from(client.v4), client.v6.into()].contains(&from.ip()),
            "{from}"
        );
    }
}

#[test]
fn without_a_sidecar_connections_are_refused_and_not_let_through() {
    let (client, server) = Pod::pair();
    let _application = application(&server, 8080);
    server.redirect(&["apply"]);
    for address in both(&server, 8080) {
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(client.hears(APPLICATION, address), refused);
    }
    server.redirect(&["remove"]);
    client.redirect(&["apply"]);
    for address in both(&server, 8080) {
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(client.hears(APPLICATION, address), refused);
    }
}

#[test]
fn applying_twice_is_applying_once() {
    let (pod, _other) = Pod::pair();
    let all = [
        "apply",
        "--exclude-outbound-ranges",
        "10.1.0.0/16,fd00::7",
        "--exclude-outbound-ports",
        "25,9000-9100",
    ];
    let said = pod.redirect(&all);
    let once = pod.prints("nft", &["list", "ruleset"]);
    assert_eq!(pod.redirect(&all), said);
    assert_eq!(pod.prints("nft", &["list", "ruleset"]), once);
    // What was excluded before is not excluded now.
    pod.redirect(&["apply"]);
    let now = pod.prints("nft", &["list", "ruleset"]);
    assert!(
        once.contains("10.1.0.0/16") && !now.contains("10.1.0.0/16"),
        "{now}"
    );
}

#[test]
fn nft_reads_the_same_rules() {
    let (pod, _other) = Pod::pair();
    pod.redirect(&[
        "apply",
        "--exclude-inbound-ports",
        "9000-9100",
        "--exclude-outbound-ports",
        "25",
        "--exclude-outbound-ranges",
        "10.1.0.0/16,fd00::7",
        "--exclude-interfaces",
        "docker0",
    ]);
    let rules = pod.prints("nft", &["list", "table", "inet", "weft"]);
    let words: Vec<&str> = rules.split_whitespace().collect();
    assert_eq!(
        words.join(" ").replace("priority -100", "priority dstnat"),
        "table inet weft { \
         chain arriving { type nat hook prerouting priority dstnat; policy accept; \
         meta l4proto != tcp accept iifname \"lo\" accept iifname \"docker0\" accept goto inbound } \
         chain leaving { type nat hook output priority dstnat; policy accept; \
         meta l4proto != tcp accept \
         oifname \"lo\" meta skuid 15001 ip daddr != 127.0.0.0/8 ip saddr != 127.0.0.6 goto inbound \
         oifname \"lo\" meta skuid 15001 ip6 daddr != ::1 ip6 saddr != ::6 goto inbound \
         oifname \"lo\" accept meta skuid 15001 accept th dport 25 accept \
         ip daddr 10.1.0.0/16 accept ip6 daddr fd00::7 accept \
         counter packets 0 bytes 0 redirect to :15001 } \
         chain inbound { th dport 15000 accept th dport 15020 accept th dport 9000-9100 accept \
         counter packets 0 bytes 0 redirect to :15006 } }"
    );
}

#[test]
fn a_table_is_replaced_under_traffic_and_no_connection_slips_through() {
    const REPLACEMENTS: usize = 40;
    let (client, server) = Pod::pair();
    let (_sidecar, _application) = (sidecar(&client), application(&server, 8080));
    client.redirect(&["apply"]);
    // One connection is open all the while, through the redirection.
    let origin = client
        .inside(|| std::net::TcpListener::bind("127.0.0.1:15002"))
        .expect("a new pod");
    client.redirect(&["apply", "--outbound-port", "15002"]);
    let mut caller = client
        .inside_as(APPLICATION, || TcpStream::connect(server.at(8080)))
        .expect("redirected");
    let mut held = wait_for_connection(&origin);
    client.redirect(&["apply"]);

    thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            for round in 0..REPLACEMENTS {
                let port = (20_000 + round).to_string();
                client.redirect(&["apply", "--exclude-outbound-ports", &port]);
                caller.write_all(b"x").expect("it is still open");
                let mut byte = [0];
                held.read_exact(&mut byte).expect("it is still open");
            }
        });
        while !replacing.is_finished() {
            let address = server.at(8080);
            says(client.hears(APPLICATION, address), "outbound", address);
        }
    });
}

#[test]
fn removing_leaves_nothing_and_other_tables_stay() {
    let (client, server) = Pod::pair();
    let (_sidecar, _application) = (sidecar(&server), application(&server, 8080));
    server.prints("nft", &["add", "table", "inet", "other"]);
    let before = server.prints("nft", &["list", "ruleset"]);
    let addresses = server.prints("ip", &["address", "show", "dev", "lo"]);
    server.redirect(&["apply"]);
    says(
        client.hears(APPLICATION, server.at(8080)),
        "inbound",
        server.at(8080),
    );
    assert_eq!(
        server.redirect(&["remove", "--dry-run"]),
        "would remove the table `weft`, and ::6 from lo\n"
    );
    says(
        client.hears(APPLICATION, server.at(8080)),
        "inbound",
        server.at(8080),
    );
    let removed = server.redirect(&["remove"]);
    assert_eq!(removed, "removed: nothing is redirected any more\n");
    assert_eq!(server.prints("nft", &["list", "ruleset"]), before);
    assert_eq!(
        server.prints("ip", &["address", "show", "dev", "lo"]),
        addresses
    );
    says(
        client.hears(APPLICATION, server.at(8080)),
        "application",
        server.at(8080),
    );
    let again = server.redirect(&["remove"]);
    assert_eq!(again, "there was no table `weft`: nothing is redirected\n");
    let output = server.run(env!("CARGO_BIN_EXE_weft"), &["redirect", "show"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "weft: there is no table `weft`: nothing is redirected\n"
    );
}

#[test]
fn show_says_what_stands_and_what_it_took() {
    let (client, server) = Pod::pair();
    let _sidecar = sidecar(&server);
    let written = server.redirect(&["apply", "--exclude-outbound-ranges", "10.1.0.0/16"]);
    assert_eq!(server.redirect(&["show"]), written);
    for _ in 0..3 {
        says(
            client.hears(APPLICATION, server.at(8080)),
            "inbound",
            server.at(8080),
        );
    }
    let shown = server.redirect(&["show"]);
    assert_eq!(shown.replace(" (3 so far)", ""), written);
    assert!(
        shown.contains("everything else: to our port 15006 (3 so far)"),
        "{shown}"
    );
    // It reads what is there, not what was meant.
    server.prints(
        "nft",
        &[
            "insert", "rule", "inet", "weft", "leaving", "tcp", "dport", "{ 1, 2 }", "accept",
        ],
    );
    server.prints(
        "nft",
        &[
            "insert", "rule", "inet", "weft", "leaving", "meta", "skuid", "7", "accept",
        ],
    );
    let shown = server.redirect(&["show"]);
    assert!(
        shown.contains("  of user 7: left alone\n  a rule that weft did not write"),
        "{shown}"
    );
}

#[test]
fn a_dry_run_says_the_rules_and_writes_nothing() {
    let (pod, _other) = Pod::pair();
    let said = pod.redirect(&["apply", "--dry-run", "--exclude-inbound-ports", "22"]);
    assert!(
        said.contains("  to port 22: left alone\n  everything else: to our port 15006"),
        "{said}"
    );
    assert_eq!(pod.prints("nft", &["list", "ruleset"]), "");
    assert_eq!(
        pod.redirect(&["apply", "--exclude-inbound-ports", "22"]),
        said
    );
}

#[test]
fn where_ipv6_is_switched_off_there_is_ipv4_to_redirect() {
    let (client, server) = Pod::pair();
    let _sidecar = Greeter::start(&server, "0.0.0.0:15006", "inbound");
    server.prints(
        "sh",
        &[
            "-c",
            "for c in all lo; do echo 1 > /proc/sys/net/ipv6/conf/$c/disable_ipv6; done",
        ],
    );
    let said = server.redirect(&["apply"]);
    assert!(
        said.ends_with("IPv6 is switched off here: there is only IPv4 to redirect.\n"),
        "{said}"
    );
    says(
        client.hears(APPLICATION, server.at(8080)),
        "inbound",
        server.at(8080),
    );
    server.redirect(&["remove"]);
}

#[test]
fn the_most_exclusions_fit_into_one_batch() {
    let (client, server) = Pod::pair();
    let _sidecar = sidecar(&server);
    // Two for the admin and metrics ports.
    let ports: Vec<String> = (0..254)
        .map(|port| format!("{}-{}", 20_000 + port, 30_000 + port))
        .collect();
    let said = server.redirect(&["apply", "--exclude-inbound-ports", &ports.join(",")]);
    assert_eq!(server.redirect(&["show"]), said);
    says(
        client.hears(APPLICATION, server.at(8080)),
        "inbound",
        server.at(8080),
    );
    let more = format!("{},1", ports.join(","));
    let output = server.run(
        env!("CARGO_BIN_EXE_weft"),
        &["redirect", "apply", "--exclude-inbound-ports", &more],
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("257 exclusions are given; 256 are the most"),
        "{error}"
    );
}
