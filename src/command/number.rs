//! Parses whole numbers from the command line.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;

/// A parser of whole numbers in a range, whose error says what the number must be.
pub fn whole<T>(
    range: impl RangeBounds<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let number = text.trim().parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let least = match range.start_bound() {
                Bound::Included(least) | Bound::Excluded(least) => least.to_string(),
                Bound::Unbounded => return "must be a whole number".to_owned(),
            };
            match range.end_bound() {
                Bound::Included(most) => format!("must be a whole number from {least} to {most}"),
                Bound::Excluded(most) => {
                    format!("must be a whole number from {least}, below {most}")
                }
                Bound::Unbounded => format!("must be a whole number, at least {least}"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_the_number_must_be() {
        let (page, later) = (whole(1_u32..=1000), whole(0_i64..));
        assert_eq!((page("7"), page(" 1000 "), later("0")), (Ok(7), Ok(1000), Ok(0)));
        for bad in ["0", "1001", "x", "", "1.5", "-1", "99999999999999999999"] {
            assert_eq!(page(bad).unwrap_err(), "must be a whole number from 1 to 1000", "{bad}");
        }
        assert_eq!(later("-1").unwrap_err(), "must be a whole number, at least 0");
    }
}
