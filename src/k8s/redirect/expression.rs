//! A rule in the kernel's words: expressions that load something into a register and compare it.
//!
//! Both ways: a rule becomes expressions when a table is written, and expressions become a rule when it is read. What
//! does not become a rule was not written by us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    message::{Attributes, attribute, attributes, number, text},
    rule::{End, Family, Found, Interface, Is, Match, Ports, Rule, User, Verdict},
};

/// One step of a rule. All use the same register.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    /// Loads a fact of the packet.
    Meta(u32),
    /// Loads bytes of the packet.
    Payload(Field),
    /// Keeps the bits of this mask.
    Mask(Vec<u8>),
    /// Ends the rule unless it is so.
    Compare(u32, Vec<u8>),
    Counter(u64),
    /// Loads this value.
    Value(Vec<u8>),
    Redirect,
    Accept,
    Goto(String),
}

/// Bytes of a packet: from its network header or its transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    base: u32,
    offset: u32,
    length: u32,
}

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const PORT: Field = Field {
    base: TRANSPORT,
    offset: 2,
    length: 2,
};

// The kernel's names and numbers: linux/netfilter/nf_tables.h.
const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const IN_NAME: u32 = 6;
const OUT_NAME: u32 = 7;
const USER: u32 = 10;
const FAMILY: u32 = 15;
const PROTOCOL: u32 = 16;

const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

const ACCEPT: i32 = 1;
const GOTO: i32 = -4;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the port is given.
const WITH_PORT: u32 = 2;

const TCP: u8 = 6;
const INTERFACE_NAME: usize = 16;

/// The list of expressions of a rule.
pub(super) fn encode(rule: &Rule) -> Attributes {
    let mut list = Attributes::default();
    for expression in expressions(rule) {
        list = list.nest(ELEMENT, expression.encode());
    }
    list
}

/// The rule that a list of expressions says.
pub(super) fn decode(list: &[u8]) -> Found {
    let expressions: Option<Vec<Expression>> = attributes(list)
        .map(|(_, one)| Expression::decode(one))
        .collect();
    match expressions.and_then(|all| rule(&all)) {
        Some(rule) => Found::Ours(rule),
        None => Found::Foreign,
    }
}

fn expressions(rule: &Rule) -> Vec<Expression> {
    use Expression::{Accept, Compare, Counter, Goto, Mask, Meta, Payload, Redirect, Value};
    let mut all = Vec::new();
    for fit in &rule.fits {
        match fit {
            Match::NotTcp => all.extend([Meta(PROTOCOL), Compare(UNEQUAL, vec![TCP])]),
            Match::Family(family) => {
                all.extend([Meta(FAMILY), Compare(EQUAL, vec![family_number(*family)])])
            }
            Match::ComesBy(interface) => {
                all.extend([Meta(IN_NAME), Compare(EQUAL, padded(interface))])
            }
            Match::LeavesBy(interface) => {
                all.extend([Meta(OUT_NAME), Compare(EQUAL, padded(interface))])
            }
            Match::User(User(id)) => {
                all.extend([Meta(USER), Compare(EQUAL, id.to_ne_bytes().to_vec())])
            }
            Match::Address { end, is, range } => {
                all.push(Payload(address_field(*end, range)));
                if range.prefix_len() < range.max_prefix_len() {
                    all.push(Mask(octets(range.netmask())));
                }
                let operation = match is {
                    Is::Within => EQUAL,
                    Is::Outside => UNEQUAL,
                };
                all.push(Compare(operation, octets(range.network())));
            }
            Match::Port(ports) => {
                let (first, last) = (
                    ports.first().to_be_bytes().to_vec(),
                    ports.last().to_be_bytes().to_vec(),
                );
                all.push(Payload(PORT));
                match first == last {
                    true => all.push(Compare(EQUAL, first)),
                    false => all.extend([Compare(AT_LEAST, first), Compare(AT_MOST, last)]),
                }
            }
        }
    }
    match &rule.verdict {
        Verdict::Leave => all.push(Accept),
        Verdict::Ask(chain) => all.push(Goto(chain.clone())),
        Verdict::Redirect { port, .. } => {
            all.extend([Counter(0), Value(port.to_be_bytes().to_vec()), Redirect]);
        }
    }
    all
}

