//! Parses instants and durations from the command line.

use std::time::Duration;

use humantime_serde::re::humantime::{self, DurationError};

use crate::clock::Timestamp;

/// Parses RFC 3339, `now`, how long ago (`2h`, `-1h`, `15m ago`), or the beginning of a day in UTC
/// (`today`, `yesterday`, `2026-01-31`).
pub fn parse_instant(text: &str) -> Result<Timestamp, String> {
    instant_at(text, Timestamp::now())
}

/// Parses a duration such as `30d` or `1h 30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|error| format!("{error}; write it like 30s, 15m, 1h 30m or 30d"))
}

/// The longest time to live that the service accepts (`ttlSeconds`): ten years.
const MAX_TTL_SECS: u64 = 10 * 366 * 24 * 3600;

/// Parses the time to live of an event, such as `90s` or `7d`, into seconds.
pub fn parse_ttl(text: &str) -> Result<u64, String> {
    const DAY: u64 = 24 * 60 * 60;
    let duration = parse_duration(text)?;
    if duration.subsec_nanos() != 0 || duration.is_zero() {
        return Err("give whole seconds, at least one".to_owned());
    }
    let seconds = duration.as_secs();
    if seconds > MAX_TTL_SECS {
        let days = MAX_TTL_SECS / DAY;
        return Err(format!("give at most {MAX_TTL_SECS} s ({days} days)"));
    }
    Ok(seconds)
}

fn instant_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    match text {
        "now" => return Ok(now),
        "today" => return Ok(day(now)),
        "yesterday" => return Ok(day(day(now).minus(Duration::from_secs(1)))),
        _ => {}
    }
    if text.len() == "2026-01-31".len()
        && let Ok(midnight) = Timestamp::parse(&format!("{text}T00:00:00Z"))
    {
        return Ok(midnight);
    }
    let back = text.strip_prefix('-').or_else(|| text.strip_suffix("ago"));
    if let Some(back) = back {
        return match humantime::parse_duration(back.trim()) {
            Err(DurationError::NumberOverflow) => Err(too_far_back()),
            _ => ago(now, parse_duration(back)?),
        };
    }
    match humantime::parse_duration(text) {
        Ok(back) => return ago(now, back),
        Err(DurationError::NumberOverflow) => return Err(too_far_back()),
        Err(_) => {}
    }
    Timestamp::parse(text)
        .map_err(|error| format!("{error}; or how long ago: 2h, 15m ago, yesterday"))
}

/// The instant this long before `now`.
fn ago(now: Timestamp, back: Duration) -> Result<Timestamp, String> {
    let at = now.minus(back);
    if at < Timestamp::from_micros(0) { Err(too_far_back()) } else { Ok(at) }
}

fn too_far_back() -> String {
    "too far back: times begin in 1970".to_owned()
}

/// The beginning of the day in UTC.
fn day(at: Timestamp) -> Timestamp {
    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    Timestamp::from_micros(at.micros() - at.micros().rem_euclid(DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

    #[test]
    fn relative_times_count_back_from_now() {
        let quarter = NOW.minus(Duration::from_mins(15));
        for text in ["-15m", "15m", "15m ago", " 15min ago ", "-900s"] {
            assert_eq!(instant_at(text, NOW), Ok(quarter), "{text}");
        }
        assert_eq!(instant_at("now", NOW), Ok(NOW));
    }

    #[test]
    fn no_time_is_before_1970() {
        let far = ["99999y", "-99999y", "99999y ago", "60y", "999999999999999999999d"];
        for text in far {
            let refused = instant_at(text, NOW).unwrap_err();
            assert!(refused.contains("1970"), "{text}: {refused}");
        }
        assert!(instant_at("50y", NOW).is_ok());
    }

    #[test]
    fn an_age_as_it_is_shown_is_how_long_ago() {
        assert_eq!(instant_at("3 m ago", NOW), Ok(NOW.minus(Duration::from_mins(3))));
        assert_eq!(instant_at("12 d ago", NOW), Ok(NOW.minus(Duration::from_hours(12 * 24))));
    }

    #[test]
    fn days_begin_in_utc() {
        let noon = NOW.plus(Duration::from_hours(12));
        assert_eq!(instant_at("today", noon), Ok(NOW));
        assert_eq!(instant_at("yesterday", noon), Ok(NOW.minus(Duration::from_hours(24))));
        assert_eq!(instant_at("2026-01-01", noon), Ok(NOW));
    }

    #[test]
    fn absolute_times_need_an_offset() {
        assert_eq!(instant_at("2026-01-01T01:00:00+01:00", NOW), Ok(NOW));
        for text in ["2026-01-01T01:00:00", "tomorrow", "-", "ago", "1", "2026-13-01"] {
            assert!(instant_at(text, NOW).is_err(), "{text}");
        }
    }
}
