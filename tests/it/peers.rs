//! The parts stand by themselves, each against another that is not ours: when a story with one of them fails, these
//! tell whether the part or weft has to be looked at.

use crate::harness::{
    Authority, IdentityFolder, Origin, parts,
    parts::{
        Envoy, GrpcInteropServer, Kind, Offers, OpensslServer, PythonServer, Speaks, SpiffeServer,
        Store, WebSocketServer, WorkloadApi, python_tls_call,
    },
};

/// The folder of a service account under `authority`.
fn identity(authority: &Authority, account: &str) -> IdentityFolder {
    IdentityFolder::new(&authority.leaf(account), authority.root())
}

#[test]
fn gos_peers_meet_by_the_workload_api_while_it_rotates_all() {
    let api = WorkloadApi::start(6, &["web", "payments"]);
    let server = SpiffeServer::start(&api.socket("payments"), &api.id("web"), Offers::Http2);
    let call = || {
        let (socket, id) = (api.socket("web"), api.id("payments"));
        let address = server.address();
        parts::spiffe_post(&socket, &id, Offers::Http2, &address, "/a", "hello")
    };
    let told = call();
    assert_eq!((told.status, told.error.as_str()), (200, ""));
    assert_eq!(told.protocol, "HTTP/2.0");
    api.rotate_the_root();
    api.wait_until_the_old_root_is_gone();
    api.revoke_all();
    assert_eq!(call().status, 200);
}

#[test]
fn gos_peers_refuse_a_stranger() {
    let api = WorkloadApi::start(60, &["web", "payments"]);
    let server = SpiffeServer::start(&api.socket("payments"), &api.id("other"), Offers::Http1);
    let (socket, id) = (api.socket("web"), api.id("payments"));
    let address = server.address();
    let told = parts::spiffe_post(&socket, &id, Offers::Http1, &address, "/", "");
    assert!(told.error.contains("bad certificate"), "{told:?}");
}

#[test]
fn openssl_meets_openssl() {
    let authority = Authority::new("cluster.local");
    let (web, payments) = (
        identity(&authority, "web"),
        identity(&authority, "payments"),
    );
    let server = OpensslServer::start(&payments, "http/1.1");
    let arguments = [
        "-cert",
        &web.certificate(),
        "-key",
        &web.key(),
        "-CAfile",
        &web.roots(),
        "-alpn",
        "http/1.1",
        "-verify_return_error",
    ];
    let answer = parts::openssl_client(&server.address(), &arguments, "GET / HTTP/1.0\r\n\r\n");
    let page = String::from_utf8_lossy(&answer.stdout);
    assert!(page.contains("TLSv1.3"), "{page}");
}

#[test]
fn python_and_curl_meet_pythons_tls() {
    let authority = Authority::new("cluster.local");
    let (web, payments) = (
        identity(&authority, "web"),
        identity(&authority, "payments"),
    );
    let server = PythonServer::start(&payments);
    let told = serde_json::json!({
        "address": server.address(), "roots": web.roots(), "certificate": web.certificate(), "key": web.key(),
        "path": "/", "alpn": "http/1.1", "body": "hello",
    });
    let answer = python_tls_call(&told);
    assert_eq!(answer["uris"][0], authority.id("payments"), "{answer}");
    let answer = parts::curl(&[
        "--cacert",
        &web.roots(),
        "--cert",
        &web.certificate(),
        "--key",
        &web.key(),
        "--connect-to",
        &format!("payments.test:443:{}", server.address()),
        "https://payments.test/",
    ]);
    let said = String::from_utf8_lossy(&answer.stdout);
    assert!(said.contains(&authority.id("web")), "{answer:?}");
}

#[test]
fn envoy_meets_envoy() {
    let authority = Authority::new("cluster.local");
    let origin = Origin::start();
    let (web, payments) = (
        identity(&authority, "web"),
        identity(&authority, "payments"),
    );
    let callee = Envoy::inbound(&payments, &authority.id("web"), &origin.address());
    let server = authority.id("payments");
    let caller = Envoy::outbound(&web, &server, &callee.address(), Speaks::Http2);
    let url = format!("http://{}/", caller.address());
    let answer = parts::curl(&[&url]);
    let said = String::from_utf8_lossy(&answer.stdout);
    assert_eq!(said, "ok", "{}{}", caller.log(), callee.log());
    let seen = &origin.requests()[0];
    let cert = seen.header("x-forwarded-client-cert").unwrap();
    assert!(cert.contains(&authority.id("web")), "{cert}");
}

#[test]
fn stores_speak_with_their_own_clients() {
    for (kind, told) in CONVERSATIONS {
        let store = Store::start(kind);
        assert_eq!(parts::converse(kind, &store.address()), told, "{kind:?}");
    }
}

/// What the client of each kind has to tell in the end.
pub const CONVERSATIONS: [(Kind, &str); 6] = [
    (Kind::Redis, "ok 2"),
    (Kind::Postgres, "ok 1000 100000"),
    (Kind::Mysql, "ok 1000 100000"),
    (Kind::Nats, "ok tfew 100"),
    (Kind::Smtp, "ok got 10018 bytes"),
    (Kind::Thrift, "ok tfew told"),
];

/// What both WebSocket clients have to tell in the end.
pub const WEBSOCKET: &str = "ok text 5, bytes 300000, pong are you there 4001";

#[test]
fn websocket_servers_speak_with_each_others_clients() {
    let (node, python) = (WebSocketServer::node(), WebSocketServer::python());
    for (client, server) in [("ws", &python), ("websockets", &node)] {
        let url = format!("ws://{}/", server.address());
        assert_eq!(parts::websocket_conversation(client, &url), WEBSOCKET);
    }
}

#[test]
fn autobahn_finds_nothing_wrong_with_ws() {
    let server = WebSocketServer::node();
    let cases = parts::autobahn(&server.address());
    assert_eq!(cases.len(), 247);
    let failed = cases.iter().filter(|(_, case)| case.failed());
    let failed: Vec<String> = failed.map(|(number, _)| number.clone()).collect();
    // A case that waits on a timer is late on a busy machine: what is wrong is so by itself as well.
    if !failed.is_empty() {
        let again = parts::autobahn_cases(&server.address(), &failed);
        let failed: Vec<_> = again.iter().filter(|(_, case)| case.failed()).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}

#[test]
fn grpcs_interop_client_meets_its_server() {
    let server = GrpcInteropServer::start();
    let failed = parts::grpc_interop(&server.address());
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn h2spec_finds_what_nghttpd_is_known_for() {
    let server = parts::Nghttpd::start(&[]);
    std::fs::write(server.root().join("index.html"), "hello").unwrap();
    let (passed, failed) = parts::h2spec(&server.address(), &[]);
    assert_eq!((passed, failed.len()), (144, 1), "{failed:#?}");
}