fn rule(mut rest: &[Expression]) -> Option<Rule> {
    use Expression::{Accept, Compare, Counter, Goto, Mask, Meta, Payload, Redirect, Value};
    let mut fits = Vec::new();
    loop {
        let (fit, used) = match rest {
            [Accept] => {
                return Some(Rule {
                    fits,
                    verdict: Verdict::Leave,
                });
            }
            [Goto(chain)] => {
                let verdict = Verdict::Ask(chain.clone());
                return Some(Rule { fits, verdict });
            }
            [Counter(taken), Value(port), Redirect] => {
                let port = u16::from_be_bytes(port.as_slice().try_into().ok()?);
                let verdict = Verdict::Redirect {
                    port,
                    taken: *taken,
                };
                return Some(Rule { fits, verdict });
            }
            [Meta(PROTOCOL), Compare(UNEQUAL, value), ..] if value == &[TCP] => (Match::NotTcp, 2),
            [Meta(FAMILY), Compare(EQUAL, value), ..] => (Match::Family(family_of(value)?), 2),
            [Meta(IN_NAME), Compare(EQUAL, value), ..] => (Match::ComesBy(interface_of(value)?), 2),
            [Meta(OUT_NAME), Compare(EQUAL, value), ..] => {
                (Match::LeavesBy(interface_of(value)?), 2)
            }
            [Meta(USER), Compare(EQUAL, value), ..] => {
                let id = u32::from_ne_bytes(value.as_slice().try_into().ok()?);
                (Match::User(User(id)), 2)
            }
            [Payload(PORT), Compare(EQUAL, value), ..] => {
                let port = u16::from_be_bytes(value.as_slice().try_into().ok()?);
                (Match::Port(Ports::one(port)), 2)
            }
            [
                Payload(PORT),
                Compare(AT_LEAST, first),
                Compare(AT_MOST, last),
                ..,
            ] => {
                let first = u16::from_be_bytes(first.as_slice().try_into().ok()?);
                let last = u16::from_be_bytes(last.as_slice().try_into().ok()?);
                (Match::Port(Ports::new(first, last)?), 3)
            }
            [Payload(field), Mask(mask), Compare(operation, value), ..] => {
                let mask = ip_of(mask)?;
                let range = IpNet::with_netmask(ip_of(value)?, mask).ok()?;
                (address(*field, *operation, range)?, 3)
            }
            [Payload(field), Compare(operation, value), ..] => {
                (address(*field, *operation, IpNet::from(ip_of(value)?))?, 2)
            }
            _ => return None,
        };
        fits.push(fit);
        rest = &rest[used..];
    }
}

impl Expression {
    fn encode(&self) -> Attributes {
        let (name, data) = match self {
            Expression::Meta(key) => (
                "meta",
                Attributes::default().number(1, REGISTER).number(2, *key),
            ),
            Expression::Payload(Field {
                base,
                offset,
                length,
            }) => {
                let data = Attributes::default().number(1, REGISTER).number(2, *base);
                ("payload", data.number(3, *offset).number(4, *length))
            }
            Expression::Mask(mask) => {
                let data = Attributes::default()
                    .number(1, REGISTER)
                    .number(2, REGISTER);
                let data = data.number(3, u32::try_from(mask.len()).expect("an address"));
                (
                    "bitwise",
                    data.nest(4, value(mask))
                        .nest(5, value(&vec![0; mask.len()])),
                )
            }
            Expression::Compare(operation, with) => {
                let data = Attributes::default()
                    .number(1, REGISTER)
                    .number(2, *operation);
                ("cmp", data.nest(3, value(with)))
            }
            // Both start at zero by themselves.
            Expression::Counter(_) => ("counter", Attributes::default()),
            Expression::Value(port) => (
                "immediate",
                Attributes::default()
                    .number(1, REGISTER)
                    .nest(2, value(port)),
            ),
            Expression::Redirect => (
                "redir",
                Attributes::default()
                    .number(1, REGISTER)
                    .number(3, WITH_PORT),
            ),
            Expression::Accept => ("immediate", verdict(ACCEPT, None)),
            Expression::Goto(chain) => ("immediate", verdict(GOTO, Some(chain))),
        };
        Attributes::default().text(NAME, name).nest(DATA, data)
    }

