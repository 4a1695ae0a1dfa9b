//! Who may call: what is refused never reaches the application, however it is spelled, and what passes arrives as it
//! was judged.

use crate::harness::{
    Answer, Call, Frame, H2Peer, Origin, RawClient, RawConnection, RawOrigin, Weft, grpc_call,
    kind, own_address, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A sidecar before `app`, with this `authorization`.
fn before(app: &str, authorization: &str) -> Weft {
    Weft::start(&file(app, authorization))
}

fn file(app: &str, authorization: &str) -> String {
    format!(
        "inbound: {{ listen: \"127.0.0.1:0\", app: \"{app}\", authorization: {authorization} }}"
    )
}

/// One rule: what it denies under `default: allow`, or allows under `default: deny`.
fn one(action: &str, from: &str, to: &str) -> String {
    let default = if action == "allow" { "deny" } else { "allow" };
    format!(
        "{{ default: {default}, rules: [{{ name: the-rule, action: {action}, from: {from}, to: {to} }}] }}"
    )
}

fn denies(to: &str) -> String {
    format!("{{ default: allow, rules: [{{ name: the-rule, action: deny, to: {to} }}] }}")
}

fn allows(to: &str) -> String {
    format!("{{ default: deny, rules: [{{ name: the-rule, action: allow, to: {to} }}] }}")
}

/// Sends these bytes on a connection of their own and reads one answer.
#[track_caller]
fn sent(weft: &Weft, bytes: &str) -> Answer {
    let mut client = RawClient::connect(&weft.inbound());
    client.send(bytes);
    client.answer()
}

#[track_caller]
fn asked(weft: &Weft, target: &str, host: &str) -> Answer {
    sent(
        weft,
        &format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
    )
}

/// The status of one request over HTTP/2.
#[track_caller]
fn asked_h2(weft: &Weft, fields: &[(&str, &str)]) -> String {
    let mut client = H2Peer::connect(&weft.inbound(), &[]);
    client.send(&Frame::headers(1, fields, true));
    let (_, head, _) = client.read_headers();
    let status = head.iter().find(|(name, _)| name == ":status");
    status.map(|(_, status)| status.clone()).unwrap_or_default()
}

// What a denial is

#[test]
fn a_denied_call_is_answered_403_counted_and_told() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &denies("[{ methods: [DELETE] }]"));
    let denied = Call::new("DELETE", "/orders/7?secret=1")
        .host("orders")
        .send(&weft.inbound());
    assert_eq!((denied.status, denied.reason()), (403, Some("denied")));
    assert_eq!(app.connections(), 0);
    assert_eq!(Call::get("/orders/7").send(&weft.inbound()).status, 200);
    weft.assert_metric(
        "weft_authorization_total{rule=\"the-rule\",action=\"deny\"}",
        1.0,
    );
    weft.assert_metric(
        "weft_authorization_total{rule=\"default\",action=\"allow\"}",
        1.0,
    );
    weft.assert_metric(
        "weft_faults_total{direction=\"inbound\",reason=\"denied\"}",
        1.0,
    );
    let line = weft.wait_for_log("\"audit\"");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [
        ("target", "audit"),
        ("action", "deny"),
        ("rule", "the-rule"),
        ("identity", "none"),
        ("ip", "127.0.0.1"),
        ("method", "DELETE"),
        ("host", "orders"),
        ("path", "/orders/7"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert!(!weft.logs().contains("secret"), "a query may hold secrets");
    let line = weft.wait_for_access(|line| line["status"] == 403);
    assert_eq!(
        (&line["reason"], &line["route"]),
        (&"denied".into(), &"app".into())
    );
}

#[test]
fn a_denied_grpc_call_is_told_in_grpc() {
    let app = RawOrigin::answering(OK);
    let weft = before(
        &app.address(),
        &denies("[{ path: { prefix: /pay.Payments } }]"),
    );
    let (_, status) = grpc_call(&weft.inbound(), "orders", &[], b"pay");
    assert_eq!((status, app.connections()), (Some(7), 0));
}

#[test]
fn the_rule_is_named_on_loopback_and_not_to_strangers() {
    let Some(own) = own_address() else {
        return println!("this machine has but loopback");
    };
    let app = RawOrigin::answering(OK);
    let authorization = denies("[{ path: { prefix: /admin } }]");
    let file = file(&app.address(), &authorization).replace("127.0.0.1:0", "0.0.0.0:0");
    let weft = Weft::start(&file);
    let port = weft.inbound().rsplit(':').next().unwrap().to_owned();
    let of = |address: &str| Call::get("/admin").send(&format!("{address}:{port}"));
    let (stranger, ours) = (of(&own.to_string()), of("127.0.0.1"));
    assert_eq!((stranger.status, ours.status), (403, 403));
    assert!(ours.text().contains("the-rule"), "{}", ours.text());
    assert!(!stranger.text().contains("the-rule"), "{}", stranger.text());
}

#[test]
fn a_body_is_not_asked_for_before_its_call_is_judged() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &denies("[{ methods: [POST] }]"));
    let mut client = RawClient::connect(&weft.inbound());
    client.send(
        "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2000000\r\n\r\n",
    );
    let text = String::from_utf8_lossy(&client.read_until(b"\r\n")).into_owned();
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    assert_eq!(app.connections(), 0);
}

