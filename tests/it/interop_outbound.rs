//! TLS servers that no one here wrote, called by weft: openssl, Python's ssl, Envoy, go-spiffe.
//!
//! What reached them is looked at, whom they saw, and what became of a call that must not go through.

use serde_json::json;

use crate::harness::{
    Answer, Authority, Call, IdentityFolder, Origin, Weft,
    parts::{Envoy, Offers, OpensslServer, PythonServer, SpiffeServer, WorkloadApi},
};

const DOMAIN: &str = "cluster.local";

/// The folder of a service account under `authority`.
fn identity(authority: &Authority, account: &str) -> IdentityFolder {
    IdentityFolder::new(&authority.leaf(account), authority.root())
}

/// A sidecar whose upstream `shop` is at `address` and must prove `id`; `protocol` as the file says it.
fn towards(identity: &str, address: &str, id: &str, protocol: &str) -> Weft {
    Weft::start(&format!(
        "
         identity: {identity}
         upstreams:
           shop:
             endpoints: {{ static: [\"{address}\"] }}
             listen: \"127.0.0.1:0\"
             protocol: {protocol}
             tls: mesh
             identity: \"{id}\"
             timeouts: {{ connect: 5s }}"
    ))
}

fn post(weft: &Weft) -> Answer {
    Call::post("/orders?x=1", "hello")
        .host("shop")
        .send(&weft.upstream("shop"))
}

#[test]
fn openssls_server_sees_our_certificate() {
    let authority = Authority::new(DOMAIN);
    let payments = identity(&authority, "payments");
    let server = OpensslServer::start(&payments, "http/1.1");
    let ours = identity(&authority, "web");
    let weft = towards(
        &ours.yaml(),
        &server.address(),
        &authority.id("payments"),
        "http1",
    );
    let answer = Call::get("/").host("shop").send(&weft.upstream("shop"));
    let page = answer.text();
    assert_eq!(answer.status, 200, "{page}");
    assert!(page.contains("TLSv1.3"), "{page}");
    assert!(
        page.contains(&format!("URI:{}", authority.id("web"))),
        "{page}"
    );
}

#[test]
fn pythons_server_is_called_by_identity() {
    let authority = Authority::new(DOMAIN);
    let payments = identity(&authority, "payments");
    let server = PythonServer::start(&payments);
    let ours = identity(&authority, "web");
    let id = authority.id("payments");
    let weft = towards(&ours.yaml(), &server.address(), &id, "http1");
    let answer = post(&weft);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    assert_eq!(seen["uris"], json!([authority.id("web")]));
    assert_eq!(
        (&seen["path"], &seen["body"]),
        (&json!("/orders?x=1"), &json!("hello"))
    );
}

#[test]
fn a_server_of_another_identity_gets_nothing() {
    let authority = Authority::new(DOMAIN);
    let impostor = identity(&authority, "impostor");
    let server = PythonServer::start(&impostor);
    let ours = identity(&authority, "web");
    let id = authority.id("payments");
    let weft = towards(&ours.yaml(), &server.address(), &id, "http1");
    let answer = post(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("wrong_identity"))
    );
}

#[test]
fn a_server_that_refuses_us_provably_processed_nothing() {
    let authority = Authority::new(DOMAIN);
    // It trusts another root than the one that signed for us.
    let stranger = IdentityFolder::new(
        &authority.leaf("payments"),
        Authority::new("elsewhere.example").root(),
    );
    let server = PythonServer::start(&stranger);
    let payments = identity(&authority, "payments");
    let willing = PythonServer::start(&payments);
    let ours = identity(&authority, "web");
    let id = authority.id("payments");
    let both = format!("{}\", \"{}", server.address(), willing.address());
    let weft = towards(&ours.yaml(), &server.address(), &id, "http1");
    let answer = post(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("refused_identity"))
    );
    // A POST is tried elsewhere all the same.
    let weft = towards(&ours.yaml(), &both, &id, "http1");
    for _ in 0..4 {
        assert_eq!(post(&weft).status, 200);
    }
}

#[test]
fn envoy_lets_our_identity_in_over_both_versions() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let payments = identity(&authority, "payments");
    let envoy = Envoy::inbound(&payments, &authority.id("web"), &origin.address());
    let ours = identity(&authority, "web");
    for protocol in ["http1", "http2"] {
        let id = authority.id("payments");
        let weft = towards(&ours.yaml(), &envoy.address(), &id, protocol);
        let answer = post(&weft);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "{}",
            envoy.log()
        );
    }
    for seen in origin.requests() {
        assert_eq!(seen.text(), "hello");
        let told = seen.header("x-forwarded-client-cert").unwrap_or_default();
        assert!(
            told.contains(&format!("URI={}", authority.id("web"))),
            "{told}"
        );
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn envoy_refuses_an_identity_that_it_does_not_expect() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let payments = identity(&authority, "payments");
    let envoy = Envoy::inbound(&payments, &authority.id("web"), &origin.address());
    let ours = identity(&authority, "other");
    let id = authority.id("payments");
    for protocol in ["http1", "http2"] {
        let weft = towards(&ours.yaml(), &envoy.address(), &id, protocol);
        let answer = post(&weft);
        assert_eq!(
            (answer.status, answer.reason()),
            (503, Some("refused_identity"))
        );
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn go_spiffes_server_is_called_by_identity_over_both_versions() {
    let api = WorkloadApi::start(60, &["web", "payments"]);
    for (offers, protocol, version) in [
        (Offers::Http1, "http1", "HTTP/1.1"),
        (Offers::Http2, "http2", "HTTP/2.0"),
    ] {
        let server = SpiffeServer::start(&api.socket("payments"), &api.id("web"), offers);
        let id = api.id("payments");
        let weft = towards(&api.yaml("web"), &server.address(), &id, protocol);
        let answer = post(&weft);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = answer.json();
        assert_eq!(seen["peer"], api.id("web"));
        assert_eq!(
            (&seen["protocol"], &seen["body"]),
            (&json!(version), &json!("hello"))
        );
    }
}

#[test]
fn go_spiffes_server_refuses_an_identity_that_it_does_not_expect() {
    let api = WorkloadApi::start(60, &["other", "payments"]);
    let server = SpiffeServer::start(&api.socket("payments"), &api.id("web"), Offers::Http2);
    let id = api.id("payments");
    for protocol in ["http1", "http2"] {
        let weft = towards(&api.yaml("other"), &server.address(), &id, protocol);
        let answer = post(&weft);
        assert_eq!(
            (answer.status, answer.reason()),
            (503, Some("refused_identity"))
        );
    }
}

#[test]
fn a_server_without_tls_gets_nothing_of_a_call() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let ours = identity(&authority, "web");
    let id = authority.id("payments");
    let weft = towards(&ours.yaml(), &origin.address(), &id, "http1");
    let answer = post(&weft);
    assert_eq!(
        (answer.status, answer.reason()),
        (503, Some("peer_speaks_no_tls"))
    );
    assert_eq!(origin.count(), 0);
}
