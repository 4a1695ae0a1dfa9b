//! The table: what a host's routes ask for, laid out so that a request is compared with few of them.
//!
//! Hosts and exact paths are hashed, prefixes stand in a radix tree, regexes form one automaton. Each of these leads
//! to a bucket: the rules that ask for this very path, in the order in which they are tried.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use super::{
    Found, HostPattern, Match, Problem, RouteId, View, compile,
    hosts::{Hosts, Name},
    keys::Keys,
    prefix::Prefixes,
    regexes::{self, Regexes},
    rule::{Longest, Path, Rule},
};

/// All routes of one direction, compiled. A clone shares the automata but not their scratch memory: a clone a worker
/// keeps workers out of each other's way.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) hosts: Hosts,
    pub(super) entries: Box<[Entry]>,
    pub(super) rules: Box<[HostRules]>,
}

/// One name under `hosts`, as written there; entries with the same routes share their rules.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) rules: u32,
}

/// All regexes of a host and, of each, its bucket.
type Automaton = (Regexes, Box<[u32]>);

/// What the routes of a host ask for.
#[derive(Debug, Clone)]
pub(super) struct HostRules {
    exact: Keys<false>,
    prefixes: Prefixes,
    regexes: Option<Automaton>,
    /// The bucket of the rules that ask for no path.
    any: Option<u32>,
    /// In the order of precedence of their paths; regexes among themselves have none.
    pub(super) buckets: Box<[Bucket]>,
    pub(super) rules: Box<[Rule]>,
}

#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) path: Path,
    pub(super) rules: Range<u32>,
}

