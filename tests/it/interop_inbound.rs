//! TLS clients that no one here wrote, calling through weft: openssl, curl, Python's ssl, Envoy, go-spiffe.
//!
//! What reached the application is looked at, what it was told of the caller, and why a stranger was refused.

use serde_json::{Value, json};

use crate::harness::{
    Authority, Call, IdentityFolder, Leaf, Origin, Seen, Wanted, Weft, parts,
    parts::{Envoy, Offers, Speaks, WorkloadApi, openssl_client, python_tls_call, spiffe_post},
};

const DOMAIN: &str = "cluster.local";

/// The folder of a service account under `authority`.
fn identity(authority: &Authority, account: &str) -> IdentityFolder {
    IdentityFolder::new(&authority.leaf(account), authority.root())
}

/// A sidecar that only callers with an identity get past, in front of `app`, whose port is declared HTTP.
///
/// Foreign peers say `h2` or `http/1.1`, not the mesh's own words.
fn strict(identity: &str, app: &Origin) -> Weft {
    Weft::start(&format!(
        "
         identity: {identity}
         inbound:
           listen: \"127.0.0.1:0\"
           app: {}
           ports: {{ {}: {{ protocol: http }} }}
           tls: {{ mode: strict }}",
        app.address(),
        app.port(),
    ))
}

/// An application behind its sidecar, and who calls it.
struct Shop {
    authority: Authority,
    origin: Origin,
    payments: IdentityFolder,
    weft: Weft,
    web: IdentityFolder,
}

impl Shop {
    fn open() -> Self {
        let authority = Authority::new(DOMAIN);
        let origin = Origin::start();
        let payments = identity(&authority, "payments");
        Shop {
            weft: strict(&payments.yaml(), &origin),
            web: identity(&authority, "web"),
            authority,
            origin,
            payments,
        }
    }
}

/// What the application was told of its caller: `By=...;Hash=...;URI=...`, from us alone.
#[track_caller]
fn assert_told(seen: &Seen, by: &str, caller: &str) {
    let told: Vec<&str> = seen
        .headers
        .iter()
        .filter(|(name, _)| name == "x-forwarded-client-cert")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let elements: Vec<&str> = told[0].split(';').collect();
    assert_eq!(elements.first(), Some(&&*format!("By={by}")), "{told:?}");
    assert_eq!(
        elements.last(),
        Some(&&*format!("URI={caller}")),
        "{told:?}"
    );
    assert!(!told[0].contains("forged"), "{told:?}");
}

/// One handshake of a caller was refused, for this reason.
#[track_caller]
fn assert_refusal(weft: &Weft, reason: &str) {
    let name = format!(
        "weft_tls_handshakes_total{{direction=\"inbound\",result=\"failure\",reason=\"{reason}\"}}"
    );
    weft.assert_metric(&name, 1.0);
}

#[test]
fn openssls_client_gets_in_with_a_certificate() {
    let shop = Shop::open();
    let answer = openssl_client(
        &shop.weft.inbound(),
        &[
            "-alpn",
            "http/1.1",
            "-verify_return_error",
            "-CAfile",
            &shop.web.roots(),
            "-cert",
            &shop.web.certificate(),
            "-key",
            &shop.web.key(),
        ],
        "GET /orders HTTP/1.1\r\nhost: shop\r\nx-forwarded-client-cert: By=forged\r\nconnection: close\r\n\r\n",
    );
    let said = String::from_utf8_lossy(&answer.stdout);
    assert!(said.starts_with("HTTP/1.1 200"), "{answer:?}");
    let seen = &shop.origin.requests()[0];
    assert_eq!(seen.path(), "/orders");
    assert_told(
        seen,
        &shop.authority.id("payments"),
        &shop.authority.id("web"),
    );
}

#[test]
fn openssls_client_without_a_certificate_stays_out() {
    let shop = Shop::open();
    let answer = openssl_client(
        &shop.weft.inbound(),
        &["-alpn", "http/1.1", "-CAfile", &shop.web.roots()],
        "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n",
    );
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(said.contains("certificate required"), "{said}");
    assert!(answer.stdout.is_empty());
    assert_refusal(&shop.weft, "no_certificate");
    assert_eq!(shop.origin.connections(), 0);
}

