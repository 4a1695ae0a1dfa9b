//! The table against what the file means, case by case and against a list that tries every match.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;

/// Routes as in the file: hosts, and matches in YAML.
/// By way of JSON, which writes enums as the routing file does.
fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
    serde_json::from_value(value).unwrap()
}

fn routes(routes: &[(&[&str], &[&str])]) -> Vec<(Vec<HostPattern>, Vec<Match>)> {
    let read = |(hosts, matches): &(&[&str], &[&str])| {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        (hosts, matches.iter().map(|text| yaml(text)).collect())
    };
    routes.iter().map(read).collect()
}

fn compile(routes: &[(Vec<HostPattern>, Vec<Match>)]) -> Result<Table, Vec<Problem>> {
    Table::compile(
        routes
            .iter()
            .map(|(hosts, matches)| (&hosts[..], &matches[..])),
    )
}

fn table(of: &[(&[&str], &[&str])]) -> Table {
    compile(&routes(of)).unwrap()
}

struct Request {
    method: Method,
    host: String,
    port: Option<u16>,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Request {
    /// `GET payments:8080/charge?q=1 name=value …`
    fn new(text: &str) -> Self {
        let mut words = text.split(' ');
        let method = words.next().unwrap().parse().unwrap();
        let target = words.next().unwrap();
        let (authority, path) = target.split_at(target.find('/').unwrap_or(target.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (authority, None),
        };
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        let header = |word: &str| {
            let (name, value) = word.split_once('=').unwrap();
            (
                name.parse::<HeaderName>().unwrap(),
                value.parse::<HeaderValue>().unwrap(),
            )
        };
        let headers = words.map(header).collect();
        Request {
            method,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            query,
            headers,
        }
    }

    fn view(&self) -> View<'_> {
        View {
            host: &self.host,
            port: self.port,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

fn find(table: &Table, request: &str) -> Option<u32> {
    match table.find(&Request::new(request).view()) {
        Found::Route(route) => Some(route.0),
        Found::NoRoute | Found::UnknownHost => None,
    }
}

#[test]
fn the_most_specific_match_wins_wherever_it_stands_in_the_file() {
    let table = table(&[
        (&["h"], &["{}"]),
        (&["h"], &["{ query: { q: '1' } }"]),
        (&["h"], &["{ headers: { x: '1' } }"]),
        (&["h"], &["{ method: POST }"]),
        (&["h"], &["{ path: { regex: '/a/.*' } }"]),
        (&["h"], &["{ path: { prefix: /a/b } }"]),
        (&["h"], &["{ path: { prefix: /a/b/c/ } }"]),
        (&["h"], &["{ path: { exact: /a/b/c } }"]),
        (
            &["h"],
            &["{ path: { exact: /a/b/c }, headers: { x: '1', Z: '2' } }"],
        ),
    ]);
    for (request, route) in [
        ("GET h/z", 0),
        ("GET h/z?q=1", 1),
        ("GET h/z?q=1 x=1", 2),
        ("POST h/z?q=1 x=1", 3),
        ("POST h/a/x?q=1 x=1", 4),
        ("POST h/a/b x=1", 5),
        ("POST h/a/bc", 4),
        ("GET h/a/b/c/", 6),
        ("GET h/a/b/c/d", 6),
        ("GET h/a/b/c", 7),
        ("GET h/a/b/c x=1", 7),
        ("GET h/a/b/c x=1 z=2", 8),
    ] {
        assert_eq!(find(&table, request), Some(route), "{request}");
    }
}

#[test]
fn a_match_that_fails_leaves_the_request_to_the_next_path() {
    let table = table(&[
        (&["h"], &["{ path: { exact: /a/b }, method: PUT }"]),
        (&["h"], &["{ path: { prefix: /a/b }, headers: { x: '1' } }"]),
        (&["h"], &["{ path: { prefix: /a }, method: GET }"]),
        (&["h"], &["{ path: { regex: '/[a-z]/.*' }, method: HEAD }"]),
        (&["h"], &["{ method: POST }"]),
    ]);
    for (request, route) in [
        ("PUT h/a/b", Some(0)),
        ("DELETE h/a/b x=1", Some(1)),
        ("GET h/a/b", Some(2)),
        ("HEAD h/a/b", Some(3)),
        ("POST h/a/b", Some(4)),
        ("DELETE h/a/b", None),
    ] {
        assert_eq!(find(&table, request), route, "{request}");
    }
}

#[test]
fn file_order_breaks_ties_among_regexes_too() {
    let table = table(&[
        (&["h"], &["{ path: { regex: '/z.*' } }"]),
        (
            &["h"],
            &["{ path: { regex: '/.*' } }", "{ path: { exact: /twice } }"],
        ),
        (
            &["h"],
            &[
                "{ path: { regex: '/.*' }, method: POST }",
                "{ path: { exact: /twice } }",
            ],
        ),
    ]);
    assert_eq!(find(&table, "GET h/z"), Some(0));
    assert_eq!(find(&table, "GET h/y"), Some(1));
    assert_eq!(
        find(&table, "POST h/z"),
        Some(2),
        "a method comes before file order"
    );
    assert_eq!(find(&table, "GET h/twice"), Some(1));
}

#[test]
fn an_unknown_host_is_told_from_a_request_without_a_route() {
    let table = table(&[(&["h", "*.s"], &["{ path: { exact: /a } }"])]);
    let found = |request: &str| table.find(&Request::new(request).view());
    assert_eq!(found("GET h/a"), Found::Route(RouteId(0)));
    assert_eq!(found("GET X.S/a"), Found::Route(RouteId(0)));
    assert_eq!(found("GET h/b"), Found::NoRoute);
    assert_eq!(found("GET s/a"), Found::UnknownHost);
}

#[test]
fn the_narrowest_host_decides_alone() {
    let table = table(&[
        (&["*"], &["{ path: { exact: /a } }"]),
        (&["*.s"], &["{ path: { exact: /b } }"]),
        (&["h.s", "i.s:81"], &["{ path: { exact: /c } }"]),
    ]);
    assert_eq!(find(&table, "GET h.s/c"), Some(2));
    assert_eq!(find(&table, "GET h.s/b"), None);
    assert_eq!(find(&table, "GET h.s/a"), None);
    assert_eq!(find(&table, "GET i.s/b"), Some(1));
    assert_eq!(find(&table, "GET i.s:81/c"), Some(2));
    assert_eq!(find(&table, "GET x/a"), Some(0));
}

#[test]
fn a_route_without_hosts_and_matches_takes_everything() {
    let table = table(&[(&[], &[])]);
    assert_eq!(find(&table, "GET any.host:99/x?y"), Some(0));
    assert_eq!(find(&table, "OPTIONS h"), Some(0));
}

#[test]
fn grpc_matches_take_grpc_calls_only() {
    let table = table(&[
        (&["h"], &["{ grpc: { service: mail.v1.Mailer } }"]),
        (
            &["h"],
            &["{ grpc: { service: mail.v1.Mailer, method: Send } }"],
        ),
        (&["h"], &["{ grpc: { method: Watch } }"]),
        (&["h"], &["{ path: { exact: /mail.v1.Mailer/Send } }"]),
    ]);
    for (request, route) in [
        (
            "POST h/mail.v1.Mailer/Send content-type=application/grpc",
            Some(1),
        ),
        (
            "POST h/mail.v1.Mailer/List content-type=application/grpc+proto",
            Some(0),
        ),
        ("POST h/x.Y/Watch content-type=application/grpc", Some(2)),
        (
            "POST h/mail.v1.Mailer/Send content-type=application/json",
            Some(3),
        ),
        (
            "POST h/mail.v1.Mailer/List content-type=application/json",
            None,
        ),
        (
            "POST h/mail.v1.MailerX/List content-type=application/grpc",
            None,
        ),
    ] {
        assert_eq!(find(&table, request), route, "{request}");
    }
}

#[test]
fn values_are_met_as_a_whole() {
    let table = table(&[
        (
            &["h"],
            &["{ headers: { X-Tier: { regex: 'g.*d|silver' } } }"],
        ),
        (&["h"], &["{ query: { q: { regex: '[a-c ]+' } } }"]),
    ]);
    for (request, route) in [
        ("GET h/ x-tier=gold", Some(0)),
        ("GET h/ x-tier=bronze x-tier=silver", Some(0)),
        ("GET h/ x-tier=golden", None),
        ("GET h/?q=a%20b+c", Some(1)),
        ("GET h/?q=abcd", None),
    ] {
        assert_eq!(find(&table, request), route, "{request}");
    }
}

#[test]
fn every_problem_is_told_with_its_place() {
    let problems = compile(&routes(&[
        (
            &["h"],
            &["{}", "{ path: { exact: /a }, grpc: { service: s } }"],
        ),
        (&["h"], &["{ grpc: {} }"]),
        (&["h"], &[r"{ path: { regex: '/\p{Greek}' } }"]),
    ]))
    .unwrap_err();
    let places: Vec<(u32, usize)> = problems
        .iter()
        .map(|problem| (problem.route.0, problem.match_index))
        .collect();
    assert_eq!(places, [(0, 1), (1, 0), (2, 0)]);
    assert!(problems[2].what.contains("Unicode"), "{}", problems[2].what);
}

#[test]
fn matches_that_never_win_are_named() {
    let shadowed = |of: &[(&[&str], &[&str])]| -> Vec<(u32, usize, u32)> {
        let told = table(of).unreachable();
        told.iter()
            .map(|shadowed| (shadowed.route.0, shadowed.match_index, shadowed.by.0))
            .collect()
    };
    let h: &[&str] = &["h"];
    for (first, second, never) in [
        ("{ path: { exact: /a } }", "{ path: { exact: /a } }", true),
        (
            "{ path: { prefix: /a } }",
            "{ path: { prefix: /a/ } }",
            true,
        ),
        (
            "{ path: { exact: /a } }",
            "{ path: { exact: /a }, method: GET }",
            false,
        ),
        (
            "{ method: GET }",
            "{ method: GET, headers: { x: '1' } }",
            false,
        ),
        ("{ method: GET }", "{ headers: { x: '1' } }", false),
        (
            "{ path: { prefix: / } }",
            "{ path: { regex: '/x.*' } }",
            true,
        ),
        (
            "{ path: { prefix: /x } }",
            "{ path: { regex: '/x/[0-9]+' } }",
            true,
        ),
        (
            "{ path: { prefix: /x } }",
            "{ path: { regex: '/x?/[0-9]+' } }",
            false,
        ),
        (
            "{ path: { prefix: /x } }",
            "{ path: { regex: '/x/a|/y' } }",
            false,
        ),
        (
            "{ path: { prefix: /x } }",
            "{ path: { regex: '/xy/.*' } }",
            false,
        ),
        (
            "{ path: { prefix: / }, method: GET }",
            "{ path: { regex: '/x.*' } }",
            false,
        ),
        ("{ path: { prefix: / } }", "{ headers: { x: '1' } }", true),
        (
            "{ path: { regex: '/.*' } }",
            "{ headers: { x: '1' } }",
            true,
        ),
        (
            "{ path: { regex: '/.*' } }",
            "{ path: { regex: '/a' } }",
            true,
        ),
        (
            "{ path: { regex: '/.*' } }",
            "{ path: { regex: '/a' }, method: GET }",
            false,
        ),
        ("{ path: { prefix: / } }", "{ path: { prefix: /a } }", false),
    ] {
        let expected: &[(u32, usize, u32)] = if never { &[(1, 0, 0)] } else { &[] };
        assert_eq!(
            shadowed(&[(h, &[first]), (h, &[second])]),
            expected,
            "{first} before {second}"
        );
    }
    let same = "{ path: { exact: /a } }";
    assert_eq!(
        shadowed(&[(h, &[same, same])]),
        [(0, 1, 0)],
        "twice in one route"
    );
    assert_eq!(
        shadowed(&[(h, &[same]), (&["h", "i"], &[same])]),
        [],
        "it wins on the other host"
    );
    assert_eq!(
        shadowed(&[(&["h", "i"], &[same]), (&["h", "i"], &[same])]),
        [(1, 0, 0)]
    );
}

#[test]
fn an_explanation_tells_each_step() {
    let table = table(&[
        (
            &["*.shop"],
            &["{ path: { prefix: /charge }, headers: { x-tier: gold } }"],
        ),
        (
            &["*.shop"],
            &[
                "{ path: { exact: /charge }, method: PUT }",
                "{ path: { prefix: / } }",
            ],
        ),
        (&["email"], &["{ path: { exact: /send } }"]),
    ]);
    let explain = |request: &str| {
        table.explain(&Request::new(request).view(), |route| {
            format!("r{}", route.0)
        })
    };
    assert_eq!(
        explain("GET pay.shop/charge x-tier=silver"),
        [
            "host `pay.shop` falls under the entry `*.shop`",
            "route `r1`, match 1 (path exactly `/charge`): method is GET, not PUT",
            "route `r0`, match 1 (path under `/charge`): header x-tier is `silver`, not `gold`",
            "route `r1`, match 2 (path under `/`): all holds, it wins",
        ]
    );
    assert_eq!(
        explain("GET email/x"),
        [
            "host `email` has its own entry",
            "route `r2`, match 1 (path exactly `/send`): path is `/x`",
            "no route of `email` takes this request",
        ]
    );
    assert_eq!(
        explain("GET unknown/x"),
        ["host `unknown` is under no route's hosts"]
    );
}

#[test]
fn a_host_whose_routes_take_any_path_does_not_read_it() {
    let table = table(&[
        (&["a"], &["{ path: { prefix: / } }", "{ method: GET }"]),
        (&["b"], &["{ path: { prefix: /x } }"]),
    ]);
    assert!(!table.reads_path("a", None));
    assert!(table.reads_path("b", None));
    assert!(!table.reads_path("c", None));
}

/// What the file means, read match by match.
fn by_list(routes: &[(Vec<HostPattern>, Vec<Match>)], request: &Request) -> Found {
    let host_rank = |pattern: &HostPattern| {
        if pattern
            .port
            .is_some_and(|port| port != request.port.unwrap_or(80))
        {
            return None;
        }
        let width = match &pattern.name {
            HostName::Exact(name) => (name.as_str() == request.host).then_some(1000)?,
            HostName::Suffix(name) => request
                .host
                .ends_with(&format!(".{name}"))
                .then_some(name.as_str().len())?,
            HostName::Any => 0,
        };
        Some((width, pattern.port.is_some()))
    };
    let ranks = routes
        .iter()
        .flat_map(|(hosts, _)| hosts)
        .filter_map(host_rank);
    let Some(narrowest) = ranks.max() else {
        return Found::UnknownHost;
    };
    let mut best = None;
    for (route, (hosts, matches)) in (0u32..).zip(routes) {
        if !hosts.iter().any(|host| host_rank(host) == Some(narrowest)) {
            continue;
        }
        for one in matches {
            let path = match &one.path {
                Some(PathMatch::Exact(path)) => (**path == *request.path).then_some((3, 0)),
                Some(PathMatch::Prefix(path)) => {
                    let path = prefix::trimmed(path);
                    prefix::holds(path, &request.path).then_some((2, path.len()))
                }
                Some(PathMatch::Regex(text)) => regex::Regex::new(&format!("^(?:{})$", &**text))
                    .unwrap()
                    .is_match(&request.path)
                    .then_some((1, 0)),
                None => Some((0, 0)),
            };
            let holds = one
                .method
                .as_ref()
                .is_none_or(|method| method.0 == request.method)
                && one.headers.iter().all(|(name, value)| {
                    let ValueMatch::Exact(value) = value else {
                        unreachable!()
                    };
                    request
                        .headers
                        .get(&name.0)
                        .is_some_and(|line| line == value.as_str())
                })
                && one.query.iter().all(|(name, value)| {
                    let ValueMatch::Exact(value) = value else {
                        unreachable!()
                    };
                    request.query.as_ref().is_some_and(|query| {
                        query
                            .split('&')
                            .any(|pair| pair == format!("{name}={value}"))
                    })
                });
            if let (Some(path), true) = (path, holds) {
                let rank = (
                    path,
                    one.method.is_some(),
                    one.headers.len(),
                    one.query.len(),
                );
                if best.is_none_or(|(known, _)| rank > known) {
                    best = Some((rank, route));
                }
            }
        }
    }
    best.map_or(Found::NoRoute, |(_, route)| Found::Route(RouteId(route)))
}

fn some_match() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        Just(String::new()),
        "(/[ab]){1,3}".prop_map(|path| format!("path: {{ exact: {path} }}, ")),
        "(/[ab]){0,3}/?"
            .prop_map(|path| format!("path: {{ prefix: /{} }}, ", path.trim_start_matches('/'))),
        "(/(a|b|\\[ab\\]|\\.\\*)){1,3}".prop_map(|path| format!("path: {{ regex: '{path}' }}, ")),
    ];
    let rest = ["", "method: GET, ", "method: POST, "];
    let headers = [
        "",
        "headers: { x: '1' }, ",
        "headers: { x: '1', z: '1' }, ",
        "headers: { z: '2' }, ",
    ];
    let query = ["", "query: { q: '1' }", "query: { q: '1', r: '1' }"];
    (
        path,
        prop::sample::select(rest.to_vec()),
        prop::sample::select(headers.to_vec()),
        prop::sample::select(query.to_vec()),
    )
        .prop_map(|(path, method, headers, query)| {
            yaml(&format!("{{ {path}{method}{headers}{query} }}"))
        })
}

fn some_routes() -> impl Strategy<Value = Vec<(Vec<HostPattern>, Vec<Match>)>> {
    let hosts = ["h", "h:81", "*.s", "*.t.s", "a.t.s", "*", "*:81"]
        .map(|host| host.parse::<HostPattern>().unwrap());
    let hosts = prop::sample::subsequence(hosts.to_vec(), 1..4);
    prop::collection::vec((hosts, prop::collection::vec(some_match(), 1..5)), 1..12)
}

fn some_request() -> impl Strategy<Value = Request> {
    let hosts = prop::sample::select(&["h", "h:81", "x.s", "a.t.s", "b.t.s:81", "other"][..]);
    let queries = prop::sample::select(&["", "?q=1", "?r=1&q=1", "?q=2"][..]);
    let headers = prop::sample::select(&["", " x=1", " x=1 z=1", " z=2"][..]);
    ("GET|POST|PUT", hosts, "(/[abc]){1,4}/?", queries, headers).prop_map(
        |(method, host, path, query, headers)| {
            Request::new(&format!("{method} {host}{path}{query}{headers}"))
        },
    )
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_table_says_what_the_list_says(
        routes in some_routes(),
        requests in prop::collection::vec(some_request(), 20),
    ) {
        let table = compile(&routes).unwrap();
        for request in &requests {
            let found = table.find(&request.view());
            prop_assert_eq!(found, by_list(&routes, request), "{:?}", request);
            let explained = table.explain(&request.view(), |route| route.0.to_string());
            let wins = explained.last().is_some_and(|step| step.ends_with("it wins"));
            prop_assert_eq!(wins, matches!(found, Found::Route(_)), "{:?}", explained);
            if let Found::Route(RouteId(route)) = found {
                let step = explained.last().unwrap();
                let told = format!("route `{route}`,");
                prop_assert!(step.starts_with(&told), "{}", step);
            }
        }
    }

    #[test]
    fn what_never_wins_is_never_found(
        routes in some_routes(),
        requests in prop::collection::vec(some_request(), 40),
    ) {
        let table = compile(&routes).unwrap();
        let never = table.unreachable();
        for request in requests {
            if let Found::Route(route) = table.find(&request.view()) {
                let matches = routes[route.index()].1.len();
                let dead = never.iter().filter(|shadowed| shadowed.route == route).count();
                prop_assert!(dead < matches, "{:?} reaches route {}", request, route.0);
            }
        }
    }
}
