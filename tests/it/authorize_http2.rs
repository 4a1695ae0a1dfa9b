//! Rules for callers that prove who they are, over HTTP/2 frame by frame: each stream is judged by itself, whatever its
//! connection was allowed before, and no frame of an odd shape brings past a rule what a usual one would not.

use crate::harness::{
    Authority, Frame, H2Peer, IdentityFolder, Origin, Reply, TlsCaller, TlsConnection, Weft, block,
    flag, grpc_status, kind, wait_until,
};

/// HTTP/2's code for a request that is malformed (RFC 9113 §7).
const PROTOCOL_ERROR: u32 = 1;

/// A strict sidecar with rules, an application behind it that answers with its path, and the account `web`.
struct Mesh {
    authority: Authority,
    identity: IdentityFolder,
    app: Origin,
}

impl Mesh {
    fn new() -> Self {
        let authority = Authority::new("mesh.test");
        let identity = IdentityFolder::new(&authority.leaf("orders"), authority.root());
        let app = Origin::answering(|seen| Reply::ok(seen.path()));
        Mesh {
            authority,
            identity,
            app,
        }
    }

    fn file(&self, authorization: &str) -> String {
        format!(
            "identity: {}\n\
             inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\", tls: {{ mode: strict }}, authorization: {authorization} }}",
            self.identity.yaml(),
            self.app.address()
        )
    }

    fn sidecar(&self, authorization: &str) -> Weft {
        Weft::start(&self.file(authorization))
    }

    /// A connection of a service account, by the mesh's own HTTP/2.
    #[track_caller]
    fn connect(&self, account: &str, weft: &Weft) -> Caller {
        let caller = TlsCaller::new(Some(&self.authority.leaf(account)), &["weft/h2"]);
        Caller {
            peer: H2Peer::connect_tls(&caller, &weft.inbound()).expect("a handshake"),
            next: 1,
        }
    }

    /// `web` may do this, and nobody anything else.
    fn web_may(&self, to: &str) -> String {
        format!(
            "{{ default: deny, rules: [{{ name: web-may, action: allow, from: [{{ identity: \"{}\" }}], to: [{to}] }}] }}",
            self.authority.id("web")
        )
    }
}

fn denies(to: &str) -> String {
    format!("{{ default: allow, rules: [{{ name: the-rule, action: deny, to: [{to}] }}] }}")
}

struct Caller {
    peer: H2Peer<TlsConnection>,
    next: u32,
}

impl Caller {
    fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// The status of a stream of its own that sends these frames' fields and no body.
    #[track_caller]
    fn asks(&mut self, fields: &[(&str, &str)]) -> String {
        let stream = self.stream();
        self.peer.send(&Frame::headers(stream, fields, true));
        self.outcome(stream)
    }

    /// The status that comes on this stream, its body read; `reset` where the request was malformed, `closed` where
    /// that cost its connection.
    #[track_caller]
    fn outcome(&mut self, stream: u32) -> String {
        loop {
            let Some(frame) = self.peer.read() else {
                return "closed".to_owned();
            };
            if frame.stream != stream {
                continue;
            }
            if frame.kind == kind::RST_STREAM {
                assert_eq!(frame.number(0), PROTOCOL_ERROR);
                return "reset".to_owned();
            }
            if frame.kind == kind::HEADERS {
                let end = frame.has(flag::END_STREAM);
                let fields = self.peer.fields(&frame);
                if !end {
                    self.peer.read_body(stream);
                }
                return status(&fields);
            }
        }
    }
}

fn status(fields: &[(String, String)]) -> String {
    let status = fields.iter().find(|(name, _)| name == ":status");
    status.expect("a head has one").1.clone()
}

/// A GET of this path at this authority.
fn get<'a>(path: &'a str, authority: &'a str) -> [(&'a str, &'a str); 4] {
    [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
    ]
}

