//! Suites that no one here wrote: h2spec against our HTTP/2, gRPC's own interop cases through two sidecars with mutual
//! TLS.

use crate::harness::{
    Authority, IdentityFolder, Origin, Reply, Weft,
    parts::{self, GrpcInteropServer},
};

/// What h2spec finds of 145, each explained in `docs/http2.md`.
const EXCEPTIONS: &[&str] = &["http2/3.5: Sends invalid connection preface"];

#[test]
fn h2spec_finds_what_the_docs_explain() {
    // One of its cases needs a body of some length.
    let origin = Origin::answering(|_| Reply::ok("a body of some length"));
    let weft = Weft::start(&format!(
        "
         outbound: {{ listen: \"127.0.0.1:0\", routes: [{{ name: all, backends: [{{ upstream: app }}] }}] }}
         upstreams:
           app: {{ endpoints: {{ static: [\"{}\"] }}, listen: \"127.0.0.1:0\", protocol: http1 }}",
        origin.address()
    ));
    let (passed, failed) = parts::h2spec(&weft.upstream("app"), &[]);
    assert_eq!(
        (passed, failed),
        (144, EXCEPTIONS.iter().map(ToString::to_string).collect())
    );
    let docs = include_str!("../../docs/http2.md");
    for exception in EXCEPTIONS {
        assert!(
            docs.contains(exception),
            "docs/http2.md does not explain: {exception}"
        );
    }
}

fn interop_over(protocol: &str) {
    let server = GrpcInteropServer::start();
    let authority = Authority::new("cluster.local");
    let identity = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
    let (ours, theirs) = (identity("web"), identity("app"));
    let app = Weft::start(&format!(
        "
         identity: {}
         inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", tls: {{ mode: strict }} }}",
        theirs.yaml(),
        server.address()
    ));
    let caller = Weft::start(&format!(
        "
         identity: {}
         upstreams:
           app:
             endpoints: {{ static: [\"{}\"] }}
             listen: \"127.0.0.1:0\"
             protocol: {protocol}
             identity: \"{}\"",
        ours.yaml(),
        app.inbound(),
        authority.id("app"),
    ));
    let failed = parts::grpc_interop(&caller.upstream("app"));
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn grpcs_own_cases_pass_through_two_sidecars() {
    interop_over("grpc");
}
