//! Routes against upstreams, against what can be deferred, and against each other.

use std::collections::HashMap;

use http::Method;
use rustix::fs::{Access, access};

use super::Lint;
use crate::{
    config::{nearest::nearest, tree::Steps},
    outbound::{Filter, PathRewrite, Protocol, RouteSettings},
    route::{HostName, PathMatch, Table},
};

pub(super) fn check(lint: &mut Lint<'_>) {
    let routes = &lint.config.outbound.routes;
    let at = Steps::of(&["outbound", "routes"]);
    let mut names = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let at = at.index(index);
        match names.get(&route.name) {
            Some(first) => {
                let line = lint.line(first);
                lint.error(
                    &at.key("name"),
                    format!(
                        "a second route named `{}`; the first is in {line}",
                        route.name
                    ),
                );
            }
            None => {
                names.insert(&route.name, at.key("name"));
            }
        }
        backends(lint, &at, route);
        if lint.is_whole(&at) {
            hosts(lint, &at, route);
            filters(lint, &at, route);
            deferral(lint, &at, route);
        }
    }
    if lint.is_whole(&Steps::of(&["outbox"])) && routes.iter().any(|route| route.defer.is_some()) {
        outbox(lint);
    }
}

/// Backends that name nothing, or cannot take the route's calls.
fn backends(lint: &mut Lint<'_>, at: &Steps, route: &RouteSettings) {
    let known = lint.origins.keys(&Steps::of(&["upstreams"]));
    let grpc = route.matches.iter().any(|one| one.grpc.is_some());
    let at = at.key("backends");
    for (nth, backend) in route.backends.iter().enumerate() {
        let at = at.index(nth).key("upstream");
        let name = &backend.upstream;
        if !known.contains(&name.as_str()) {
            let problem = lint.error(&at, format!("no upstream is named `{name}`"));
            problem.help = did_you_mean(name, &known);
        }
        let upstream = lint.config.upstreams.get(name);
        if grpc && upstream.is_some_and(|upstream| upstream.protocol == Protocol::Http1) {
            let words = format!("`{name}` speaks HTTP/1.1, gRPC needs HTTP/2");
            lint.error(&at, words);
        }
    }
    let weightless = route.backends.iter().all(|backend| backend.weight == 0);
    if weightless && !route.backends.is_empty() && lint.is_whole(&at) {
        lint.error(&at, "the weights sum to zero: no call could go anywhere");
    }
}

fn did_you_mean(name: &str, known: &[&str]) -> Option<String> {
    nearest(name, known).map(|near| format!("did you mean `{near}`?"))
}

/// Hosts that name nothing, where nothing else says where calls go.
fn hosts(lint: &mut Lint<'_>, at: &Steps, route: &RouteSettings) {
    if !route.backends.is_empty() || redirects(route) {
        return;
    }
    let known = lint.origins.keys(&Steps::of(&["upstreams"]));
    for (nth, host) in route.hosts.iter().enumerate() {
        let at = at.key("hosts").index(nth);
        match &host.name {
            HostName::Exact(name)
                if known
                    .iter()
                    .any(|one| one.eq_ignore_ascii_case(name.as_str())) => {}
            HostName::Exact(name) => {
                let problem = lint.error(
                    &at,
                    format!("no upstream is named `{name}`, and the route has no `backends`"),
                );
                problem.help = did_you_mean(name.as_str(), &known);
            }
            HostName::Suffix(_) | HostName::Any if route.defer.is_some() => {
                let words =
                    format!("`{host}` names no upstream; a deferred route needs `backends` then");
                lint.error(&at, words);
            }
            HostName::Suffix(_) | HostName::Any => {}
        }
    }
}

fn redirects(route: &RouteSettings) -> bool {
    let mut filters = route.filters.iter();
    filters.any(|filter| matches!(filter, Filter::RequestRedirect(_)))
}

/// Filters that contradict the route or each other.
fn filters(lint: &mut Lint<'_>, at: &Steps, route: &RouteSettings) {
    let prefixed = !route.matches.is_empty()
        && route
            .matches
            .iter()
            .all(|one| matches!(one.path, Some(PathMatch::Prefix(_))));
    for (nth, filter) in route.filters.iter().enumerate() {
        let at = at.key("filters").index(nth);
        let (at, path) = match filter {
            Filter::UrlRewrite(rewrite) => (at.key("urlRewrite"), &rewrite.path),
            Filter::RequestRedirect(redirect) => {
                let at = at.key("requestRedirect");
                if redirect.port == Some(0) {
                    lint.error(&at.key("port"), "0 is not a port to send anyone to");
                }
                if route.defer.is_some() || !route.backends.is_empty() {
                    lint.error(&at, "a redirect asks no upstream: `backends` and `defer` have no meaning beside it");
                }
                (at, &redirect.path)
            }
            Filter::RequestHeaderModifier(_) | Filter::ResponseHeaderModifier(_) => continue,
        };
        if matches!(path, Some(PathRewrite::ReplacePrefixMatch(_))) && !prefixed {
            lint.error(
                &at.key("path").key("replacePrefixMatch"),
                "every one of the route's `matches` needs a `path: { prefix }` for this",
            );
        }
    }
}