#[test]
fn streams_of_one_connection_are_judged_each_by_itself() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&mesh.web_may("{ path: { prefix: /orders } }"));
    let mut web = mesh.connect("web", &weft);
    let (slow, others) = (web.stream(), [web.stream(), web.stream(), web.stream()]);
    let post = |path| {
        let mut fields = get(path, "orders");
        fields[0].1 = "POST";
        fields
    };
    // One is judged and open while the others come, in one write: allowed, denied, allowed again.
    web.peer
        .send(&Frame::headers(slow, &post("/orders/slow"), false));
    let paths = ["/orders/1", "/admin", "/orders/2"];
    let frames = others.iter().zip(paths);
    let frames = frames.map(|(stream, path)| Frame::headers(*stream, &get(path, "orders"), true));
    let bytes: Vec<u8> = frames.flat_map(|frame| frame.bytes()).collect();
    web.peer.send_bytes(&bytes);
    let mut answers = Vec::new();
    while answers.len() < others.len() {
        let (stream, head, end) = web.peer.read_headers();
        answers.push((stream, status(&head), end));
    }
    answers.sort();
    let told: Vec<_> = answers.iter().map(|(_, status, _)| &status[..]).collect();
    assert_eq!(told, ["200", "403", "200"]);
    web.peer.send(&Frame::data(slow, "done", true));
    assert_eq!(web.outcome(slow), "200");
    let mut seen: Vec<String> = mesh
        .app
        .requests()
        .iter()
        .map(|seen| seen.path().to_owned())
        .collect();
    seen.sort();
    assert_eq!(seen, ["/orders/1", "/orders/2", "/orders/slow"]);
    // Who else calls on the same sidecar is another.
    assert_eq!(
        mesh.connect("other", &weft)
            .asks(&get("/orders/1", "orders")),
        "403"
    );
}

#[test]
fn a_denied_stream_says_the_rule_in_grpc_too() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&denies("{ path: { prefix: /pay.Payments } }"));
    let mut web = mesh.connect("web", &weft);
    let stream = web.stream();
    web.peer.ask_grpc(stream, "orders", &[], b"pay");
    let (of, fields, end) = web.peer.read_headers();
    assert_eq!((of, grpc_status(&fields), end), (stream, Some(7), true));
    let message = fields.iter().find(|(name, _)| name == "grpc-message");
    assert!(message.unwrap().1.contains("the-rule"), "{fields:?}");
    assert_eq!(web.asks(&get("/orders", "orders")), "200");
    assert_eq!(mesh.app.count(), 1);
}

#[test]
fn authority_and_host_are_one_name() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&mesh.web_may("{ hosts: [orders] }"));
    let mut web = mesh.connect("web", &weft);
    let get = [(":method", "GET"), (":scheme", "https"), (":path", "/")];
    let mut passed = 0;
    for (more, told) in [
        (&[(":authority", "orders")][..], "200"),
        (&[(":authority", "ORDERS.")], "200"),
        (&[(":authority", "orders:443")], "200"),
        (&[("host", "orders")], "200"),
        (&[(":authority", "orders"), ("host", "Orders.")], "200"),
        (&[(":authority", "admin")], "403"),
        (&[("host", "admin")], "403"),
        (&[(":authority", "orders.evil")], "403"),
        (&[(":authority", "orders"), ("host", "admin")], "400"),
        (&[(":authority", "admin"), ("host", "orders")], "400"),
        (&[(":authority", "orders:80"), ("host", "orders")], "400"),
        (
            &[
                (":authority", "orders"),
                ("host", "orders"),
                ("host", "admin"),
            ],
            "400",
        ),
        (&[("host", "admin"), ("host", "orders")], "400"),
        (&[(":authority", "admin@orders")], "400"),
        (&[(":authority", "orders,admin")], "400"),
        (
            &[(":authority", "orders"), (":authority", "admin")],
            "reset",
        ),
        (&[("host", "orders"), (":authority", "admin")], "reset"),
        (&[], "400"),
    ] {
        let fields = [&get[..], more].concat();
        assert_eq!(web.asks(&fields), told, "{more:?}");
        passed += usize::from(told == "200");
        assert_eq!(mesh.app.count(), passed, "{more:?}");
    }
}

#[test]
fn no_spelling_of_a_path_gets_past_a_rule() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&denies("{ path: { prefix: /admin } }"));
    let mut web = mesh.connect("web", &weft);
    for (path, told) in [
        ("/admin", "403"),
        ("/admin/users?x=/public", "403"),
        ("/./admin", "403"),
        ("/public/../admin", "403"),
        ("/%2e/admin", "403"),
        ("/public/%2E%2e/admin", "403"),
        ("/%61dmin", "403"),
        ("//admin", "400"),
        ("/public/..%2fadmin", "400"),
        ("/public/..%5cadmin", "400"),
        ("/public\\..\\admin", "400"),
        ("/public/..;/admin", "400"),
        ("/admin;x", "400"),
        ("/admin%00", "400"),
        ("https://orders/admin", "reset"),
        ("admin", "reset"),
        ("*", "400"),
        ("", "reset"),
    ] {
        assert_eq!(web.asks(&get(path, "orders")), told, "{path:?}");
    }
    assert_eq!(mesh.app.count(), 0);
    // A fragment is no part of what is asked for, and does not arrive.
    for path in ["/x/../public", "/public#/../admin", "/public#?/admin"] {
        assert_eq!(web.asks(&get(path, "orders")), "200", "{path}");
    }
    for seen in mesh.app.requests() {
        assert_eq!(seen.target, "http://orders/public");
    }
}

