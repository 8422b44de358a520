//! When does a quota come back? From a provider's words to a time.

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

use crate::time;

/// The time that a hint of [`super::usage_reset_hint`] means, in Unix milliseconds; `None` when it is not
/// understood. A time of day is the next one; without a zone it is that of `local`.
pub fn reset_time(hint: &str, now_ms: i64, local: &TimeZone) -> Option<i64> {
    match hint.strip_prefix("in ") {
        Some(span) => now_ms.checked_add(span_of(span)?),
        None => absolute(hint).or_else(|| clock(hint, now_ms, local)),
    }
}

/// `3h 42m`, `5 minutes`, `1 day 2 hours`, `30s`, in milliseconds.
fn span_of(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut seconds: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match rest.get(..end)?.to_ascii_lowercase().as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
            "d" | "day" | "days" => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = rest.get(end..)?.trim_start();
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    seconds.checked_mul(1000).filter(|ms| *ms > 0)
}

/// `2024-06-25 20:00 UTC`, RFC 3339.
fn absolute(hint: &str) -> Option<i64> {
    time::parse(hint).or_else(|| time::parse(&format!("{}:00Z", hint.strip_suffix(" UTC")?)))
}

/// `2pm (Europe/Berlin)`, `11 PM`, `14:30 UTC`.
fn clock(hint: &str, now_ms: i64, local: &TimeZone) -> Option<i64> {
    let end = hint.find(|c: char| !c.is_ascii_digit()).unwrap_or(hint.len());
    let hour: i8 = hint.get(..end)?.parse().ok()?;
    let mut rest = hint.get(end..)?;
    let mut minute = 0;
    if let Some(after) = rest.strip_prefix(':') {
        minute = after.get(..2)?.parse().ok()?;
        rest = after.get(2..)?;
    }
    let rest = rest.trim_start();
    let half = rest.get(..2).map(str::to_ascii_lowercase);
    let (hour, zone) = match half.as_deref() {
        Some("am") if (1..=12).contains(&hour) => (hour % 12, rest.get(2..)?),
        Some("pm") if (1..=12).contains(&hour) => (hour % 12 + 12, rest.get(2..)?),
        // A bare number is no time.
        _ if !hint.contains(':') => return None,
        _ => (hour, rest),
    };
    let zone = match zone.trim().trim_start_matches('(').trim_end_matches(')') {
        "" => local.clone(),
        "UTC" | "GMT" => TimeZone::UTC,
        name => TimeZone::get(name).ok()?,
    };
    let now = Timestamp::from_millisecond(now_ms).ok()?;
    let time = Time::new(hour, minute, 0, 0).ok()?;
    let today = now.to_zoned(zone.clone()).date();
    let on = |date: jiff::civil::Date| date.to_datetime(time).to_zoned(zone.clone()).ok().map(|z| z.timestamp());
    on(today).filter(|at| *at > now).or_else(|| on(today.tomorrow().ok()?)).map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_times() {
        // 2024-06-25 12:00 UTC
        const NOW: i64 = 1_719_316_800_000;
        const MINUTE: i64 = 60_000;
        let table = [
            ("in 3h 42m", Some(222)),
            ("in 5 minutes", Some(5)),
            ("in 1 day and 2 hours", Some(26 * 60)),
            ("2024-06-25 20:00 UTC", Some(480)),
            ("2024-06-25T13:00:00Z", Some(60)),
            ("2pm", Some(120)),
            ("11 AM (UTC)", Some(23 * 60)),
            ("14:30 UTC", Some(150)),
            ("12am", Some(12 * 60)),
            ("in a while", None),
            ("in 0 s", None),
            ("in 99999999999999999999 h", None),
            ("tomorrow", None),
            ("13 pm", None),
            ("9", None),
            ("2pm (Nowhere/Land)", None),
            ("25:00 UTC", None),
            ("", None),
        ];
        for (hint, minutes) in table {
            let at = reset_time(hint, NOW, &TimeZone::UTC);
            assert_eq!(at.map(|at| (at - NOW) / MINUTE), minutes, "{hint:?}");
        }
    }
}
