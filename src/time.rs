//! Times as wires and people write them: RFC 3339 in UTC. Time zones are the business of `jiff`. Knows nobody.
//!
//! All times are Unix milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 86_400_000;

/// The end of the year 9999.
pub const LAST: i64 = 2_932_897 * DAY_MS - 1;

/// The wall clock; 0 while it stands before 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// `2026-01-01T08:00:00.123Z`; the epoch for a time that is not in the years 0 to 9999.
pub fn rfc3339(ms: i64) -> String {
    let [year, month, day, hour, minute, second, ms] = civil(ms);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// `2026-01-01 08:00 UTC`, for people.
pub fn to_the_minute(ms: i64) -> String {
    let [year, month, day, hour, minute, ..] = civil(ms);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// `20260101-080000`, for names of files.
pub fn compact(ms: i64) -> String {
    let [year, month, day, hour, minute, second, _] = civil(ms);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Reads RFC 3339: any offset, `T` or a space in the middle, a fraction of which the milliseconds count.
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [year, month, day] = digits(date, "dddd-dd-dd")?;
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [hour, minute, second] = digits(time, "dd:dd:dd")?;
    let (mut ms, mut rest) = (0, rest);
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        let (fraction, offset) = fraction.split_at(end);
        if fraction.is_empty() {
            return None;
        }
        ms = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
        rest = offset;
    }
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = if rest.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = digits(rest.strip_prefix(['+', '-'])?, "dd:dd")?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    // A leap second counts as the one before it.
    if hour > 23 || minute > 59 || second > 60 || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let at = days(year, month, day) * DAY_MS;
    // A day that its month does not have would come out as another one.
    if civil(at)[..3] != [year, month, day] {
        return None;
    }
    Some(at + ((hour * 60 + minute - offset) * 60 + second.min(59)) * 1000 + ms)
}

/// Reads an age: `30d`, `12h`, `90m`, `60 s`; a number alone is days.
pub fn parse_age(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.strip_prefix(number)?.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" | "" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

/// Reads the time in a head of HTTP: `Sun, 06 Nov 1994 08:49:37 GMT`. Its two obsolete forms are not taken.
pub fn parse_http(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (day, rest) = text.split_once(", ")?.1.split_once(' ')?;
    let (month, rest) = rest.split_once(' ')?;
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let (year, rest) = rest.split_once(' ')?;
    let time = rest.strip_suffix(" GMT")?;
    parse(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))
}

/// The numbers where the form has runs of `d`; everything else is as in the form.
fn digits<const N: usize>(text: &str, form: &str) -> Option<[i64; N]> {
    if text.len() != form.len() {
        return None;
    }
    let mut numbers = [0; N];
    let mut at = 0;
    for (c, f) in text.bytes().zip(form.bytes()) {
        if f != b'd' {
            at += 1;
            if c != f {
                return None;
            }
        } else if c.is_ascii_digit() {
            let number = numbers.get_mut(at)?;
            *number = *number * 10 + i64::from(c - b'0');
        } else {
            return None;
        }
    }
    Some(numbers)
}

/// Year, month, day, hour, minute, second, millisecond.
fn civil(ms: i64) -> [i64; 7] {
    const YEARS: std::ops::RangeInclusive<i64> = -719_528 * DAY_MS..=LAST;
    let ms = if YEARS.contains(&ms) { ms } else { 0 };
    let (day, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    // Days since 1 March of the year 0, in eras of 400 years, whose years begin in March.
    let z = day + 719_468;
    let (era, day) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400 + month / 10, (month + 2) % 12 + 1);
    [year, month, day, rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000]
}

/// Days since 1970 of a date; one that its month does not have is one of the next.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + 365 * year + year / 4 - year / 100 + day - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_is_what_the_calendar_says() {
        let utc = jiff::tz::TimeZone::UTC;
        // Two primes, so that all days of the year and all hours come up.
        for at in (-62_167_219_200_000..253_402_300_799_999_i64).step_by(9_999_991 * 7_919) {
            let theirs = jiff::Timestamp::from_millisecond(at).unwrap();
            assert_eq!(rfc3339(at), format!("{theirs:.3}"));
            assert_eq!(parse(&rfc3339(at)), Some(at));
            let z = theirs.to_zoned(utc.clone());
            assert_eq!(compact(at), z.strftime("%Y%m%d-%H%M%S").to_string());
            assert_eq!(to_the_minute(at), z.strftime("%Y-%m-%d %H:%M UTC").to_string());
        }
        for far in [i64::MIN, i64::MAX, 253_402_300_800_000, -62_167_219_200_001] {
            assert_eq!(rfc3339(far), "1970-01-01T00:00:00.000Z");
        }
    }

    #[test]
    fn a_time_of_http_is_read_or_refused() {
        assert_eq!(parse_http("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(parse_http("Thu, 1 Jan 1970 00:00:00 GMT"), Some(0));
        for odd in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 32 Nov 1994 08:49:37 GMT", ""] {
            assert_eq!(parse_http(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_time_is_read_or_refused() {
        let table = [
            ("2024-06-25T13:00:00Z", Some(1_719_320_400_000)),
            ("2024-06-25t13:00:00z", Some(1_719_320_400_000)),
            ("2024-06-25 15:00:00.0019+02:00", Some(1_719_320_400_001)),
            ("2024-06-25T04:30:00.5-08:30", Some(1_719_320_400_500)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_799_000)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-06-31T00:00:00Z", None),
            ("2024-00-01T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-06-25T24:00:00Z", None),
            ("2024-06-25T13:60:00Z", None),
            ("2024-06-25T13:00:00", None),
            ("2024-06-25T13:00:00.Z", None),
            ("2024-06-25T13:00:00+0200", None),
            ("2024-06-25T13:00:00+24:00", None),
            ("2024-06-25T13:00Z", None),
            ("2024-6-25T13:00:00Z", None),
            ("2024-06-25T13:00:00Zx", None),
            ("２024-06-25T13:00:00Z", None),
            ("", None),
        ];
        for (text, at) in table {
            assert_eq!(parse(text), at, "{text}");
        }
    }
}
