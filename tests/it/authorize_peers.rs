//! Who may call, by what certificates prove: only a verified identity is one, and only for as long as it holds.

use std::time::Duration;

use crate::harness::{
    Answer, Authority, Call, IdentityFolder, Leaf, RawClient, RawOrigin, TlsCaller, Wanted, Weft,
    own_address, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const DOMAIN: &str = "mesh.test";

/// A trust domain, its sidecar's identity, and an application behind it.
struct Mesh {
    authority: Authority,
    identity: IdentityFolder,
    app: RawOrigin,
}

impl Mesh {
    fn new() -> Self {
        let authority = Authority::new(DOMAIN);
        let identity = IdentityFolder::new(&authority.leaf("orders"), authority.root());
        Mesh {
            authority,
            identity,
            app: RawOrigin::answering(OK),
        }
    }

    /// The file with this `authorization`, and with more under `identity`.
    fn file(&self, authorization: &str, identity: &str) -> String {
        let files = self.identity.yaml_with_revocations();
        let files = files.strip_suffix(" }").unwrap();
        format!(
            "identity: {files}{identity} }}\n\
             inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", authorization: {authorization} }}",
            self.app.address()
        )
    }

    fn sidecar(&self, authorization: &str) -> Weft {
        Weft::start(&self.file(authorization, ""))
    }

    /// A sidecar that lets the service account `web` in.
    fn for_web(&self) -> Weft {
        self.sidecar(&allows(&format!(
            "identity: \"{}\"",
            self.authority.id("web")
        )))
    }
}

fn allows(from: &str) -> String {
    format!(
        "{{ default: deny, rules: [{{ name: the-rule, action: allow, from: [{{ {from} }}] }}] }}"
    )
}

fn caller(leaf: &Leaf) -> TlsCaller {
    TlsCaller::new(Some(leaf), &["weft/http1.1"])
}

fn get(caller: &TlsCaller, weft: &Weft) -> std::io::Result<Answer> {
    caller.call(&weft.inbound(), &Call::get("/"))
}

#[track_caller]
fn status(caller: &TlsCaller, weft: &Weft) -> u16 {
    get(caller, weft).expect("an answer").status
}

#[test]
fn a_verified_identity_is_let_in_and_another_is_told_the_rule() {
    let mesh = Mesh::new();
    let weft = mesh.for_web();
    let denied = get(&caller(&mesh.authority.leaf("other")), &weft).unwrap();
    assert_eq!((denied.status, denied.reason()), (403, Some("denied")));
    assert_eq!(mesh.app.connections(), 0);
    let line = weft.wait_for_log("\"audit\"");
    assert!(line.contains(&mesh.authority.id("other")), "{line}");
    assert_eq!(status(&caller(&mesh.authority.leaf("web")), &weft), 200);
    weft.assert_metric(
        "weft_authorization_total{rule=\"the-rule\",action=\"allow\"}",
        1.0,
    );
}

#[test]
fn a_mesh_peer_is_told_the_rule_wherever_it_calls_from() {
    let Some(own) = own_address() else {
        return println!("this machine has but loopback");
    };
    let mesh = Mesh::new();
    let rule = "{ default: allow, rules: [{ name: the-rule, action: deny }] }";
    let weft = Weft::start(&mesh.file(rule, "").replace("127.0.0.1:0", "0.0.0.0:0"));
    let port = weft.inbound().rsplit(':').next().unwrap().to_owned();
    let address = format!("{own}:{port}");
    let known = caller(&mesh.authority.leaf("web"))
        .call(&address, &Call::get("/"))
        .unwrap();
    assert!(known.text().contains("the-rule"), "{}", known.text());
    let stranger = Call::get("/").send(&address);
    assert_eq!(stranger.status, 403);
    assert!(!stranger.text().contains("the-rule"), "{}", stranger.text());
}

#[test]
fn what_a_caller_claims_beside_its_certificate_is_replaced() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&allows("identity: \"*\""));
    let forged = Call::get("/").header(
        "x-forwarded-client-cert",
        &format!("URI={}", mesh.authority.id("admin")),
    );
    let answer = caller(&mesh.authority.leaf("web")).call(&weft.inbound(), &forged);
    assert_eq!(answer.unwrap().status, 200);
    let text = mesh.app.wait_for_bytes(0, "\r\n\r\n");
    assert!(!text.contains("admin"), "{text}");
    assert!(
        text.contains(&format!("URI={}", mesh.authority.id("web"))),
        "{text}"
    );
    let only_web = mesh.for_web();
    let answer = caller(&mesh.authority.leaf("other")).call(
        &only_web.inbound(),
        &Call::get("/").header(
            "x-forwarded-client-cert",
            &format!("URI={}", mesh.authority.id("web")),
        ),
    );
    assert_eq!(answer.unwrap().status, 403);
}

