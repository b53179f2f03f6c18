//! Times and durations, read and shown.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `500ms`, `30s`, `5m`, `2h`, `30d`, `1w`, and sums such as `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: it looks like 500ms, 30s, 5m, 2h, 30d or 1h30m");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit_on) = rest.split_at(digits);
        let letters = unit_on.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit_on.len());
        let (unit, next) = unit_on.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = next;
    }
    Ok(total)
}

/// A point in time, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At(pub(crate) u64);

/// Reads a duration as "so long ago", or a time such as `2026-11-21T07:30:00Z`.
pub(crate) fn parse_past(text: &str) -> Result<At, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(At(now_ms().saturating_sub(millis(ago))));
    }
    parse_time(text)
        .ok_or_else(|| format!("{text:?} is neither a duration such as 10m nor a time such as 2026-11-21T07:30:00Z"))
}

/// Reads a duration as "from now", or a time such as `2026-11-21T07:30:00Z`.
pub(crate) fn parse_future(text: &str) -> Result<At, String> {
    if let Ok(ahead) = parse_duration(text) {
        return Ok(At(now_ms().saturating_add(millis(ahead))));
    }
    parse_time(text)
        .ok_or_else(|| format!("{text:?} is neither a duration such as 30d nor a time such as 2026-12-31T00:00:00Z"))
}

fn parse_time(text: &str) -> Option<At> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(At)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `12 ms`, `1.24 s`, `3m 05s`, `2h 04m`, `3d 04h`.
pub(crate) fn duration(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{s}.{:02} s", ms % 1_000 / 10),
        10_000..60_000 => format!("{s}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{m}m {:02}s", s % 60),
        3_600_000..86_400_000 => format!("{h}h {:02}m", m % 60),
        _ => format!("{d}d {:02}h", h % 24),
    }
}

/// Time since `at`, such as `3m 05s ago`.
pub(crate) fn ago(at: u64, now: u64) -> String {
    if at > now { format!("in {}", duration(at - now)) } else { format!("{} ago", duration(now - at)) }
}

/// Day and time to the second, where the reader is.
pub(crate) fn stamp(at: u64) -> String {
    format_in(at, "%Y-%m-%d %H:%M:%S", TimeZone::system())
}

/// Time of the day to the millisecond, where the reader is.
pub(crate) fn clock(at: u64) -> String {
    format_in(at, "%H:%M:%S%.3f", TimeZone::system())
}

fn format_in(at: u64, format: &str, zone: TimeZone) -> String {
    let time = i64::try_from(at).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    // A time beyond the calendar is a peer's mistake; its number is still worth showing.
    time.map_or_else(|| at.to_string(), |time| time.to_zoned(zone).strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("30d", 2_592_000_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "-1s", "5x", "1.5s", "99999999999999999999s", "18446744073709551615w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_shown() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.00 s"),
            (1_249, "1.24 s"),
            (12_340, "12.3 s"),
            (185_000, "3m 05s"),
            (7_440_000, "2h 04m"),
            (273_600_000, "3d 04h"),
        ] {
            assert_eq!(duration(ms), text);
        }
        assert_eq!((ago(1_000, 6_000), ago(6_000, 1_000)), ("5.00 s ago".to_owned(), "in 5.00 s".to_owned()));
    }

    #[test]
    fn times() {
        assert_eq!(parse_past("2026-11-21T07:30:00Z"), Ok(At(1_795_246_200_000)));
        assert!(parse_past("yesterday").is_err() && parse_future("").is_err());
        let (past, future) = (parse_past("1h").unwrap(), parse_future("1h").unwrap());
        assert!((7_190_000..7_210_000).contains(&(future.0 - past.0)));
        assert_eq!(format_in(1_795_246_200_123, "%Y-%m-%d %H:%M:%S%.3f", TimeZone::UTC), "2026-11-21 07:30:00.123");
        assert_eq!(stamp(u64::MAX), u64::MAX.to_string());
    }
}
