//! How upstreams are secured, as the file says it: by identity, by a server's name, or not at all; and what becomes of a
//! call that one endpoint refuses for who we are.

use crate::harness::{
    Answer, Authority, Call, IdentityFolder, Origin, RawOrigin, Weft, parts::PythonServer,
    wait_until,
};

fn identity(authority: &Authority, account: &str) -> IdentityFolder {
    IdentityFolder::new(&authority.leaf(account), authority.root())
}

/// A sidecar whose upstream `callee` is there and says this more.
fn towards(head: &str, endpoints: &[String], more: &str) -> Weft {
    // A busy machine shakes hands slowly; who wants a timeout says so.
    let patience = match more.contains("timeouts") {
        true => "",
        false => ", timeouts: { connect: 20s }",
    };
    Weft::start(&format!(
        "{head}\nupstreams: {{ callee: {{ endpoints: {{ static: {endpoints:?} }}, listen: \"127.0.0.1:0\"{more}{patience} }} }}"
    ))
}

fn post(weft: &Weft) -> Answer {
    Call::post("/orders", "hello")
        .host("callee")
        .send(&weft.upstream("callee"))
}

#[track_caller]
fn assert_dials(weft: &Weft, tls: &str, count: f64) {
    let name = format!(
        "weft_upstream_dials_total{{upstream=\"callee\",tls=\"{tls}\",result=\"connected\"}}"
    );
    weft.assert_metric(&name, count);
}

// By a server's name

#[test]
fn a_server_outside_the_mesh_is_called_by_its_name_and_shown_a_certificate() {
    let authority = Authority::new("outside.example");
    let (payments, ours) = (
        identity(&authority, "payments"),
        identity(&authority, "web"),
    );
    let server = PythonServer::start(&payments);
    let said = |sni: &str, roots: &str, shown: &str| {
        let weft = towards(
            "",
            &[server.address()],
            &format!(", protocol: http1, tls: {{ sni: {sni}, roots: {roots}{shown} }}"),
        );
        (post(&weft), weft)
    };
    let shown = format!(
        ", clientCertificate: {{ certificate: {}, key: {} }}",
        ours.certificate(),
        ours.key()
    );
    let (answer, weft) = said("payments.test", &payments.roots(), &shown);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    assert_eq!(seen["uris"][0], authority.id("web"));
    assert_eq!(
        (&seen["alpn"], &seen["body"]),
        (&"http/1.1".into(), &"hello".into())
    );
    assert_dials(&weft, "ordinary", 1.0);

    let strangers = identity(&Authority::new("elsewhere.example"), "payments");
    for (sni, roots) in [
        ("other.test", payments.roots()),
        ("payments.test", strangers.roots()),
    ] {
        let (answer, _) = said(sni, &roots, &shown);
        assert_eq!(
            (answer.status, answer.reason()),
            (503, Some("wrong_identity")),
            "{sni}: {}",
            answer.text()
        );
    }
}

#[test]
fn new_files_for_a_server_are_taken_over_and_bad_ones_are_not() {
    let authority = Authority::new("outside.example");
    let server = PythonServer::start(&identity(&authority, "payments"));
    let files = identity(&authority, "first");
    let weft = towards(
        "",
        &[server.address()],
        &format!(
            ", protocol: http1, tls: {{ sni: payments.test, roots: {}, clientCertificate: {{ certificate: {}, key: {} }} }}",
            files.roots(),
            files.certificate(),
            files.key()
        ),
    );
    let shows = |account: &str| post(&weft).json()["uris"][0] == authority.id(account);
    assert!(shows("first"));

    files.replace(&authority.leaf("second"), authority.root());
    assert_eq!(weft.admin_post("/reload", "").status, 200);
    assert!(shows("second"), "a reload reads them");
    files.replace(&authority.leaf("third"), authority.root());
    wait_until("a change to be noticed", || shows("third"));

    let mut mixed = authority.leaf("fourth");
    mixed.key = authority.leaf("fourth").key;
    files.replace(&mixed, authority.root());
    weft.wait_for_log("the TLS files of a server are refused");
    let refused = weft.admin_post("/reload", "");
    assert_ne!(refused.status, 200);
    let words = refused.text();
    assert!(words.contains("upstreams.callee.tls"), "{words}");
    assert!(shows("third"), "the last good ones go on");

    let elsewhere = Authority::new("elsewhere.example");
    files.replace(&authority.leaf("fifth"), elsewhere.root());
    wait_until("the new roots to count", || {
        post(&weft).reason() == Some("wrong_identity")
    });
}

#[test]
fn a_server_of_a_name_that_speaks_no_tls_gets_nothing() {
    let authority = Authority::new("outside.example");
    let payments = identity(&authority, "payments");
    let origin = Origin::start();
    let weft = towards(
        "",
        &[origin.address()],
        &format!(
            ", tls: {{ sni: payments.test, roots: {} }}",
            payments.roots()
        ),
    );
    let answer = post(&weft);
    assert_eq!(
        answer.reason(),
        Some("peer_speaks_no_tls"),
        "{}",
        answer.text()
    );
    assert_eq!(origin.count(), 0);
}