#[test]
fn without_authorization_everyone_may_call() {
    let app = RawOrigin::answering(OK);
    let weft = Weft::start(&format!(
        "inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}",
        app.address()
    ));
    assert_eq!(asked(&weft, "//admin/%2e%2e;x", "a").status, 200);
    assert!(!weft.metrics().contains("weft_authorization_total"));
}

// Paths

#[test]
fn no_spelling_of_a_path_gets_past_a_deny_rule() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &denies("[{ path: { prefix: /admin } }]"));
    for (target, status) in [
        ("/admin", 403),
        ("/admin/", 403),
        ("/admin/users?x=/public", 403),
        ("/./admin", 403),
        ("/public/../admin", 403),
        ("/public/./../admin", 403),
        ("/../admin", 403),
        ("/%2e/admin", 403),
        ("/public/%2e%2e/admin", 403),
        ("/public/%2E./admin", 403),
        ("/%61dmin", 403),
        ("/adm%69n", 403),
        ("/%61%64%6D%69%6e/x", 403),
        ("http://a/public/../admin", 403),
        ("//admin", 400),
        ("///admin", 400),
        ("/public//../admin", 400),
        ("/.//admin", 400),
        ("/public/..%2fadmin", 400),
        ("/public/..%2Fadmin", 400),
        ("/%2fadmin", 400),
        ("/public/..%5cadmin", 400),
        ("/public/..%5Cadmin", 400),
        ("/public\\..\\admin", 400),
        ("/;/admin", 400),
        ("/;x=1/admin", 400),
        ("/public/..;/admin", 400),
        ("/admin;x", 400),
        ("/admin%00", 400),
        ("/admin%", 400),
        ("/%c0%af/admin", 400),
        ("/public/%c0%ae%c0%ae/admin", 400),
        ("admin", 400),
        ("http:///admin", 400),
        ("/public#/../admin", 400),
    ] {
        assert_eq!(asked(&weft, target, "a").status, status, "{target}");
    }
    for (path, status) in [
        ("/public/../admin", "403"),
        ("/%2e/admin", "403"),
        ("//admin", "400"),
        ("/x%2f..%2fadmin", "400"),
        ("/x/..;/admin", "400"),
    ] {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
        ];
        assert_eq!(asked_h2(&weft, &fields), status, "{path}");
    }
    assert_eq!(app.connections(), 0);
}

#[test]
fn no_spelling_of_a_path_gets_more_than_an_allow_rule_gives() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &allows("[{ path: { prefix: /public } }]"));
    for target in [
        "/publicity",
        "/Public",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..",
        "/public//../../admin",
        "/public/..%2fadmin",
        "/public/..;/admin",
        "/public\\..\\admin",
        "/public%2f..%2fadmin",
        "/public%252f..%252fadmin",
        "*",
    ] {
        let status = asked(&weft, target, "a").status;
        assert!(matches!(status, 400 | 403), "{target}: {status}");
    }
    assert_eq!(app.connections(), 0);
}

