//! Why a call may pass or not, in words, for `weft explain`.

use std::fmt::Write;

use super::{
    Caller, Home, Policy, View,
    rule::{From, Held, Path, Rule, To},
};
use crate::inbound::settings::Action;

/// What one rule said when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rule's place in the file; none for the default.
    pub place: Option<usize>,
    pub action: Action,
    pub dry_run: bool,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What is missing, of each entry.
    Unmet(Vec<String>),
    /// It holds, by these entries of `from` and `to`; none where it has no such list.
    Holds(Option<usize>, Option<usize>),
    /// It holds in one reading of the path and not in another.
    Perhaps,
}

impl Policy {
    /// Every rule in the order in which it is asked, until one in force holds.
    pub fn explain(&self, caller: &Caller<'_>, view: &View<'_>) -> Vec<Step> {
        let mut steps = Vec::new();
        for rule in self.rules.iter().chain([&self.default]) {
            let outcome = rule.outcome(caller, view, &self.home);
            let decides = !rule.dry_run && matches!(outcome, Outcome::Holds(..));
            steps.push(Step {
                place: rule.place,
                action: rule.action,
                dry_run: rule.dry_run,
                outcome,
            });
            if decides {
                break;
            }
        }
        steps
    }

    /// Whether any rule asks where a caller comes from.
    pub fn reads_ip(&self) -> bool {
        let mut entries = self.rules.iter().flat_map(|rule| &rule.from);
        entries.any(|from| !from.ip.is_empty())
    }
}

impl Rule {
    fn outcome(&self, caller: &Caller<'_>, view: &View<'_>, home: &Home) -> Outcome {
        let from = self.from.iter().position(|from| from.holds(caller, home));
        if from.is_none() && !self.from.is_empty() {
            let lacks = self.from.iter().enumerate();
            let lacks =
                lacks.map(|(nth, from)| format!("from[{nth}]: {}", from.lack(caller, home)));
            return Outcome::Unmet(lacks.collect());
        }
        let held = |to: &To| to.holds(caller.port, view, self.action);
        let to = self.to.iter().position(|to| held(to) == Held::Yes);
        if to.is_some() || self.to.is_empty() {
            return Outcome::Holds(from, to);
        }
        if self.to.iter().any(|to| held(to) == Held::Perhaps) {
            return Outcome::Perhaps;
        }
        let lacks = self.to.iter().enumerate();
        let lacks = lacks
            .map(|(nth, to)| format!("to[{nth}]: {}", to.lack(caller.port, view, self.action)));
        Outcome::Unmet(lacks.collect())
    }
}

impl From {
    /// What a caller lacks that it does not hold for.
    fn lack(&self, caller: &Caller<'_>, home: &Home) -> String {
        let Some(id) = caller.identity else {
            return match self.is_from_ip(caller.ip) {
                true => "the caller has no verified identity".to_owned(),
                false => format!("the caller's address is {}", caller.ip),
            };
        };
        if let Some(own) = &self.identity
            && !own.holds(id)
        {
            return format!("identity is not {own}");
        }
        if let Some(own) = &self.trust_domain
            && **own != *id.trust_domain()
        {
            return format!("trust domain is {}, not {own}", id.trust_domain());
        }
        if self.at_home && !home.is(id.trust_domain()) {
            return format!("trust domain is {}, not our own", id.trust_domain());
        }
        if let Some(own) = &self.namespace
            && id.namespace() != Some(own)
        {
            return format!(
                "namespace is {}, not {own}",
                id.namespace().unwrap_or("none")
            );
        }
        format!("the caller's address is {}", caller.ip)
    }
}

impl To {
    /// What a request lacks that it does not hold for.
    fn lack(&self, port: u16, view: &View<'_>, action: Action) -> String {
        if !self.has_port(port) {
            return format!("port is {port}, not {}", listed(&self.ports));
        }
        if !self.has_method(view.method) {
            return format!("method is {}, not {}", view.method, listed(&self.methods));
        }
        if !self.has_host(view, action) {
            let hosts: Vec<&str> = self.hosts.iter().map(|host| &*host.text).collect();
            return format!("host is {}, not {}", view.host, listed(&hosts));
        }
        let mut headers = self.headers.iter();
        if let Some((name, value)) =
            headers.find(|(name, value)| !value.holds(view.headers, name, action))
        {
            return match view.headers.contains_key(name) {
                true => format!("header {name} is not {value}"),
                false => format!("header {name} is missing"),
            };
        }
        match &self.path {
            Some(path) => format!("path is {}, not {path}", view.path),
            None => "all holds".to_owned(),
        }
    }
}

fn listed(all: &[impl std::fmt::Display]) -> String {
    let mut text = String::new();
    for (nth, one) in all.iter().enumerate() {
        let between = if nth == 0 { "" } else { " or " };
        let _ = write!(text, "{between}{one}");
    }
    text
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Exact(text) => write!(f, "exactly {}", text.escape_ascii()),
            Path::Prefix(text) => write!(f, "under {}", text.escape_ascii()),
            Path::Regex(text, _) => write!(f, "like {text}"),
        }
    }
}

impl std::fmt::Display for super::rule::Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            super::rule::Value::Exact(text) => write!(f, "{}", text.escape_ascii()),
            super::rule::Value::Regex(text, _) => write!(f, "like {text}"),
        }
    }
}
