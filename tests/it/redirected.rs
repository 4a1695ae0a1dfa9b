//! Redirected connections to addresses that no upstream has: TLS goes by the name that it asks for, and the sidecar's
//! own ports lead nowhere.

use crate::harness::{
    Call, RawClient, RawOrigin, TlsCaller, Weft,
    netns::{APPLICATION, Pod},
};

fn sidecar(pod: &Pod, more: &str) -> Weft {
    let weft = pod.sidecar(&format!(
        "    inbound: {{ listen: [\"0.0.0.0:15006\", \"[::]:15006\"] }}\n    {}",
        more.trim()
    ));
    pod.redirect(&["apply"]);
    weft
}

#[test]
fn tls_goes_by_its_name_though_nobody_knows_its_address() {
    let (client, server) = Pod::pair();
    let origin = server.inside(|| {
        RawOrigin::at(server.at(9443), |connection| {
            connection.read_exact(5)?;
            connection.write("by its name")
        })
    });
    let weft = sidecar(
        &client,
        &format!(
            r#"
    outbound:
      listen: ["127.0.0.1:15001", "[::1]:15001"]
      unknown: deny
      routes: [{{ name: named, hosts: [weft.test], backends: [{{ upstream: secure }}] }}]
    upstreams: {{ secure: {{ endpoints: {{ static: ["{}"] }} }} }}
            "#,
            server.at(9443)
        ),
    );
    client.prints("ip", &["route", "add", "10.96.0.0/16", "dev", "eth0"]);
    let hello = TlsCaller::new(None, &["h2", "http/1.1"]).hello();
    let heard = client.inside_as(APPLICATION, || {
        let mut caller = RawClient::connect("10.96.7.7:443");
        caller.send(&hello);
        caller.read_to_end()
    });
    assert_eq!(String::from_utf8_lossy(&heard), "by its name");
    assert!(hello.starts_with(&origin.received()[0]));
    let line = client.inside(|| weft.wait_for_access(|line| line["protocol"] == "TCP"));
    assert_eq!(
        (&line["server_name"], &line["upstream"], &line["original"]),
        (
            &"weft.test".into(),
            &"secure".into(),
            &"10.96.7.7:443".into()
        )
    );
}

#[test]
fn a_sidecars_own_port_is_no_way_around_in_a_circle() {
    let (client, server) = Pod::pair();
    let weft = sidecar(
        &server,
        r#"outbound: { listen: ["0.0.0.0:15001", "[::]:15001"], unknown: deny }"#,
    );
    for address in [
        server.at(15006),
        server.at_v6(15006),
        server.at(15001),
        server.at_v6(15001),
    ] {
        let answered = client.inside_as(APPLICATION, || {
            Call::get("/").try_send(&address.to_string())
        });
        if let Ok(answer) = answered {
            assert_eq!(answer.status / 100, 5, "{address}: {}", answer.text());
        }
    }
    let taken = server.inside(|| weft.metric("weft_connections_total"));
    assert!(taken <= 4.0, "{taken} connections for four calls");
}
