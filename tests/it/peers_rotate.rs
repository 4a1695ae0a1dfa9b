//! Identities that change while calls go on: nothing fails, nothing is called twice; what is revoked is cut; who has no
//! identity says so, and never falls back to plaintext.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Authority, Call, IdentityFolder, Load, NEVER, Origin, RawClient, Reply, Wanted, Weft, parts,
    parts::WorkloadApi, wait_until,
};

const DOMAIN: &str = "cluster.local";

/// How soon a connection of who is no longer trusted has to end.
const CUT: Duration = Duration::from_secs(5);

const CONNECTIONS: &str = "weft_connections{direction=\"inbound\"}";

/// The two sidecars between a caller and an application, with mutual TLS between them.
struct Pair {
    web: Weft,
    payments: Weft,
}

impl Pair {
    /// `web` and `payments` are values of `identity:`; `protocol` is spoken between the two.
    fn start(web: &str, payments: &str, app: &Origin, protocol: &str) -> Self {
        let payments = Weft::start(&inbound(payments, app));
        let web = Weft::start(&outbound(web, &payments.inbound(), protocol));
        Pair { web, payments }
    }

    fn address(&self) -> String {
        self.web.upstream("shop")
    }

    fn post(&self, body: &str) -> u16 {
        let call = Call::post("/orders", body).host("shop");
        call.send(&self.address()).status
    }
}