#[test]
fn what_is_said_twice_or_too_late_is_no_request() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&mesh.web_may("{ methods: [GET], path: { prefix: /public } }"));
    let asks = |fields: &[(&str, &str)]| mesh.connect("web", &weft).asks(fields);
    let good = get("/public", "orders");
    for more in [
        (":path", "/admin"),
        (":method", "DELETE"),
        (":scheme", "http"),
        (":status", "200"),
        (":path ", "/admin"),
        ("X-Upper", "a"),
        ("connection", "x-forwarded-client-cert"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
    ] {
        for fields in [[&good[..], &[more]].concat(), [&[more], &good[..]].concat()] {
            let told = asks(&fields);
            assert!(
                told == "reset" || told == "closed" || told == "400",
                "{fields:?}: {told}"
            );
        }
    }
    let late = [&good[..2], &[("x-a", "b")], &good[2..]].concat();
    assert_eq!(asks(&late), "reset");
    assert_eq!(mesh.app.count(), 0);
    assert_eq!(asks(&good), "200");
}

#[test]
fn a_forged_identity_is_replaced_wherever_it_stands() {
    let mesh = Mesh::new();
    let weft = mesh.sidecar(&mesh.web_may("{ path: { prefix: / } }"));
    let admin = format!("URI={}", mesh.authority.id("admin"));
    let forged = [("x-forwarded-client-cert", &admin[..])];
    let mut web = mesh.connect("web", &weft);
    let twice = [&get("/", "orders")[..], &forged, &forged].concat();
    assert_eq!(web.asks(&twice), "200");
    // Split over frames, one field in two.
    let stream = web.stream();
    let whole = block(&[&get("/", "orders")[..], &forged].concat());
    let (one, two) = whole.split_at(whole.len() - 20);
    web.peer.send(&Frame::new(
        kind::HEADERS,
        flag::END_STREAM,
        stream,
        one.to_vec(),
    ));
    web.peer.send(&Frame::new(
        kind::CONTINUATION,
        flag::END_HEADERS,
        stream,
        two.to_vec(),
    ));
    assert_eq!(web.outcome(stream), "200");
    // Behind the body.
    let stream = web.stream();
    let mut post = get("/", "orders");
    post[0].1 = "POST";
    web.peer.send(&Frame::headers(stream, &post, false));
    web.peer.send(&Frame::data(stream, "body", false));
    web.peer.send(&Frame::headers(stream, &forged, true));
    assert_eq!(web.outcome(stream), "200");
    for seen in mesh.app.requests() {
        let fields = seen.headers.iter().chain(&seen.trailers);
        let told: Vec<&str> = fields
            .filter(|(name, _)| name == "x-forwarded-client-cert")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        let web = format!("URI={}", mesh.authority.id("web"));
        assert!(told[0].ends_with(&web), "{told:?}");
    }
    assert_eq!(mesh.app.count(), 3);
    // Nor is the forger let in by it.
    let claim = format!("URI={}", mesh.authority.id("web"));
    let claims = [("x-forwarded-client-cert", &claim[..])];
    let fields = [&get("/", "orders")[..], &claims].concat();
    assert_eq!(mesh.connect("other", &weft).asks(&fields), "403");
    assert_eq!(mesh.app.count(), 3);
}

#[test]
fn a_reload_counts_from_an_open_connections_next_stream() {
    let mesh = Mesh::new();
    let open = mesh.file(&mesh.web_may("{ path: { prefix: / } }"));
    let closed = mesh.file(&mesh.web_may("{ path: { prefix: /public } }"));
    let mut weft = Weft::start(&open);
    let mut web = mesh.connect("web", &weft);
    let mut post = get("/orders", "orders");
    post[0].1 = "POST";
    let begun = web.stream();
    web.peer.send(&Frame::headers(begun, &post, false));
    web.peer.send(&Frame::data(begun, "some ", false));
    assert_eq!(web.asks(&get("/orders", "orders")), "200");
    weft.reload(&closed);
    wait_until("the next stream is refused", || {
        web.asks(&get("/orders", "orders")) == "403"
    });
    // What else it may do it may still do; what was judged before goes on.
    assert_eq!(web.asks(&get("/public", "orders")), "200");
    web.peer.send(&Frame::data(begun, "more", true));
    assert_eq!(web.outcome(begun), "200");
    let begun = mesh
        .app
        .requests()
        .into_iter()
        .find(|seen| seen.method == "POST");
    assert_eq!(begun.expect("it arrived").text(), "some more");
    weft.reload(&open);
    wait_until("the next stream passes", || {
        web.asks(&get("/orders", "orders")) == "200"
    });
}
