//! Moments on the wall clock as RFC 3339 has them, in UTC.

use std::time::{Duration, UNIX_EPOCH};

use crate::{outbox::Wall, telemetry::rfc3339, units::Time};

/// `2026-11-21T13:00:00.000Z`.
pub(super) fn moment(at: Wall) -> String {
    let since = Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
    rfc3339(UNIX_EPOCH + since)
}

/// Reads a moment, or how long ago it was: `90m`.
pub(super) fn read(text: &str) -> Option<Wall> {
    match text.parse::<Time>() {
        Ok(past) => Some(Wall::now().before(past.duration())),
        Err(_) => parse(text),
    }
}

/// Reads `2026-11-21T13:00:00Z`, with or without fractions of a second; UTC only.
fn parse(text: &str) -> Option<Wall> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hours, minutes) = (
        time.next()?.parse::<i64>().ok()?,
        time.next()?.parse::<i64>().ok()?,
    );
    let seconds: f64 = time.next()?.parse().ok()?;
    let sane = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hours)
        && (0..60).contains(&minutes)
        && (0.0..61.0).contains(&seconds);
    sane.then(|| {
        let seconds_of_day = hours * 3600 + minutes * 60;
        Wall((days(year, month, day) * 86_400 + seconds_of_day) * 1000 + (seconds * 1000.0) as i64)
    })
}

/// Days since 1970-01-01: Howard Hinnant's `days_from_civil`, for years that are not negative.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for millis in [0, 951_782_400_000, 1_709_164_799_123, 1_795_266_000_000] {
            assert_eq!(parse(&moment(Wall(millis))), Some(Wall(millis)));
        }
        for wrong in [
            "",
            "2026-11-21",
            "2026-13-01T00:00:00Z",
            "2026-11-21T13:00:00+01:00",
            "aTbZ",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_is_so_long_ago() {
        let hour = read("1h").unwrap();
        assert!((3_599_000..3_601_000).contains(&(Wall::now().0 - hour.0)));
        assert_eq!(read("1970-01-02T00:00:01Z"), Some(Wall(86_401_000)));
        assert_eq!(read("yesterday"), None);
    }
}
