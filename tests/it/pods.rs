//! Two pods, a sidecar in each, and applications that know of neither: what they say to each other is theirs alone.

use std::io::ErrorKind;

use crate::harness::{
    Authority, Call, IdentityFolder, Origin, Reply, Weft,
    netns::{APPLICATION, Capture, Greeter, Pod},
    parts, wait_until,
};

/// What is asked and answered, over and over, so that some packet holds it whole.
const SECRET: &str = "the-recipe-of-the-house ";

/// A pod that calls and a pod that is called, both redirected, each with a sidecar of its own identity.
struct Mesh {
    web: Weft,
    payments: Weft,
    client: Pod,
    server: Pod,
    _identities: [IdentityFolder; 2],
}

impl Mesh {
    /// Both applications' ports are 8080 and, for what is no HTTP, 3306.
    fn start() -> Self {
        let (client, server) = Pod::pair();
        let authority = Authority::new("cluster.local");
        let identity =
            |account| IdentityFolder::new(&authority.leaf(account), authority.root()).open_to_all();
        let identities = [identity("web"), identity("payments")];
        let (v4, v6) = (server.v4, server.v6);
        let file = |own: &IdentityFolder, mode: &str| {
            format!(
                r#"
                identity: {own}
                inbound:
                  listen: ["0.0.0.0:15006", "[::]:15006"]
                  tls: {{ mode: {mode} }}
                outbound:
                  listen: ["127.0.0.1:15001", "[::1]:15001"]
                upstreams:
                  payments:
                    endpoints: {{ static: ["{v4}:8080"] }}
                    addresses: ["10.96.7.7:80"]
                    tls: mesh
                    identity: spiffe://cluster.local/ns/shop/sa/payments
                  payments-v6:
                    endpoints: {{ static: ["[{v6}]:8080"] }}
                    addresses: ["[fd96::7]:80"]
                    tls: mesh
                    identity: spiffe://cluster.local/ns/shop/sa/payments
                  store:
                    endpoints: {{ static: ["{v4}:3306"] }}
                    tls: mesh
                    identity: spiffe://cluster.local/ns/shop/sa/payments
                "#,
                own = own.yaml(),
            )
        };
        for pod in [&client, &server] {
            pod.redirect(&["apply"]);
            // Where addresses of services are, as far as a pod knows.
            pod.prints("ip", &["route", "add", "default", "dev", "eth0"]);
            pod.prints("ip", &["-6", "route", "add", "default", "dev", "eth0"]);
        }
        Mesh {
            web: client.sidecar(&file(&identities[0], "permissive")),
            payments: server.sidecar(&file(&identities[1], "strict")),
            client,
            server,
            _identities: identities,
        }
    }

    /// An application that answers with the secret.
    fn application(&self, address: &str) -> Origin {
        let address = address.parse().expect("an address");
        self.server
            .inside(|| Origin::at(address, |_| Reply::ok(SECRET.repeat(10_000))))
    }
}

/// curl as an application's user, to a name that leads to this address: status and body.
fn curl(pod: &Pod, url: &str, address: &str) -> (String, String) {
    let name = url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap_or(url);
    let leads = format!("{name}:{address}");
    let arguments = ["-w", "\n%{http_code}", "--resolve", &leads, url];
    let output = pod.inside_as(APPLICATION, || parts::curl(&arguments));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "none"));
    (status.to_owned(), body.to_owned())
}

#[test]
fn what_two_applications_say_is_encrypted_between_their_pods() {
    let mesh = Mesh::start();
    let url = format!("http://payments:8080/{SECRET}");
    let url = url.trim_end();
    for (listen, name, address) in [
        ("0.0.0.0:8080", "payments", mesh.server.v4.to_string()),
        ("[::]:8080", "payments-v6", mesh.server.v6.to_string()),
    ] {
        let application = mesh.application(listen);
        let capture = Capture::on(&mesh.server);
        let url = url.replace("payments", name);
        let (status, body) = curl(&mesh.client, &url, &address);
        assert_eq!(status, "200", "{body}");
        assert_eq!(body.len(), SECRET.len() * 10_000);
        let seen = &application.requests()[0];
        assert_eq!(seen.path(), format!("/{}", SECRET.trim_end()));
        let line = mesh
            .payments
            .wait_for_access(|line| line["host"] == format!("{name}:8080"));
        assert_eq!(line["identity"], "spiffe://cluster.local/ns/shop/sa/web");
        // All of the answer has passed, by a handshake for the mesh.
        wait_until("the capture to have it all", || capture.size() > body.len());
        assert!(capture.holds("weft/"));
        assert!(!capture.holds(SECRET.trim_end()));
        // It would be seen.
        mesh.server
            .redirect(&["apply", "--exclude-inbound-ports", "8080"]);
        mesh.client
            .redirect(&["apply", "--exclude-outbound-ports", "8080"]);
        assert_eq!(curl(&mesh.client, &url, &address).0, "200");
        wait_until("the secret on the wire", || {
            capture.holds(SECRET.trim_end())
        });
        mesh.server.redirect(&["apply"]);
        mesh.client.redirect(&["apply"]);
    }
}

