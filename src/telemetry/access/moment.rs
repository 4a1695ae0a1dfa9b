//! Moments and numbers as text, written straight into a line's buffer.

use std::time::{SystemTime, UNIX_EPOCH};

/// The number in decimal, with zeros before it up to `width` digits.
pub(super) fn decimal(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

/// RFC 3339 in UTC, to the millisecond: `2026-11-21T12:04:21.250Z`.
pub(super) fn timestamp(when: SystemTime, out: &mut Vec<u8>) {
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let fields = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (seconds / 3_600 % 24, 2, b':'),
        (seconds / 60 % 60, 2, b':'),
        (seconds % 60, 2, b'.'),
        (since.subsec_millis().into(), 3, b'Z'),
    ];
    for (value, width, end) in fields {
        decimal(value, width, out);
        out.push(end);
    }
}

/// A moment as `2026-11-21T13:05:00.000Z`.
pub fn rfc3339(when: SystemTime) -> String {
    let mut out = Vec::with_capacity(24);
    timestamp(when, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Days since 1970-01-01 as year, month, day: Howard Hinnant's `civil_from_days`, for days that are not negative.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}
