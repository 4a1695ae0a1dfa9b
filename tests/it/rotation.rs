//! What another identity, an ended certificate and lost trust do to what is open between two sidecars: requests move to
//! a new connection; bytes, upgrades and answers under way go on, until nothing that their peer proved holds any more.

use std::{
    io::{ErrorKind, Read},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use http::HeaderValue;
use weft::http::upgrade::websocket;

use crate::harness::{
    Authority, Call, IdentityFolder, Leaf, RawClient, RawConnection, RawOrigin, Wanted, Weft,
    wait_until,
};

/// How soon what is open to who is no longer trusted has to end.
const CUT: Duration = Duration::from_secs(5);

/// The first is the caller's sidecar, the second the application's.
const SIDES: [usize; 2] = [0, 1];
const ACCOUNTS: [&str; 2] = ["web", "shop"];

/// Two sidecars with mutual TLS between them, before an application that speaks all there is.
struct Pair {
    sidecars: [Weft; 2],
    folders: [IdentityFolder; 2],
    leaves: [Leaf; 2],
    authority: Authority,
    application: RawOrigin,
}

impl Pair {
    fn start() -> Self {
        let authority = Authority::new("cluster.local");
        let leaves = ACCOUNTS.map(|account| authority.leaf(account));
        Pair::with(authority, leaves, [false; 2])
    }

    /// `cut` says which sides have `cutAtExpiry`.
    fn with(authority: Authority, leaves: [Leaf; 2], cut: [bool; 2]) -> Self {
        let nobody = authority.revoke(&[]);
        let folders = leaves.each_ref().map(|leaf| {
            let folder = IdentityFolder::empty();
            folder.replace_with_revocations(leaf, authority.root(), &nobody);
            folder
        });
        let identity = |side: usize| {
            let cut = format!("{{ cutAtExpiry: {},", cut[side]);
            folders[side].yaml_with_revocations().replacen('{', &cut, 1)
        };
        let application = application();
        let address = application.address();
        let port = address.rsplit(':').next().unwrap();
        let callee = Weft::start(&format!(
            "
             workers: 1
             identity: {}
             inbound:
               listen: \"127.0.0.1:0\"
               app: \"{address}\"
               ports:
                 {port}: {{ protocol: http }}
                 7: {{ protocol: tcp, listen: \"127.0.0.1:0\", app: \"{address}\" }}
               tls: {{ mode: strict }}",
            identity(1)
        ));
        let towards = |name: &str, endpoint: &str, protocol: &str| {
            format!(
                "{name}: {{ endpoints: {{ static: [\"{endpoint}\"] }}, protocol: {protocol}, tls: mesh, listen: \"127.0.0.1:0\" }}"
            )
        };
        let caller = Weft::start(&format!(
            "
             workers: 1
             identity: {}
             upstreams:
               {}
               {}
               {}",
            identity(0),
            towards("http1", &callee.inbound(), "http1"),
            towards("http2", &callee.inbound(), "http2"),
            towards("bytes", &callee.address("inbound.ports.7"), "tcp"),
        ));
        Pair {
            sidecars: [caller, callee],
            folders,
            leaves,
            authority,
            application,
        }
    }

    /// One of everything that stays open, over everything that is spoken.
    fn open(&self) -> Vec<Open> {
        let begin = |upstream: &str, asks: &str, begins: &[u8]| {
            let mut client = RawClient::connect(&self.sidecars[0].upstream(upstream));
            client.send(asks);
            client.read_until(begins);
            let says = !asks.starts_with(STREAM);
            Open { client, says }
        };
        let mut open = vec![begin("bytes", "\0bytes\n", b"bytes\n")];
        for upstream in ["http1", "http2"] {
            open.push(begin(upstream, UPGRADE, b"\r\n\r\nopen"));
            open.push(begin(upstream, STREAM, b"open"));
        }
        open
    }

    /// All of it goes on.
    #[track_caller]
    fn all_pass(&self, open: &mut [Open]) {
        for one in open.iter_mut().filter(|one| one.says) {
            one.client.send("x");
            one.client.read_until(b"x");
        }
        let mut bell = RawClient::connect(&self.application.address());
        bell.send("POST /next HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        bell.answer();
        for one in open.iter_mut().filter(|one| !one.says) {
            one.client.read_until(b"event");
        }
    }

    /// Callers that the application's sidecar has met.
    fn handshakes(&self) -> f64 {
        self.sidecars[1]
            .metric("weft_tls_handshakes_total{direction=\"inbound\",result=\"success\"}")
    }

    /// Replaces what one side shows and believes, and waits until it counts.
    #[track_caller]
    fn replace(&self, side: usize, leaf: &Leaf, roots: &str, revoked: &str) {
        let taken = self.sidecars[side].metric(TAKEN);
        self.folders[side].replace_with_revocations(leaf, roots, revoked);
        self.sidecars[side].wait_for_metric(TAKEN, |now| now > taken);
    }
}

const TAKEN: &str = "weft_identity_rotations_total{result=\"accepted\"}";

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const STREAM: &str = "GET /events HTTP/1.1\r\nHost: app\r\n\r\n";

/// A connection of the caller's that is open, and whether it may say something.
struct Open {
    client: RawClient,
    says: bool,
}

/// Says back what bytes and upgrades say, and streams an event to all who listen when `POST /next` comes.
fn application() -> RawOrigin {
    let listeners = Mutex::new(Vec::<mpsc::Sender<()>>::new());
    RawOrigin::start(move |connection| {
        if connection.read_exact(1)? == b"\0" {
            return echo(connection);
        }
        let head = connection.read_head()?;
        if head.starts_with("OST /next ") {
            let listeners = listeners.lock().expect("no panic here");
            // Who has left hears nothing.
            listeners.iter().for_each(|one| {
                let _ = one.send(());
            });
            return connection.write("HTTP/1.1 204 No Content\r\n\r\n");
        }
        let key = "sec-websocket-key: ";
        if let Some(at) = head.to_ascii_lowercase().find(key) {
            let key = head[at + key.len()..].lines().next().unwrap_or_default();
            let accept = websocket::accept(&HeaderValue::from_str(key).expect("a line"));
            connection.write(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\nopen",
                accept.to_str().expect("base64")
            ))?;
            return echo(connection);
        }
        if head.starts_with("ET /events ") {
            let (sender, events) = mpsc::channel();
            listeners.lock().expect("no panic here").push(sender);
            connection.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n4\r\nopen\r\n")?;
            for () in events {
                connection.write("5\r\nevent\r\n")?;
            }
        }
        loop {
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            connection.read_request()?;
        }
    })
}

fn echo(connection: &mut RawConnection) -> std::io::Result<()> {
    loop {
        let byte = connection.read_exact(1)?;
        connection.write(byte)?;
    }
}

#[test]
fn requests_leave_a_connection_once_either_side_is_another() {
    for upstream in ["http1", "http2"] {
        let pair = Pair::start();
        let shaken = || pair.handshakes();
        let call = || {
            let answer = Call::get("/")
                .host("app")
                .send(&pair.sidecars[0].upstream(upstream));
            assert_eq!(answer.status, 200, "{}", answer.text());
        };
        for _ in 0..5 {
            call();
        }
        assert_eq!(shaken(), 1.0, "{upstream}");
        for side in SIDES {
            let before = shaken();
            let renewed = pair.authority.leaf(ACCOUNTS[side]);
            pair.replace(side, &renewed, pair.authority.root(), "");
            // The next answer may still come by the old one.
            wait_until("a new connection", || {
                call();
                shaken() > before
            });
            call();
            assert_eq!(shaken(), before + 1.0, "{upstream}, side {side}");
        }
    }
}

#[test]
fn what_is_open_goes_on_while_certificates_and_roots_are_replaced() {
    let pair = Pair::start();
    let mut open = pair.open();
    let new = Authority::new("cluster.local");
    let both = format!("{}{}", pair.authority.root(), new.root());
    for authority in [&pair.authority, &new] {
        for side in SIDES {
            pair.replace(side, &pair.leaves[side], &both, "");
        }
        for side in SIDES {
            pair.replace(side, &authority.leaf(ACCOUNTS[side]), &both, "");
            pair.all_pass(&mut open);
        }
    }
}

/// Both certificates last a few seconds; what is open when they have ended.
fn over_the_end(cut: [bool; 2]) -> (Pair, Vec<Open>) {
    let authority = Authority::new("cluster.local");
    let leaves = ACCOUNTS.map(|account| {
        let short = Wanted::default().uri(&authority.id(account));
        // Time enough for a busy machine to open all.
        authority.sign(short.lasting(Duration::from_secs(15)))
    });
    let pair = Pair::with(authority, leaves, cut);
    let mut open = pair.open();
    pair.all_pass(&mut open);
    for sidecar in &pair.sidecars {
        wait_until("the certificate's end", || !sidecar.is_ready());
    }
    (pair, open)
}

#[test]
fn what_is_open_outlives_the_certificates_of_both_sides() {
    let (pair, mut open) = over_the_end([false; 2]);
    pair.all_pass(&mut open);
}

#[test]
fn what_is_open_ends_with_its_peers_certificate_where_either_side_says_so() {
    thread::scope(|scope| {
        for side in SIDES {
            scope.spawn(move || {
                let mut cut = [false; 2];
                cut[side] = true;
                let (_pair, open) = over_the_end(cut);
                assert_cut(open, &format!("side {side} cuts"));
            });
        }
    });
}

/// Cut, none of it ends in order: that would say that all had come.
#[track_caller]
fn assert_cut(open: Vec<Open>, what: &str) {
    for (number, one) in open.into_iter().enumerate() {
        let mut rest = Vec::new();
        let end = one.client.stream().read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        let reset = matches!(&end, Err(error) if error.kind() == ErrorKind::ConnectionReset);
        // Of a chunked answer that is cut, the last chunk is what lacks.
        let lacks = !one.says && end.is_ok() && !rest.contains("0\r\n\r\n");
        assert!(reset || lacks, "{what}, {number}: {end:?} {rest:?}");
    }
}

/// A rotation came before: what is open then belongs to no pool any more.
#[test]
fn what_is_open_ends_where_its_peer_is_revoked() {
    for (side, rotated) in [(0, false), (1, false), (0, true), (1, true)] {
        let pair = Pair::start();
        let mut open = pair.open();
        let (leaf, roots) = (&pair.leaves[side], pair.authority.root());
        if rotated {
            pair.replace(side, &pair.authority.leaf(ACCOUNTS[side]), roots, "");
            // Long enough for every clock in it to have looked.
            wait_until("the old connections to be left", || {
                let answer = Call::get("/")
                    .host("app")
                    .send(&pair.sidecars[0].upstream("http2"));
                answer.status == 200 && pair.handshakes() >= 5.0
            });
            pair.all_pass(&mut open);
        }
        let list = pair.authority.revoke(&[&pair.leaves[1 - side]]);
        let begun = Instant::now();
        pair.replace(side, leaf, roots, &list);
        assert_cut(open, &format!("side {side} has heard"));
        assert!(begun.elapsed() < CUT, "it took {:?}", begun.elapsed());
    }
}

#[test]
fn what_is_open_ends_where_the_root_of_its_peer_is_gone() {
    for side in SIDES {
        let pair = Pair::start();
        let open = pair.open();
        let other = Authority::new("cluster.local");
        let begun = Instant::now();
        pair.replace(side, &other.leaf(ACCOUNTS[side]), other.root(), "");
        assert_cut(open, &format!("side {side} has heard"));
        assert!(begun.elapsed() < CUT, "it took {:?}", begun.elapsed());
    }
}