#[test]
fn plaintext_has_no_identity() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&allows("identity: \"*\""));
    let claim = format!("URI={}", mesh.authority.id("web"));
    let call = Call::get("/").header("x-forwarded-client-cert", &claim);
    assert_eq!(call.send(&weft.inbound()).status, 403);
    assert_eq!(mesh.app.connections(), 0);
}

#[test]
fn a_certificate_that_names_no_workload_of_ours_gets_nothing() {
    let mesh = Mesh::new();
    // Whoever has any identity may call.
    let weft = mesh.sidecar(&allows("identity: \"*\""));
    let ours = &mesh.authority;
    let (web, admin) = (ours.id("web"), ours.id("admin"));
    for (what, leaf) in [
        ("no URI", ours.sign(Wanted::default().name("web.test"))),
        (
            "two URIs",
            ours.sign(Wanted::default().uri(&web).uri(&admin)),
        ),
        (
            "the same URI twice",
            ours.sign(Wanted::default().uri(&web).uri(&web)),
        ),
        (
            "no SPIFFE id",
            ours.sign(Wanted::default().uri("https://mesh.test/ns/shop/sa/web")),
        ),
        (
            "a broken SPIFFE id",
            ours.sign(Wanted::default().uri("spiffe://mesh.test/ns//web")),
        ),
        ("ended", ours.sign(Wanted::default().uri(&web).expired())),
        (
            "not begun",
            ours.sign(Wanted::default().uri(&web).not_yet()),
        ),
        (
            "another root of our name",
            Authority::new(DOMAIN).leaf("web"),
        ),
        (
            "another trust domain",
            Authority::new("other.test").leaf("web"),
        ),
        (
            "our root, another trust domain",
            ours.sign(Wanted::default().uri("spiffe://other.test/ns/shop/sa/web")),
        ),
    ] {
        let got = get(&caller(&leaf), &weft);
        assert!(
            got.is_err(),
            "{what}: {:?}",
            got.map(|answer| answer.status)
        );
    }
    for offers in [&["weft/http1.1"][..], &["weft/h2"], &["weft/tcp"]] {
        let nobody = TlsCaller::new(None, offers);
        assert!(get(&nobody, &weft).is_err(), "no certificate, {offers:?}");
    }
    assert_eq!(mesh.app.connections(), 0);
    assert_eq!(status(&caller(&ours.leaf("web")), &weft), 200);
}

#[test]
fn a_federated_partner_is_none_of_ours() {
    let mesh = Mesh::new();
    let partner = Authority::new("partner.test");
    let roots = mesh.identity.path("partner.pem");
    std::fs::write(&roots, partner.root()).unwrap();
    let bundles = format!(", trustBundles: {{ partner.test: {} }}", roots.display());
    let (theirs, ours) = (
        caller(&partner.leaf("web")),
        caller(&mesh.authority.leaf("web")),
    );
    for (from, status_of_theirs) in [
        (format!("identity: \"{}\"", mesh.authority.id("web")), 403),
        ("identity: \"spiffe://mesh.test/*\"".into(), 403),
        ("trustDomain: mesh.test".into(), 403),
        // Their namespaces are not ours, though they have the same names.
        ("namespace: shop".into(), 403),
        ("identity: \"*\"".into(), 200),
    ] {
        let weft = Weft::start(&mesh.file(&allows(&from), &bundles));
        assert_eq!(status(&theirs, &weft), status_of_theirs, "{from}");
        assert_eq!(status(&ours, &weft), 200, "{from}");
    }
    let theirs_alone = "namespace: shop, trustDomain: partner.test";
    let weft = Weft::start(&mesh.file(&allows(theirs_alone), &bundles));
    assert_eq!((status(&theirs, &weft), status(&ours, &weft)), (200, 403));
    let deny =
        "{ default: allow, rules: [{ name: r, action: deny, from: [{ namespace: shop }] }] }";
    let weft = Weft::start(&mesh.file(deny, &bundles));
    assert_eq!((status(&theirs, &weft), status(&ours, &weft)), (403, 403));
}

#[test]
fn a_ticket_is_worth_nothing_after_a_rotation() {
    let mesh = Mesh::new();
    let weft = mesh.for_web();
    let caller = caller(&mesh.authority.leaf("web"));
    let address = weft.inbound();
    assert_eq!(status(&caller, &weft), 200);
    let mut resumed = caller.connect(&address).unwrap();
    assert!(resumed.is_resumed(), "no ticket was given");
    assert_eq!(resumed.call(&Call::get("/"), "a").unwrap().status, 200);
    // Who it is now is not who it was when it got its tickets.
    caller.shows(&mesh.authority.leaf("other"));
    mesh.identity
        .replace(&mesh.authority.leaf("orders"), mesh.authority.root());
    wait_until("tickets of before are refused", || {
        let mut connection = caller.connect(&address).unwrap();
        let seen = mesh.app.connections();
        let status = connection.call(&Call::get("/"), "a").unwrap().status;
        if connection.is_resumed() {
            return false;
        }
        assert_eq!((status, mesh.app.connections()), (403, seen));
        true
    });
}

