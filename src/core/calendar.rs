//! Times as text, in UTC: names of partitions, literals in SQL, details of events. Independent of
//! the settings TimeZone and DateStyle.

use crate::event::Timestamp;

const DAY: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;
/// Seconds between the same days: from the epoch of Unix to that of [`Timestamp`].
pub const SECONDS_BEFORE_2000: i64 = EPOCH_DAYS * 86_400;

/// The first time after the year 9999.
const YEAR_10000: Timestamp = 2_921_940 * DAY;

/// Whether a time can be one of a clock's, in the years 1970 to 9999, and as SQL what [`rfc3339`] writes.
/// Others come from files that were scribbled over.
pub fn is_plausible(at: Timestamp) -> bool {
    (-EPOCH_DAYS * DAY..YEAR_10000).contains(&at)
}

/// Year, month, day of a day number since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", civil_from_days).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// `2026-11-22T13:05:00.000000Z`: RFC 3339, and a timestamptz literal.
pub fn rfc3339(at: Timestamp) -> String {
    let (y, m, d) = civil(at.div_euclid(DAY) + EPOCH_DAYS);
    let micros = at.rem_euclid(DAY);
    let seconds = micros / 1_000_000;
    format!(
        "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        micros % 1_000_000
    )
}

/// `20261122_1305`: the suffix of a partition that begins then.
pub fn suffix(at: Timestamp) -> String {
    let (y, m, d) = civil(at.div_euclid(DAY) + EPOCH_DAYS);
    let minutes = at.rem_euclid(DAY) / 60_000_000;
    format!("{y:04}{m:02}{d:02}_{:02}{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_what_is_plausible() {
        for (at, text) in [
            (-EPOCH_DAYS * DAY, "1970-01-01T00:00:00.000000Z"),
            (YEAR_10000 - 1, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert!(is_plausible(at));
            assert_eq!(rfc3339(at), text);
        }
        for at in [i64::MIN, -EPOCH_DAYS * DAY - 1, YEAR_10000, i64::MAX] {
            assert!(!is_plausible(at));
        }
    }
}
