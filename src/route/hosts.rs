//! Which host entry speaks for a request: the exact name, else the longest `*.suffix`, else `*`.
//!
//! Of one name, the entry with the request's port comes before the one without. A request that names no port means
//! HTTP's 80. The first entry decides alone: what its routes do not match is not offered to a broader entry, as
//! with Envoy's virtual hosts.

use std::collections::BTreeMap;

use super::{HostName, HostPattern, keys::Keys};

const HTTP: u16 = 80;

/// How an entry names its hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Name {
    /// In lower case, without brackets.
    Exact(Box<str>),
    /// With its leading dot, in lower case.
    Suffix(Box<str>),
    Any,
}

impl Name {
    pub(super) fn of(pattern: &HostPattern) -> Self {
        match &pattern.name {
            HostName::Exact(name) => Name::Exact(bare(name.as_str()).into()),
            HostName::Suffix(name) => Name::Suffix(format!(".{name}").into()),
            HostName::Any => Name::Any,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Hosts {
    exact: Keys<true>,
    suffixes: Keys<true>,
    ports: Box<[Ports]>,
    any: Ports,
}

/// The entries of one name.
#[derive(Debug, Clone, Default)]
struct Ports {
    portless: Option<u32>,
    /// Few: searched in order.
    numbered: Vec<(u16, u32)>,
}

impl Ports {
    #[inline]
    fn pick(&self, port: Option<u16>) -> Option<u32> {
        if !self.numbered.is_empty() {
            let port = port.unwrap_or(HTTP);
            if let Some((_, entry)) = self.numbered.iter().find(|(number, _)| *number == port) {
                return Some(*entry);
            }
        }
        self.portless
    }
}

impl Hosts {
    /// Of entries, each given once.
    pub(super) fn new(entries: impl IntoIterator<Item = (Name, Option<u16>, u32)>) -> Self {
        let mut names: BTreeMap<Name, Ports> = BTreeMap::new();
        for (name, port, entry) in entries {
            let ports = names.entry(name).or_default();
            match port {
                Some(port) => ports.numbered.push((port, entry)),
                None => ports.portless = Some(entry),
            }
        }
        let any = names.remove(&Name::Any).unwrap_or_default();
        let (mut exact, mut suffixes, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for (name, entries) in names {
            match name {
                Name::Exact(text) => exact.push((text, ports.len() as u32)),
                Name::Suffix(text) => suffixes.push((text, ports.len() as u32)),
                Name::Any => {}
            }
            ports.push(entries);
        }
        Hosts {
            exact: Keys::new(exact),
            suffixes: Keys::new(suffixes),
            ports: ports.into(),
            any,
        }
    }

    #[inline]
    pub(super) fn find(&self, host: &str, port: Option<u16>) -> Option<u32> {
        let host = bare(host);
        let pick = |name: u32| self.ports[name as usize].pick(port);
        if let Some(entry) = self.exact.find(host).and_then(pick) {
            return Some(entry);
        }
        if !self.suffixes.is_empty() {
            for dot in memchr::memchr_iter(b'.', host.as_bytes()).filter(|&dot| dot > 0) {
                if let Some(entry) = self.suffixes.find(&host[dot..]).and_then(pick) {
                    return Some(entry);
                }
            }
        }
        self.any.pick(port)
    }
}

/// An IPv6 address without its brackets; any other host as it is.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_entry_speaks_for_a_host() {
        let exact = |text: &str| Name::Exact(text.into());
        let suffix = |text: &str| Name::Suffix(text.into());
        let hosts = Hosts::new([
            (exact("payments"), None, 0),
            (exact("payments"), Some(8080), 1),
            (suffix(".shop"), None, 2),
            (suffix(".eu.shop"), None, 3),
            (Name::Any, Some(9000), 4),
            (exact("email"), Some(80), 5),
            (exact("fd00::1"), None, 6),
        ]);
        for (host, port, entry) in [
            ("payments", None, Some(0)),
            ("PAYMENTS", Some(81), Some(0)),
            ("payments", Some(8080), Some(1)),
            ("a.shop", Some(1), Some(2)),
            ("a.b.shop", None, Some(2)),
            ("a.EU.shop", None, Some(3)),
            ("eu.shop", None, Some(2)),
            ("shop", None, None),
            (".shop", None, None),
            ("shop", Some(9000), Some(4)),
            ("email", None, Some(5)),
            ("email", Some(81), None),
            ("[fd00::1]", Some(443), Some(6)),
            ("", None, None),
        ] {
            assert_eq!(hosts.find(host, port), entry, "{host} {port:?}");
        }
    }
}