#[test]
fn what_was_judged_is_what_arrives() {
    let app = RawOrigin::answering(OK);
    let weft = before(
        &app.address(),
        &allows("[{ hosts: [orders], path: { prefix: /public } }]"),
    );
    let mut client = RawClient::connect(&weft.inbound());
    for (target, host, line) in [
        ("/x/../public/a", "ORDERS.", "GET /public/a HTTP/1.1\r\n"),
        (
            "/%70ublic/b?x=%61",
            "orders:8080",
            "GET /public/b?x=%61 HTTP/1.1\r\n",
        ),
        (
            "http://Orders/./public/c",
            "evil",
            "GET /public/c HTTP/1.1\r\nhost: orders\r\n",
        ),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(client.answer().status, 200, "{target}");
        app.wait_for_bytes(0, line);
    }
    assert!(!app.text(0).contains("evil"), "{}", app.text(0));
}

// Hosts

#[test]
fn no_spelling_of_a_host_gets_past_a_deny_rule() {
    let app = RawOrigin::answering(OK);
    let to = "[{ hosts: [admin.shop, \"*.internal\", \"[::1]\", 10.0.0.1] }]";
    let weft = before(&app.address(), &denies(to));
    for (host, status) in [
        ("admin.shop", 403),
        ("admin.shop.", 403),
        ("ADMIN.Shop", 403),
        ("Admin.SHOP.", 403),
        ("admin.shop:80", 403),
        ("admin.shop.:8080", 403),
        ("db.internal", 403),
        ("DB.INTERNAL.", 403),
        ("a.b.internal:1", 403),
        ("[::1]", 403),
        ("[0:0:0:0:0:0:0:1]:80", 403),
        ("10.0.0.1", 403),
        ("10.0.0.1.", 403),
        ("[::ffff:10.0.0.1]", 403),
        ("admin.shop..", 400),
        (".admin.shop", 400),
        ("admin.shop:", 400),
        ("admin.shop:080", 400),
        ("admin.shop:99999", 400),
        ("admin.shop@public", 400),
        ("public@admin.shop", 400),
        ("admin%2eshop", 400),
        ("admin.shop/", 400),
        ("admin.shop, public", 400),
        ("10.1", 400),
        ("0x0a000001", 400),
        ("167772161", 400),
        ("", 400),
    ] {
        assert_eq!(asked(&weft, "/", host).status, status, "{host:?}");
    }
    // The target's host counts, whatever `Host` says; two are no host; none is not another one.
    assert_eq!(asked(&weft, "http://admin.shop/", "public").status, 403);
    let two = "GET / HTTP/1.1\r\nhost: public\r\nHost: admin.shop\r\n\r\n";
    assert_eq!(sent(&weft, two).status, 400);
    assert_eq!(sent(&weft, "GET / HTTP/1.0\r\n\r\n").status, 403);
    assert_eq!(sent(&weft, "GET / HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(app.connections(), 0);
    assert_eq!(asked(&weft, "http://public/", "admin.shop").status, 200);
    assert!(
        app.wait_for_bytes(0, "\r\n\r\n")
            .contains("host: public\r\n")
    );
}

#[test]
fn over_http2_authority_and_host_are_one() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &denies("[{ hosts: [admin] }]"));
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    for (more, status) in [
        (&[(":authority", "admin")][..], "403"),
        (&[(":authority", "ADMIN.")], "403"),
        (&[(":authority", "admin:443")], "403"),
        (&[("host", "admin")], "403"),
        (&[(":authority", "admin"), ("host", "Admin.")], "403"),
        (&[(":authority", "public"), ("host", "admin")], "400"),
        (&[(":authority", "admin"), ("host", "public")], "400"),
        (&[(":authority", "public:80"), ("host", "public")], "400"),
        (
            &[
                (":authority", "public"),
                ("host", "public"),
                ("host", "admin"),
            ],
            "400",
        ),
    ] {
        let fields = [&get[..], more].concat();
        assert_eq!(asked_h2(&weft, &fields), status, "{more:?}");
    }
    assert_eq!(app.connections(), 0);
}

// Methods, headers, framing

#[test]
fn a_method_is_what_it_is_called() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &allows("[{ methods: [GET] }]"));
    for method in ["get", "Get", "HEAD", "POST", "GETX", "PATCH"] {
        let call = format!(
            "{method} / HTTP/1.1\r\nhost: a\r\nx-http-method-override: GET\r\ncontent-length: 0\r\n\r\n"
        );
        let mut client = RawClient::connect(&weft.inbound());
        client.send(call);
        assert_eq!(client.answer_to(method).status, 403, "{method}");
    }
    assert_eq!(app.connections(), 0);
}

