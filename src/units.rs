//! Values of the routing file that cannot be wrong once they exist.
//!
//! Each is built through a check, from the words an operator writes (`250ms`, `64KiB`, `50`), and passed on
//! unchecked. Errors say what was expected; where in the file is the reader's business.

mod address;
mod cidr;
mod spiffe;
mod web;

use std::{collections::BTreeMap, fmt, marker::PhantomData, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use address::{Address, Hostname, Listen, SocketAddress};
pub use cidr::{Cidr, Cidrs};
pub use spiffe::{SpiffeId, SpiffeIdError, is_trust_domain};
pub use web::{FieldName, FieldValue, MessageField, Method, Pattern, Status, UrlPath};
pub(crate) use web::{message_fields, message_names};

/// A text that is not the value it should be; says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

fn invalid<T>(text: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(text.into()))
}

/// A length of time: a whole number and a unit, `250ms`, `5s`, `10m`, `72h`, `7d`; `0s` is none.
///
/// At most 10 years, so that sums never overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Duration);

impl Time {
    pub const ZERO: Time = Time(Duration::ZERO);
    const MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

    pub const fn millis(n: u64) -> Self {
        Time(Duration::from_millis(n))
    }

    pub const fn seconds(n: u64) -> Self {
        Time(Duration::from_secs(n))
    }

