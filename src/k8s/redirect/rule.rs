//! One rule: what it looks at, what it decides, and the words for both.

use std::{fmt, str::FromStr};

use crate::units::{Cidr, Invalid};

/// Everything must fit; an empty list always fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub fits: Vec<Match>,
    pub verdict: Verdict,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    NotTcp,
    Family(Family),
    ComesBy(Interface),
    LeavesBy(Interface),
    User(User),
    /// An address of the family that a match before this one has made sure of.
    Address {
        end: End,
        is: Is,
        range: Cidr,
    },
    /// The destination's port.
    Port(Ports),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Of a connection's two ends, which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Within,
    Outside,
}

/// What becomes of a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes where it was going.
    Leave,
    /// This chain decides.
    Ask(String),
    /// It goes to this port of ours; `taken` so far.
    Redirect { port: u16, taken: u64 },
}

/// A rule as it stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Ours(Rule),
    /// Something that we do not write.
    Foreign,
}

/// The user id that a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User(pub u32);

/// A port, or several in a row: `22`, `9000-9100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// The name of a network interface: at most 15 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface(String);

impl Ports {
    pub const fn one(port: u16) -> Self {
        Ports {
            first: port,
            last: port,
        }
    }

    /// None where `last` comes before `first`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Ports { first, last })
    }

    pub const fn first(self) -> u16 {
        self.first
    }

    pub const fn last(self) -> u16 {
        self.last
    }
}

impl FromStr for Ports {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = first.parse().ok().zip(last.parse().ok());
        ports
            .and_then(|(first, last)| Ports::new(first, last))
            .filter(|ports| ports.first > 0)
            .ok_or_else(|| {
                Invalid(format!(
                    "`{text}` is no port (`22`) and no range of ports (`9000-9100`)"
                ))
            })
    }
}

impl Interface {
    /// The one that a machine talks to itself over.
    pub(super) fn loopback() -> Self {
        Interface("lo".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Interface {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        match (1..=15).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(Interface(text.to_owned())),
            false => Err(Invalid(format!(
                "`{text}` is not the name of a network interface"
            ))),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses beside it name the family better.
        let named = |fit: &Match| {
            let of_address = self
                .fits
                .iter()
                .any(|fit| matches!(fit, Match::Address { .. }));
            !(of_address && matches!(fit, Match::Family(_)))
        };
        let fits: Vec<String> = self
            .fits
            .iter()
            .filter(|fit| named(fit))
            .map(Match::to_string)
            .collect();
        match fits.is_empty() {
            true => f.write_str("everything else")?,
            false => f.write_str(&fits.join(", "))?,
        }
        write!(f, ": {}", self.verdict)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::NotTcp => f.write_str("anything but TCP"),
            Match::Family(Family::V4) => f.write_str("IPv4"),
            Match::Family(Family::V6) => f.write_str("IPv6"),
            Match::ComesBy(interface) => write!(f, "in by {}", interface.0),
            Match::LeavesBy(interface) => write!(f, "out by {}", interface.0),
            Match::User(User(id)) => write!(f, "of user {id}"),
            Match::Address { end, is, range } => {
                f.write_str(match (end, is) {
                    (End::Source, Is::Within) => "from ",
                    (End::Source, Is::Outside) => "not from ",
                    (End::Destination, Is::Within) => "to ",
                    (End::Destination, Is::Outside) => "not to ",
                })?;
                match range.is_one() {
                    true => range.first().fmt(f),
                    false => range.fmt(f),
                }
            }
            Match::Port(Ports { first, last }) if first == last => write!(f, "to port {first}"),
            Match::Port(Ports { first, last }) => write!(f, "to ports {first}-{last}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Leave => f.write_str("left alone"),
            Verdict::Ask(chain) => write!(f, "as `{chain}` says"),
            Verdict::Redirect { port, taken: 0 } => write!(f, "to our port {port}"),
            Verdict::Redirect { port, taken } => write!(f, "to our port {port} ({taken} so far)"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Ours(rule) => rule.fmt(f),
            Found::Foreign => {
                f.write_str("a rule that weft did not write (see `nft list table inet weft`)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_a_row() {
        let ports = |text: &str| text.parse::<Ports>().map(|ports| (ports.first, ports.last));
        assert_eq!(ports("22"), Ok((22, 22)));
        assert_eq!(ports("9000-9100"), Ok((9000, 9100)));
        for bad in ["", "0", "65536", "2-1", "1-", "-1", "http", "1-2-3"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_interface_has_a_name_that_the_kernel_takes() {
        for good in ["lo", "eth0", "br-0123456789ab", "veth1@x"] {
            assert!(good.parse::<Interface>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "sixteen-letters-", "é"] {
            assert!(bad.parse::<Interface>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_reads_as_a_sentence() {
        let rule = Rule {
            fits: vec![
                Match::LeavesBy(Interface::loopback()),
                Match::User(User(7)),
                Match::Family(Family::V4),
                Match::Address {
                    end: End::Destination,
                    is: Is::Outside,
                    range: "127.0.0.0/8".parse().unwrap(),
                },
                Match::Address {
                    end: End::Source,
                    is: Is::Outside,
                    range: "127.0.0.6/32".parse().unwrap(),
                },
            ],
            verdict: Verdict::Ask("inbound".to_owned()),
        };
        assert_eq!(
            rule.to_string(),
            "out by lo, of user 7, not to 127.0.0.0/8, not from 127.0.0.6: as `inbound` says"
        );
    }
}