fn inbound(identity: &str, app: &Origin) -> String {
    format!(
        "
         identity: {identity}
         inbound: {{ listen: \"127.0.0.1:0\", app: {}, tls: {{ mode: strict }} }}",
        app.address()
    )
}

fn outbound(identity: &str, callee: &str, protocol: &str) -> String {
    format!(
        "
         identity: {identity}
         upstreams:
           shop:
             endpoints: {{ static: [\"{callee}\"] }}
             listen: \"127.0.0.1:0\"
             protocol: {protocol}
             tls: mesh
             identity: spiffe://cluster.local/ns/shop/sa/payments"
    )
}

/// Waits until a sidecar has taken so many identities since its start.
#[track_caller]
fn wait_for_rotations(weft: &Weft, count: f64) {
    let metric = "weft_identity_rotations_total{result=\"accepted\"}";
    weft.wait_for_metric(metric, |taken| taken >= count);
}

/// Every call reached the application once, and no other did; and it met so many certificates at least.
#[track_caller]
fn assert_each_once(origin: &Origin, load: Load, certificates: usize) {
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    let seen = origin.requests();
    let bodies: BTreeSet<String> = seen.iter().map(|seen| seen.text()).collect();
    assert_eq!(seen.len(), tally.answered);
    assert_eq!(bodies.len(), seen.len(), "a POST came twice");
    // The hash in it is the certificate's.
    let callers: BTreeSet<_> = seen
        .iter()
        .map(|seen| seen.header("x-forwarded-client-cert").expect("told"))
        .collect();
    assert!(callers.len() >= certificates, "{callers:?}");
}

fn files_rotate(protocol: &str) {
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let origin = Origin::start();
    let web = IdentityFolder::new(&old.leaf("web"), old.root());
    let payments = IdentityFolder::new(&old.leaf("payments"), old.root());
    let pair = Pair::start(&web.yaml(), &payments.yaml(), &origin, protocol);
    let load = Load::start(&pair.address(), "shop", 4);
    load.wait_for_more(100);

    let both = format!("{}{}", old.root(), new.root());
    let (old_web, old_payments) = (old.leaf("web"), old.leaf("payments"));
    let (new_web, new_payments) = (new.leaf("web"), new.leaf("payments"));
    // Each side's leaf; then both roots, then leaves of the new one, then the new one alone.
    let steps = [
        (&web, &old_web, old.root()),
        (&payments, &old_payments, old.root()),
        (&web, &old_web, &both),
        (&payments, &old_payments, &both),
        (&web, &new_web, &both),
        (&payments, &new_payments, &both),
        (&web, &new_web, new.root()),
        (&payments, &new_payments, new.root()),
    ];
    let mut taken = [1.0, 1.0];
    for (number, (folder, leaf, roots)) in steps.into_iter().enumerate() {
        folder.replace(leaf, roots);
        let (side, weft) = [(0, &pair.web), (1, &pair.payments)][number % 2];
        taken[side] += 1.0;
        wait_for_rotations(weft, taken[side]);
        load.wait_for_more(100);
    }
    assert_each_once(&origin, load, 3);
}

#[test]
fn files_rotate_under_http_1_without_a_failed_post() {
    files_rotate("http1");
}

#[test]
fn files_rotate_under_http_2_without_a_failed_post() {
    files_rotate("http2");
}

#[test]
fn a_workload_api_rotates_all_without_a_failed_post() {
    let api = WorkloadApi::start(8, &["web", "payments"]);
    let origin = Origin::start();
    let pair = Pair::start(&api.yaml("web"), &api.yaml("payments"), &origin, "auto");
    let load = Load::start(&pair.address(), "shop", 4);
    load.wait_for_more(100);
    api.rotate_the_root();
    api.wait_until_the_old_root_is_gone();
    load.wait_for_more(100);
    assert_each_once(&origin, load, 3);
}

#[test]
fn a_workload_api_that_was_away_is_found_again() {
    let mut api = WorkloadApi::start(60, &["web", "payments"]);
    let origin = Origin::start();
    let pair = Pair::start(&api.yaml("web"), &api.yaml("payments"), &origin, "auto");
    assert_eq!(pair.post("one"), 200);
    api.stop();
    assert_eq!(pair.post("two"), 200);
    // It comes back with another root.
    api.start_again();
    wait_for_rotations(&pair.web, 2.0);
    wait_for_rotations(&pair.payments, 2.0);
    assert_eq!(pair.post("three"), 200);
}

// Who is no longer trusted

/// A call that waits for its answer is cut when `change` takes the caller's trust at the callee's sidecar.
fn assert_cut(change: impl FnOnce(&Authority, &IdentityFolder, &crate::harness::Leaf)) {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let web = authority.leaf("web");
    let caller = IdentityFolder::new(&web, authority.root());
    let callee = IdentityFolder::empty();
    let nobody = authority.revoke(&[]);
    callee.replace_with_revocations(&authority.leaf("payments"), authority.root(), &nobody);
    let pair = Pair::start(
        &caller.yaml(),
        &callee.yaml_with_revocations(),
        &origin,
        "auto",
    );
    let mut waiting = RawClient::connect(&pair.address());
    waiting.send(Call::post("/orders", "x").host("shop").bytes("shop"));
    wait_until("the call to arrive", || origin.open_connections() == 1);
    // One that openssl holds open and says nothing on.
    let idle = {
        let (address, roots) = (pair.payments.inbound(), caller.roots());
        let (certificate, key) = (caller.certificate(), caller.key());
        thread::spawn(move || {
            let shown = ["-cert", &certificate, "-key", &key, "-CAfile", &roots];
            let arguments = [&["-alpn", "weft/http1.1"][..], &shown].concat();
            parts::openssl_client(&address, &arguments, "")
        })
    };
    let handshakes = "weft_tls_handshakes_total{direction=\"inbound\",result=\"success\"}";
    pair.payments.assert_metric(handshakes, 2.0);

    let begun = Instant::now();
    change(&authority, &callee, &web);
    let answer = waiting.answer();
    assert_eq!(answer.status / 100, 5, "{}", answer.text());
    idle.join().expect("openssl ends");
    assert!(begun.elapsed() < CUT, "it took {:?}", begun.elapsed());
}

#[test]
fn a_revoked_certificate_ends_what_is_open() {
    assert_cut(|authority, callee, web| {
        let list = authority.revoke(&[web]);
        callee.replace_with_revocations(&authority.leaf("payments"), authority.root(), &list);
    });
}

#[test]
fn a_removed_root_ends_what_is_open() {
    assert_cut(|_, callee, _| {
        let other = Authority::new(DOMAIN);
        let nobody = other.revoke(&[]);
        callee.replace_with_revocations(&other.leaf("payments"), other.root(), &nobody);
    });
}

/// Its connection takes no new calls since the rotation, and nobody but the call knows it.
#[test]
fn a_call_that_outlived_a_rotation_ends_when_its_callee_is_revoked() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::answering(|seen| match seen.path() {
        "/late" => Reply::ok("late").after(Duration::from_secs(60)),
        _ => Reply::ok("ok").after(Duration::from_millis(300)),
    });
    let (caller, payments) = (IdentityFolder::empty(), authority.leaf("payments"));
    let callee = IdentityFolder::new(&payments, authority.root());
    let take = |revoked: &[&crate::harness::Leaf]| {
        let list = authority.revoke(revoked);
        caller.replace_with_revocations(&authority.leaf("web"), authority.root(), &list);
    };
    take(&[]);
    let said = caller.yaml_with_revocations();
    let pair = Pair::start(&said, &callee.yaml(), &origin, "http2");
    let mut waiting = RawClient::connect(&pair.address());
    waiting.send(Call::post("/late", "x").host("shop").bytes("shop"));
    wait_until("the call to arrive", || origin.open_connections() == 1);
    take(&[]);
    wait_for_rotations(&pair.web, 2.0);
    assert_eq!(pair.post("by another connection"), 200);

    let begun = Instant::now();
    take(&[&payments]);
    assert_eq!(waiting.answer().status / 100, 5);
    assert!(begun.elapsed() < CUT, "it took {:?}", begun.elapsed());
}

/// A call that waits for its answer while its caller's certificate, which lasts 10 s, ends.
fn waits_over_the_end(cut: bool) -> (RawClient, Pair, Origin) {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::answering(|_| Reply::ok("late").after(Duration::from_secs(16)));
    let short = Wanted::default()
        .uri(&authority.id("web"))
        .lasting(Duration::from_secs(10));
    let caller = IdentityFolder::new(&authority.sign(short), authority.root());
    let callee = IdentityFolder::new(&authority.leaf("payments"), authority.root());
    let said = callee.yaml();
    let said = match cut {
        true => said.replacen("{ files", "{ cutAtExpiry: true, files", 1),
        false => said,
    };
    let pair = Pair::start(&caller.yaml(), &said, &origin, "auto");
    let mut waiting = RawClient::connect(&pair.address());
    waiting.send(Call::post("/orders", "x").host("shop").bytes("shop"));
    wait_until("the call to arrive", || origin.open_connections() == 1);
    (waiting, pair, origin)
}

#[test]
fn what_is_open_outlives_its_callers_certificate() {
    let (mut waiting, _pair, _origin) = waits_over_the_end(false);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn what_is_open_ends_with_its_callers_certificate_where_that_is_said() {
    let (mut waiting, _pair, origin) = waits_over_the_end(true);
    assert_eq!(waiting.answer().status / 100, 5);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_workload_apis_revocations_are_followed() {
    let api = WorkloadApi::start(60, &["web", "payments"]);
    let origin = Origin::answering(|_| Reply::ok("late").after(NEVER));
    let pair = Pair::start(&api.yaml("web"), &api.yaml("payments"), &origin, "auto");
    let mut waiting = RawClient::connect(&pair.address());
    waiting.send(Call::post("/orders", "x").host("shop").bytes("shop"));
    wait_until("the call to arrive", || origin.open_connections() == 1);
    let begun = Instant::now();
    api.revoke_all();
    assert_eq!(waiting.answer().status / 100, 5);
    assert!(begun.elapsed() < CUT, "it took {:?}", begun.elapsed());
    // Both have new certificates, which nobody revoked.
    origin.answer(|_| Reply::ok("ok"));
    wait_for_rotations(&pair.web, 2.0);
    wait_for_rotations(&pair.payments, 2.0);
    assert_eq!(pair.post("again"), 200);
}

#[test]
fn a_list_that_should_have_been_replaced_goes_on_working_with_an_alarm() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let web = authority.leaf("web");
    let caller = IdentityFolder::new(&web, authority.root());
    let callee = IdentityFolder::empty();
    let stale = authority.stale_revocations(&[&web]);
    callee.replace_with_revocations(&authority.leaf("payments"), authority.root(), &stale);
    let pair = Pair::start(
        &caller.yaml(),
        &callee.yaml_with_revocations(),
        &origin,
        "auto",
    );
    assert_eq!(pair.post("no"), 503);
    assert!(pair.payments.metric("weft_identity_crl_update_seconds") < 0.0);
    let line = pair
        .payments
        .wait_for_log("a revocation list is past its date");
    assert!(line.contains("ERROR"), "{line}");
    caller.replace(&authority.leaf("web"), authority.root());
    wait_for_rotations(&pair.web, 2.0);
    assert_eq!(pair.post("yes"), 200);
}

// Who has no identity

/// A sidecar without an identity: not ready, no call leaves it, none gets in.
#[track_caller]
fn assert_without_identity(web: &Weft, payments: &Weft, origin: &Origin, caller: &IdentityFolder) {
    for weft in [web, payments] {
        let ready = Call::get("/ready").send(&weft.metrics_address());
        assert_eq!(ready.status, 503);
        assert!(ready.text().contains("identity"), "{}", ready.text());
    }
    let answer = Call::post("/orders", "x")
        .host("shop")
        .send(&web.upstream("shop"));
    assert_eq!((answer.status, answer.reason()), (503, Some("no_identity")));
    let arguments = [
        "--cacert",
        &caller.roots(),
        "--cert",
        &caller.certificate(),
        "--key",
        &caller.key(),
    ];
    for url in ["https", "http"] {
        let url = format!("{url}://{}/", payments.inbound());
        let output = parts::curl(&[&arguments[..], &[&url]].concat());
        assert!(!output.status.success(), "{output:?}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn without_an_identity_yet_nothing_passes_and_then_all_does() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let (web, payments) = (IdentityFolder::empty(), IdentityFolder::empty());
    let callee = Weft::start_unready(&inbound(&payments.yaml(), &origin));
    let caller = Weft::start_unready(&outbound(&web.yaml(), &callee.inbound(), "http1"));
    let other = IdentityFolder::new(&authority.leaf("other"), authority.root());
    assert_without_identity(&caller, &callee, &origin, &other);

    web.replace(&authority.leaf("web"), authority.root());
    payments.replace(&authority.leaf("payments"), authority.root());
    for weft in [&caller, &callee] {
        wait_until("readiness", || weft.is_ready());
    }
    let answer = Call::post("/orders", "x")
        .host("shop")
        .send(&caller.upstream("shop"));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_call_waits_for_the_first_identity_within_the_connect_timeout() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let callee = IdentityFolder::new(&authority.leaf("payments"), authority.root());
    let payments = Weft::start(&inbound(&callee.yaml(), &origin));
    let caller = IdentityFolder::empty();
    let yaml = outbound(&caller.yaml(), &payments.inbound(), "http1")
        + "\n             timeouts: { connect: 15s }";
    let web = Weft::start_unready(&yaml);
    let mut waiting = RawClient::connect(&web.upstream("shop"));
    waiting.send(Call::post("/orders", "x").host("shop").bytes("shop"));
    payments.wait_for_metric(CONNECTIONS, |open| open >= 1.0);
    caller.replace(&authority.leaf("web"), authority.root());
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn with_an_expired_identity_nothing_passes() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let lasting = |account: &str| {
        let wanted = Wanted::default()
            .uri(&authority.id(account))
            .lasting(Duration::from_secs(3));
        IdentityFolder::new(&authority.sign(wanted), authority.root())
    };
    let (web, payments) = (lasting("web"), lasting("payments"));
    // On a busy machine it may have ended before they are up: then nobody was ever ready.
    let callee = Weft::start_unready(&inbound(&payments.yaml(), &origin));
    let caller = Weft::start_unready(&outbound(&web.yaml(), &callee.inbound(), "http1"));
    for weft in [&caller, &callee] {
        wait_until("the identity to end", || !weft.is_ready());
    }
    let other = IdentityFolder::new(&authority.leaf("other"), authority.root());
    assert_without_identity(&caller, &callee, &origin, &other);
}

#[test]
fn a_bad_identity_is_refused_and_the_good_one_goes_on() {
    let authority = Authority::new(DOMAIN);
    let origin = Origin::start();
    let web = IdentityFolder::new(&authority.leaf("web"), authority.root());
    let payments = IdentityFolder::new(&authority.leaf("payments"), authority.root());
    let pair = Pair::start(&web.yaml(), &payments.yaml(), &origin, "http1");
    let (good, other) = (authority.leaf("web"), authority.leaf("web"));
    let mut mixed = good.clone();
    mixed.key = other.key;
    let wanted = || Wanted::default().uri(&authority.id("web"));
    let bad = [
        (mixed, authority.root()),
        (authority.sign(wanted().expired()), authority.root()),
        (authority.sign(wanted().not_yet()), authority.root()),
        (good, ""),
    ];
    for (number, (leaf, roots)) in bad.iter().enumerate() {
        web.replace(leaf, roots);
        let metric = "weft_identity_rotations_total{result=\"refused\"}";
        pair.web
            .wait_for_metric(metric, |count| count > f64::from(number as u32));
        assert_eq!(pair.post(&number.to_string()), 200);
    }
    web.replace(&authority.leaf("web"), authority.root());
    wait_for_rotations(&pair.web, 2.0);
    assert_eq!(pair.post("good again"), 200);
}