#[test]
fn a_revoked_caller_gets_nothing_by_its_ticket() {
    let mesh = Mesh::new();
    let weft = mesh.for_web();
    let web = mesh.authority.leaf("web");
    let caller = caller(&web);
    let mut open = caller.connect(&weft.inbound()).unwrap();
    assert_eq!(open.call(&Call::get("/"), "a").unwrap().status, 200);
    let list = mesh.authority.revoke(&[&web]);
    let orders = mesh.authority.leaf("orders");
    mesh.identity
        .replace_with_revocations(&orders, mesh.authority.root(), &list);
    wait_until("the revoked caller is refused", || {
        get(&caller, &weft).is_err()
    });
    wait_until("its open connection is closed", || {
        open.call(&Call::get("/"), "a").is_err()
    });
    assert_eq!(
        status(&self::caller(&mesh.authority.leaf("web")), &weft),
        200,
        "another certificate of it"
    );
}

#[test]
fn a_caller_whose_certificate_has_ended_gets_nothing_by_its_ticket() {
    let mesh = Mesh::new();
    let weft = mesh.for_web();
    let wanted = Wanted::default().uri(&mesh.authority.id("web"));
    let caller = caller(&mesh.authority.sign(wanted.lasting(Duration::from_secs(10))));
    assert_eq!(status(&caller, &weft), 200);
    let resumed = caller.connect(&weft.inbound()).unwrap();
    assert!(resumed.is_resumed(), "no ticket was given");
    wait_until("the certificate has ended", || get(&caller, &weft).is_err());
    assert!(get(&caller, &weft).is_err());
}

#[test]
fn rules_change_for_a_proven_connection_at_its_next_request() {
    let mesh = Mesh::new();
    let open = mesh.file("{ default: allow }", "");
    let mut weft = Weft::start(&open);
    let mut connection = caller(&mesh.authority.leaf("web"))
        .connect(&weft.inbound())
        .unwrap();
    let mut status = || connection.call(&Call::get("/"), "a").unwrap().status;
    assert_eq!(status(), 200);
    weft.reload(&mesh.file(
        &allows(&format!("identity: \"{}\"", mesh.authority.id("other"))),
        "",
    ));
    wait_until("it is refused", || status() == 403);
    weft.reload(&mesh.file(&allows("namespace: shop"), ""));
    wait_until("it passes", || status() == 200);
}

#[test]
fn tcp_is_let_through_by_identity_and_cut_when_the_rules_change() {
    let echo = RawOrigin::start(|connection| {
        loop {
            let byte = connection.read_exact(1)?;
            connection.write(byte)?;
        }
    });
    let mesh = Mesh {
        app: echo,
        ..Mesh::new()
    };
    let web = format!("identity: \"{}\"", mesh.authority.id("web"));
    let with_http =
        "{ default: deny, rules: [{ name: r, action: allow, to: [{ methods: [GET] }] }] }";
    let mut weft = Weft::start(&mesh.file(with_http, ""));
    let tcp = |account: &str| TlsCaller::new(Some(&mesh.authority.leaf(account)), &["weft/tcp"]);
    let says = |caller: &TlsCaller, weft: &Weft| {
        let mut connection = caller.connect(&weft.inbound())?;
        // No request begins so: what may be one is waited for.
        connection.send("\0")?;
        connection.read_exact(1)?;
        std::io::Result::Ok(connection)
    };
    assert!(
        says(&tcp("web"), &weft).is_err(),
        "a rule of requests lets no bytes pass"
    );
    assert_eq!(mesh.app.connections(), 0);
    weft.reload(&mesh.file(&allows(&web), ""));
    wait_until("web passes", || says(&tcp("web"), &weft).is_ok());
    let reached = mesh.app.connections();
    assert!(says(&tcp("other"), &weft).is_err());
    assert_eq!(mesh.app.connections(), reached);
    let mut open = says(&tcp("web"), &weft).unwrap();
    weft.reload(&mesh.file(&allows("namespace: elsewhere"), ""));
    assert!(open.is_closed_by_peer());
}

#[test]
fn silence_gets_past_no_rule_of_requests() {
    let greeter = RawOrigin::start(|connection| {
        connection.write("220 hello\r\n")?;
        connection.until_closed()
    });
    let address = greeter.address();
    let port = address.rsplit(':').next().unwrap();
    let weft = Weft::start(&format!(
        "
        inbound:
          listen: \"127.0.0.1:0\"
          app: \"{address}\"
          ports: {{ {port}: {{ opaque: true }} }}
          authorization:
            default: allow
            rules: [{{ name: no-admin, action: deny, to: [{{ path: {{ prefix: /admin }} }}] }}]
        "
    ));
    // A deny rule for one path denies every byte of which nobody can tell the path.
    let mut silent = RawClient::connect(&weft.inbound());
    assert!(silent.is_closed_by_peer());
    let mut client = RawClient::connect(&weft.inbound());
    let _ = client.try_send("GET /public HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(client.is_closed_by_peer());
    assert_eq!(greeter.connections(), 0);
}
