//! One entry of a route's `hosts`.

use std::{fmt, str::FromStr};

use crate::units::{Hostname, Invalid, as_text};

/// Which hosts: an exact name, `*.suffix` (one label or more before it) or `*`; with a port only where the port matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    pub name: HostName,
    /// Without one, a port in a request's `Host` is ignored.
    pub port: Option<u16>,
}

/// The name in a `HostPattern`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostName {
    /// This host.
    Exact(Hostname),
    /// Every host below this one, not itself.
    Suffix(Hostname),
    /// Every host.
    Any,
}

impl HostPattern {
    /// What a route without `hosts` is for.
    pub fn any() -> Vec<Self> {
        vec![HostPattern {
            name: HostName::Any,
            port: None,
        }]
    }
}

impl FromStr for HostPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || {
            Invalid(format!(
                "`{text}` is not a host: an exact name, `*.suffix` or `*`, and a port where it matters"
            ))
        };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, Some(port.ok_or_else(wrong)?))
            }
            _ => (text, None),
        };
        let name = match (host, host.strip_prefix("*.")) {
            ("*", _) => HostName::Any,
            (_, Some(suffix)) => HostName::Suffix(suffix.parse().map_err(|_| wrong())?),
            (exact, None) => HostName::Exact(exact.parse().map_err(|_| wrong())?),
        };
        Ok(HostPattern { name, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            HostName::Exact(name) => name.fmt(f)?,
            HostName::Suffix(name) => write!(f, "*.{name}")?,
            HostName::Any => f.write_str("*")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

as_text!(HostPattern, "payments.shop.svc.cluster.local", { "maxLength": 262 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_suffixes_or_all() {
        for text in [
            "payments", "a.b:8080", "*.shop", "*", "*:80", "[::1]", "[::1]:80", "10.0.0.1",
        ] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), text);
        }
        for bad in ["", "*shop", "a.*", "a:0", "a:b", "http://a", "*.*", "a/b"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_read_in_lower_case() {
        assert_eq!(
            "PayMents".parse::<HostPattern>().unwrap().to_string(),
            "payments"
        );
    }
}
