//! Connections that the machine's rules hand to a sidecar, in namespaces of the test's own: where each goes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::harness::{
    DEADLINE, Origin, RawOrigin, Reply, Weft,
    netns::{APPLICATION, Greeter, Pod},
};

/// Where sidecars listen for what is redirected.
const DOORS: &str = r#"
    inbound: { listen: ["0.0.0.0:15006", "[::]:15006"], INBOUND }
    outbound: { listen: ["127.0.0.1:15001", "[::1]:15001"], OUTBOUND }
"#;

fn sidecar(pod: &Pod, inbound: &str, outbound: &str, more: &str) -> Weft {
    let doors = DOORS
        .replace("INBOUND", inbound)
        .replace("OUTBOUND", outbound);
    let weft = pod.sidecar(&format!("{doors}\n{more}"));
    pod.redirect(&["apply"]);
    weft
}

fn both(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    [pod.at(port), pod.at_v6(port)]
}

/// Greeters in the place of an application, on one port of every address.
fn application(pod: &Pod, port: u16, name: &'static str) -> [Greeter; 2] {
    [
        Greeter::start(pod, &format!("0.0.0.0:{port}"), name),
        Greeter::start(pod, &format!("[::]:{port}"), name),
    ]
}

/// Sends and hears all that comes back, as the application in this pod.
fn speaks(pod: &Pod, address: SocketAddr, said: &[u8]) -> Result<String, ErrorKind> {
    pod.inside_as(APPLICATION, || {
        let speak = || {
            let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(said)?;
            let mut heard = String::new();
            stream.read_to_string(&mut heard)?;
            Ok(heard)
        };
        speak().map_err(|error: std::io::Error| error.kind())
    })
}

#[test]
fn servers_that_speak_first_are_heard_through_both_sidecars() {
    let (client, server) = Pod::pair();
    let _caller = sidecar(&client, "", "", "");
    // One well-known port, one that the file calls so; the caller's side is told neither.
    let callee = sidecar(&server, "ports: { 7777: { protocol: tcp } }", "", "");
    for port in [3306, 7777] {
        let _application = application(&server, port, "application");
        for address in both(&server, port) {
            let heard = client.hears(APPLICATION, address);
            // It was called at its own address, not at loopback.
            assert_eq!(heard, Ok(format!("application for {address}")));
        }
    }
    let line = server.inside(|| callee.wait_for_access(|line| line["direction"] == "inbound"));
    assert_eq!(line["detected"], "opaque");
    assert_eq!(line["original"], server.at(3306).to_string());
}

#[test]
fn a_port_bound_to_loopback_alone_stays_out_of_reach() {
    let (client, server) = Pod::pair();
    let _callee = sidecar(&server, "ports: { 7777: { protocol: tcp } }", "", "");
    let _application = [
        Greeter::start(&server, "127.0.0.1:7777", "application"),
        Greeter::start(&server, "[::1]:7777", "application"),
    ];
    for address in both(&server, 7777) {
        let heard = client.hears(APPLICATION, address);
        assert_eq!(heard, Err(ErrorKind::ConnectionReset), "{address}");
    }
}

#[test]
fn http_goes_by_its_host_and_to_the_address_that_it_meant() {
    let (client, server) = Pod::pair();
    let _caller = sidecar(&client, "", "", "");
    let callee = sidecar(&server, "", "", "");
    for address in both(&server, 8080) {
        let origin = server.inside(|| Origin::at(address, |_| Reply::ok("fine")));
        let request = b"GET / HTTP/1.1\r\nhost: nobody.knows\r\nconnection: close\r\n\r\n";
        let heard = speaks(&client, address, request).expect("an answer");
        assert!(
            heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("fine"),
            "{heard}"
        );
        assert_eq!(origin.requests()[0].header("host"), Some("nobody.knows"));
        server.inside(|| callee.wait_for_access(|line| line["endpoint"] == address.to_string()));
    }
}

#[test]
fn an_endpoints_address_goes_exactly_there_and_a_virtual_one_is_balanced() {
    let (client, server) = Pod::pair();
    let _applications = [
        application(&server, 9001, "one"),
        application(&server, 9002, "two"),
    ];
    // Each family has an upstream of its own: which endpoint is taken shows which addresses lead there.
    let upstream = |name: &str, [one, two]: [SocketAddr; 2], address: &str| {
        format!(
            r#"
      {name}:
        endpoints: {{ static: ["{one}", "{two}"] }}
        protocol: tcp
        addresses: ["{address}"]
        loadBalancing: {{ policy: roundRobin }}"#
        )
    };
    let (v4, v6) = ("10.66.9.9:7000", "[fd66:9::9]:7000");
    let caller = sidecar(
        &client,
        "",
        "unknown: deny",
        &format!(
            "
    workers: 1
    upstreams:{}{}",
            upstream("v4", [server.at(9001), server.at(9002)], v4),
            upstream("v6", [server.at_v6(9001), server.at_v6(9002)], v6),
        ),
    );
    client.prints("ip", &["route", "add", "10.66.9.0/24", "dev", "eth0"]);
    client.prints("ip", &["route", "add", "fd66:9::/64", "dev", "eth0"]);
    for (port, name) in [(9001, "one"), (9002, "two"), (9001, "one")] {
        for address in both(&server, port) {
            let heard = client.hears(APPLICATION, address);
            assert_eq!(heard, Ok(format!("{name} for {address}")));
        }
    }
    for address in [v4, v6] {
        let of_both: Vec<String> = (0..4)
            .map(|_| client.hears(APPLICATION, address.parse().unwrap()))
            .map(|heard| heard.expect("an endpoint"))
            .collect();
        for name in ["one", "two"] {
            let heard = of_both.iter().filter(|heard| heard.starts_with(name));
            assert_eq!(heard.count(), 2, "{address}: {of_both:?}");
        }
        // The port belongs to it.
        let other = address.replace("7000", "7001").parse().unwrap();
        let heard = speaks(&client, other, b"\x01");
        assert_eq!(heard, Err(ErrorKind::ConnectionReset), "{other}");
    }
    // What no upstream has is unknown.
    let _other = application(&server, 9003, "three");
    for address in both(&server, 9003) {
        let heard = speaks(&client, address, b"\x01");
        assert_eq!(heard, Err(ErrorKind::ConnectionReset));
        let line = |line: &serde_json::Value| {
            line["reason"] == "unknown_host" && line["original"] == address.to_string()
        };
        client.inside(|| caller.wait_for_access(line));
    }
}

#[test]
fn a_client_of_a_proxy_of_its_own_is_left_alone() {
    let (client, server) = Pod::pair();
    let _caller = sidecar(&client, "", "", "");
    let proxy = server.inside(|| {
        RawOrigin::at(server.at(3128), |connection| {
            connection.read_head()?;
            connection.write("HTTP/1.1 200 Connection established\r\n\r\n")?;
            connection.close_write()
        })
    });
    let asked =
        "CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\nX-Odd : kept\r\n\r\n";
    let heard = speaks(&client, server.at(3128), asked.as_bytes());
    assert_eq!(
        heard.as_deref(),
        Ok("HTTP/1.1 200 Connection established\r\n\r\n")
    );
    assert_eq!(proxy.text(0), asked);
    let asked = "GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    speaks(&client, server.at(3128), asked.as_bytes()).expect("an answer");
    assert_eq!(proxy.text(1), asked);
}