/// A TLS server that is none of the mesh agrees to none of the mesh's words; only where its protocol is declared may it
/// be spoken to by the usual ones.
#[test]
fn a_server_that_agrees_to_nothing_of_the_mesh_gets_nothing() {
    let authority = Authority::new("cluster.local");
    let (ours, theirs) = (
        identity(&authority, "web"),
        identity(&authority, "payments"),
    );
    let head = format!("identity: {}", ours.yaml());
    let server = PythonServer::start(&theirs);
    let weft = towards(&head, &[server.address()], ", tls: mesh");
    let answer = post(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("tls_failed")),
        "{}",
        answer.text()
    );
    let weft = towards(&head, &[server.address()], ", tls: mesh, protocol: http1");
    assert_eq!(post(&weft).status, 200);
}

// Not at all

#[test]
fn what_goes_in_plaintext_though_we_have_an_identity_is_counted_and_named() {
    let authority = Authority::new("cluster.local");
    let ours = identity(&authority, "web");
    let head = format!("identity: {}", ours.yaml());
    let origin = Origin::start();
    for (more, named) in [("", true), (", tls: auto", true), (", tls: none", false)] {
        let weft = towards(&head, &[origin.address()], more);
        assert_eq!(post(&weft).status, 200);
        assert_dials(&weft, "none", 1.0);
        assert_dials(&weft, "mesh", 0.0);
        let checked = weft.run(&["check", "-c", "weft.yaml"]);
        let words = [checked.stdout, checked.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        assert_eq!(
            words.contains("upstreams.callee: calls go in plaintext"),
            named,
            "{more}: {words}"
        );
    }
}

#[test]
fn without_an_identity_the_log_says_that_all_is_plaintext() {
    let authority = Authority::new("cluster.local");
    let ours = identity(&authority, "web");
    let words = "there is no `identity`: everything is plaintext";
    let line = Weft::start("").wait_for_log(words);
    assert!(line.contains("WARN"), "{line}");
    let weft = Weft::start(&format!("identity: {}", ours.yaml()));
    assert!(!weft.logs().contains(words), "{}", weft.logs());
}

// By identity

/// The alert of TLS 1.3 comes in place of the answer: nothing of the call was looked at.
#[test]
fn a_call_that_one_endpoint_refuses_for_who_we_are_is_made_elsewhere() {
    let authority = Authority::new("cluster.local");
    let ours = identity(&authority, "web");
    // It is whom we expect, and believes only others.
    let other = Authority::new("cluster.local");
    let stranger = IdentityFolder::new(&authority.leaf("shop"), other.root());
    let willing = identity(&authority, "shop");
    for protocol in ["http1", "http2"] {
        let (reached, unreached) = (Origin::start(), Origin::start());
        let callee = |identity: &IdentityFolder, app: &Origin| {
            Weft::start(&format!(
                "identity: {}\ninbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", tls: {{ mode: strict }} }}",
                identity.yaml(),
                app.address()
            ))
        };
        let callees = [callee(&stranger, &unreached), callee(&willing, &reached)];
        let more = format!(
            ", protocol: {protocol}, tls: mesh, loadBalancing: {{ policy: roundRobin }}, \
             outlier: {{ consecutiveFailures: 1000 }}"
        );
        let head = format!("workers: 1\nidentity: {}", ours.yaml());
        let weft = towards(&head, &callees.each_ref().map(Weft::inbound), &more);
        for _ in 0..6 {
            let answer = post(&weft);
            assert_eq!(answer.status, 200, "{protocol}: {}", answer.text());
        }
        let bodies = reached.requests();
        assert_eq!(bodies.len(), 6, "{protocol}");
        assert!(bodies.iter().all(|seen| seen.text() == "hello"));
        assert_eq!(unreached.connections(), 0);
        let refused = "weft_tls_handshakes_total{direction=\"inbound\",result=\"failure\",reason=\"unknown_authority\"}";
        callees[0].wait_for_metric(refused, |count| count >= 2.0);
    }
}

#[test]
fn a_handshake_that_nobody_answers_ends_with_the_connect_timeout() {
    let authority = Authority::new("cluster.local");
    let ours = identity(&authority, "web");
    let silent = RawOrigin::start(|connection| connection.until_closed());
    let weft = towards(
        &format!("identity: {}", ours.yaml()),
        &[silent.address()],
        ", tls: mesh, timeouts: { connect: 300ms }",
    );
    let answer = post(&weft);
    assert_eq!(
        answer.reason(),
        Some("connect_timeout"),
        "{}",
        answer.text()
    );
    let timeouts =
        "weft_tls_handshakes_total{direction=\"outbound\",result=\"failure\",reason=\"timeout\"}";
    weft.wait_for_metric(timeouts, |count| count >= 1.0);
    let seen = silent.text(0);
    assert!(!seen.contains("orders"), "{seen}");
}
