//! Two trust domains that know each other's roots by the Workload API: each is believed for its own names and no others,
//! for as long as its roots are handed out.

use std::io;

use crate::harness::{
    Answer, Authority, Call, IdentityFolder, Leaf, Origin, TlsCaller, Wanted, Weft,
    parts::{PythonServer, WorkloadApi},
    wait_until,
};

const PARTNER: &str = "partner.test";

/// Our domain and the partner's, and the agent that hands out both domains' roots.
struct Federation {
    ours: Authority,
    partner: Authority,
    api: WorkloadApi,
}

impl Federation {
    fn new() -> Self {
        let (ours, partner) = (Authority::new("cluster.local"), Authority::new(PARTNER));
        let api = WorkloadApi::federated(&ours, &partner, &["orders", "web"]);
        Federation { ours, partner, api }
    }

    /// A strict sidecar of ours before `app`.
    fn called(&self, app: &Origin) -> Weft {
        Weft::start(&format!(
            "
             identity: {}
             inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", tls: {{ mode: strict }} }}",
            self.api.yaml("orders"),
            app.address()
        ))
    }

    /// A sidecar of ours whose upstream is the partner's `ledger`, at `address`.
    fn calling(&self, address: &str) -> Weft {
        Weft::start(&format!(
            "
             identity: {}
             upstreams:
               ledger:
                 endpoints: {{ static: [\"{address}\"] }}
                 listen: \"127.0.0.1:0\"
                 protocol: http1
                 tls: mesh
                 identity: \"{}\"",
            self.api.yaml("web"),
            self.partner.id("ledger")
        ))
    }
}

fn caller(leaf: &Leaf) -> TlsCaller {
    TlsCaller::new(Some(leaf), &["weft/http1.1"])
}

fn get(leaf: &Leaf, weft: &Weft) -> io::Result<Answer> {
    caller(leaf).call(&weft.inbound(), &Call::get("/"))
}

/// Handshakes with callers that were refused for this reason.
fn refused(reason: &str) -> String {
    format!(
        "weft_tls_handshakes_total{{direction=\"inbound\",result=\"failure\",reason=\"{reason}\"}}"
    )
}

#[test]
fn a_partners_caller_is_believed_by_the_partners_roots_alone() {
    let federation = Federation::new();
    let app = Origin::start();
    let weft = federation.called(&app);
    let (ours, partner) = (&federation.ours, &federation.partner);
    for (leaf, id) in [
        (partner.leaf("ledger"), partner.id("ledger")),
        (ours.leaf("web"), ours.id("web")),
    ] {
        assert_eq!(get(&leaf, &weft).expect("an answer").status, 200, "{id}");
        let seen = app.requests().pop().expect("it arrived");
        let told = seen.header("x-forwarded-client-cert").expect("who called");
        assert!(told.ends_with(&format!("URI={id}")), "{told}");
        weft.wait_for_access(|line| line["identity"] == id);
    }
    let as_partner = Wanted::default().uri(&partner.id("ledger"));
    let as_ours = Wanted::default().uri(&ours.id("web"));
    for (what, leaf, reason) in [
        (
            "our root for a name of the partner's",
            ours.sign(as_partner),
            "unknown_authority",
        ),
        (
            "the partner's root for a name of ours",
            partner.sign(as_ours),
            "unknown_authority",
        ),
        (
            "another root for a name of the partner's",
            Authority::new(PARTNER).leaf("ledger"),
            "unknown_authority",
        ),
        (
            "another domain",
            Authority::new("stranger.test").leaf("ledger"),
            "unknown_trust_domain",
        ),
    ] {
        let before = weft.metric(&refused(reason));
        let got = get(&leaf, &weft);
        assert!(got.is_err(), "{what}: {:?}", got.map(|got| got.status));
        weft.assert_metric(&refused(reason), before + 1.0);
    }
    assert_eq!(app.count(), 2);
}

#[test]
fn a_partners_callee_is_believed_by_the_partners_roots_alone() {
    let federation = Federation::new();
    let (ours, partner) = (&federation.ours, &federation.partner);
    let as_partner = Wanted::default().uri(&partner.id("ledger"));
    let wrong = (503, Some("wrong_identity"));
    for (leaf, told, words) in [
        (partner.leaf("ledger"), (200, None), &*ours.id("web")),
        (
            ours.sign(as_partner),
            wrong,
            "no root of its trust domain vouches",
        ),
        (partner.leaf("other"), wrong, &partner.id("other")),
    ] {
        let theirs = IdentityFolder::new(&leaf, ours.root());
        let server = PythonServer::start(&theirs);
        let weft = federation.calling(&server.address());
        let answer = Call::get("/").send(&weft.upstream("ledger"));
        let text = answer.text();
        assert_eq!((answer.status, answer.reason()), told, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn roots_that_are_handed_out_no_more_end_what_stood_on_them() {
    let federation = Federation::new();
    let app = Origin::start();
    let weft = federation.called(&app);
    let (ours, partner) = (&federation.ours, &federation.partner);
    let address = weft.inbound();
    let open = |leaf| caller(&leaf).connect(&address).expect("a handshake");
    let mut theirs = open(partner.leaf("ledger"));
    assert_eq!(theirs.call(&Call::get("/"), "a").unwrap().status, 200);
    federation.api.federates(None);
    assert!(theirs.is_closed_by_peer());
    assert!(get(&partner.leaf("ledger"), &weft).is_err());
    weft.assert_metric(&refused("unknown_trust_domain"), 1.0);
    assert_eq!(get(&ours.leaf("web"), &weft).unwrap().status, 200);
    assert_eq!(app.count(), 2);
    // Another root of theirs, and the old one is still worth nothing.
    let next = Authority::new(PARTNER);
    federation.api.federates(Some(next.root()));
    wait_until("the partner is let in again", || {
        get(&next.leaf("ledger"), &weft).is_ok()
    });
    assert!(get(&partner.leaf("ledger"), &weft).is_err());
    assert_eq!(app.count(), 3);
}
