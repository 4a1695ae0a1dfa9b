//! WebSocket's real clients and servers through two sidecars with mutual TLS, over either HTTP between them; a browser;
//! and all of Autobahn's cases, which must find nothing that they do not find without us. And with Envoy in the place of
//! either sidecar.

use std::collections::BTreeMap;

use crate::harness::{
    Authority, IdentityFolder, RawOrigin, Weft,
    parts::{self, AutobahnCase, Browser, Envoy, Speaks, WebSocketServer},
    wait_for, wait_until,
};

/// A caller's sidecar and an application's, with this protocol between them.
struct Pair {
    caller: Weft,
    app: Weft,
    _identities: [IdentityFolder; 2],
}

impl Pair {
    fn before(server: &WebSocketServer, protocol: &str) -> Self {
        let authority = Authority::new("cluster.local");
        let identity = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
        let (ours, theirs) = (identity("web"), identity("chat"));
        let app = called(&theirs, &server.address());
        let caller = calling(&ours, &app.inbound(), protocol, &authority.id("chat"));
        Pair {
            caller,
            app,
            _identities: [ours, theirs],
        }
    }

    fn address(&self) -> String {
        self.caller.upstream("chat")
    }
}

/// A strict sidecar before the application at `address`.
fn called(identity: &IdentityFolder, address: &str) -> Weft {
    let port = address.rsplit_once(':').unwrap().1;
    Weft::start(&format!(
        "
         identity: {}
         inbound:
           listen: \"127.0.0.1:0\"
           app: \"{address}\"
           ports: {{ {port}: {{ protocol: http }} }}
           tls: {{ mode: strict }}",
        identity.yaml()
    ))
}

