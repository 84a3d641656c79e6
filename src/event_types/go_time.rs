//! RFC 3339 as gateways parse it. They are written in Go, whose `time.Time` accepts less in JSON
//! than RFC 3339 allows: `T` and `Z` must be upper-case, and there is no leap second and no hour
//! 24. What Go accepts beyond the RFC (a comma, an hour of one digit) is refused here, because a
//! later version of Go may refuse it.

/// Whether a gateway can parse the text as a time.
pub(super) fn is_go_time(text: &str) -> bool {
    let Some((date_time, rest)) = text.as_bytes().split_at_checked(19) else {
        return false;
    };
    is_date_time(date_time) && zone(rest).is_some_and(is_zone)
}

/// Whether the text is `2006-01-02T15:04:05`, on a day that exists.
fn is_date_time(text: &[u8]) -> bool {
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, separator)| text[*at] != *separator) {
        return false;
    }
    let (Some(year), Some(month), Some(day)) =
        (number(&text[..4]), number(&text[5..7]), number(&text[8..10]))
    else {
        return false;
    };
    let of_day = [(11, 23), (14, 59), (17, 59)];
    (1..=days(year, month)).contains(&day)
        && of_day.iter().all(|(at, most)| number(&text[*at..at + 2]).is_some_and(|n| n <= *most))
}

/// The part after the fraction of a second; `None` if the fraction is malformed.
fn zone(rest: &[u8]) -> Option<&[u8]> {
    let Some(fraction) = rest.strip_prefix(b".") else {
        return Some(rest);
    };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then(|| &fraction[digits..])
}

/// Whether the text is `Z` or an offset such as `+05:30`.
fn is_zone(text: &[u8]) -> bool {
    match text {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            number(&[*h1, *h2]).is_some_and(|hours| hours <= 23)
                && number(&[*m1, *m2]).is_some_and(|minutes| minutes <= 59)
        }
        _ => false,
    }
}

/// The number of days of a month; 0 if there is no such month.
fn days(year: u32, month: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => 0,
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_go_parses_are_accepted() {
        for text in [
            "2026-01-31T09:30:00Z",
            "2026-01-31T09:30:00.5Z",
            "2026-01-31T09:30:00.123456789Z",
            "2026-01-31T09:30:00.1234567890123Z",
            "2026-01-31T09:30:00+00:00",
            "2026-01-31T09:30:00-23:59",
            "2024-02-29T00:00:00Z",
            "2000-02-29T23:59:59.999999999+05:30",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert!(is_go_time(text), "{text}");
        }
    }

    #[test]
    fn times_that_go_does_not_parse_are_refused() {
        for text in [
            "",
            "2026",
            "yesterday at noon, please",
            "2026-01-31t09:30:00Z",
            "2026-01-31T09:30:00z",
            "2026-01-31 09:30:00Z",
            "2026-01-31T09:30:00",
            "2026-01-31T09:30Z",
            "2026-01-31T09:30:00.Z",
            "2026-01-31T09:30:00,5Z",
            "2026-01-31T9:30:00.12Z",
            "2026-01-31T09:30:60Z",
            "2026-12-31T23:59:60Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T09:60:00Z",
            "2026-02-29T09:30:00Z",
            "1900-02-29T09:30:00Z",
            "2026-04-31T09:30:00Z",
            "2026-13-01T09:30:00Z",
            "2026-00-10T09:30:00Z",
            "2026-01-00T09:30:00Z",
            "2026-01-31T09:30:00+0530",
            "2026-01-31T09:30:00+05",
            "2026-01-31T09:30:00+24:00",
            "2026-01-31T09:30:00+05:60",
            "2026-01-31T09:30:00Z ",
            " 2026-01-31T09:30:00Z",
            "2026-01-31T09:30:00ZZ",
            "+2026-01-31T09:30:00Z",
            "10000-01-01T00:00:00Z",
            "２026-01-31T09:30:00Z",
        ] {
            assert!(!is_go_time(text), "{text}");
        }
    }
}
