//! `weft certs`: development certificates are good to strangers' tools, and what is presented anywhere is shown.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use crate::harness::{
    Authority, IdentityFolder, Wanted, Weft,
    parts::{OpensslServer, WorkloadApi},
};

fn certs(weft: &Weft, arguments: &[&str]) -> Output {
    let mut all = vec!["certs"];
    all.extend(arguments);
    weft.run(&all)
}

#[track_caller]
fn told(weft: &Weft, arguments: &[&str]) -> String {
    let output = certs(weft, arguments);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(weft: &Weft, arguments: &[&str]) -> String {
    let output = certs(weft, arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn openssl(weft: &Weft, arguments: &[&str]) -> Output {
    let asked = Command::new("openssl")
        .current_dir(weft.path())
        .args(arguments)
        .output();
    asked.expect("openssl is missing: apt-get install openssl (`make test` does)")
}

fn mode(weft: &Weft, file: &str) -> u32 {
    let data = fs::metadata(weft.path().join(file)).unwrap();
    data.permissions().mode() & 0o777
}

#[test]
fn development_certificates_are_good_to_openssl() {
    let weft = Weft::folder("");
    told(
        &weft,
        &[
            "dev",
            "web",
            "shop/orders",
            "spiffe://cluster.local/ns/x/sa/billing",
        ],
    );
    for name in ["web", "orders", "billing"] {
        let certificate = format!("certs/{name}.crt");
        let verified = openssl(
            &weft,
            &[
                "verify",
                "-x509_strict",
                "-CAfile",
                "certs/ca.crt",
                &certificate,
            ],
        );
        assert!(verified.status.success(), "{verified:?}");
        assert_eq!(mode(&weft, &format!("certs/{name}.key")), 0o600);
    }
    assert_eq!(mode(&weft, "certs/ca.key"), 0o600);
    let names = openssl(
        &weft,
        &[
            "x509",
            "-in",
            "certs/orders.crt",
            "-noout",
            "-ext",
            "subjectAltName",
        ],
    );
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    assert!(
        names.contains("URI:spiffe://cluster.local/ns/shop/sa/orders"),
        "{names}"
    );
    assert_eq!(
        fs::read_to_string(weft.path().join("certs/.gitignore")).unwrap(),
        "*\n"
    );
}

#[test]
fn the_repository_ignores_what_is_made_in_it() {
    let ignored =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".gitignore")).unwrap();
    for pattern in ["/certs/*.key", "/certs/*.crt"] {
        assert!(ignored.lines().any(|line| line == pattern), "{ignored}");
    }
}

#[test]
fn the_root_is_made_once() {
    let weft = Weft::folder("");
    told(&weft, &["dev", "web"]);
    let read = |name: &str| fs::read(weft.path().join("certs").join(name)).unwrap();
    let (root, web) = (read("ca.crt"), read("web.crt"));
    told(&weft, &["dev", "web", "orders"]);
    assert_eq!(read("ca.crt"), root);
    assert_ne!(read("web.crt"), web);
    for name in ["web", "orders"] {
        let certificate = format!("certs/{name}.crt");
        assert!(
            openssl(&weft, &["verify", "-CAfile", "certs/ca.crt", &certificate])
                .status
                .success()
        );
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let weft = Weft::folder("");
    told(&weft, &["dev", "web"]);
    let other = refused(&weft, &["dev", "--trust-domain", "other.example", "web"]);
    assert!(
        other.contains("spiffe://cluster.local") && other.contains("--dir"),
        "{other}"
    );
    let foreign = refused(&weft, &["dev", "spiffe://other.example/web"]);
    assert!(foreign.contains("--trust-domain"), "{foreign}");
    assert!(refused(&weft, &["dev", "shop/web", "mail/web"]).contains("web.crt"));
    assert!(refused(&weft, &["dev", "a b"]).contains("path"));
    fs::remove_file(weft.path().join("certs/ca.key")).unwrap();
    assert!(refused(&weft, &["dev", "web"]).contains("ca.key"));
}

#[test]
fn a_lifetime_is_kept() {
    let weft = Weft::folder("");
    told(&weft, &["dev", "--lifetime", "10m", "web"]);
    let ends_within = |seconds: &str| {
        let asked = openssl(
            &weft,
            &[
                "x509",
                "-in",
                "certs/web.crt",
                "-noout",
                "-checkend",
                seconds,
            ],
        );
        !asked.status.success()
    };
    assert!(ends_within("601") && !ends_within("300"));
}

#[test]
fn a_file_is_shown_without_its_key() {
    let weft = Weft::folder("");
    told(&weft, &["dev", "shop/web"]);
    let shown = told(&weft, &["show", "certs/web.crt"]);
    assert!(
        shown.contains("spiffe://cluster.local/ns/shop/sa/web"),
        "{shown}"
    );
    assert!(
        shown.contains("weft development root of cluster.local"),
        "{shown}"
    );
    assert!(!shown.contains("warning"), "{shown}");
    let key = told(&weft, &["show", "certs/web.key"]);
    assert!(key.contains("0600") && key.lines().count() == 2, "{key}");
    let file = weft.path().join("certs/web.key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(told(&weft, &["show", "certs/web.key"]).contains("chmod 600"));
    assert!(refused(&weft, &["show", "weft.yaml"]).contains("no certificate"));
    assert!(refused(&weft, &["show", "absent.pem"]).contains("absent.pem"));
}

#[test]
fn what_is_wrong_with_a_certificate_is_said() {
    let (weft, authority) = (Weft::folder(""), Authority::new("cluster.local"));
    let id = authority.id("web");
    let wanted = [
        (Wanted::default().uri(&id).expired(), "it has ended"),
        (Wanted::default().uri(&id).not_yet(), "does not count yet"),
        (
            Wanted::default().uri(&id).lasting(Duration::from_secs(60)),
            "ends soon",
        ),
        (Wanted::default().name("web.test"), "no URI"),
        (
            Wanted::default()
                .uri(&id)
                .uri("spiffe://cluster.local/other"),
            "2 URIs",
        ),
    ];
    for (wanted, words) in wanted {
        fs::write(
            weft.path().join("it.crt"),
            authority.sign(wanted).certificate,
        )
        .unwrap();
        let shown = told(&weft, &["show", "it.crt"]);
        assert!(
            shown.contains("warning") && shown.contains(words),
            "{words}: {shown}"
        );
    }
    let leaf = authority.leaf("web");
    fs::write(
        weft.path().join("it.crl"),
        authority.stale_revocations(&[&leaf]),
    )
    .unwrap();
    let shown = told(&weft, &["show", "it.crl"]);
    assert!(
        shown.contains("revokes    1") && shown.contains("past its date"),
        "{shown}"
    );
}

#[test]
fn what_is_wrong_with_a_key_is_said() {
    let weft = Weft::folder("");
    let curve = |name: &str| format!("ec_paramgen_curve:{name}");
    let (p256, p521, k1) = (curve("P-256"), curve("P-521"), curve("secp256k1"));
    let encrypt = ["-aes256", "-pass", "pass:x"];
    for (words, algorithm) in [
        (None, &["-algorithm", "EC", "-pkeyopt", &p256][..]),
        (None, &["-algorithm", "EC", "-pkeyopt", &p521]),
        (None, &["-algorithm", "ED25519"]),
        (
            Some("is encrypted"),
            &[&["-algorithm", "EC", "-pkeyopt", &p256][..], &encrypt].concat(),
        ),
        (
            Some("is encrypted"),
            &[&["-algorithm", "ED25519"][..], &encrypt].concat(),
        ),
        (
            Some("not supported"),
            &["-algorithm", "EC", "-pkeyopt", &k1],
        ),
        (Some("not supported"), &["-algorithm", "ED448"]),
        (
            Some("not supported"),
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        ),
    ] {
        let made = openssl(&weft, &[&["genpkey", "-out", "it.key"], algorithm].concat());
        assert!(made.status.success(), "{made:?}");
        let file = weft.path().join("it.key");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let shown = told(&weft, &["show", "it.key"]);
        match words {
            Some(words) => assert!(shown.contains(words), "{algorithm:?}: {shown}"),
            None => assert!(!shown.contains("warning"), "{algorithm:?}: {shown}"),
        }
    }
}

#[test]
fn a_live_peer_is_shown_though_nobody_vouches_for_it() {
    let (weft, authority) = (Weft::folder(""), Authority::new("elsewhere.example"));
    let identity = IdentityFolder::new(&authority.leaf("payments"), authority.root());
    let server = OpensslServer::start(&identity, "http/1.1");
    let shown = told(&weft, &["show", &server.address()]);
    assert!(
        shown.contains("spiffe://elsewhere.example/ns/shop/sa/payments"),
        "{shown}"
    );
    assert!(
        shown.contains("TLSv1_3") && shown.contains("protocol http/1.1"),
        "{shown}"
    );
    let nobody = refused(&weft, &["show", &crate::harness::dead_address()]);
    assert!(nobody.contains("refused"), "{nobody}");
}

#[test]
fn a_workload_api_is_shown() {
    let (weft, api) = (Weft::folder(""), WorkloadApi::start(3600, &["web"]));
    let shown = told(&weft, &["show", &format!("unix://{}", api.socket("web"))]);
    assert!(
        shown.contains(&api.id("web")) && shown.contains("roots of cluster.local"),
        "{shown}"
    );
    assert!(refused(&weft, &["show", "unix:///nowhere/agent.sock"]).contains("cannot connect"));
}