    pub const fn duration(self) -> Duration {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Duration {
        time.0
    }
}

impl FromStr for Time {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if !number.is_empty() => {
                return invalid(format!(
                    "`{text}` has no unit: write it like `{text}ms` or `{text}s`"
                ));
            }
            _ => {
                return invalid(format!(
                    "`{text}` is not a time: a whole number and ms, s, m, h or d, like `250ms`"
                ));
            }
        };
        let Ok(count) = number.parse::<u64>() else {
            return invalid(format!(
                "`{text}` is not a time: a whole number and ms, s, m, h or d, like `250ms`"
            ));
        };
        match count.checked_mul(scale).map(Duration::from_millis) {
            Some(time) if time <= Self::MAX => Ok(Time(time)),
            _ => invalid(format!("`{text}` is longer than ten years")),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        match ms {
            0 => f.write_str("0s"),
            ms if ms % 86_400_000 == 0 => write!(f, "{}d", ms / 86_400_000),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A size: a whole number and a unit, `512B`, `64KiB`, `1MiB`, `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    pub const fn bytes(self) -> u64 {
        self.0
    }

    pub const fn kib(n: u64) -> Self {
        ByteSize(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        ByteSize(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        ByteSize(n << 30)
    }
}

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            "" if !number.is_empty() => {
                return invalid(format!(
                    "`{text}` has no unit: write it like `{text}B` or `{text}MiB`"
                ));
            }
            _ => {
                return invalid(format!(
                    "`{text}` is not a size: a whole number and B, KiB, MiB, GiB or TiB, like `64KiB`"
                ));
            }
        };
        match number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
        {
            Some(bytes) if bytes <= i64::MAX as u64 => Ok(ByteSize(bytes)),
            _ => invalid(format!("`{text}` is not a size that fits in 63 bits")),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A share of a whole, 0 to 100, as a bare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    pub const fn new(share: u8) -> Option<Self> {
        if share <= 100 {
            Some(Percent(share))
        } else {
            None
        }
    }

    pub const fn share(self) -> u8 {
        self.0
    }

    /// This share of `whole`, rounded down.
    pub const fn of(self, whole: u64) -> u64 {
        (whole as u128 * self.0 as u128 / 100) as u64
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = u64::deserialize(deserializer)?;
        u8::try_from(share)
            .ok()
            .and_then(Percent::new)
            .ok_or_else(|| {
                de::Error::custom(format!(
                    "{share} is not a share: a whole number from 0 to 100"
                ))
            })
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 100 })
    }
}

/// A name an operator gives to a service, route or upstream: 1 to 253 of letters, digits, `-`, `_`, `.`,
/// beginning and ending with a letter or digit. It stands in metrics, logs and file names as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Box<str>);

impl ServiceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let ok = text.len() <= 253
            && text.chars().all(inner)
            && edge(text.chars().next())
            && edge(text.chars().last());
        if ok {
            Ok(ServiceName(text.into()))
        } else {
            invalid(format!(
                "`{text}` is not a name: up to 253 letters, digits, `-`, `_` or `.`, with a letter or digit at both ends"
            ))
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::ops::Deref for ServiceName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Reads and writes a value as its text, with a JSON Schema for editors. The value brings `FromStr` (with `Invalid`)
/// and `Display`.
macro_rules! as_text {
    ($unit:ident, $example:literal, { $($schema:tt)* }) => {
        impl serde::Serialize for $unit {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $unit {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::units::text(deserializer, concat!("a text like `", $example, "`"))
            }
        }

        impl schemars::JsonSchema for $unit {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($unit).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "examples": [$example], $($schema)* })
            }
        }
    };
}
pub(crate) use as_text;

/// Reads a value from its text; a bare number counts as its digits, so that the value itself says what is missing.
pub(crate) fn text<'de, T, D>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err = Invalid>,
    D: Deserializer<'de>,
{
    struct Text<T>(&'static str, PhantomData<T>);
    impl<T: FromStr<Err = Invalid>> de::Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_str(Text(expected, PhantomData))
}

/// Reads a mapping whose keys, once read, are all different: `X-Tier` beside `x-tier` is an error.
pub(crate) fn distinct<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Distinct<K, V>(PhantomData<(K, V)>);
    impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> de::Visitor<'de> for Distinct<K, V> {
        type Value = BTreeMap<K, V>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping")
        }
        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut read = BTreeMap::new();
            while let Some((key, value)) = map.next_entry()? {
                if read.insert(key, value).is_some() {
                    return Err(de::Error::custom(
                        "said twice: this key equals one before it",
                    ));
                }
            }
            Ok(read)
        }
    }
    deserializer.deserialize_map(Distinct(PhantomData))
}

/// An optional value whose absence is written `none`: `#[serde(with = "or_none")]`.
pub(crate) mod or_none {
    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err = Invalid>,
        D: Deserializer<'de>,
    {
        struct Perhaps<T>(Option<T>);
        impl<T: FromStr<Err = Invalid>> FromStr for Perhaps<T> {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    "none" => Ok(Perhaps(None)),
                    text => text.parse().map(|value| Perhaps(Some(value))),
                }
            }
        }
        text(deserializer, "a text, or `none`").map(|Perhaps(value)| value)
    }
}

/// As `or_none`; a time of zero is none too, as in the Gateway API.
pub(crate) mod time_or_none {
    use super::*;
    pub(crate) use or_none::serialize;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Time>, D::Error> {
        let time: Option<Time> = or_none::deserialize(deserializer)?;
        Ok(time.filter(|time| !time.is_zero()))
    }
}

/// The schema of a value that may be `none`.
pub(crate) struct OrNone<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for OrNone<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrNone", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "const": "none" }, value] })
    }
}

as_text!(Time, "250ms", { "pattern": "^[0-9]+(ms|s|m|h|d)$" });
as_text!(ByteSize, "64KiB", { "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" });
as_text!(ServiceName, "payments", { "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_in_their_largest_unit() {
        for (text, back) in [
            ("250ms", "250ms"),
            ("5s", "5s"),
            ("60s", "1m"),
            ("72h", "3d"),
            ("0s", "0s"),
        ] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), back);
        }
    }

    #[test]
    fn a_time_without_a_unit_is_told_what_to_write() {
        assert_eq!(
            "5".parse::<Time>().unwrap_err().to_string(),
            "`5` has no unit: write it like `5ms` or `5s`"
        );
        for bad in [
            "",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "99999999999999999999s",
            "4000d",
        ] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_in_their_largest_unit() {
        for (text, bytes, back) in [
            ("64KiB", 65536, "64KiB"),
            ("1024MiB", 1 << 30, "1GiB"),
            ("512B", 512, "512B"),
            ("0B", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, back));
        }
        for bad in ["64", "64kb", "KiB", "9999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_stay_within_what_labels_and_hosts_can_carry() {
        for good in ["a", "payments-canary", "payments.shop.svc"] {
            assert!(good.parse::<ServiceName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "é"] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}
