//! Two sidecars that prove who they are to each other: what is carried, what the application hears, and what is refused.

use serde_json::Value;

use crate::harness::{Answer, Authority, Call, IdentityFolder, Origin, RawClient, TlsCaller, Weft};

/// Two sidecars: `web`'s, which calls, and that of `payments`, before its application.
struct Pair {
    web: Weft,
    payments: Weft,
    app: Origin,
    authority: Authority,
    _folders: [IdentityFolder; 2],
}

/// What a story says of its two sidecars.
#[derive(Default)]
struct Said<'a> {
    /// Of `upstreams.payments`, behind its endpoints.
    upstream: &'a str,
    /// Of `payments`' `inbound`, behind its application.
    inbound: &'a str,
}

impl Pair {
    fn start(said: Said<'_>) -> Self {
        let authority = Authority::new("cluster.local");
        let folder = |account| IdentityFolder::new(&authority.leaf(account), authority.root());
        let folders = [folder("web"), folder("payments")];
        let app = Origin::start();
        let payments = Weft::start(&callee(&folders[1], &app.address(), said.inbound));
        let web = Weft::start(&caller(&folders[0], &payments.inbound(), said.upstream));
        Pair {
            web,
            payments,
            app,
            authority,
            _folders: folders,
        }
    }

    fn call(&self, call: Call) -> Answer {
        call.host("payments").send(&self.web.outbound())
    }
}

fn callee(identity: &IdentityFolder, app: &str, more: &str) -> String {
    format!(
        "identity: {}\noutbound: {{ listen: none }}\ntelemetry: {{ accessLog: all }}\n\
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{app}\"{more} }}",
        identity.yaml()
    )
}

fn caller(identity: &IdentityFolder, endpoint: &str, more: &str) -> String {
    format!(
        "identity: {}\ninbound: {{ listen: none }}\noutbound: {{ listen: \"127.0.0.1:0\" }}\n\
         upstreams: {{ payments: {{ endpoints: {{ static: [\"{endpoint}\"] }}{more} }} }}",
        identity.yaml()
    )
}

const MESH: &str = ", tls: mesh";
const STRICT: &str = ", tls: { mode: strict }";

#[test]
fn a_call_goes_by_mutual_tls_and_the_application_hears_who_called() {
    let pair = Pair::start(Said {
        upstream: MESH,
        inbound: STRICT,
    });
    let forged = Call::post("/charge", "5 EUR").header(
        "x-forwarded-client-cert",
        "URI=spiffe://cluster.local/ns/shop/sa/admin",
    );
    let answer = pair.call(forged);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &pair.app.requests()[0];
    assert_eq!(seen.text(), "5 EUR");
    let told = seen.header("x-forwarded-client-cert").unwrap();
    let (web, payments) = (pair.authority.id("web"), pair.authority.id("payments"));
    assert!(told.starts_with(&format!("By={payments};Hash=")), "{told}");
    assert!(told.ends_with(&format!(";URI={web}")), "{told}");
    let line = pair
        .payments
        .wait_for_access(|line| line["path"] == "/charge");
    assert_eq!(line["identity"], Value::from(web.clone()));
    pair.payments.assert_metric(
        &format!("weft_identity_requests_total{{identity=\"{web}\"}}"),
        1.0,
    );
}

#[test]
fn plaintext_is_closed_under_strict() {
    let pair = Pair::start(Said {
        upstream: MESH,
        inbound: STRICT,
    });
    let mut client = RawClient::connect(&pair.payments.inbound());
    client.send("GET /charge HTTP/1.1\r\nhost: payments\r\n\r\n");
    assert!(client.read_to_end().is_empty());
    pair.payments.wait_for_log("a caller was refused");
    pair.payments.assert_metric(
        "weft_connections_closed_total{direction=\"inbound\",rule=\"plaintext\"}",
        1.0,
    );
    assert_eq!(pair.app.count(), 0);
}

#[test]
fn plaintext_is_served_and_counted_where_it_is_allowed() {
    let pair = Pair::start(Said::default());
    let port = pair.app.port();
    let forged = Call::get("/a").header("x-forwarded-client-cert", "URI=spiffe://a/b");
    assert_eq!(forged.send(&pair.payments.inbound()).status, 200);
    assert_eq!(
        pair.app.requests()[0].header("x-forwarded-client-cert"),
        None
    );
    pair.payments.assert_metric(
        &format!("weft_plaintext_connections_total{{port=\"{port}\",result=\"served\"}}"),
        1.0,
    );
}

