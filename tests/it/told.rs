//! What the application is told of its caller, and by whom: one `x-forwarded-client-cert`, ours, whatever else came in.

use crate::harness::{Authority, Call, Frame, H2Peer, IdentityFolder, RawOrigin, TlsCaller, Weft};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Every way in which a caller may claim to be someone; by CGI's custom the last two are read as the first.
const CLAIMS: &str = "x-forwarded-client-cert: URI=spiffe://cluster.local/forged/1\r\n\
                      X-Forwarded-Client-Cert: URI=spiffe://cluster.local/forged/2,By=spiffe://cluster.local/forged/3\r\n\
                      X_FORWARDED_CLIENT_CERT: URI=spiffe://cluster.local/forged/4\r\n\
                      x-forwarded_client-cert: URI=spiffe://cluster.local/forged/5\r\n";

/// A request with claims in its head and behind its body.
fn claiming() -> String {
    format!(
        "POST /a HTTP/1.1\r\nhost: a\r\n{CLAIMS}transfer-encoding: chunked\r\n\
         trailer: x-forwarded-client-cert\r\n\r\n1\r\nx\r\n0\r\n{CLAIMS}\r\n"
    )
}

fn before(app: &RawOrigin, identity: &IdentityFolder) -> Weft {
    Weft::start(&format!(
        "identity: {}\ninbound: {{ listen: \"127.0.0.1:0\", app: \"{}\" }}",
        identity.yaml(),
        app.address()
    ))
}

#[test]
fn of_a_caller_that_proves_who_it_is_there_is_one_name() {
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::new(&authority.leaf("shop"), authority.root());
    let app = RawOrigin::answering(OK);
    let weft = before(&app, &identity);
    let web = TlsCaller::new(Some(&authority.leaf("web")), &["weft/http1.1"]);
    let mut connection = web.connect(&weft.inbound()).unwrap();
    connection.send(claiming()).unwrap();
    let text = app.wait_for_bytes(0, "0\r\n").to_ascii_lowercase();
    assert!(!text.contains("forged"), "{text}");
    assert_eq!(text.matches("client-cert:").count(), 1, "{text}");
    let told = format!("uri={}\r\n", authority.id("web"));
    assert_eq!(text.matches(&told).count(), 1, "{text}");
}

#[test]
fn of_a_caller_that_proves_nothing_there_is_none() {
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::new(&authority.leaf("shop"), authority.root());
    let app = RawOrigin::answering(OK);
    let weft = before(&app, &identity);
    let mut client = crate::harness::RawClient::connect(&weft.inbound());
    client.send(claiming());
    assert_eq!(client.answer().status, 200);
    let mut http2 = H2Peer::connect(&weft.inbound(), &[]);
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/b"),
        (":authority", "a"),
        (
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/forged",
        ),
        (
            "x_forwarded_client_cert",
            "URI=spiffe://cluster.local/forged",
        ),
        (
            "x-forwarded-client-cert",
            "By=spiffe://cluster.local/forged",
        ),
    ];
    http2.send(&Frame::headers(1, &fields, true));
    http2.read_headers();
    for text in app.received() {
        let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
        assert!(!text.contains("forged"), "{text}");
    }
}

/// The application beside us may say what it likes of who called it: the next one believes us alone.
#[test]
fn what_was_told_on_the_way_in_does_not_go_out_again() {
    let upstream = RawOrigin::answering(OK);
    let weft = Weft::start(&format!(
        "upstreams: {{ next: {{ endpoints: {{ static: [\"{}\"] }}, listen: \"127.0.0.1:0\" }} }}",
        upstream.address()
    ));
    let told = Call::get("/").header("x-forwarded-client-cert", "URI=spiffe://cluster.local/web");
    assert_eq!(told.send(&weft.upstream("next")).status, 200);
    let text = upstream.wait_for_bytes(0, "\r\n\r\n");
    assert!(!text.contains("spiffe"), "{text}");
}