#[test]
fn a_header_is_judged_as_the_application_reads_it() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &allows("[{ headers: { x-tier: gold } }]"));
    for (fields, status) in [
        ("x-tier: silver", 403),
        ("x-tier: silver\r\nx-tier: gold", 403),
        ("x-tier: gold\r\nx-tier: silver", 403),
        ("x-tier: silver, gold", 403),
        ("x-tier:", 403),
        ("x_tier: gold", 403),
        ("x-tier: Gold", 403),
        // Taken away before the application sees it.
        ("x-tier: gold\r\nconnection: x-tier", 403),
        ("connection: close, X-Tier\r\nx-tier: gold", 403),
        ("x-tier : gold", 400),
        ("x-other: a\r\n x-tier: gold", 400),
        ("x-tier: gold\0", 400),
        ("x-other: a\rx-tier: gold", 400),
        ("x-other: a\nx-tier: gold", 400),
    ] {
        let call = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n");
        assert_eq!(sent(&weft, &call).status, status, "{fields:?}");
    }
    assert_eq!(app.connections(), 0);
    let gold = "GET / HTTP/1.1\r\nhost: a\r\nX-Tier:  gold \r\n\r\n";
    assert_eq!(sent(&weft, gold).status, 200);
}

#[test]
fn a_header_that_is_denied_hides_in_no_list() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &denies("[{ headers: { x-role: admin } }]"));
    for fields in [
        "x-role: admin",
        "X-ROLE: admin",
        "x-role: user\r\nx-role: admin",
        "x-role: user, admin",
        "x-role: admin , user",
    ] {
        let call = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n");
        assert_eq!(sent(&weft, &call).status, 403, "{fields:?}");
    }
    assert_eq!(app.connections(), 0);
    // Named by `connection` it ends here, so the application never reads it.
    let named = "GET / HTTP/1.1\r\nhost: a\r\nx-role: admin\r\nconnection: x-role\r\n\r\n";
    assert_eq!(sent(&weft, named).status, 200);
    assert!(!app.wait_for_bytes(0, "\r\n\r\n").contains("admin"));
}

#[test]
fn no_framing_smuggles_a_call_past_the_rules() {
    let app = RawOrigin::answering(OK);
    let weft = before(&app.address(), &denies("[{ path: { prefix: /admin } }]"));
    let hidden = "GET /admin HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = hidden.len();
    for head in [
        format!("content-length: {length}\r\ntransfer-encoding: chunked"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}"),
        format!("content-length: 0\r\ncontent-length: {length}"),
        format!("transfer-encoding: xchunked\r\ncontent-length: {length}"),
        "transfer-encoding: chunked, identity".to_owned(),
        "transfer-encoding : chunked".to_owned(),
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked".to_owned(),
    ] {
        let mut client = RawClient::connect(&weft.inbound());
        let _ = client.try_send(format!(
            "POST /public HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n0\r\n\r\n{hidden}"
        ));
        let text = String::from_utf8_lossy(&client.read_to_end()).into_owned();
        assert!(text.starts_with("HTTP/1.1 400"), "{head:?}: {text}");
    }
    // As a body it is a body, and arrives as one; after one it is a call, and is judged.
    let mut client = RawClient::connect(&weft.inbound());
    client.send(format!(
        "POST /public HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{hidden}{hidden}"
    ));
    assert_eq!((client.answer().status, client.answer().status), (200, 403));
    let text = app.wait_for_bytes(0, hidden);
    assert_eq!(text.matches("/admin").count(), 1, "{text}");
    assert_eq!(app.connections(), 1);
}

// Callers

