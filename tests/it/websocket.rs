//! WebSocket's real clients and servers through two sidecars with mutual TLS, over either HTTP between them; a browser;
//! and all of Autobahn's cases, which must find nothing that they do not find without us.

use std::collections::BTreeMap;

use crate::harness::{
    Authority, IdentityFolder, RawOrigin, Weft,
    parts::{self, AutobahnCase, Browser, WebSocketServer},
    wait_for,
};

/// A caller's sidecar and an application's, with this protocol between them.
struct Pair {
    caller: Weft,
    app: Weft,
    _identities: [IdentityFolder; 2],
}

impl Pair {
    fn before(server: &WebSocketServer, protocol: &str) -> Self {
        let address = server.address();
        let port = address.rsplit_once(':').unwrap().1;
        let authority = Authority::new("cluster.local");
        let identity = |name| IdentityFolder::new(&authority.leaf(name), authority.root());
        let (ours, theirs) = (identity("web"), identity("chat"));
        let app = Weft::start(&format!(
            "
             identity: {}
             inbound:
               listen: \"127.0.0.1:0\"
               app: \"{address}\"
               ports: {{ {port}: {{ protocol: http }} }}
               tls: {{ mode: strict }}",
            theirs.yaml()
        ));
        let caller = Weft::start(&format!(
            "
             identity: {}
             upstreams:
               chat:
                 endpoints: {{ static: [\"{}\"] }}
                 listen: \"127.0.0.1:0\"
                 protocol: {protocol}
                 identity: \"{}\"",
            ours.yaml(),
            app.inbound(),
            authority.id("chat"),
        ));
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

#[test]
fn clients_and_servers_of_others_speak_through_us() {
    let servers = [
        ("ws", WebSocketServer::node()),
        ("websockets", WebSocketServer::python()),
    ];
    for (library, server) in &servers {
        for protocol in ["http1", "http2"] {
            let pair = Pair::before(server, protocol);
            for client in ["ws", "websockets"] {
                let url = format!("ws://{}/", pair.address());
                let told = parts::websocket_conversation(client, &url);
                assert_eq!(
                    told, "ok text 5, bytes 300000, pong are you there 4001",
                    "{client} to {library} over {protocol}"
                );
            }
            let switched = "weft_upgrades_total{protocol=\"websocket\",result=\"switched\"}";
            pair.app.assert_metric(switched, 2.0);
        }
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
