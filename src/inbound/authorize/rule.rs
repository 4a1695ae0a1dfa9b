//! One rule, compiled: whom and what it is about.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, Method};

use super::{
    Caller, Home, Problem, View,
    audit::{Metrics, Tally},
};
use crate::{
    inbound::settings::{Action, CallerMatch, IdentityPattern, RuleSettings, TargetMatch},
    route::{HostName, HostPattern, PathMatch, ValueMatch, Whole},
    units::{Cidr, ServiceName},
};

/// What a `Host` without a port means.
const HTTP: u16 = 80;

/// The name of what decides where no rule does.
pub(super) const DEFAULT: &str = "default";

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: ServiceName,
    /// In the file; none for the default.
    pub(super) place: Option<usize>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    pub(super) tally: Tally,
    /// Any of these; none = everyone.
    pub(super) from: Box<[From]>,
    /// Any of these; none = everything.
    pub(super) to: Box<[To]>,
}

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    No,
    /// In one reading of the path and not in another.
    Perhaps,
    Yes,
}

impl Rule {
    pub(super) fn new(
        place: usize,
        said: &RuleSettings,
        metrics: &Metrics,
    ) -> Result<Self, Problem> {
        let to = said.to.iter().enumerate().map(|(to, said)| {
            To::new(said).map_err(|what| Problem {
                rule: place,
                to,
                what,
            })
        });
        let from = said.from.iter().map(|one| From::new(one, said.action));
        Ok(Rule {
            name: said.name.clone(),
            place: Some(place),
            action: said.action,
            dry_run: said.dry_run,
            tally: metrics.tally(&said.name, said.action, said.dry_run),
            from: from.collect(),
            to: to.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn default(action: Action, metrics: &Metrics) -> Self {
        let name: ServiceName = DEFAULT.parse().expect("a word is a name");
        Rule {
            tally: metrics.tally(&name, action, false),
            name,
            place: None,
            action,
            dry_run: false,
            from: Box::default(),
            to: Box::default(),
        }
    }

    fn is_from(&self, caller: &Caller<'_>, home: &Home) -> bool {
        self.from.is_empty() || self.from.iter().any(|from| from.holds(caller, home))
    }

    /// Whether it may be about something that this caller asks on its connection.
    pub(super) fn is_about(&self, caller: &Caller<'_>, home: &Home) -> bool {
        let to = || self.to.is_empty() || self.to.iter().any(|to| to.has_port(caller.port));
        self.is_from(caller, home) && to()
    }

    /// Whether it is about a connection that is no HTTP.
    pub(super) fn connection(&self, caller: &Caller<'_>, home: &Home) -> Held {
        let whole = |to: &To| self.action == Action::Deny || !to.is_http;
        let to = || {
            self.to.is_empty()
                || self
                    .to
                    .iter()
                    .any(|to| to.has_port(caller.port) && whole(to))
        };
        match self.is_from(caller, home) && to() {
            true => Held::Yes,
            false => Held::No,
        }
    }

    /// Whether it is about a request, from a caller that it is about.
    #[inline]
    pub(super) fn request(&self, port: u16, view: &View<'_>) -> Held {
        if self.to.is_empty() {
            return Held::Yes;
        }
        let held = self.to.iter().map(|to| to.holds(port, view, self.action));
        held.max().unwrap_or(Held::No)
    }
}

/// Whom an entry of `from` is about: all that is said.
#[derive(Debug)]
pub(super) struct From {
    pub(super) identity: Option<IdentityPattern>,
    pub(super) trust_domain: Option<Box<str>>,
    /// Of our own trust domain, whichever that is.
    pub(super) at_home: bool,
    pub(super) namespace: Option<Box<str>>,
    pub(super) ip: Box<[Cidr]>,
}

impl From {
    fn new(said: &CallerMatch, action: Action) -> Self {
        // Another trust domain may name its workloads as it likes: a bare namespace lets none of them in, and
        // keeps all of them out.
        let bare =
            said.namespace.is_some() && said.identity.is_none() && said.trust_domain.is_none();
        let domain = said.trust_domain.as_ref().map(|domain| domain.as_str());
        From {
            identity: said.identity.clone(),
            trust_domain: domain.map(Into::into),
            at_home: bare && action == Action::Allow,
            namespace: said.namespace.as_deref().map(Into::into),
            ip: said.ip.iter().collect(),
        }
    }

    pub(super) fn holds(&self, caller: &Caller<'_>, home: &Home) -> bool {
        self.is_from_identity(caller, home) && self.is_from_ip(caller.ip)
    }

    pub(super) fn is_from_ip(&self, ip: IpAddr) -> bool {
        self.ip.is_empty() || self.ip.iter().any(|range| range.holds(ip))
    }

    fn is_from_identity(&self, caller: &Caller<'_>, home: &Home) -> bool {
        let domain = self.trust_domain.as_deref();
        let namespace = self.namespace.as_deref();
        let Some(id) = caller.identity else {
            return self.identity.is_none() && domain.is_none() && namespace.is_none();
        };
        self.identity.as_ref().is_none_or(|own| own.holds(id))
            && domain.is_none_or(|own| own == id.trust_domain())
            && (!self.at_home || home.is(id.trust_domain()))
            && namespace.is_none_or(|own| id.namespace() == Some(own))
    }
}

/// What an entry of `to` is about: all that is said.
#[derive(Debug)]
pub(super) struct To {
    pub(super) ports: Box<[u16]>,
    pub(super) hosts: Box<[Host]>,
    pub(super) methods: Box<[Method]>,
    pub(super) path: Option<Path>,
    pub(super) headers: Box<[(HeaderName, Value)]>,
    /// It says something that only a request has.
    is_http: bool,
}

impl To {
    fn new(said: &TargetMatch) -> Result<Self, String> {
        let headers = said
            .headers
            .iter()
            .map(|(name, value)| Ok((name.0.clone(), Value::new(value)?)));
        Ok(To {
            ports: said.ports.as_slice().into(),
            hosts: said.hosts.iter().map(Host::new).collect(),
            methods: said.methods.iter().map(|method| method.0.clone()).collect(),
            path: said
                .path
                .as_ref()
                .and_then(|path| Path::new(path).transpose())
                .transpose()?,
            headers: headers.collect::<Result<_, String>>()?,
            is_http: said.is_http(),
        })
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    pub(super) fn has_host(&self, view: &View<'_>, action: Action) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| host.holds(view, action))
    }

    pub(super) fn has_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    #[inline]
    pub(super) fn holds(&self, port: u16, view: &View<'_>, action: Action) -> Held {
        let mut headers = self.headers.iter();
        let but_path = self.has_port(port)
            && self.has_method(view.method)
            && self.has_host(view, action)
            && headers.all(|(name, value)| value.holds(view.headers, name, action));
        match (&self.path, but_path) {
            (_, false) => Held::No,
            (None, true) => Held::Yes,
            (Some(path), true) => path.holds(view),
        }
    }
}

/// An entry of `hosts`.
#[derive(Debug)]
pub(super) struct Host {
    name: Name,
    port: Option<u16>,
    pub(super) text: Box<str>,
}

#[derive(Debug)]
enum Name {
    Any,
    Exact(Box<str>),
    /// With its leading dot.
    Suffix(Box<str>),
    /// However it is written.
    Ip(IpAddr),
}

impl Host {
    fn new(pattern: &HostPattern) -> Self {
        let name = match &pattern.name {
            HostName::Any => Name::Any,
            HostName::Suffix(name) => Name::Suffix(format!(".{name}").into()),
            HostName::Exact(name) => match name.ip() {
                Some(ip) => Name::Ip(ip.to_canonical()),
                None => Name::Exact(name.as_str().into()),
            },
        };
        Host {
            name,
            port: pattern.port,
            text: pattern.to_string().into(),
        }
    }

    fn holds(&self, view: &View<'_>, action: Action) -> bool {
        // HTTP/1.0 may leave the host out; which one the application takes then, nobody knows.
        if view.host.is_empty() {
            return action == Action::Deny || matches!(self.name, Name::Any);
        }
        let port = view.host_port.unwrap_or(HTTP);
        self.port.is_none_or(|own| own == port) && self.name.holds(view.host)
    }
}

impl Name {
    fn holds(&self, host: &str) -> bool {
        match self {
            Name::Any => true,
            Name::Exact(name) => name.eq_ignore_ascii_case(host),
            Name::Suffix(suffix) => {
                let start = host
                    .len()
                    .checked_sub(suffix.len())
                    .filter(|start| *start > 0);
                let end = start.and_then(|start| host.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            Name::Ip(ip) => host
                .parse()
                .is_ok_and(|host: IpAddr| host.to_canonical() == *ip),
        }
    }
}

/// What `path` says. Compared with every escape read once, on both sides: `/a%3Ab` and `/a:b` are one path to the
/// application, so they are to a rule.
#[derive(Debug)]
pub(super) enum Path {
    Exact(Box<[u8]>),
    /// Without the slash at its end.
    Prefix(Box<[u8]>),
    /// As it is written, and compiled.
    Regex(Box<str>, Whole),
}

impl Path {
    /// None where every path will do.
    fn new(said: &PathMatch) -> Result<Option<Self>, String> {
        Ok(Some(match said {
            PathMatch::Exact(path) => Path::Exact(decoded(path).into()),
            PathMatch::Prefix(path) => match decoded(path.strip_suffix('/').unwrap_or(path)) {
                root if root.is_empty() => return Ok(None),
                below => Path::Prefix(below.into()),
            },
            PathMatch::Regex(pattern) => Path::Regex((**pattern).into(), whole(pattern)?),
        }))
    }

    pub(super) fn holds(&self, view: &View<'_>) -> Held {
        if view.ambiguous {
            return Held::Perhaps;
        }
        let path = decoded(view.path);
        let holds = match self {
            Path::Exact(own) => **own == *path,
            Path::Prefix(own) => path
                .strip_prefix(&**own)
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..])),
            Path::Regex(_, own) => own.is_match(&path),
        };
        match holds {
            true => Held::Yes,
            false => Held::No,
        }
    }
}

/// What a path means once its escapes are read; what is no escape stands for itself.
pub(super) fn decoded(path: &str) -> Cow<'_, [u8]> {
    let bytes = path.as_bytes();
    if memchr::memchr(b'%', bytes).is_none() {
        return Cow::Borrowed(bytes);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push((high * 16 + low) as u8);
            rest = after;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    Cow::Owned(out)
}

fn whole(pattern: &str) -> Result<Whole, String> {
    Whole::new(pattern).map_err(|error| format!("regex `{pattern}`: {error}"))
}

/// What the value of a header field must be.
#[derive(Debug)]
pub(super) enum Value {
    Exact(Box<[u8]>),
    /// As it is written, and compiled.
    Regex(Box<str>, Whole),
}

impl Value {
    fn new(said: &ValueMatch) -> Result<Self, String> {
        match said {
            ValueMatch::Exact(text) => Ok(Value::Exact(text.as_bytes().into())),
            ValueMatch::Regex(pattern) => Ok(Value::Regex((**pattern).into(), whole(pattern)?)),
        }
    }

    fn meets(&self, value: &[u8]) -> bool {
        match self {
            Value::Exact(text) => **text == *value,
            Value::Regex(_, regex) => regex.is_match(value),
        }
    }

    /// A field may come several times, or hold a list. To allow, every line must be right: the application may read
    /// any of them. To deny, one line or one part of a list is enough.
    pub(super) fn holds(&self, headers: &HeaderMap, name: &HeaderName, action: Action) -> bool {
        let mut lines = headers.get_all(name).iter().map(|line| line.as_bytes());
        match action {
            Action::Allow => headers.contains_key(name) && lines.all(|line| self.meets(line)),
            Action::Deny => lines.any(|line| {
                let mut parts = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.meets(line) || parts.any(|part| self.meets(part))
            }),
        }
    }
}
