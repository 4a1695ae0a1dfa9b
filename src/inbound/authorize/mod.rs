//! Who may call the application: deny rules first, then allow rules, then the default.
//!
//! Compiled when the file is loaded. Of a connection everything but HTTP is known when it is accepted, so the rules that
//! cannot be about its caller are left out once (`Standing`), and a request is asked of the rest alone.
//!
//! What cannot be told is read to the safe side: a deny rule takes in what an allow rule leaves out. Of a connection that
//! is no HTTP, deny rules ignore what they say of requests, and allow rules that say something of requests allow nothing.

mod audit;
mod explain;
mod gate;
mod rule;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Method};
use smallvec::SmallVec;

pub use audit::Metrics;
pub use explain::{Outcome, Step};
pub use gate::{Asked, Gate, Strict, admit, unproven};

use super::settings::{Action, Authorization};
use crate::{
    tls::Store,
    units::{ServiceName, SpiffeId},
};
use rule::{Held, Rule};

/// Who calls, as the connection shows it; nothing that a request says counts.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Verified; `None` in plaintext.
    pub identity: Option<&'a SpiffeId>,
    /// The socket's other end.
    pub ip: IpAddr,
    /// The port of the application that is called: the original destination's, or the door's.
    pub port: u16,
}

/// What is asked, after hygiene: as it would be forwarded.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub method: &'a Method,
    /// Without its final dot; an IPv6 address without brackets; empty where HTTP/1.0 names none.
    pub host: &'a str,
    /// The port in `Host`.
    pub host_port: Option<u16>,
    /// Without the query.
    pub path: &'a str,
    /// Servers may read the path in two ways.
    pub ambiguous: bool,
    pub headers: &'a HeaderMap,
}

/// Our own trust domain: that of the certificate we show, else what the file says.
#[derive(Debug, Clone)]
pub struct Home {
    said: Box<str>,
    store: Option<Store>,
}

impl Home {
    pub fn new(said: &str, store: Option<Store>) -> Self {
        Home {
            said: said.into(),
            store,
        }
    }

    fn is(&self, domain: &str) -> bool {
        match self.store.as_ref().and_then(Store::last) {
            Some(shown) => shown.identity().id().trust_domain() == domain,
            None => *self.said == *domain,
        }
    }
}

/// The rules of one file.
#[derive(Debug)]
pub struct Policy {
    /// In the order in which they are asked.
    rules: Box<[Rule]>,
    /// What no rule decides.
    default: Rule,
    home: Home,
}

/// What a policy says of a call.
#[derive(Debug)]
pub struct Verdict<'p> {
    pub says: Says,
    rule: &'p Rule,
    /// Rules of dry runs that would have said something else.
    tried: SmallVec<[&'p Rule; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Pass,
    Refuse,
    /// It depends on how the path is read: 400.
    Ambiguous,
}

/// A rule that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("inbound.authorization.rules[{rule}].to[{to}]: {what}")]
pub struct Problem {
    pub rule: usize,
    pub to: usize,
    pub what: String,
}

impl Policy {
    /// `home` is the trust domain that a bare `namespace` of an allow rule is in.
    pub fn compile(
        settings: &Authorization,
        home: &Home,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, Problem> {
        let said = settings.rules.iter().enumerate();
        let mut rules = said
            .map(|(place, said)| Rule::new(place, said, metrics))
            .collect::<Result<Vec<_>, _>>()?;
        // What is in force comes before what is tried: a dry run counts the calls whose fate it would change.
        rules.sort_by_key(|rule| (rule.action == Action::Allow, rule.dry_run));
        Ok(Arc::new(Policy {
            rules: rules.into(),
            default: Rule::default(settings.default, metrics),
            home: home.clone(),
        }))
    }

    /// What is said of a connection that is no HTTP, or that is silent: identity, address and port alone count.
    pub fn connection(&self, caller: &Caller<'_>) -> Verdict<'_> {
        self.decide(self.rules.iter(), |rule| {
            rule.connection(caller, &self.home)
        })
    }

    /// What is said of one request. Who asks many on one connection makes a `Standing` of it.
    pub fn request(&self, caller: &Caller<'_>, view: &View<'_>) -> Verdict<'_> {
        let rules = self.rules.iter();
        let about = rules.filter(|rule| rule.is_about(caller, &self.home));
        self.decide(about, |rule| rule.request(caller.port, view))
    }

    /// Asks rules in order until one in force holds.
    ///
    /// A rule that may hold, depending on how the path is read, leaves the answer open only where the one that does
    /// hold says otherwise.
    #[inline]
    fn decide<'p>(
        &'p self,
        rules: impl Iterator<Item = &'p Rule>,
        holds: impl Fn(&Rule) -> Held,
    ) -> Verdict<'p> {
        let mut tried = SmallVec::new();
        let (mut may_allow, mut may_deny) = (None, None);
        let mut decides = &self.default;
        for rule in rules {
            match (holds(rule), rule.dry_run, rule.action) {
                (Held::No, ..) | (Held::Perhaps, true, _) => {}
                (Held::Yes, true, _) => tried.push(rule),
                (Held::Perhaps, false, Action::Allow) => may_allow = may_allow.or(Some(rule)),
                (Held::Perhaps, false, Action::Deny) => may_deny = may_deny.or(Some(rule)),
                (Held::Yes, false, _) => {
                    decides = rule;
                    break;
                }
            }
        }
        let (says, open) = match decides.action {
            Action::Allow => (Says::Pass, may_deny),
            Action::Deny => (Says::Refuse, may_allow),
        };
        tried.retain(|tried: &mut &Rule| tried.action != decides.action);
        match open {
            None => Verdict {
                says,
                rule: decides,
                tried,
            },
            Some(rule) => Verdict {
                says: Says::Ambiguous,
                rule,
                tried: SmallVec::new(),
            },
        }
    }
}

/// The rules of a policy that may be about one connection's caller.
#[derive(Debug)]
pub struct Standing {
    policy: Arc<Policy>,
    rules: Box<[u32]>,
    port: u16,
}

impl Standing {
    pub fn new(policy: &Arc<Policy>, caller: &Caller<'_>) -> Self {
        let numbered = (0u32..).zip(&policy.rules);
        let rules = numbered
            .filter(|(_, rule)| rule.is_about(caller, &policy.home))
            .map(|(number, _)| number)
            .collect();
        Standing {
            policy: policy.clone(),
            rules,
            port: caller.port,
        }
    }

    /// Whether it was made for this policy: after a reload it was not.
    pub fn is_of(&self, policy: &Arc<Policy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }

    #[inline]
    pub fn request(&self, view: &View<'_>) -> Verdict<'_> {
        let numbers = self.rules.iter();
        let rules = numbers.map(|number| &self.policy.rules[*number as usize]);
        self.policy
            .decide(rules, |rule| rule.request(self.port, view))
    }
}

impl Verdict<'_> {
    pub fn passes(&self) -> bool {
        self.says == Says::Pass
    }

    /// The rule that decides, or that leaves it open; `default` where none of the file does.
    pub fn rule(&self) -> &ServiceName {
        &self.rule.name
    }

    /// Its place in the file.
    pub fn place(&self) -> Option<usize> {
        self.rule.place
    }

    /// The rules of dry runs that would have said something else.
    pub fn tried(&self) -> impl Iterator<Item = &ServiceName> {
        self.tried.iter().map(|rule| &rule.name)
    }
}
