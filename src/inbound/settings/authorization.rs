//! What `inbound.authorization` says: who may call the application, and for what.

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    route::{HostPattern, PathMatch, ValueMatch, Whole},
    units::{
        Cidrs, FieldName, Invalid, Method, ServiceName, SpiffeId, as_text, distinct,
        is_trust_domain,
    },
};

/// Who may call the application. Deny rules are asked first, then allow rules, then `default`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authorization {
    /// What happens to a call that no rule decides.
    pub default: Action,
    /// What is decided otherwise. Their order changes no answer.
    pub rules: Vec<RuleSettings>,
}

/// What a rule does with the calls that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuthorizationAction")]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// They pass.
    Allow,
    /// They are answered 403.
    #[default]
    Deny,
}

impl Action {
    pub const fn word(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

/// One rule: calls from one of `from` to one of `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuthorizationRule")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSettings {
    /// The rule's name, in metrics, audit lines and answers.
    pub name: ServiceName,
    /// What it does.
    pub action: Action,
    /// Only counts the calls whose fate it would change.
    #[serde(default)]
    pub dry_run: bool,
    /// The callers it is about; left out = everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<CallerMatch>,
    /// What is called; left out = everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<TargetMatch>,
}

/// What a caller must meet, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuthorizationFrom")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CallerMatch {
    /// The verified identity: a SPIFFE id, one that ends in `*` for all that begin so, or `"*"` for any at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityPattern>,
    /// The trust domain of the verified identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<TrustDomain>,
    /// The namespace in the verified identity, `/ns/<namespace>/sa/<account>`. Without `trustDomain`, an allow rule means
    /// our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ServiceName>,
    /// The address that the connection comes from: one range or several.
    #[serde(skip_serializing_if = "Cidrs::is_empty")]
    pub ip: Cidrs,
}

/// What is called must meet this, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuthorizationTo")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TargetMatch {
    /// Ports of the application.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Hosts: exact names, `*.suffix` or `"*"`; with a port only where the port in `Host` matters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// The path, without the query; escapes are read, so that `%3A` is `:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Header fields by name: a text that the value equals, or `{ regex: ... }` that it meets.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "distinct"
    )]
    pub headers: BTreeMap<FieldName, ValueMatch>,
}

impl TargetMatch {
    /// Whether it speaks of more than a connection has.
    pub fn is_http(&self) -> bool {
        !self.hosts.is_empty()
            || !self.methods.is_empty()
            || self.path.is_some()
            || !self.headers.is_empty()
    }

    /// What is wrong with its regular expressions, where something is.
    pub fn wrong(&self) -> Option<String> {
        let path = match &self.path {
            Some(PathMatch::Regex(pattern)) => Some(pattern),
            _ => None,
        };
        let values = self.headers.values().filter_map(|value| match value {
            ValueMatch::Regex(pattern) => Some(pattern),
            ValueMatch::Exact(_) => None,
        });
        path.into_iter().chain(values).find_map(|pattern| {
            let error = Whole::new(pattern).err()?;
            Some(format!("regex `{pattern}`: {error}"))
        })
    }
}

/// Which identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityPattern {
    Exact(SpiffeId),
    /// All that begin so; empty for every verified one.
    Prefix(Box<str>),
}

impl IdentityPattern {
    pub fn holds(&self, id: &SpiffeId) -> bool {
        match self {
            IdentityPattern::Exact(own) => own == id,
            IdentityPattern::Prefix(start) => id.as_str().starts_with(&**start),
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some(start) = text.strip_suffix('*') else {
            return match SpiffeId::parse(text) {
                Ok(id) => Ok(IdentityPattern::Exact(id)),
                Err(error) => Err(Invalid(error.to_string())),
            };
        };
        if matches!(start, "" | "spiffe://") {
            return Ok(IdentityPattern::Prefix("".into()));
        }
        let parts = start
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'));
        match parts {
            // `spiffe://cluster.local*` would take in `spiffe://cluster.local.evil.example/...`.
            None => Err(Invalid(format!(
                "`{text}` is no beginning of a SPIFFE id: the `*` comes after spiffe://, a whole trust domain and a slash"
            ))),
            // What any id may follow, an id must be: the start with one more letter.
            Some((domain, _)) if is_trust_domain(domain) && is_start(start) => {
                Ok(IdentityPattern::Prefix(start.into()))
            }
            Some(_) => Err(Invalid(format!("no SPIFFE id begins with `{start}`"))),
        }
    }
}

fn is_start(start: &str) -> bool {
    SpiffeId::parse(&format!("{start}a")).is_ok()
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityPattern::Exact(id) => id.fmt(f),
            IdentityPattern::Prefix(start) => write!(f, "{start}*"),
        }
    }
}

/// A SPIFFE trust domain's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Box<str>);

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match is_trust_domain(text) {
            true => Ok(TrustDomain(text.into())),
            false => Err(Invalid(format!(
                "`{text}` is no trust domain: lower-case letters, digits, `.`, `-` and `_`, like `cluster.local`"
            ))),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(IdentityPattern, "spiffe://cluster.local/ns/shop/sa/web", { "pattern": "^(\\*|spiffe://.*)$" });
as_text!(TrustDomain, "cluster.local", { "pattern": "^[a-z0-9._-]+$" });

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(pattern: &str, id: &str) -> bool {
        let pattern: IdentityPattern = pattern.parse().unwrap();
        assert_eq!(
            pattern.to_string().parse::<IdentityPattern>().unwrap(),
            pattern
        );
        pattern.holds(&SpiffeId::parse(id).unwrap())
    }

    #[test]
    fn an_identity_is_exact_or_a_beginning() {
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        assert!(holds(web, web));
        assert!(!holds(web, "spiffe://cluster.local/ns/shop/sa/web2"));
        assert!(!holds(web, "spiffe://cluster.local/ns/shop/sa/Web"));
        for all in [
            "*",
            "spiffe://*",
            "spiffe://cluster.local/*",
            "spiffe://cluster.local/ns/shop/sa/w*",
        ] {
            assert!(holds(all, web), "{all}");
        }
        assert!(!holds(
            "spiffe://cluster.local/ns/shop/*",
            "spiffe://cluster.local/ns/shop2/sa/web"
        ));
        assert!(!holds(
            "spiffe://cluster.local/*",
            "spiffe://cluster.local.evil/ns/shop/sa/web"
        ));
        assert!(!holds("spiffe://cluster.local/*", "spiffe://cluster.local"));
    }

    #[test]
    fn a_beginning_that_crosses_trust_domains_is_refused() {
        for bad in [
            "",
            "web",
            "spiffe://cluster.local*",
            "spiffe://cluster.local/ns/*/sa/web",
            "spiffe://cluster.local/**",
            "spiffe://cluster.local//*",
            "spiffe://cluster.local/a/../*",
            "spiffe://*.local/x",
            "spiffe://Cluster.local/*",
            "https://cluster.local/*",
            "spiffe://cluster.local/a b*",
        ] {
            assert!(bad.parse::<IdentityPattern>().is_err(), "{bad}");
        }
    }
}