#[test]
fn tls_1_2_stays_out() {
    let shop = Shop::open();
    let answer = openssl_client(
        &shop.weft.inbound(),
        &[
            "-tls1_2",
            "-alpn",
            "http/1.1",
            "-cert",
            &shop.web.certificate(),
            "-key",
            &shop.web.key(),
        ],
        "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n",
    );
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(said.contains("alert protocol version"), "{said}");
    assert_eq!(shop.origin.connections(), 0);
}

/// curl's call of `https://payments.test/orders` to `address`, with more arguments.
fn curl(address: &str, roots: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let route = format!("payments.test:443:{address}");
    let mut arguments = vec![
        "--cacert",
        roots,
        "--connect-to",
        &route,
        "-w",
        " %{http_version}",
    ];
    arguments.extend(more);
    arguments.push("https://payments.test/orders");
    let output = parts::curl(&arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn curl_gets_in_with_a_certificate_over_both_versions() {
    let shop = Shop::open();
    for (version, said) in [("--http1.1", "ok 1.1"), ("--http2", "ok 2")] {
        let (certificate, key) = (shop.web.certificate(), shop.web.key());
        let arguments = [
            "--cert",
            &certificate,
            "--key",
            &key,
            "-H",
            "x-forwarded-client-cert: By=forged",
            version,
            "-d",
            "body",
        ];
        let answer = curl(&shop.weft.inbound(), &shop.web.roots(), &arguments);
        assert_eq!(answer.1, said, "{answer:?}");
    }
    for seen in shop.origin.requests() {
        assert_eq!(
            (seen.method.as_str(), seen.text().as_str()),
            ("POST", "body")
        );
        assert_told(
            &seen,
            &shop.authority.id("payments"),
            &shop.authority.id("web"),
        );
    }
    assert_eq!(shop.origin.count(), 2);
}

#[test]
fn curl_without_a_certificate_or_without_tls_stays_out() {
    let shop = Shop::open();
    let (code, _, said) = curl(&shop.weft.inbound(), &shop.payments.roots(), &[]);
    assert_eq!(code, Some(56), "{said}");
    assert!(said.contains("certificate required"), "{said}");
    let plain = parts::curl(&[&format!("http://{}/", shop.weft.inbound())]);
    assert!(!plain.status.success(), "{plain:?}");
    assert_eq!(shop.origin.connections(), 0);
}

fn python_call(weft: &Weft, shown: &IdentityFolder) -> Value {
    python_tls_call(&json!({
        "address": weft.inbound(), "roots": shown.roots(), "alpn": "http/1.1",
        "certificate": shown.certificate(), "key": shown.key(),
        "path": "/orders", "body": "hello", "headers": { "x-forwarded-client-cert": "By=forged" },
    }))
}

#[test]
fn pythons_client_sees_our_certificate_and_shows_its_own() {
    let shop = Shop::open();
    let answer = python_call(&shop.weft, &shop.web);
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(answer["uris"], json!([shop.authority.id("payments")]));
    assert_eq!(answer["version"], "TLSv1.3");
    assert_told(
        &shop.origin.requests()[0],
        &shop.authority.id("payments"),
        &shop.authority.id("web"),
    );
}

/// A caller that shows this leaf is refused for this reason, and nothing of it reaches the application.
#[track_caller]
fn assert_refused(authority: &Authority, shown: &Leaf, reason: &str) {
    let origin = Origin::start();
    let payments = identity(authority, "payments");
    let weft = strict(&payments.yaml(), &origin);
    let shown = IdentityFolder::new(shown, authority.root());
    let answer = python_call(&weft, &shown);
    assert!(answer["error"].is_string(), "{answer}");
    assert_refusal(&weft, reason);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_certificate_without_a_uri_is_refused() {
    let authority = Authority::new(DOMAIN);
    let leaf = authority.sign(Wanted::default().name("web.test"));
    assert_refused(&authority, &leaf, "no_uri");
}

#[test]
fn a_certificate_with_two_uris_is_refused() {
    let authority = Authority::new(DOMAIN);
    let two = Wanted::default()
        .uri(&authority.id("web"))
        .uri(&authority.id("admin"));
    assert_refused(&authority, &authority.sign(two), "many_uris");
}

#[test]
fn a_uri_that_is_no_identity_is_refused() {
    let authority = Authority::new(DOMAIN);
    let leaf = authority.sign(Wanted::default().uri("https://cluster.local/ns/shop/sa/web"));
    assert_refused(&authority, &leaf, "no_workload");
}

#[test]
fn an_expired_certificate_is_refused() {
    let authority = Authority::new(DOMAIN);
    let leaf = authority.sign(Wanted::default().uri(&authority.id("web")).expired());
    assert_refused(&authority, &leaf, "expired");
}

#[test]
fn a_certificate_that_does_not_count_yet_is_refused() {
    let authority = Authority::new(DOMAIN);
    let leaf = authority.sign(Wanted::default().uri(&authority.id("web")).not_yet());
    assert_refused(&authority, &leaf, "not_yet_valid");
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused() {
    let authority = Authority::new(DOMAIN);
    let leaf = Authority::new("elsewhere.example").leaf("web");
    assert_refused(&authority, &leaf, "unknown_trust_domain");
}

#[test]
fn another_root_cannot_sign_for_our_trust_domain() {
    let authority = Authority::new(DOMAIN);
    let leaf = Authority::new(DOMAIN).leaf("web");
    assert_refused(&authority, &leaf, "unknown_authority");
}

#[test]
fn our_root_cannot_sign_for_another_trust_domain() {
    let authority = Authority::new(DOMAIN);
    let foreign = Wanted::default().uri("spiffe://elsewhere.example/ns/shop/sa/web");
    assert_refused(&authority, &authority.sign(foreign), "unknown_trust_domain");
}

#[test]
fn a_revoked_certificate_is_refused() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let web = authority.leaf("web");
    let ours = IdentityFolder::empty();
    let list = authority.revoke(&[&web]);
    ours.replace_with_revocations(&authority.leaf("payments"), authority.root(), &list);
    let weft = strict(&ours.yaml_with_revocations(), &origin);
    let answer = python_call(&weft, &IdentityFolder::new(&web, authority.root()));
    assert!(answer["error"].is_string(), "{answer}");
    assert_refusal(&weft, "revoked");
    // A list says nothing of those that are not on it.
    let other = python_call(&weft, &identity(&authority, "other"));
    assert_eq!(other["status"], 200, "{other}");
}

#[test]
fn envoy_calls_us_by_identity_over_both_versions() {
    let shop = Shop::open();
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let id = shop.authority.id("payments");
        let envoy = Envoy::outbound(&shop.web, &id, &shop.weft.inbound(), speaks);
        let answer = Call::post("/orders", "hello")
            .host("payments")
            .header("x-forwarded-client-cert", "By=forged")
            .send(&envoy.address());
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "{}",
            envoy.log()
        );
    }
    for seen in shop.origin.requests() {
        assert_eq!(seen.text(), "hello");
        assert_told(
            &seen,
            &shop.authority.id("payments"),
            &shop.authority.id("web"),
        );
    }
    assert_eq!(shop.origin.count(), 2);
}

#[test]
fn envoy_does_not_take_us_for_another() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let impostor = identity(&authority, "impostor");
    let weft = strict(&impostor.yaml(), &origin);
    let web = identity(&authority, "web");
    let id = authority.id("payments");
    let envoy = Envoy::outbound(&web, &id, &weft.inbound(), Speaks::Http2);
    let answer = Call::get("/").send(&envoy.address());
    assert_eq!(answer.status, 503);
    assert_eq!(origin.count(), 0);
}

