//! Which upstream a call reaches, by all that a route can match on.

use crate::harness::{Answer, Call, Origin, Reply, Weft, grpc_message, parts};

fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| Reply::ok(name))
}

/// Upstreams `one`, `two` and `three`, and these routes.
fn with(origins: &[Origin; 3], routes: &str) -> Weft {
    let [one, two, three] = origins.each_ref().map(Origin::address);
    Weft::start(&format!(
        "
outbound:
  listen: \"127.0.0.1:0\"
  unknown: deny
  routes:
{routes}
upstreams:
  one: {{ endpoints: {{ static: [\"{one}\"] }} }}
  two: {{ endpoints: {{ static: [\"{two}\"] }} }}
  three: {{ endpoints: {{ static: [\"{three}\"] }} }}
"
    ))
}

fn origins() -> [Origin; 3] {
    ["one", "two", "three"].map(named)
}

fn ask(weft: &Weft, call: Call) -> Answer {
    call.host("shop").send(&weft.outbound())
}

#[test]
fn a_call_reaches_the_upstream_whose_route_matches_best() {
    let origins = origins();
    // The last in the file is the narrowest: specificity decides, not the order.
    let weft = with(
        &origins,
        r#"
    - { name: rest, hosts: [shop], backends: [{ upstream: one }] }
    - { name: prefix, hosts: [shop], matches: [{ path: { prefix: /orders } }], backends: [{ upstream: two }] }
    - { name: regex, hosts: [shop], matches: [{ path: { regex: "/[0-9]+/paid" } }], backends: [{ upstream: three }] }
    - { name: exact, hosts: [shop], matches: [{ path: { exact: /orders/new } }], backends: [{ upstream: three }] }
    - { name: method, hosts: [shop], matches: [{ method: DELETE, path: { prefix: /orders } }], backends: [{ upstream: three }] }
    - { name: header, hosts: [shop], matches: [{ headers: { x-tier: gold } }], backends: [{ upstream: two }] }
    - { name: query, hosts: [shop], matches: [{ query: { beta: "1" } }], backends: [{ upstream: three }] }
"#,
    );
    for (call, upstream) in [
        (Call::get("/"), "one"),
        (Call::get("/orders"), "two"),
        (Call::get("/orders/7"), "two"),
        (Call::get("/7/paid"), "three"),
        (Call::get("/x/paid"), "one"),
        (Call::get("/ordersx"), "one"),
        (Call::get("/orders/new"), "three"),
        (Call::get("/orders/new/x"), "two"),
        (Call::new("DELETE", "/orders/7"), "three"),
        (Call::get("/any").header("x-tier", "gold"), "two"),
        (Call::get("/any").header("x-tier", "silver"), "one"),
        (Call::get("/any?beta=1"), "three"),
        (Call::get("/any?beta=2"), "one"),
    ] {
        let asked = format!("{call:?}");
        assert_eq!(ask(&weft, call).text(), upstream, "{asked}");
    }
}

#[test]
fn a_regex_takes_the_whole_path() {
    let origins = origins();
    let weft = with(
        &origins,
        r#"
    - { name: rest, hosts: [shop], backends: [{ upstream: one }] }
    - { name: regex, hosts: [shop], matches: [{ path: { regex: "/v[12]/.*" } }], backends: [{ upstream: two }] }
"#,
    );
    for (path, upstream) in [("/v1/a", "two"), ("/v3/a", "one"), ("/x/v1/a", "one")] {
        assert_eq!(ask(&weft, Call::get(path)).text(), upstream, "{path}");
    }
}

#[test]
fn weights_share_the_calls_and_a_weight_of_zero_takes_none() {
    let origins = origins();
    let weft = with(
        &origins,
        "
    - { name: canary, hosts: [shop], backends: [{ upstream: one, weight: 90 }, { upstream: two, weight: 10 }, { upstream: three, weight: 0 }] }
",
    );
    for _ in 0..400 {
        assert_eq!(ask(&weft, Call::get("/")).status, 200);
    }
    let [one, two, three] = origins.each_ref().map(Origin::count);
    assert_eq!((one + two, three), (400, 0));
    // 40 on average; further off than this once in ten million runs.
    assert!((10..=80).contains(&two), "{two} of 400");
}

#[test]
fn grpc_methods_are_told_apart() {
    let one = Origin::answering(|_| Reply::grpc(b"one", 0));
    let two = Origin::answering(|_| Reply::grpc(b"two", 0));
    let weft = Weft::start(&format!(
        "
outbound:
  listen: \"127.0.0.1:0\"
  routes:
    - {{ name: rest, hosts: [shop], backends: [{{ upstream: one }}] }}
    - {{ name: lookup, hosts: [shop], matches: [{{ grpc: {{ service: shop.Catalog, method: Lookup }} }}], backends: [{{ upstream: two }}] }}
upstreams:
  one: {{ endpoints: {{ static: [\"{}\"] }}, protocol: grpc }}
  two: {{ endpoints: {{ static: [\"{}\"] }}, protocol: grpc }}
",
        one.address(),
        two.address()
    ));
    for (method, reached) in [("/shop.Catalog/Lookup", &two), ("/shop.Catalog/List", &one)] {
        let call = parts::GrpcCall {
            method,
            authority: "shop",
            messages: &["x"],
            metadata: &[],
            deadline: None,
        };
        let answer = parts::grpc(&weft.outbound(), &call);
        assert_eq!(answer.code, 0, "{method}: {}", answer.details);
        assert_eq!(
            reached
                .requests()
                .last()
                .map(|seen| seen.path().to_owned())
                .as_deref(),
            Some(method)
        );
        assert_eq!(reached.requests()[0].body, grpc_message(b"x"));
    }
}