#[test]
fn an_identity_that_is_only_claimed_counts_for_nothing() {
    let app = RawOrigin::answering(OK);
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let claim = format!("URI={web};By=spiffe://cluster.local/ns/shop/sa/orders;Hash=00");
    let claims = [
        format!("x-forwarded-client-cert: {claim}"),
        format!("X-Forwarded-Client-Cert: {claim}\r\nx-forwarded-client-cert: {claim}"),
        format!("x-weft-identity: {web}\r\nx-weft-peer: {web}"),
        format!(
            "x-forwarded-for: 10.1.2.3\r\nforwarded: for=10.1.2.3;by={web}\r\nx-real-ip: 10.1.2.3"
        ),
        format!("authorization: {web}\r\nssl-client-s-dn: {web}"),
    ];
    for from in [
        format!("[{{ identity: \"{web}\" }}]"),
        "[{ identity: \"*\" }]".into(),
        "[{ trustDomain: cluster.local }]".into(),
        "[{ namespace: shop }]".into(),
        "[{ ip: 10.0.0.0/8 }]".into(),
    ] {
        let weft = before(&app.address(), &one("allow", &from, "[{ methods: [GET] }]"));
        for fields in &claims {
            let call = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n");
            assert_eq!(sent(&weft, &call).status, 403, "{from} {fields}");
        }
    }
    assert_eq!(app.connections(), 0);
    let weft = before(
        &app.address(),
        &one("allow", "[{ ip: 127.0.0.0/8 }]", "[{ methods: [GET] }]"),
    );
    let call = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n\r\n", claims[0]);
    assert_eq!(sent(&weft, &call).status, 200);
    let text = app.wait_for_bytes(0, "\r\n\r\n");
    assert!(
        !text.contains("spiffe://"),
        "the application believes it: {text}"
    );
}

#[test]
fn a_port_of_its_own_has_rules_of_its_own() {
    let (app, other) = (RawOrigin::answering(OK), RawOrigin::answering(OK));
    let weft = Weft::start(&format!(
        "
        inbound:
          listen: \"127.0.0.1:0\"
          app: \"{}\"
          ports:
            7000: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}
          authorization: {}
        ",
        app.address(),
        other.address(),
        denies("[{ ports: [7000] }]"),
    ));
    assert_eq!(
        Call::get("/")
            .send(&weft.address("inbound.ports.7000"))
            .status,
        403
    );
    assert_eq!(Call::get("/").send(&weft.inbound()).status, 200);
    assert_eq!((other.connections(), app.connections()), (0, 1));
}

#[test]
fn an_address_decides_without_any_identity() {
    let app = RawOrigin::answering(OK);
    let weft = before(
        &app.address(),
        &one(
            "deny",
            "[{ ip: [127.0.0.0/8, \"::1\"] }]",
            "[{ methods: [PUT] }]",
        ),
    );
    assert_eq!(Call::new("PUT", "/").send(&weft.inbound()).status, 403);
    assert_eq!(Call::get("/").send(&weft.inbound()).status, 200);
    assert_eq!(app.connections(), 1);
}

// Reload, dry runs

#[test]
fn a_reload_counts_for_connections_that_are_open() {
    let app = Origin::start();
    let open = file(&app.address(), "{ default: allow }");
    let closed = file(&app.address(), &denies("[{ methods: [GET] }]"));
    let mut weft = Weft::start(&open);
    let inbound = weft.inbound();
    let mut http1 = RawClient::connect(&inbound);
    let mut http2 = H2Peer::connect(&inbound, &[]);
    let get = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    ];
    let mut stream = 1;
    let mut both = |weft: &Weft| {
        http2.send(&Frame::headers(stream, &get, true));
        let (of, head, end) = http2.read_headers();
        assert_eq!(of, stream);
        if !end {
            http2.read_body(stream);
        }
        stream += 2;
        assert_eq!(weft.inbound(), inbound, "the listener stays");
        let one = http1.call(&Call::get("/"), "a").status.to_string();
        (one, head[0].1.clone())
    };
    let said = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(both(&weft), said("200", "200"));
    // Workers take a plan over one by one; a connection hears of it with its next request after that.
    weft.reload(&closed);
    wait_until("both connections are refused", || {
        both(&weft) == said("403", "403")
    });
    weft.reload(&open);
    wait_until("both connections pass", || {
        both(&weft) == said("200", "200")
    });
    weft.reload(&format!(
        "inbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}",
        app.address()
    ));
    wait_until("both pass unasked", || both(&weft) == said("200", "200"));
}

#[test]
fn a_dry_run_counts_and_lets_pass() {
    let app = RawOrigin::answering(OK);
    let weft = before(
        &app.address(),
        "{ default: allow, rules: [{ name: try-it, action: deny, dryRun: true, to: [{ methods: [GET] }] }] }",
    );
    assert_eq!(Call::get("/x").send(&weft.inbound()).status, 200);
    assert_eq!(Call::new("PUT", "/").send(&weft.inbound()).status, 200);
    weft.assert_metric(
        "weft_authorization_total{rule=\"try-it\",action=\"would_deny\"}",
        1.0,
    );
    let line = weft.wait_for_log("would_deny");
    assert!(
        line.contains("try-it") && line.contains("\"audit\""),
        "{line}"
    );
}

