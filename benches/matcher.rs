//! What a lookup costs: one route, and beside it a thousand exact routes, a thousand hosts and two hundred regexes.
//!
//! `cargo bench --bench matcher` prints nanoseconds a lookup, the best of several rounds. With a count of lookups as the
//! argument it does just those, of the case named next, for callgrind.

use std::{hint::black_box, time::Instant};

use http::{HeaderMap, HeaderValue, Method, header};
use weft::route::{Found, HostPattern, Match, PathMatch, Table, View};

const ROUNDS: usize = 20;
const LOOKUPS: usize = 100_000;

type Routes = Vec<(Vec<HostPattern>, Vec<Match>)>;

fn route(host: &str, path: PathMatch) -> (Vec<HostPattern>, Vec<Match>) {
    let matches = vec![Match {
        path: Some(path),
        ..Match::default()
    }];
    (vec![host.parse().expect("a host")], matches)
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.parse().expect("a path"))
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.parse().expect("a path"))
}

fn regex(text: &str) -> PathMatch {
    PathMatch::Regex(text.parse().expect("a regex"))
}

/// Each case: its name, its routes, the host and path looked up.
fn cases() -> Vec<(&'static str, Routes, &'static str, &'static str)> {
    let one = || route("payments", prefix("/"));
    let thousand =
        |n: &dyn Fn(usize) -> (Vec<HostPattern>, Vec<Match>)| (0..1000).map(n).collect::<Routes>();
    let regexes = |host: &str| {
        (0..200)
            .map(|n| route(host, regex(&format!("/v{n}/users/[0-9]+/orders/[a-z-]+"))))
            .collect::<Routes>()
    };
    let with_one = |mut routes: Routes| {
        routes.push(one());
        routes
    };
    let bare = (
        vec!["payments".parse().expect("a host")],
        vec![Match::default()],
    );
    let with_bare = |mut routes: Routes| {
        routes.push(bare.clone());
        routes
    };
    vec![
        ("1 route", vec![one()], "payments", "/charge/17"),
        (
            "1,000 exact routes",
            thousand(&|n| route("payments", exact(&format!("/charge/{n}")))),
            "payments",
            "/charge/517",
        ),
        (
            "1,000 prefixes",
            thousand(&|n| route("payments", prefix(&format!("/charge/{n}")))),
            "payments",
            "/charge/517/x",
        ),
        (
            "1,000 hosts",
            thousand(&|n| route(&format!("payments-{n}"), prefix("/"))),
            "payments-517",
            "/charge/17",
        ),
        (
            "1,000 suffixes",
            thousand(&|n| route(&format!("*.team-{n}.svc.cluster.local"), prefix("/"))),
            "payments.team-517.svc.cluster.local",
            "/charge/17",
        ),
        (
            "200 regexes, another host",
            with_one(regexes("email")),
            "payments",
            "/charge/17",
        ),
        (
            "200 regexes, a prefix wins",
            with_one(regexes("payments")),
            "payments",
            "/charge/17",
        ),
        (
            "200 regexes, none matches",
            with_bare(regexes("payments")),
            "payments",
            "/charge/17",
        ),
        (
            "200 regexes, one matches",
            regexes("payments"),
            "payments",
            "/v117/users/17/orders/last",
        ),
    ]
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    let count = arguments
        .next()
        .and_then(|count| count.parse::<usize>().ok());
    let only = arguments.next();
    let headers: HeaderMap = [
        (header::HOST, HeaderValue::from_static("payments")),
        (header::USER_AGENT, HeaderValue::from_static("bench")),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
    ]
    .into_iter()
    .collect();
    for (name, routes, host, path) in cases() {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let routes = routes
            .iter()
            .map(|(hosts, matches)| (&hosts[..], &matches[..]));
        let table = Table::compile(routes).expect("routes that compile");
        let view = View {
            host,
            port: None,
            method: &Method::GET,
            path,
            query: None,
            headers: &headers,
        };
        assert!(matches!(table.find(&view), Found::Route(_)), "{name}");
        let lookups = |count: usize| {
            for _ in 0..count {
                black_box(table.find(black_box(&view)));
            }
        };
        if let Some(count) = count {
            lookups(count);
            continue;
        }
        let round = |_| {
            let start = Instant::now();
            lookups(LOOKUPS);
            start.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
        };
        let best = (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min);
        println!("{name:<28} {best:>7.1} ns");
    }
}
