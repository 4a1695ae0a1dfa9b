//! Tunnels between sidecars that prove who they are: what passes, and what ends when the proof does.

use std::{
    io::{self, ErrorKind, Read},
    sync::mpsc,
    time::Duration,
};

use http::HeaderValue;
use weft::http::upgrade::websocket;

use crate::harness::{
    Authority, IdentityFolder, Leaf, RawClient, RawConnection, RawOrigin, Weft, parts,
    parts::{GrpcInteropServer, WebSocketServer},
};

const CONVERSATION: &str = "ok text 5, bytes 300000, pong are you there 4001";

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A caller's sidecar and an application's, and the identity of each.
struct Pair {
    caller: Weft,
    _app: Weft,
    authority: Authority,
    leaves: [Leaf; 2],
    folders: [IdentityFolder; 2],
}

impl Pair {
    /// `between` is the protocol between them, `behind` the application's.
    fn before(address: &str, between: &str, behind: &str) -> Self {
        let authority = Authority::new("cluster.local");
        let leaves = [authority.leaf("web"), authority.leaf("app")];
        let folders = [0, 1].map(|of: usize| {
            let folder = IdentityFolder::empty();
            let nobody = authority.revoke(&[]);
            folder.replace_with_revocations(&leaves[of], authority.root(), &nobody);
            folder
        });
        let port = address.rsplit_once(':').unwrap().1;
        let app = Weft::start(&format!(
            "
             identity: {}
             inbound:
               listen: \"127.0.0.1:0\"
               app: \"{address}\"
               ports: {{ {port}: {{ protocol: {behind} }} }}
               tls: {{ mode: strict }}",
            folders[1].yaml_with_revocations()
        ));
        let caller = Weft::start(&format!(
            "
             identity: {}
             upstreams:
               app: {{ endpoints: {{ static: [\"{}\"] }}, listen: \"127.0.0.1:0\", protocol: {between}, tls: mesh }}",
            folders[0].yaml_with_revocations(),
            app.inbound()
        ));
        Pair {
            caller,
            _app: app,
            authority,
            leaves,
            folders,
        }
    }

    /// The sidecar `reader` hears that the other's certificate is revoked.
    fn revokes(&self, reader: usize) {
        let revoked = self.authority.revoke(&[&self.leaves[1 - reader]]);
        let folder = &self.folders[reader];
        folder.replace_with_revocations(&self.leaves[reader], self.authority.root(), &revoked);
    }
}

#[test]
fn websockets_pass_by_mutual_tls_over_either_http() {
    let server = WebSocketServer::node();
    for between in ["http1", "http2"] {
        let pair = Pair::before(&server.address(), between, "http");
        let url = format!("ws://{}/", pair.caller.upstream("app"));
        let told = parts::websocket_conversation("websockets", &url);
        assert_eq!(told, CONVERSATION, "{between}");
    }
}

#[test]
fn grpcs_own_cases_pass_by_mutual_tls() {
    let server = GrpcInteropServer::start();
    let pair = Pair::before(&server.address(), "grpc", "grpc");
    let failed = parts::grpc_interop(&pair.caller.upstream("app"));
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Switches to what was asked for, and says `open`.
fn open(connection: &mut RawConnection) -> io::Result<()> {
    let head = connection.read_head()?;
    let at = head
        .to_ascii_lowercase()
        .find("sec-websocket-key: ")
        .unwrap_or_default();
    let key = head[at + 19..].lines().next().unwrap_or_default();
    let accept = websocket::accept(&HeaderValue::from_str(key).unwrap());
    connection.write(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\nopen",
        accept.to_str().unwrap()
    ))
}

/// A WebSocket is open; then `reader` learns that the other sidecar's certificate is revoked.
fn revoked_ends_a_tunnel(between: &str, reader: usize) {
    let origin = RawOrigin::start(|connection| {
        open(connection)?;
        connection.until_closed()
    });
    let pair = Pair::before(&origin.address(), between, "http");
    let mut client = RawClient::connect(&pair.caller.upstream("app"));
    client.send(HANDSHAKE);
    client.read_until(b"\r\n\r\nopen");
    pair.revokes(reader);
    // Cut, it is not ended in order.
    let cut = client.stream().read(&mut [0; 9]);
    assert!(
        matches!(&cut, Err(error) if error.kind() == ErrorKind::ConnectionReset),
        "{between}, read by {reader}: {cut:?}"
    );
    let line = pair.caller.wait_for_access(|line| line["path"] == "/chat");
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&101.into(), &"reset".into())
    );
}

#[test]
fn a_revoked_callee_ends_a_tunnel() {
    revoked_ends_a_tunnel("http1", 0);
    revoked_ends_a_tunnel("http2", 0);
}

#[test]
fn a_revoked_caller_ends_a_tunnel() {
    revoked_ends_a_tunnel("http1", 1);
    revoked_ends_a_tunnel("http2", 1);
}

/// Nothing is read of the callee then, so that an error of a read would tell nobody.
#[test]
fn a_revoked_callee_ends_a_tunnel_whose_caller_takes_nothing() {
    let (stalled, stalls) = mpsc::channel();
    let origin = RawOrigin::start(move |connection| {
        open(connection)?;
        let patience = Some(Duration::from_millis(500));
        connection.stream().set_write_timeout(patience)?;
        while connection.write([0; 65536]).is_ok() {}
        let _ = stalled.send(());
        connection.until_closed()
    });
    let pair = Pair::before(&origin.address(), "http1", "http");
    let mut client = RawClient::connect(&pair.caller.upstream("app"));
    client.send(HANDSHAKE);
    client.read_until(b"\r\n\r\nopen");
    stalls.recv().expect("all buffers are full");
    pair.revokes(0);
    let line = pair.caller.wait_for_access(|line| line["path"] == "/chat");
    assert_eq!(line["reason"], "reset");
}