#[test]
fn an_open_rule_file_may_change_under_load() {
    // Each answer is one of the two plans', never anything else.
    let app = Origin::start();
    let mut weft = before(&app.address(), "{ default: allow }");
    let inbound = weft.inbound();
    let closed = file(&app.address(), "{ default: deny }");
    let caller = std::thread::spawn(move || {
        let mut client = RawClient::connect(&inbound);
        let mut seen = Vec::new();
        // Far more calls than a reload takes.
        while seen.last() != Some(&403) && seen.len() < 100_000 {
            seen.push(client.call(&Call::get("/"), "a").status);
        }
        seen
    });
    wait_until("calls pass", || app.count() > 10);
    weft.reload(&closed);
    let seen = caller.join().unwrap();
    assert!(seen.iter().all(|status| matches!(status, 200 | 403)));
    assert_eq!(
        seen.last(),
        Some(&403),
        "the open connection never heard of the rules"
    );
    let passed = seen.iter().filter(|status| **status == 200).count();
    assert_eq!(app.count(), passed, "what was refused never arrived");
}

// Upgrades

/// Answers a request to speak `echo` as a server must, then says back what comes.
fn echo(connection: &mut RawConnection) -> std::io::Result<()> {
    connection.read_head()?;
    connection.write(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
    )?;
    loop {
        let byte = connection.read_exact(1)?;
        connection.write(byte)?;
    }
}

fn upgrading(app: &str, authorization: &str) -> String {
    file(app, authorization).replace(", app:", ", upgrades: [echo], app:")
}

const UPGRADE: &str =
    "GET /x/../chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

const EXTENDED: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "echo"),
    (":scheme", "http"),
    (":path", "/x/../chat"),
    (":authority", "a"),
];

#[test]
fn an_upgrade_is_a_get_that_is_judged_first() {
    let app = RawOrigin::start(echo);
    let denied = denies("[{ methods: [GET], path: { prefix: /chat } }]");
    let weft = Weft::start(&upgrading(&app.address(), &denied));
    assert_eq!(sent(&weft, UPGRADE).status, 403);
    assert_eq!(sent(&weft, &UPGRADE.replace("/x/..", "/")).status, 400);
    let mut client = H2Peer::connect(&weft.inbound(), &[]);
    client.send(&Frame::headers(1, &EXTENDED, false));
    let (_, head, _) = client.read_headers();
    assert_eq!(head[0], (":status".to_owned(), "403".to_owned()));
    assert_eq!(app.connections(), 0);
}

#[test]
fn what_left_http_is_cut_when_the_rules_change_against_it() {
    let app = RawOrigin::start(echo);
    let open = upgrading(&app.address(), "{ default: allow }");
    let mut weft = Weft::start(&open);
    let mut http1 = RawClient::connect(&weft.inbound());
    http1.send(UPGRADE);
    http1.read_until(b"\r\n\r\n");
    let mut http2 = H2Peer::connect(&weft.inbound(), &[]);
    http2.send(&Frame::headers(1, &EXTENDED, false));
    let (_, head, _) = http2.read_headers();
    assert_eq!(head[0].1, "200");
    let mut passes = || {
        http1.send("x");
        http2.send(&Frame::data(1, "y", false));
        (http1.read_until(b"x"), http2.read_kind(kind::DATA).payload)
    };
    assert_eq!(passes(), (b"x".to_vec(), b"y".to_vec()));
    // Rules for others change nothing for it.
    weft.reload(&upgrading(
        &app.address(),
        &denies("[{ path: { prefix: /admin } }]"),
    ));
    weft.assert_metric("weft_config_reload_total", 1.0);
    assert_eq!(passes(), (b"x".to_vec(), b"y".to_vec()));
    weft.reload(&upgrading(
        &app.address(),
        &denies("[{ path: { prefix: /chat } }]"),
    ));
    assert!(http1.is_closed_by_peer());
    http2.read_kind(kind::RST_STREAM);
    weft.assert_metric(
        "weft_authorization_total{rule=\"the-rule\",action=\"deny\"}",
        2.0,
    );
}

// explain

