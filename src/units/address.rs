//! Where a socket is: an address to listen on or to dial, a host's name, a host with a port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};

use super::{Invalid, as_text, invalid};

/// An IP address and a port, `127.0.0.1:8080` or `[::1]:8080`. Port 0 lets the system choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketAddress(pub SocketAddr);

impl FromStr for SocketAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(address) => Ok(SocketAddress(address)),
            Err(_) => invalid(format!(
                "`{text}` is not an IP address and a port, like `127.0.0.1:8080` or `[::1]:8080`"
            )),
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for SocketAddress {
    type Target = SocketAddr;

    fn deref(&self) -> &SocketAddr {
        &self.0
    }
}

impl From<SocketAddress> for SocketAddr {
    fn from(address: SocketAddress) -> SocketAddr {
        address.0
    }
}

/// One address to listen on, several, or `none`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listen(Vec<SocketAddress>);

impl Listen {
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Listen(addresses.into_iter().map(SocketAddress).collect())
    }

    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.0.iter().map(|address| address.0)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [] => return serializer.serialize_str("none"),
            [one] => return one.serialize(serializer),
            _ => {}
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for address in &self.0 {
            list.serialize_element(address)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> de::Visitor<'de> for OneOrSeveral {
            type Value = Listen;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address like `127.0.0.1:8080`, a list of them, or `none`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                match text {
                    "none" => Ok(Listen::default()),
                    text => Ok(Listen(vec![text.parse().map_err(E::custom)?])),
                }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Listen, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = list.next_element()? {
                    addresses.push(address);
                }
                Ok(Listen(addresses))
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<SocketAddress>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }, { "const": "none" }] })
    }
}

/// The name of one host, in lower case, or its IP address (IPv6 in brackets).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Box<str>);

impl Hostname {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, where the name is one.
    pub fn ip(&self) -> Option<IpAddr> {
        let inner = self
            .0
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(&self.0).parse().ok()
    }
}

impl FromStr for Hostname {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_');
            let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
            label.len() <= 63
                && label.bytes().all(inner)
                && edge(label.as_bytes().first())
                && edge(label.as_bytes().last())
        };
        let six = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        if six || (name.len() <= 253 && name.split('.').all(label)) {
            Ok(Hostname(name.to_ascii_lowercase().into()))
        } else {
            invalid(format!("`{text}` is not a host's name"))
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host and a port, `payments.shop.svc.cluster.local:8080`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub host: Hostname,
    pub port: u16,
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse().ok().filter(|port| *port != 0)?;
            Some(Address {
                host: host.parse().ok()?,
                port,
            })
        });
        match parts {
            Some(address) => Ok(address),
            None => invalid(format!(
                "`{text}` is not a host and a port, like `payments.shop:8080`"
            )),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

as_text!(SocketAddress, "127.0.0.1:8080", {});
as_text!(Hostname, "payments.shop", { "maxLength": 254 });
as_text!(Address, "payments.shop:8080", { "pattern": ":[0-9]+$" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        for good in ["payments:80", "10.0.0.1:80", "[::1]:80", "a.b.c.:65535"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in [
            "payments",
            "payments:0",
            ":80",
            "a b:80",
            "::1:80",
            "-a:1",
            "a..b:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_address_is_no_name() {
        assert_eq!(
            "localhost:80".parse::<SocketAddress>().unwrap_err().0,
            "`localhost:80` is not an IP address and a port, like `127.0.0.1:8080` or `[::1]:8080`"
        );
    }

    #[test]
    fn a_host_knows_when_it_is_an_address() {
        let ip = |text: &str| text.parse::<Hostname>().unwrap().ip();
        assert_eq!(ip("[::1]"), Some("::1".parse().unwrap()));
        assert_eq!(ip("10.0.0.1"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(ip("Payments"), None);
    }
}