/// What cannot be deferred, and what only a deferred route has.
fn deferral(lint: &mut Lint<'_>, at: &Steps, route: &RouteSettings) {
    let Some(_) = &route.defer else {
        if route.idempotency.is_some() {
            lint.error(&at.key("idempotency"), "only a route with `defer` has it");
        }
        if route.reply.is_some() {
            lint.error(&at.key("reply"), "only a route with `defer` has it");
        }
        return;
    };
    let never = |method: &Method| {
        matches!(
            *method,
            Method::GET | Method::HEAD | Method::CONNECT | Method::TRACE | Method::OPTIONS
        )
    };
    for (nth, one) in route.matches.iter().enumerate() {
        let at = at.key("matches").index(nth);
        match &one.method {
            Some(method) if never(method) => {
                let words = format!("a {method} is never deferred: its caller needs the answer");
                lint.error(&at.key("method"), words);
            }
            None if one.grpc.is_none() => {
                lint.warning(
                    &at,
                    "takes every method, but GET and HEAD are never deferred; name one",
                );
            }
            _ => {}
        }
    }
    if route.matches.is_empty() {
        lint.warning(&at.key("defer"), "the route takes every method, but GET and HEAD are never deferred; name one in `matches`");
    }
    if let Some(idempotency) = &route.idempotency
        && idempotency.window.is_zero()
    {
        lint.error(
            &at.key("idempotency").key("window"),
            "must be longer than 0s",
        );
    }
    if let Some(reply) = &route.reply {
        let status = reply.status.code();
        let at = at.key("reply");
        if !status.is_success() {
            lint.error(
                &at.key("status"),
                format!(
                    "{} does not say that the call was accepted: 2xx",
                    status.as_u16()
                ),
            );
        } else if matches!(status.as_u16(), 204 | 205) && !reply.body.is_empty() {
            lint.error(
                &at.key("body"),
                format!("an answer of status {} has no body", status.as_u16()),
            );
        }
        for name in reply.headers.keys() {
            if name.as_str() == "location" || name.as_str().starts_with("x-weft-") {
                lint.error(
                    &at.key("headers").key(name.as_str()),
                    "this field is ours to say",
                );
            }
        }
    }
}

/// The store's directory, or the nearest one around it that is there, takes new files.
fn outbox(lint: &mut Lint<'_>) {
    let path = &lint.config.outbox.path;
    let at = Steps::of(&["outbox", "path"]);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let Some(there) = absolute.ancestors().find(|path| path.exists()) else {
        return;
    };
    let shown = path.display();
    if !there.is_dir() {
        let words = format!(
            "{shown} cannot be made: {} is not a directory",
            there.display()
        );
        lint.error(&at, words);
    } else if let Err(error) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        let why = std::io::Error::from(error);
        let words = match there == absolute {
            true => format!("{shown} cannot be written: {why}"),
            false => format!("{shown} cannot be made in {}: {why}", there.display()),
        };
        let problem = lint.error(&at, words);
        problem.help = Some(
            "deferred calls are kept there; set `outbox.path` to a directory of your own".into(),
        );
    }
}

/// Matches that mean nothing, and routes and matches that another one hides. The latter is asked only of a file that is
/// right so far: a match that lost a part to an error would hide more than it does.
pub(super) fn check_table(lint: &mut Lint<'_>, readable: bool) {
    let routes = &lint.config.outbound.routes;
    let at = Steps::of(&["outbound", "routes"]);
    let parts = routes
        .iter()
        .map(|route| (route.hosts.as_slice(), route.matches.as_slice()));
    match Table::compile(parts) {
        Ok(table) if readable && lint.is_right() => reach(lint, &table),
        Ok(_) => {}
        Err(problems) => {
            for problem in problems {
                let route = at.index(problem.route.index());
                if lint.is_whole(&route) {
                    let at = route.key("matches").index(problem.match_index);
                    lint.error(&at, problem.what);
                }
            }
        }
    }
}

fn reach(lint: &mut Lint<'_>, table: &Table) {
    let routes = &lint.config.outbound.routes;
    let at = Steps::of(&["outbound", "routes"]);
    let mut hidden: HashMap<usize, usize> = HashMap::new();
    let shadowed = table.unreachable();
    for one in &shadowed {
        *hidden.entry(one.route.index()).or_default() += 1;
    }
    for one in shadowed {
        let (index, by) = (one.route.index(), one.by.index());
        let route = &routes[index];
        let whole = hidden.get(&index).copied().unwrap_or_default() >= route.matches.len().max(1);
        let by_name = &routes[by].name;
        let line = lint.line(&at.index(by).key("name"));
        if !whole {
            let at = at.index(index).key("matches").index(one.match_index);
            lint.warning(
                &at,
                format!("can never match: `{by_name}` ({line}) takes all of its calls"),
            );
        } else if one.match_index == 0 {
            let words = format!(
                "`{}` can never match: `{by_name}` ({line}) takes all of its calls",
                route.name
            );
            lint.error(&at.index(index).key("name"), words);
        }
    }
}