    fn decode(one: &[u8]) -> Option<Self> {
        let data = attribute(one, DATA).unwrap_or_default();
        let value = |kind: u16| attribute(attribute(data, kind)?, 1).map(<[u8]>::to_vec);
        let in_register = |kind: u16| number(data, kind) == Some(REGISTER);
        Some(match text(one, NAME)? {
            "meta" if in_register(1) => Expression::Meta(number(data, 2)?),
            "payload" if in_register(1) => Expression::Payload(Field {
                base: number(data, 2)?,
                offset: number(data, 3)?,
                length: number(data, 4)?,
            }),
            "bitwise" if in_register(1) && in_register(2) => {
                let turned = value(5).is_some_and(|turned| turned.iter().any(|byte| *byte != 0));
                Expression::Mask(value(4).filter(|_| !turned)?)
            }
            "cmp" if in_register(1) => Expression::Compare(number(data, 2)?, value(3)?),
            "counter" => {
                let packets = attribute(data, 2)?.try_into().ok()?;
                Expression::Counter(u64::from_be_bytes(packets))
            }
            "immediate" if in_register(1) => Expression::Value(value(2)?),
            "immediate" => {
                let verdict = attribute(attribute(data, 2)?, 2)?;
                match number(verdict, 1)?.cast_signed() {
                    ACCEPT => Expression::Accept,
                    GOTO => Expression::Goto(text(verdict, 2)?.to_owned()),
                    _ => return None,
                }
            }
            "redir" if in_register(1) => Expression::Redirect,
            _ => return None,
        })
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut verdict = Attributes::default().number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        verdict = verdict.text(2, chain);
    }
    let data = Attributes::default().nest(2, verdict);
    Attributes::default()
        .number(1, VERDICT_REGISTER)
        .nest(2, data)
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn family_of(value: &[u8]) -> Option<Family> {
    match value {
        [2] => Some(Family::V4),
        [10] => Some(Family::V6),
        _ => None,
    }
}

/// The kernel compares all sixteen bytes.
fn padded(interface: &Interface) -> Vec<u8> {
    let mut name = interface.as_str().as_bytes().to_vec();
    name.resize(INTERFACE_NAME, 0);
    name
}

fn interface_of(value: &[u8]) -> Option<Interface> {
    let text = std::str::from_utf8(value).ok()?;
    text.trim_end_matches('\0').parse().ok()
}

fn address_field(end: End, range: &IpNet) -> Field {
    let (offset, length) = match (range, end) {
        (IpNet::V4(_), End::Source) => (12, 4),
        (IpNet::V4(_), End::Destination) => (16, 4),
        (IpNet::V6(_), End::Source) => (8, 16),
        (IpNet::V6(_), End::Destination) => (24, 16),
    };
    Field {
        base: NETWORK,
        offset,
        length,
    }
}

fn address(field: Field, operation: u32, range: IpNet) -> Option<Match> {
    let end = [End::Source, End::Destination]
        .into_iter()
        .find(|end| address_field(*end, &range) == field)?;
    let is = match operation {
        EQUAL => Is::Within,
        UNEQUAL => Is::Outside,
        _ => return None,
    };
    Some(Match::Address { end, is, range })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::redirect::plan;

    #[test]
    fn every_rule_of_a_plan_is_read_as_it_was_written() {
        let table = plan::tests::plan().table().unwrap();
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            let steps = expressions(rule);
            // The kernel adds the counter's values; without them there is no counter to read.
            assert_eq!(super::rule(&steps).as_ref(), Some(rule), "{rule}");
            for step in steps {
                let mut sent = super::super::message::Messages::default();
                sent.push(0, 0, &[], &step.encode());
                let read = Expression::decode(&sent.bytes()[16..]);
                if step != Expression::Counter(0) {
                    assert_eq!(read, Some(step));
                }
            }
        }
    }

    #[test]
    fn what_we_do_not_write_is_foreign() {
        let accept =
            |compare: Expression| rule(&[Expression::Meta(PROTOCOL), compare, Expression::Accept]);
        assert!(accept(Expression::Compare(UNEQUAL, vec![TCP])).is_some());
        assert!(accept(Expression::Compare(EQUAL, vec![TCP])).is_none());
        assert!(accept(Expression::Compare(UNEQUAL, vec![17])).is_none());
        assert!(rule(&[]).is_none());
        assert!(rule(&[Expression::Accept, Expression::Accept]).is_none());
        assert_eq!(decode(&[8, 0, 1, 0x80, 4, 0, 2, 0]), Found::Foreign);
    }
}
