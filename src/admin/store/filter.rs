//! Queries of the pages about deferred calls, and the dead letters that they ask for.

use bytes::Bytes;

use super::{Refused, ago, moment};
use crate::{
    admin::pages::unescaped,
    outbox::{DeadReason, LetterFilter, Wall},
};

/// A query's names and values, unescaped.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn read(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            (unescaped(name), unescaped(value))
        };
        Query(pairs.map(pair).collect())
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A misspelt filter would match everything, and a replay of everything is no small mistake: it is refused.
    pub fn filter(&self) -> Result<LetterFilter, Refused> {
        let mut filter = LetterFilter::default();
        for (name, value) in &self.0 {
            let wrong = |wanted: &str| {
                let value = value.escape_debug();
                Refused::Wrong(format!("{name} is {wanted}, not `{value}`"))
            };
            match name.as_str() {
                "all" => filter.all = value == "true",
                "reason" => {
                    let known: Vec<_> = DeadReason::ALL.iter().map(|one| one.word()).collect();
                    let reason = DeadReason::from_word(value);
                    filter.reason = Some(reason.ok_or_else(|| wrong(&known.join(", ")))?);
                }
                "status" => {
                    let status = value.parse().map_err(|_| wrong("an HTTP status"))?;
                    filter.status = Some(status);
                }
                "since" => filter.since = Some(time(value).ok_or_else(|| wrong(TIME))?),
                "until" => filter.until = Some(time(value).ok_or_else(|| wrong(TIME))?),
                "key" => filter.key = Some(Bytes::copy_from_slice(value.as_bytes())),
                "route" => filter.route = Some(value.clone()),
                "upstream" => filter.upstream = Some(value.clone()),
                "limit" | "after" => {}
                other => {
                    let other = other.escape_debug();
                    return Err(Refused::Wrong(format!(
                        "`{other}` is no filter: reason, status, since, until, key, route, upstream, all"
                    )));
                }
            }
        }
        Ok(filter)
    }
}

const TIME: &str = "a time like 2026-11-21T13:00:00Z, or how long ago, like 90m";

fn time(text: &str) -> Option<Wall> {
    let past = ago(text).map(|past| Wall::now().before(past));
    past.or_else(|| moment::parse(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_whole_or_refused() {
        let filter = Query::read("reason=exhausted&status=500&key=a%26b&route=notify&all").filter();
        let filter = filter.unwrap();
        assert_eq!(filter.reason, Some(DeadReason::Exhausted));
        assert_eq!((filter.status, filter.all), (Some(500), true));
        assert_eq!(filter.key.as_deref(), Some(&b"a&b"[..]));
        assert_eq!(filter.route.as_deref(), Some("notify"));
        for wrong in [
            "reson=exhausted",
            "reason=tired",
            "status=many",
            "since=yesterday",
        ] {
            assert!(Query::read(wrong).filter().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_moments_or_so_long_ago() {
        let hour = time("1h").unwrap();
        assert!((3_599_000..3_601_000).contains(&(Wall::now().0 - hour.0)));
        assert_eq!(time("1970-01-02T00:00:01Z"), Some(Wall(86_401_000)));
    }
}