/// An address says as much as a name: whose endpoint it is, and so who must be there.
#[test]
fn an_endpoint_that_is_called_by_its_address_proves_who_it_is() {
    let mesh = Mesh::start();
    let _applications = [mesh.server.at(8080), mesh.server.at_v6(8080)]
        .map(|address| mesh.application(&address.to_string()));
    let virtual_ones = ["10.96.7.7:80", "[fd96::7]:80"].map(|text| text.parse().unwrap());
    for (called, address, upstream) in [
        (mesh.server.at(8080), mesh.server.at(8080), "payments"),
        (virtual_ones[0], mesh.server.at(8080), "payments"),
        (
            mesh.server.at_v6(8080),
            mesh.server.at_v6(8080),
            "payments-v6",
        ),
        (virtual_ones[1], mesh.server.at_v6(8080), "payments-v6"),
    ] {
        let answer = mesh
            .client
            .inside_as(APPLICATION, || Call::get("/").send(&called.to_string()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let of = |line: &serde_json::Value| line["host"] == called.to_string();
        let line = mesh.web.wait_for_access(of);
        assert_eq!(line["endpoint"], address.to_string());
        assert_eq!(line["upstream"], upstream);
        let line = mesh.payments.wait_for_access(of);
        assert_eq!(line["endpoint"], address.to_string());
        assert_eq!(line["identity"], "spiffe://cluster.local/ns/shop/sa/web");
    }
}

#[test]
fn a_pod_calls_its_own_service_through_its_sidecar_twice() {
    let mesh = Mesh::start();
    for (listen, name, address) in [
        ("0.0.0.0:8080", "payments", "10.96.7.7"),
        ("[::]:8080", "payments-v6", "[fd96::7]"),
    ] {
        let application = mesh.application(listen);
        let (status, body) = curl(&mesh.server, &format!("http://{name}:80/"), address);
        assert_eq!(status, "200", "{body}");
        // Out by one door and in by the other.
        let lines = ["outbound", "inbound"].map(|way| {
            mesh.payments
                .wait_for_access(|line| line["direction"] == way && line["host"] == name)
        });
        assert_eq!(lines[0]["upstream"], name);
        assert_eq!(
            lines[1]["identity"],
            "spiffe://cluster.local/ns/shop/sa/payments"
        );
        assert_eq!(application.count(), 1);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_encrypted_although_packets_are_lost() {
    let mesh = Mesh::start();
    let _store = Greeter::start(&mesh.server, "0.0.0.0:3306", "store");
    let capture = Capture::on(&mesh.server);
    // Everything that carries bytes to it is lost until the client has tried twice: long after anyone has asked itself
    // whether the caller waits for a greeting.
    let nft = |rule: &[&str]| mesh.server.prints("nft", rule);
    nft(&["add", "table", "ip", "loss"]);
    nft(&["add chain ip loss in { type filter hook prerouting priority raw; }"]);
    nft(&["add rule ip loss in tcp dport 3306 ip length > 100 counter drop"]);
    let heard = std::thread::scope(|scope| {
        let heard = scope.spawn(|| mesh.client.hears(APPLICATION, mesh.server.at(3306)));
        wait_until("two lost packets", || {
            let rules = nft(&["list", "table", "ip", "loss"]);
            let after = rules.split("packets ").nth(1).unwrap_or_default();
            let packets = after
                .split(' ')
                .next()
                .and_then(|count| count.parse::<u32>().ok());
            packets.is_some_and(|packets| packets >= 2)
        });
        nft(&["delete", "table", "ip", "loss"]);
        heard.join().expect("no panic here")
    });
    assert_eq!(heard, Ok(format!("store for {}", mesh.server.at(3306))));
    wait_until("the handshake on the wire", || capture.holds("weft/tcp"));
    assert!(!capture.holds("store for"));
}

/// IPv4 callers reach a lone IPv6 wildcard as `::ffff:10.66.0.1`; what they meant is an address of IPv4 all the same.
#[test]
fn a_lone_ipv6_listener_knows_where_ipv4_callers_meant_to_go() {
    let (client, server) = Pod::pair();
    server.redirect(&["apply"]);
    let sidecar =
        server.sidecar(r#"inbound: { listen: "[::]:15006", ports: { 7777: { protocol: tcp } } }"#);
    let _application = Greeter::start(&server, &server.at(7777).to_string(), "application");
    let heard = client.hears(APPLICATION, server.at(7777));
    assert_eq!(heard, Ok(format!("application for {}", server.at(7777))));
    let line = sidecar.wait_for_access(|line| line["direction"] == "inbound");
    assert_eq!(line["original"], server.at(7777).to_string());
}

#[test]
fn a_proxy_of_the_applications_own_is_left_alone() {
    let mesh = Mesh::start();
    // The proxy has no sidecar.
    mesh.server.redirect(&["remove"]);
    let address = mesh.server.at(3128);
    let proxy = mesh
        .server
        .inside(|| Origin::at(address, |_| Reply::ok("from the proxy")));
    let output = mesh.client.inside_as(APPLICATION, || {
        parts::curl(&[
            "-x",
            &format!("http://{address}"),
            "http://payments.example/a",
        ])
    });
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the proxy");
    let seen = &proxy.requests()[0];
    assert_eq!(seen.target, "http://payments.example/a");
    let tunnel = mesh.client.inside_as(APPLICATION, || {
        Call::new("CONNECT", "payments.example:443").try_send(&address.to_string())
    });
    assert_eq!(tunnel.expect("an answer").status, 200);
    let seen = &proxy.wait_for_requests(2)[1];
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("CONNECT", "payments.example:443")
    );
}

#[test]
fn a_port_bound_to_loopback_alone_stays_unreachable() {
    let mesh = Mesh::start();
    let (url, address) = ("http://payments:8080/", mesh.server.v4.to_string());
    let hidden = mesh.application("127.0.0.1:8080");
    let (status, body) = curl(&mesh.client, url, &address);
    assert_eq!(status, "503", "{body}");
    assert_eq!(hidden.connections(), 0);
    let _shown = mesh.application(&mesh.server.at(8080).to_string());
    let (status, _) = curl(&mesh.client, url, &address);
    assert_eq!(status, "200");
    assert_eq!(hidden.connections(), 0);
}

#[test]
fn without_its_sidecar_a_pod_is_refused_and_not_let_through() {
    let mut mesh = Mesh::start();
    let application = mesh.application("0.0.0.0:8080");
    let (url, address) = ("http://payments:8080/", mesh.server.v4.to_string());
    assert_eq!(curl(&mesh.client, url, &address).0, "200");
    mesh.web.kill9();
    let refused = Err(ErrorKind::ConnectionRefused);
    assert_eq!(
        mesh.client.hears(APPLICATION, mesh.server.at(8080)),
        refused
    );
    mesh.client.inside(|| mesh.web.restart());
    assert_eq!(curl(&mesh.client, url, &address).0, "200");
    mesh.payments.kill9();
    assert_eq!(curl(&mesh.client, url, &address).0, "503");
    assert_eq!(application.count(), 2);
}

#[test]
fn a_stranger_without_a_certificate_is_not_let_in() {
    let mesh = Mesh::start();
    let application = mesh.application("0.0.0.0:8080");
    mesh.client.redirect(&["remove"]);
    let answer = mesh.client.inside_as(APPLICATION, || {
        Call::get("/").try_send(&mesh.server.at(8080).to_string())
    });
    let status = answer.map(|answer| answer.status);
    assert!(status.is_err(), "plaintext is answered: {status:?}");
    assert_eq!(application.connections(), 0);
}