/// A sidecar whose upstream `chat` is `id` at `address`.
fn calling(identity: &IdentityFolder, address: &str, protocol: &str, id: &str) -> Weft {
    Weft::start(&format!(
        "
         identity: {}
         upstreams:
           chat:
             endpoints: {{ static: [\"{address}\"] }}
             listen: \"127.0.0.1:0\"
             protocol: {protocol}
             identity: \"{id}\"",
        identity.yaml()
    ))
}

#[test]
fn clients_and_servers_of_others_speak_through_us() {
    let servers = [
        ("ws", WebSocketServer::node()),
        ("websockets", WebSocketServer::python()),
    ];
    for (library, server) in &servers {
        for protocol in ["http1", "http2"] {
            let pair = Pair::before(server, protocol);
            assert_conversations(&pair.address(), &format!("to {library} over {protocol}"));
            let switched = "weft_upgrades_total{protocol=\"websocket\",result=\"switched\"}";
            pair.app.assert_metric(switched, 2.0);
        }
    }
}

/// Both clients' whole conversations with both servers behind `address`.
#[track_caller]
fn assert_conversations(address: &str, over: &str) {
    for client in ["ws", "websockets"] {
        let told = parts::websocket_conversation(client, &format!("ws://{address}/"));
        assert_eq!(
            told, "ok text 5, bytes 300000, pong are you there 4001",
            "{client} {over}"
        );
    }
}

/// The HTTP versions of Envoy's last two calls, both switched: the one that came in, the one that went on.
#[track_caller]
fn assert_calls(envoy: &Envoy, versions: &str, status: u16) {
    let line = format!("{versions} {status}\n");
    wait_until("Envoy to tell of two calls", || {
        envoy.calls().ends_with(&line.repeat(2))
    });
}

#[test]
fn envoy_before_a_callee_switches_for_us_over_either_http() {
    let authority = Authority::new("cluster.local");
    let identity = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
    let (ours, theirs) = (identity("web"), identity("chat"));
    for server in [WebSocketServer::node(), WebSocketServer::python()] {
        let envoy = Envoy::inbound(&theirs, &authority.id("web"), &server.address());
        for (protocol, version) in [("http1", "HTTP/1.1"), ("http2", "HTTP/2")] {
            let weft = calling(&ours, &envoy.address(), protocol, &authority.id("chat"));
            assert_conversations(&weft.upstream("chat"), protocol);
            let switched = "weft_upgrades_total{protocol=\"websocket\",result=\"switched\"}";
            weft.wait_for_metric(switched, |count| count == 2.0);
            assert_calls(&envoy, &format!("{version} HTTP/1.1"), 101);
        }
    }
}

#[test]
fn envoy_before_a_caller_has_us_switch_over_either_http() {
    let authority = Authority::new("cluster.local");
    let identity = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
    let (theirs, ours) = (identity("web"), identity("chat"));
    for server in [WebSocketServer::node(), WebSocketServer::python()] {
        let weft = called(&ours, &server.address());
        for (speaks, version) in [(Speaks::Http1, "HTTP/1.1"), (Speaks::Http2, "HTTP/2")] {
            let envoy = Envoy::outbound(&theirs, &authority.id("chat"), &weft.inbound(), speaks);
            assert_conversations(&envoy.address(), version);
            assert_calls(&envoy, &format!("HTTP/1.1 {version}"), 101);
        }
        let switched = "weft_upgrades_total{protocol=\"websocket\",result=\"switched\"}";
        weft.wait_for_metric(switched, |count| count == 4.0);
        let line = weft.wait_for_access(|line| !line["identity"].is_null());
        assert_eq!(line["identity"], authority.id("web"));
    }
}

fn autobahn_over(protocol: &str) {
    let server = WebSocketServer::node();
    let pair = Pair::before(&server, protocol);
    let cases = parts::autobahn(&pair.address());
    assert_eq!(cases.len(), 247);
    let direct = parts::autobahn(&server.address());
    let worse = |cases: &BTreeMap<String, AutobahnCase>| -> Vec<String> {
        let worse = cases.iter().filter(|(number, case)| {
            let direct = &direct[*number];
            case.failed()
                || !case.is_fine()
                    && (&case.behaviour, &case.close) != (&direct.behaviour, &direct.close)
        });
        worse.map(|(number, _)| number.clone()).collect()
    };
    // A case that waits on a timer is late on a busy machine: what is wrong is so by itself as well.
    let again = worse(&cases);
    if !again.is_empty() {
        let cases = parts::autobahn_cases(&pair.address(), &again);
        assert!(worse(&cases).is_empty(), "not as without us: {cases:#?}");
    }
}

#[test]
fn autobahn_finds_nothing_over_http1() {
    autobahn_over("http1");
}

#[test]
fn autobahn_finds_nothing_over_http2() {
    autobahn_over("http2");
}

/// Opens both, and tells what it has heard once that is all.
const PAGE: &str = "<!doctype html><title>heard</title><script>
const heard = [];
const hears = (what) => {
  if (heard.push(what) === 4) fetch('/heard?' + heard.sort().join('&'));
};
const socket = new WebSocket('ws://CHAT/');
socket.onopen = () => socket.send('hello');
socket.onmessage = (message) => { hears('message=' + message.data); socket.close(4002); };
socket.onclose = (close) => hears('closed=' + close.code + ',' + close.wasClean);
const events = new EventSource('/events');
events.onmessage = (event) => {
  hears('event=' + event.data);
  if (event.data === 'two') events.close();
};
</script>";

#[test]
fn a_browser_opens_a_websocket_and_an_event_source() {
    let chat = WebSocketServer::node();
    let pair = Pair::before(&chat, "http2");
    let page = PAGE.replace("CHAT", &pair.address());
    let site = RawOrigin::start(move |connection| {
        loop {
            let (head, _) = connection.read_request()?;
            if head.starts_with("GET /events ") {
                connection.write(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                     b\r\ndata: one\n\n\r\n",
                )?;
                connection.write("b\r\ndata: two\n\n\r\n")?;
                return connection.until_closed();
            }
            let length = page.len();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length";
            connection.write(format!("{head}: {length}\r\n\r\n{page}"))?;
        }
    });
    let weft = Weft::start(&format!(
        "upstreams: {{ site: {{ endpoints: {{ static: [\"{}\"] }}, listen: \"127.0.0.1:0\" }} }}",
        site.address()
    ));
    let _browser = Browser::open(&format!("http://{}/", weft.upstream("site")));
    let told = wait_for("what the page has heard", || {
        let all = site.received();
        let mut texts = all.iter().map(|bytes| String::from_utf8_lossy(bytes));
        let told =
            texts.find_map(|text| text.split_once("/heard?").map(|(_, rest)| rest.to_owned()))?;
        Some(told.split_once(' ')?.0.to_owned())
    });
    assert_eq!(told, "closed=4002,true&event=one&event=two&message=hello");
    // Its message and its close, both masked.
    let line = pair.app.wait_for_access(|line| line["status"] == 200);
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&19.into(), &11.into())
    );
}