#[test]
fn go_spiffes_client_calls_us_by_identity_over_both_versions() {
    let api = WorkloadApi::start(60, &["web", "payments"]);
    let origin = Origin::start();
    let weft = strict(&api.yaml("payments"), &origin);
    for (offers, version) in [(Offers::Http1, "HTTP/1.1"), (Offers::Http2, "HTTP/2.0")] {
        let (socket, id) = (api.socket("web"), api.id("payments"));
        let told = spiffe_post(&socket, &id, offers, &weft.inbound(), "/orders", "hello");
        assert_eq!((told.status, told.error.as_str()), (200, ""));
        assert_eq!((told.protocol.as_str(), told.peer), (version, id));
    }
    for seen in origin.requests() {
        assert_told(&seen, &api.id("payments"), &api.id("web"));
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn go_spiffes_client_does_not_take_us_for_another() {
    let api = WorkloadApi::start(60, &["web", "impostor"]);
    let origin = Origin::start();
    let weft = strict(&api.yaml("impostor"), &origin);
    let (socket, id) = (api.socket("web"), api.id("payments"));
    let told = spiffe_post(&socket, &id, Offers::Http2, &weft.inbound(), "/", "");
    assert!(told.error.contains("unexpected ID"), "{told:?}");
    assert_eq!(origin.count(), 0);
}
