//! A rule spelled in nf_tables' steps, and read from them.
//!
//! Both ways: a rule becomes steps when a table is written, and steps become a rule when it is read. What does not
//! become a rule was not written by us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    expression::{
        Expression, Field, base,
        compare::{AT_LEAST, AT_MOST, EQUAL, UNEQUAL},
        meta::{FAMILY, IN_NAME, OUT_NAME, PROTOCOL, USER},
    },
    rule::{End, Family, Interface, Is, Match, Ports, Rule, User, Verdict},
};
use crate::units::Cidr;

const PORT: Field = Field {
    base: base::TRANSPORT,
    offset: 2,
    length: 2,
};
const TCP: u8 = 6;
const INTERFACE_NAME: usize = 16;

/// The steps of a rule.
pub(super) fn steps(rule: &Rule) -> Vec<Expression> {
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
                all.push(Payload(address_field(*end, *range)));
                if !range.is_one() {
                    all.push(Mask(mask_of(*range)));
                }
                let operation = match is {
                    Is::Within => EQUAL,
                    Is::Outside => UNEQUAL,
                };
                all.push(Compare(operation, octets(range.first())));
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

/// The rule that steps say; none where it is not one of ours.
pub(super) fn rule(mut rest: &[Expression]) -> Option<Rule> {
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
                let range = Cidr::around(ip_of(value)?, leading_ones(mask));
                // A mask with holes, or an address beyond it, is not of our making.
                if &mask_of(range) != mask || &octets(range.first()) != value {
                    return None;
                }
                (address(*field, *operation, range)?, 3)
            }
            [Payload(field), Compare(operation, value), ..] => {
                let range = Cidr::around(ip_of(value)?, u8::MAX);
                (address(*field, *operation, range)?, 2)
            }
            _ => return None,
        };
        fits.push(fit);
        rest = &rest[used..];
    }
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

fn address_field(end: End, range: Cidr) -> Field {
    let (offset, length) = match (range.first(), end) {
        (IpAddr::V4(_), End::Source) => (12, 4),
        (IpAddr::V4(_), End::Destination) => (16, 4),
        (IpAddr::V6(_), End::Source) => (8, 16),
        (IpAddr::V6(_), End::Destination) => (24, 16),
    };
    Field {
        base: base::NETWORK,
        offset,
        length,
    }
}

fn address(field: Field, operation: u32, range: Cidr) -> Option<Match> {
    let end = [End::Source, End::Destination]
        .into_iter()
        .find(|end| address_field(*end, range) == field)?;
    let is = match operation {
        EQUAL => Is::Within,
        UNEQUAL => Is::Outside,
        _ => return None,
    };
    Some(Match::Address { end, is, range })
}

/// As many bytes as an address of the range has.
fn mask_of(range: Cidr) -> Vec<u8> {
    let ones = |byte: u8| range.bits().saturating_sub(8 * byte).min(8);
    let bytes = if range.first().is_ipv4() { 0..4 } else { 0..16 };
    bytes
        .map(|byte| !u8::MAX.checked_shr(ones(byte).into()).unwrap_or(0))
        .collect()
}

fn leading_ones(mask: &[u8]) -> u8 {
    let whole = mask.iter().take_while(|byte| **byte == u8::MAX).count();
    let part = mask.get(whole).map_or(0, |byte| byte.leading_ones());
    u8::try_from(8 * whole)
        .unwrap_or(u8::MAX)
        .saturating_add(u8::try_from(part).unwrap_or(0))
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
        for written in table.chains.iter().flat_map(|chain| &chain.rules) {
            assert_eq!(rule(&steps(written)).as_ref(), Some(written));
        }
    }

    #[test]
    fn what_we_do_not_write_is_foreign() {
        let accept =
            |compare: Expression| rule(&[Expression::Meta(PROTOCOL), compare, Expression::Accept]);
        assert!(accept(Expression::Compare(UNEQUAL, vec![TCP])).is_some());
        assert!(accept(Expression::Compare(EQUAL, vec![TCP])).is_none());
        assert!(accept(Expression::Compare(UNEQUAL, vec![17])).is_none());
        let to = |mask: [u8; 4], value: [u8; 4]| {
            let field = Expression::Payload(Field {
                base: base::NETWORK,
                offset: 16,
                length: 4,
            });
            let compare = Expression::Compare(EQUAL, value.into());
            rule(&[
                field,
                Expression::Mask(mask.into()),
                compare,
                Expression::Accept,
            ])
        };
        assert!(to([255, 240, 0, 0], [10, 16, 0, 0]).is_some());
        assert!(to([255, 0, 255, 0], [10, 0, 0, 0]).is_none());
        assert!(to([255, 0, 0, 0], [10, 1, 0, 0]).is_none());
        assert!(rule(&[]).is_none());
        assert!(rule(&[Expression::Accept, Expression::Accept]).is_none());
    }
}