#[test]
fn explain_says_which_rule_decides_and_why() {
    let weft = Weft::folder(
        "
        inbound:
          listen: \"127.0.0.1:0\"
          app: 127.0.0.1:8080
          authorization:
            default: deny
            rules:
              - { name: no-deletes, action: deny, to: [{ methods: [DELETE] }] }
              - name: only-web
                action: allow
                from:
                  - identity: spiffe://cluster.local/ns/shop/sa/web
                to: [{ path: { prefix: /orders } }]
        ",
    );
    let explain = |arguments: &[&str]| {
        let all = [&["explain", "-c", "weft.yaml", "--as"], arguments].concat();
        let output = weft.run(&all);
        let (out, err) = (output.stdout, output.stderr);
        let text = String::from_utf8_lossy(&[out, err].concat()).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    for (arguments, parts) in [
        (
            &[web, "POST", "http://orders:8080/x/../orders/7"][..],
            &[
                "rule `no-deletes` (weft.yaml:8), denies: to[0]: method is POST, not DELETE",
                "rule `only-web` (weft.yaml:9), allows: met by from[0] (weft.yaml:12) and to[0] (weft.yaml:13)",
                "allowed by rule `only-web` (weft.yaml:9)",
            ][..],
        ),
        (
            &[web, "DELETE", "http://orders/orders"],
            &["refused 403 denied (gRPC 7): by rule `no-deletes` (weft.yaml:8)"],
        ),
        (
            &[
                "spiffe://cluster.local/ns/shop/sa/other",
                "GET",
                "http://orders/orders",
            ],
            &[
                "from[0]: identity is not spiffe://cluster.local/ns/shop/sa/web",
                "refused 403 denied (gRPC 7): by the default (weft.yaml:6)",
            ],
        ),
        (
            &["none", "GET", "http://orders/orders"],
            &[
                "the caller has no verified identity",
                "by the default (weft.yaml:6)",
            ],
        ),
        (
            &[web, "GET", "http://orders//orders"],
            &["it depends on how the path is read", "400 ambiguous_path"],
        ),
        (
            &["web", "GET", "http://orders/"],
            &["does not begin with spiffe://"],
        ),
    ] {
        let text = explain(arguments);
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: no {part:?} in\n{text}");
        }
    }
}

#[test]
fn explain_says_where_plaintext_is_refused_and_what_a_probe_is() {
    let weft = Weft::folder(
        "
        identity: { workloadApi: unix:///run/agent.sock }
        inbound:
          listen: \"127.0.0.1:0\"
          tls: { mode: strict }
          ports: { 9090: { tls: permissive } }
          probes: [{ port: 8080, path: /healthz }]
          authorization: { default: allow }
        ",
    );
    let explain = |caller: &str, method: &str, url: &str| {
        let output = weft.run(&["explain", "-c", "weft.yaml", "--as", caller, method, url]);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    for (caller, method, url, said) in [
        (
            "none",
            "GET",
            "http://a:8080/",
            "the port is strict (weft.yaml:5)",
        ),
        ("none", "GET", "http://a:8080/", "403 plaintext_refused"),
        (
            "none",
            "GET",
            "http://a:8080/healthz",
            "allowed as a probe, of which no rule is asked (weft.yaml:7)",
        ),
        (
            "none",
            "POST",
            "http://a:8080/healthz",
            "403 plaintext_refused",
        ),
        (
            "none",
            "GET",
            "http://a:9090/",
            "allowed by the default (weft.yaml:8)",
        ),
        (
            web,
            "GET",
            "http://a:8080/",
            "allowed by the default (weft.yaml:8)",
        ),
    ] {
        let text = explain(caller, method, url);
        assert!(
            text.contains(said),
            "{caller} {method} {url}: no {said:?} in\n{text}"
        );
    }
}

#[test]
fn explain_asks_for_an_address_where_rules_do() {
    let weft = Weft::folder(&file(
        "127.0.0.1:1",
        &one("allow", "[{ ip: 10.0.0.0/8 }]", "[{ ports: [1] }]"),
    ));
    let explain = |ip: &[&str]| {
        let all = [
            &[
                "explain",
                "-c",
                "weft.yaml",
                "--as",
                "none",
                "GET",
                "http://a/",
            ],
            ip,
        ]
        .concat();
        let output = weft.run(&all);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(explain(&[]).contains("--ip"));
    assert!(explain(&["--ip", "10.1.2.3"]).contains("allowed"));
    assert!(explain(&["--ip", "11.1.2.3"]).contains("403 denied"));
}
