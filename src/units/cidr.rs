//! Ranges of IP addresses, `10.0.0.0/8`, `fd00::/8`, or one address alone.
//!
//! An IPv4 address that stands in an IPv6 one (`::ffff:10.0.0.1`) is the IPv4 address, in the range and in what is
//! looked for: the system tells one peer either way, as the socket has it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Invalid, as_text, invalid};

/// A range of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// The addresses that share their first `bits` bits with `ip`; with more bits than it has, `ip` alone.
    pub fn around(ip: IpAddr, bits: u8) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let bits = bits.min(32);
                let first = masked_v4(ip, bits).into();
                Cidr { first, bits }
            }
            IpAddr::V6(ip) => {
                let bits = bits.min(128);
                let first = masked_v6(ip, bits).into();
                Cidr { first, bits }
            }
        }
    }

    /// Whether it is one address alone.
    pub fn is_one(self) -> bool {
        self.bits == if self.first.is_ipv4() { 32 } else { 128 }
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// How many leading bits its addresses share.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether `ip` lies in it.
    pub fn holds(self, ip: IpAddr) -> bool {
        match (self.first, ip.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => masked_v4(ip, self.bits) == first,
            (IpAddr::V6(first), IpAddr::V6(ip)) => masked_v6(ip, self.bits) == first,
            _ => false,
        }
    }
}

fn masked_v4(ip: Ipv4Addr, bits: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    Ipv4Addr::from_bits(ip.to_bits() & mask)
}

fn masked_v6(ip: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    Ipv6Addr::from_bits(ip.to_bits() & mask)
}

impl FromStr for Cidr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || {
            Invalid(format!(
                "`{text}` is not a range of IP addresses, like `10.0.0.0/8`, `fd00::/8` or `10.0.0.7`"
            ))
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => longest,
            // `/08` and `/+8` are numbers to `parse`, and slips to anyone else.
            Some(digits) if digits.len() > 1 && digits.starts_with(['0', '+']) => {
                return Err(wrong());
            }
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= longest)
                .ok_or_else(wrong)?,
        };
        let (address, bits) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(inner)) if bits >= 96 => (IpAddr::V4(inner), bits - 96),
            _ => (address, bits),
        };
        let range = Cidr::around(address, bits);
        if range.first != address {
            return invalid(format!(
                "`{text}` names an address inside a range: write `{range}` for the range"
            ));
        }
        Ok(range)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

as_text!(Cidr, "10.0.0.0/8", {});

/// One range or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cidrs(Vec<Cidr>);

impl Cidrs {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.0.iter().copied()
    }
}

impl Serialize for Cidrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> de::Visitor<'de> for OneOrSeveral {
            type Value = Cidrs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a range like `10.0.0.0/8`, or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cidrs, E> {
                Ok(Cidrs(vec![text.parse().map_err(E::custom)?]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Cidrs, A::Error> {
                let mut ranges = Vec::new();
                while let Some(range) = list.next_element()? {
                    ranges.push(range);
                }
                Ok(Cidrs(ranges))
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl JsonSchema for Cidrs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidrs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Cidr>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_hold_what_lies_in_them() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "fe80::1", "10.0.0.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "::2"),
            ("192.168.1.128/25", "192.168.1.200", "192.168.1.127"),
        ] {
            assert!(
                range(text).holds(inside.parse().unwrap()),
                "{text} {inside}"
            );
            assert!(
                !range(text).holds(outside.parse().unwrap()),
                "{text} {outside}"
            );
        }
    }

    #[test]
    fn an_ipv4_address_in_an_ipv6_one_is_itself() {
        assert!(range("10.0.0.0/8").holds("::ffff:10.1.2.3".parse().unwrap()));
        assert_eq!(range("::ffff:10.0.0.0/104"), range("10.0.0.0/8"));
        assert_eq!(range("::ffff:10.0.0.1").to_string(), "10.0.0.1/32");
    }

    #[test]
    fn what_is_no_range_is_told() {
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10/8",
            "a",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!(
            "10.1.2.3/8".parse::<Cidr>().unwrap_err().0,
            "`10.1.2.3/8` names an address inside a range: write `10.0.0.0/8` for the range"
        );
    }

    proptest! {
        #[test]
        fn a_range_holds_what_shares_its_bits(ip in any::<u32>(), other in any::<u32>(), bits in 0u8..=32) {
            let range = Cidr { first: masked_v4(Ipv4Addr::from_bits(ip), bits).into(), bits };
            let shared = (ip ^ other).leading_zeros() >= u32::from(bits);
            prop_assert_eq!(range.holds(Ipv4Addr::from_bits(other).into()), shared);
            prop_assert_eq!(range.to_string().parse::<Cidr>().unwrap(), range);
        }
    }
}
