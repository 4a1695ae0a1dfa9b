//! Rules of `inbound.authorization` that cannot be meant: that decide nothing, or more or less than they seem to.

use std::collections::HashMap;

use super::Lint;
use crate::{
    config::tree::Steps,
    inbound::{Action, Authorization, CallerMatch, IdentityPattern, RuleSettings, TargetMatch},
    route::PathMatch,
};

/// Fields that never reach a rule: they belong to one connection, frame the message, or are said by us alone.
const UNSEEN: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn check(lint: &mut Lint<'_>) {
    let Some(said) = &lint.config.inbound.authorization else {
        return;
    };
    let at = Steps::of(&["inbound", "authorization"]);
    let rules = at.key("rules");
    let mut names = HashMap::new();
    for (index, rule) in said.rules.iter().enumerate() {
        let at = rules.index(index);
        if rule.name.as_str() == "default" {
            let words =
                "`default` is what counts the calls that no rule decides; choose another name";
            lint.error(&at.key("name"), words);
        }
        if let Some(first) = names.insert(&rule.name, at.key("name")) {
            let line = lint.line(&first);
            let words = format!(
                "a second rule named `{}`; the first is in {line}",
                rule.name
            );
            lint.error(&at.key("name"), words);
        }
        if rule.action == Action::Allow && said.default == Action::Allow && lint.is_whole(&at) {
            let problem = lint.error(
                &at.key("action"),
                "allows what `default: allow` allows anyway: the rule keeps nobody out",
            );
            problem.help =
                Some("set `default: deny` beside `rules`, or make it a deny rule".into());
        }
        if lint.is_whole(&at) {
            check_rule(lint, &at, rule);
        }
    }
    if lint.is_whole(&at) {
        reach(lint, &at, said);
    }
    if lint.config.identity.is_none() {
        nobody_known(lint, &rules, said);
    }
}

/// Without an identity of our own there are no handshakes, and no caller has one either.
fn nobody_known(lint: &mut Lint<'_>, rules: &Steps, said: &Authorization) {
    let by_identity = |from: &CallerMatch| {
        from.identity.is_some() || from.trust_domain.is_some() || from.namespace.is_some()
    };
    let mut entries = said.rules.iter().enumerate().flat_map(|(rule, said)| {
        let from = said.from.iter().enumerate();
        from.map(move |(nth, from)| (rule, nth, from))
    });
    if let Some((rule, nth, _)) = entries.find(|(.., from)| by_identity(from)) {
        let at = rules.index(rule).key("from").index(nth);
        let words = "holds for nobody: without `identity` no caller proves who it is";
        lint.warning(&at, words);
    }
}

/// Whether anyone may call at all.
fn reach(lint: &mut Lint<'_>, at: &Steps, said: &Authorization) {
    let opens = |rule: &RuleSettings| rule.action == Action::Allow && !rule.dry_run;
    if said.default == Action::Deny && !said.rules.iter().any(opens) {
        let words = "no rule in force allows anything, and `default` denies: every call is refused";
        lint.warning(&at.key("default"), words);
    }
}

fn check_rule(lint: &mut Lint<'_>, at: &Steps, rule: &RuleSettings) {
    for (key, none) in [("from", rule.from.is_empty()), ("to", rule.to.is_empty())] {
        not_empty(lint, &at.key(key), none);
    }
    for (nth, from) in rule.from.iter().enumerate() {
        check_from(lint, &at.key("from").index(nth), from);
    }
    for (nth, to) in rule.to.iter().enumerate() {
        check_to(lint, &at.key("to").index(nth), to, rule.action);
    }
}

/// A list that is said and holds nothing: left out it means everyone, so it must not be empty by mistake.
fn not_empty(lint: &mut Lint<'_>, at: &Steps, none: bool) {
    if none && lint.origins.node(at).is_some() {
        let words = "an empty list holds for nothing; left out it holds for everything";
        lint.error(at, words);
    }
}

fn check_from(lint: &mut Lint<'_>, at: &Steps, from: &CallerMatch) {
    not_empty(lint, &at.key("ip"), from.ip.is_empty());
    if *from == CallerMatch::default() && lint.origins.keys(at).is_empty() {
        lint.error(
            at,
            "says nothing: it would hold for everyone; leave `from` out for that",
        );
    }
    match &from.identity {
        Some(IdentityPattern::Exact(id)) => {
            if let Some(domain) = &from.trust_domain
                && domain.as_str() != id.trust_domain()
            {
                let words = format!("`{id}` is of another trust domain: nobody meets both");
                lint.error(&at.key("trustDomain"), words);
            }
            if let Some(namespace) = &from.namespace
                && id.namespace() != Some(namespace.as_str())
            {
                let words = format!("`{id}` is of another namespace: nobody meets both");
                lint.error(&at.key("namespace"), words);
            }
        }
        Some(IdentityPattern::Prefix(start)) if start.ends_with(|c: char| c.is_alphanumeric()) => {
            let words = format!("`{start}` is also how longer names begin: `{start}-other`");
            let problem = lint.warning(&at.key("identity"), words);
            problem.help = Some("end it in `/*` for what lies below, or say the whole id".into());
        }
        _ => {}
    }
}

fn check_to(lint: &mut Lint<'_>, at: &Steps, to: &TargetMatch, action: Action) {
    for (key, none) in [
        ("ports", to.ports.is_empty()),
        ("hosts", to.hosts.is_empty()),
        ("methods", to.methods.is_empty()),
    ] {
        not_empty(lint, &at.key(key), none);
    }
    if *to == TargetMatch::default() && lint.origins.keys(at).is_empty() {
        lint.error(
            at,
            "says nothing: it would hold for everything; leave `to` out for that",
        );
    }
    for (nth, port) in to.ports.iter().enumerate() {
        if *port == 0 {
            lint.error(
                &at.key("ports").index(nth),
                "0 is not a port of an application",
            );
        }
    }
    for name in to.headers.keys() {
        let at = at.key("headers").key(name.as_str());
        match name.as_str() {
            "host" => {
                lint.error(&at, "the host is matched by `hosts`");
            }
            own if own == "x-forwarded-client-cert" || own.starts_with("x-weft-") => {
                let words =
                    format!("`{own}` is said by weft, never by a caller; `from` says who may call");
                lint.error(&at, words);
            }
            unseen if UNSEEN.contains(&unseen) => {
                let words = format!("`{unseen}` belongs to one connection: no rule sees it");
                lint.error(&at, words);
            }
            _ => {}
        }
    }
    if let Some(words) = to.wrong() {
        lint.error(at, words);
    }
    path(lint, &at.key("path"), to, action);
}

fn path(lint: &mut Lint<'_>, at: &Steps, to: &TargetMatch, action: Action) {
    let (key, text) = match &to.path {
        Some(PathMatch::Exact(path)) => ("exact", &**path),
        Some(PathMatch::Prefix(path)) => ("prefix", &**path),
        Some(PathMatch::Regex(_)) | None => return,
    };
    let at = at.key(key);
    let lower = text.to_ascii_lowercase();
    let twice = ["//", "%2f", "%5c", "\\", ";"];
    if let Some(found) = twice.iter().find(|part| lower.contains(**part)) {
        let words = format!(
            "`{found}` is read in two ways: a call for such a path is answered 400 before this rule could hold"
        );
        lint.error(&at, words);
    } else if key == "exact" && action == Action::Deny {
        let words = format!(
            "only `{text}` itself is denied: not with a slash after it, nor what lies below"
        );
        let problem = lint.warning(&at, words);
        problem.help = Some("`prefix` denies all of it".into());
    }
}
