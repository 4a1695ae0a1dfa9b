//! Matches that no request can reach, because another that comes before takes all of theirs.

use std::collections::BTreeMap;

use super::{
    RouteId, Table,
    matcher::{Bucket, HostRules},
    rule::{Longest, Path, Rule},
};

/// A match that never wins, in any of its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shadowed {
    pub route: RouteId,
    pub match_index: usize,
    /// The route that wins instead; the same route when it says a thing twice.
    pub by: RouteId,
}

impl Table {
    /// Every match that can never win, in the order of the file.
    ///
    /// Shadows of several matches together are not looked for, and of regexes only what is plain to see is compared: the
    /// same text, `.*`, a literal beginning. So what is told is true, and not all that is true is told.
    pub fn unreachable(&self) -> Vec<Shadowed> {
        let mut matches: BTreeMap<(RouteId, u32), Option<RouteId>> = BTreeMap::new();
        for rules in &self.rules {
            for bucket in &rules.buckets {
                for (nth, rule) in rules.within(bucket).iter().enumerate() {
                    let by = winner(rules, bucket, nth).map(|winner| winner.route);
                    let known = matches.entry((rule.route, rule.match_index)).or_insert(by);
                    // One host where it can win is enough.
                    *known = known.and(by);
                }
            }
        }
        let shadowed = |((route, match_index), by): ((RouteId, u32), Option<RouteId>)| {
            by.map(|by| Shadowed {
                route,
                match_index: match_index as usize,
                by,
            })
        };
        matches.into_iter().filter_map(shadowed).collect()
    }
}

/// The rule that takes every request of the bucket's `nth` rule.
fn winner<'a>(rules: &'a HostRules, bucket: &Bucket, nth: usize) -> Option<&'a Rule> {
    let (before, from) = rules.within(bucket).split_at(nth);
    let loser = from.first()?;
    let takes_all = |rule: &&Rule| rule.asks.cover(&loser.asks);
    before.iter().find(takes_all).or_else(|| {
        let wider = rules.buckets.iter().filter_map(|other| {
            let order = order(&other.path, &bucket.path)?;
            Some(rules.within(other).iter().filter(move |rule| {
                order == Order::Always || rule.precedence() < loser.precedence()
            }))
        });
        wider.flatten().find(takes_all)
    })
}

#[derive(PartialEq)]
enum Order {
    /// The wider path is tried first, whatever else is asked.
    Always,
    /// Both are regexes: what else is asked decides.
    ByRule,
}

/// Whether `wider`, another path than `path`, comes first and takes all of `path`'s requests.
///
/// Before an exact path or a prefix come only narrower ones.
fn order(wider: &Path, path: &Path) -> Option<Order> {
    match (wider, path) {
        (Path::Prefix(Longest(prefix)), Path::Regex(regex)) => {
            let below = literal(regex).strip_prefix(&**prefix);
            (prefix.is_empty() || below.is_some_and(|below| below.starts_with('/')))
                .then_some(Order::Always)
        }
        (Path::Regex(wider), Path::Regex(regex)) => {
            (wider != regex && takes_all(wider)).then_some(Order::ByRule)
        }
        (Path::Prefix(Longest(prefix)), Path::Any) => prefix.is_empty().then_some(Order::Always),
        (Path::Regex(wider), Path::Any) => takes_all(wider).then_some(Order::Always),
        _ => None,
    }
}

fn takes_all(regex: &str) -> bool {
    matches!(regex, ".*" | "/.*" | "^.*$" | "^/.*$" | ".+")
}

/// The text with which everything begins that the regex matches; perhaps only a part of it.
fn literal(regex: &str) -> &str {
    if regex.contains('|') {
        return "";
    }
    let end = regex
        .find([
            '\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '}', '^', '$',
        ])
        .unwrap_or(regex.len());
    // A quantifier takes the character before it out of the literal.
    let end = match regex.as_bytes().get(end) {
        Some(b'*' | b'?' | b'{' | b'+') => {
            regex[..end].char_indices().last().map_or(0, |(at, _)| at)
        }
        _ => end,
    };
    &regex[..end]
}
