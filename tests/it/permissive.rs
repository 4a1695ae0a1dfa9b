//! Redirected ports whose servers speak first, where callers without a sidecar are still served: who is greeted, in
//! which words, and who never is.

use std::thread;

use crate::harness::{
    Authority, IdentityFolder, RawOrigin, Weft,
    netns::{APPLICATION, Capture, Greeter, Pod, SIDECAR},
    parts::{Kind, Store, converse},
    wait_until,
};

/// Long enough for every greeting that is to come.
const DOORS: &str = r#"
inbound: { listen: ["0.0.0.0:15006", "[::]:15006"], timers: { head: 3s } INBOUND }
outbound: { listen: ["127.0.0.1:15001", "[::1]:15001"] }
"#;

/// A pod that calls and one that is called, whose sidecar is permissive; the caller has none to begin with.
struct Pods {
    client: Pod,
    server: Pod,
    web: IdentityFolder,
    store: IdentityFolder,
    id: String,
}

impl Pods {
    fn new() -> Self {
        let (client, server) = Pod::pair();
        let authority = Authority::new("cluster.local");
        let identity =
            |name| IdentityFolder::new(&authority.leaf(name), authority.root()).open_to_all();
        Pods {
            client,
            server,
            web: identity("web"),
            store: identity("store"),
            id: authority.id("web"),
        }
    }

    /// The sidecar of the pod that is called; `more` of `inbound`.
    fn callee(&self, more: &str) -> Weft {
        let doors = DOORS.replace("INBOUND", more);
        let weft = self.server.sidecar(&format!(
            "workers: 4\nidentity: {}\n{doors}",
            self.store.yaml()
        ));
        self.server.redirect(&["apply"]);
        weft
    }

    /// The caller's sidecar, for which port 3306 of the other pod is in the mesh.
    fn caller(&self) -> Weft {
        let doors = DOORS.replace("INBOUND", "");
        let weft = self.client.sidecar(&format!(
            "identity: {}\n{doors}\nupstreams: {{ store: {{ endpoints: {{ static: [\"{}\"] }}, tls: mesh }} }}",
            self.web.yaml(),
            self.server.at(3306)
        ));
        self.client.redirect(&["apply"]);
        weft
    }

    /// What a silent caller in plaintext hears of this port until it is closed.
    fn hears(&self, port: u16) -> String {
        // The sidecar's own user is not redirected.
        let heard = self.client.hears(SIDECAR, self.server.at(port));
        heard.unwrap_or_default()
    }
}

#[test]
fn mariadb_greets_callers_with_and_without_a_sidecar() {
    let pods = Pods::new();
    let _store = pods
        .server
        .inside(|| Store::at(Kind::Mysql, "0.0.0.0:3306".parse().unwrap()));
    let callee = pods.callee("");
    let address = pods.server.at(3306).to_string();
    let in_plaintext = "weft_plaintext_connections_total{result=\"served\"}";
    let in_plaintext = || pods.server.inside(|| callee.metric(in_plaintext));
    let talks = || pods.client.inside(|| converse(Kind::Mysql, &address));
    let before = Capture::on(&pods.server);
    assert_eq!(talks(), "ok 1000 100000");
    assert_eq!(in_plaintext(), 1.0);
    wait_until("its greeting on the wire", || before.holds("MariaDB"));
    drop(before);

    let _caller = pods.caller();
    let wire = Capture::on(&pods.server);
    assert_eq!(talks(), "ok 1000 100000");
    let line = callee.wait_for_access(|line| line["identity"] == pods.id);
    assert_eq!(line["original"], address);
    wait_until("the handshake on the wire", || wire.holds("weft/tcp"));
    wait_until("the rows on the wire", || wire.size() > 700_000);
    assert!(!wire.holds("MariaDB"));
    assert_eq!(in_plaintext(), 1.0);
}

/// A caller of the mesh whose first packets are lost is as silent; one worker hears of it, all know.
#[test]
fn who_came_with_mutual_tls_is_never_greeted_in_plaintext() {
    let pods = Pods::new();
    let _store = Greeter::start(&pods.server, "0.0.0.0:3306", "store");
    let callee = pods.callee("");
    let greeting = format!("store for {}", pods.server.at(3306));
    // A stranger is, in the end.
    assert_eq!(pods.hears(3306), greeting);
    let _caller = pods.caller();
    let heard = pods.client.hears(APPLICATION, pods.server.at(3306));
    assert_eq!(heard, Ok(greeting));
    callee.wait_for_access(|line| line["identity"] == pods.id);
    let heard: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..16).map(|_| scope.spawn(|| pods.hears(3306))).collect();
        callers
            .into_iter()
            .map(|caller| caller.join().expect("no panic here"))
            .collect()
    });
    assert_eq!(heard, [""; 16]);
}

#[test]
fn silence_opens_no_port_that_is_not_said_to_speak_first_and_none_that_is_strict() {
    let pods = Pods::new();
    let _callee =
        pods.callee(", ports: { 7000: { protocol: tcp }, 7002: { protocol: tcp, tls: strict } }");
    let greets = |port| {
        let address = pods.server.at(port);
        pods.server
            .inside(|| RawOrigin::at(address, |connection| connection.write("welcome")))
    };
    let (said, unsaid, strict) = (greets(7000), greets(7001), greets(7002));
    // From now on it is known as one that comes in plaintext.
    assert_eq!(pods.hears(7000), "welcome");
    for port in [7001, 7002, 3306] {
        assert_eq!(pods.hears(port), "", "{port}");
    }
    assert_eq!(
        [&said, &unsaid, &strict].map(RawOrigin::connections),
        [1, 0, 0]
    );
}