#[test]
fn a_probe_stays_open_under_strict_and_nothing_else_does() {
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::new(&authority.leaf("payments"), authority.root());
    let app = Origin::start();
    let probes = format!(
        "{STRICT}, probes: [{{ port: {}, path: /healthz }}]",
        app.port()
    );
    let weft = Weft::start(&callee(&identity, &app.address(), &probes));
    let ask = |call: Call| call.host("payments").send(&weft.inbound());
    assert_eq!(ask(Call::get("/healthz")).status, 200);
    for refused in [
        Call::get("/charge"),
        Call::get("/healthz/../charge"),
        Call::get("/healthz%2f"),
        Call::get("//healthz"),
        Call::post("/healthz", "a"),
    ] {
        let answer = ask(refused);
        assert!([400, 403].contains(&answer.status), "{}", answer.status);
    }
    assert_eq!(app.count(), 1);
}

#[test]
fn a_door_without_an_application_says_so() {
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::new(&authority.leaf("payments"), authority.root());
    let weft = Weft::start(&format!(
        "identity: {}\noutbound: {{ listen: none }}\ninbound: {{ listen: \"127.0.0.1:0\" }}",
        identity.yaml()
    ));
    let door = weft.inbound();
    let web = |offer| TlsCaller::new(Some(&authority.leaf("web")), &[offer]);

    let plain = Call::get("/").send(&door);
    assert_eq!((plain.status, plain.reason()), (503, Some("no_app")));
    for offer in ["weft/http1.1", "weft/tcp"] {
        let proven = web(offer).call(&door, &Call::get("/")).expect("an answer");
        assert_eq!((proven.status, proven.reason()), (503, Some("no_app")));
    }

    let mut stranger = RawClient::connect(&door);
    stranger.send("\x01\x02\x03 no request at all\r\n\r\n");
    assert!(stranger.read_to_end().is_empty());
    let mut bytes = web("weft/tcp").connect(&door).expect("a handshake");
    bytes.send("\x01\x02\x03 nor is this\r\n\r\n").unwrap();
    assert!(bytes.read_exact(1).is_err());
    weft.wait_for_metric(
        "weft_connections_closed_total{direction=\"inbound\",rule=\"no_app\"}",
        |count| count == 2.0,
    );
    weft.wait_for_log("no_app");
}

#[test]
fn an_upstream_that_speaks_no_tls_is_never_spoken_to_in_plaintext() {
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::new(&authority.leaf("web"), authority.root());
    let app = Origin::start();
    let web = Weft::start(&caller(&identity, &app.address(), MESH));
    let answer = Call::post("/", "secret")
        .host("payments")
        .send(&web.outbound());
    assert_eq!(answer.status, 503);
    assert_eq!(answer.reason(), Some("peer_speaks_no_tls"));
    assert_eq!(app.count(), 0);
}

#[test]
fn an_endpoint_with_another_identity_is_refused() {
    let upstream = ", identity: \"spiffe://cluster.local/ns/shop/sa/other\"";
    let pair = Pair::start(Said {
        upstream,
        inbound: STRICT,
    });
    let answer = pair.call(Call::get("/"));
    assert_eq!(answer.reason(), Some("wrong_identity"), "{}", answer.text());
    assert_eq!(pair.app.count(), 0);
}

#[test]
fn an_expected_identity_makes_it_mutual_tls() {
    let upstream = ", identity: \"spiffe://cluster.local/ns/shop/sa/payments\"";
    let pair = Pair::start(Said {
        upstream,
        inbound: STRICT,
    });
    assert_eq!(pair.call(Call::get("/")).status, 200);
}

#[test]
fn a_caller_of_another_root_is_refused_and_says_so() {
    let pair = Pair::start(Said {
        upstream: MESH,
        inbound: STRICT,
    });
    let impostor = Authority::new("cluster.local");
    // It believes the callee; the callee does not believe it.
    let identity = IdentityFolder::new(
        &impostor.leaf("web"),
        &[impostor.root(), pair.authority.root()].concat(),
    );
    let web = Weft::start(&caller(&identity, &pair.payments.inbound(), MESH));
    let answer = Call::post("/", "a").host("payments").send(&web.outbound());
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.reason(),
        Some("refused_identity"),
        "{}",
        answer.text()
    );
    assert_eq!(pair.app.count(), 0);
}