impl Table {
    /// Compiles routes, each with its hosts and matches, in the order of the file.
    ///
    /// A route without hosts is for any host, one without matches for any request. All problems are told, not just the first.
    pub fn compile<'a>(
        routes: impl IntoIterator<Item = (&'a [HostPattern], &'a [Match])>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut compiled = Vec::new();
        let mut by_host: BTreeMap<(Name, Option<u16>), (String, Vec<u32>)> = BTreeMap::new();
        for (route, (hosts, matches)) in (0u32..).zip(routes) {
            compiled.push(compile::rules(RouteId(route), matches, &mut problems));
            let any = HostPattern::any();
            for host in if hosts.is_empty() { &any } else { hosts } {
                let entry = by_host.entry((Name::of(host), host.port));
                let (_, routes) = entry.or_insert_with(|| (host.to_string(), Vec::new()));
                if routes.last() != Some(&route) {
                    routes.push(route);
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut shared: HashMap<Vec<u32>, u32> = HashMap::new();
        let (mut rules, mut entries, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for ((name, port), (text, routes)) in by_host {
            let place = match shared.get(&routes) {
                Some(place) => *place,
                None => {
                    let place = rules.len() as u32;
                    rules.push(HostRules::new(
                        routes.iter().flat_map(|route| &compiled[*route as usize]),
                    )?);
                    shared.insert(routes, place);
                    place
                }
            };
            names.push((name, port, entries.len() as u32));
            entries.push(Entry { text, rules: place });
        }
        Ok(Table {
            hosts: Hosts::new(names),
            entries: entries.into(),
            rules: rules.into(),
        })
    }

    /// The route of a request.
    ///
    /// The host's narrowest entry decides alone: a name with this port, the name, the longest `*.suffix`, `*`. Among its
    /// routes: exact path, then longest prefix, then regex, then no path; within one path a match that names a method, then
    /// the one with more headers, then with more query parameters, then the first in the file.
    #[inline]
    pub fn find(&self, view: &View<'_>) -> Found {
        match self.hosts.find(view.host, view.port) {
            Some(entry) => {
                let rules = &self.rules[self.entries[entry as usize].rules as usize];
                rules
                    .find(view)
                    .map_or(Found::NoRoute, |rule| Found::Route(rule.route))
            }
            None => Found::UnknownHost,
        }
    }

    /// Whether any route of this host looks at the path: a path that could be read two ways may then not pass.
    pub fn reads_path(&self, host: &str, port: Option<u16>) -> bool {
        self.hosts.find(host, port).is_some_and(|entry| {
            let rules = &self.rules[self.entries[entry as usize].rules as usize];
            rules.buckets.iter().any(|bucket| match &bucket.path {
                Path::Prefix(Longest(text)) => !text.is_empty(),
                Path::Exact(_) | Path::Regex(_) => true,
                Path::Any => false,
            })
        })
    }
}

impl HostRules {
    fn new<'a>(all: impl Iterator<Item = &'a (Path, Rule)>) -> Result<Self, Vec<Problem>> {
        let mut by_path: BTreeMap<&Path, Vec<&Rule>> = BTreeMap::new();
        for (path, rule) in all {
            by_path.entry(path).or_default().push(rule);
        }
        let (mut buckets, mut rules) = (Vec::new(), Vec::new());
        let (mut exact, mut prefixes, mut regexes, mut any) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        for (path, mut bucket) in by_path {
            bucket.sort_by_key(|rule| rule.precedence());
            let place = buckets.len() as u32;
            match path {
                Path::Exact(text) => exact.push((text.clone(), place)),
                Path::Prefix(Longest(text)) => prefixes.push((&**text, place)),
                Path::Regex(text) => regexes.push((&**text, place, bucket[0])),
                Path::Any => any = Some(place),
            }
            let from = rules.len() as u32;
            rules.extend(bucket.into_iter().cloned());
            buckets.push(Bucket {
                path: path.clone(),
                rules: from..rules.len() as u32,
            });
        }
        Ok(HostRules {
            exact: Keys::new(exact),
            prefixes: Prefixes::new(prefixes),
            regexes: automaton(&regexes)?,
            any,
            buckets: buckets.into(),
            rules: rules.into(),
        })
    }

    #[inline]
    pub(super) fn find(&self, view: &View<'_>) -> Option<&Rule> {
        if let Some(rule) = self
            .exact
            .find(view.path)
            .and_then(|bucket| self.first(bucket, view))
        {
            return Some(rule);
        }
        if let Some(rule) = self
            .prefixes
            .holding(view.path)
            .find_map(|bucket| self.first(bucket, view))
        {
            return Some(rule);
        }
        if let Some((regexes, buckets)) = &self.regexes {
            let mut best: Option<&Rule> = None;
            regexes.matching(view.path, |pattern| {
                let rule = self.first(buckets[pattern], view);
                best = match (best, rule) {
                    (Some(best), Some(rule)) if best.precedence() <= rule.precedence() => {
                        Some(best)
                    }
                    (best, None) => best,
                    (_, rule) => rule,
                };
            });
            if best.is_some() {
                return best;
            }
        }
        self.first(self.any?, view)
    }

    #[inline]
    fn first(&self, bucket: u32, view: &View<'_>) -> Option<&Rule> {
        self.within(&self.buckets[bucket as usize])
            .iter()
            .find(|rule| rule.asks.hold(view))
    }

    pub(super) fn within(&self, bucket: &Bucket) -> &[Rule] {
        &self.rules[bucket.rules.start as usize..bucket.rules.end as usize]
    }

    /// The buckets that `path` leads to, in the order in which they are tried; regexes as one.
    pub(super) fn tried(&self, path: &str) -> Vec<Vec<u32>> {
        let mut tried: Vec<Vec<u32>> = self
            .exact
            .find(path)
            .into_iter()
            .map(|bucket| vec![bucket])
            .collect();
        tried.extend(self.prefixes.holding(path).map(|bucket| vec![bucket]));
        if let Some((regexes, buckets)) = &self.regexes {
            let mut hits = Vec::new();
            regexes.matching(path, |pattern| hits.push(buckets[pattern]));
            tried.push(hits);
        }
        tried.extend(self.any.map(|bucket| vec![bucket]));
        tried.retain(|buckets| !buckets.is_empty());
        tried
    }
}

/// The one automaton of a host's regexes, with their buckets.
fn automaton(regexes: &[(&str, u32, &Rule)]) -> Result<Option<Automaton>, Vec<Problem>> {
    let Some((_, _, first)) = regexes.first() else {
        return Ok(None);
    };
    let together = regexes
        .iter()
        .map(|(text, ..)| regexes::parse(text))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|parsed| Regexes::new(&parsed));
    match together {
        Ok(set) => Ok(Some((
            set,
            regexes.iter().map(|(_, bucket, _)| *bucket).collect(),
        ))),
        Err(what) => Err(vec![Problem {
            route: first.route,
            match_index: first.match_index as usize,
            what: format!("the regexes of this host cannot be used together: {what}"),
        }]),
    }
}
