//! Query parameters. [`Query`] reads several groups of them at once, such as
//! `Query<(DeliveryFilter, PageQuery)>`, and refuses parameters that no group
//! documents. A handler of a request without parameters takes `Query<()>`. A group is a type of the API that says which parameters it has
//! ([`IntoParams`]) and how they are read ([`FromQuery`]).

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use utoipa::IntoParams;

use super::problem::{HandlerResult, Problem};
use crate::api::{PageQuery, Window};
use crate::clock::{Timestamp, TimestampError};
use crate::event::{GatewayId, quoted};
use crate::names;

/// The parameters of a request, in groups.
pub(super) struct Query<T>(pub(super) T);

/// A group of parameters.
pub(super) trait FromQuery: Sized {
    /// The parameters' names.
    fn names() -> Vec<String>;
    /// Parses them; unknown names were refused before.
    fn from_query(parameters: &Parameters) -> HandlerResult<Self>;
}

/// Names and values as they were sent; no name occurs twice.
pub(super) struct Parameters(Vec<(String, String)>);

/// Refuses what is not UTF-8 once it is decoded: different values would otherwise become the same.
fn check_utf8(uri: &Uri) -> HandlerResult<()> {
    for pair in uri.query().unwrap_or_default().split('&') {
        if percent_encoding::percent_decode_str(pair).decode_utf8().is_err() {
            let name = pair.split('=').next().unwrap_or_default();
            let name: String = name.chars().take(64).collect();
            return Err(Problem::invalid(name, "must be UTF-8, percent-encoded"));
        }
    }
    Ok(())
}

impl Parameters {
    fn new(uri: &Uri, known: &[String]) -> HandlerResult<Self> {
        check_utf8(uri)?;
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        Self::of(pairs.map_err(|error| Problem::invalid("query", error.body_text()))?.0, known)
    }

    /// Refuses names that are not known, and repeated ones.
    pub(super) fn of(pairs: Vec<(String, String)>, known: &[String]) -> HandlerResult<Self> {
        for (nth, (name, _)) in pairs.iter().enumerate() {
            let shown: String = name.chars().take(64).collect();
            if !known.contains(name) {
                let why = unknown(&shown, known);
                return Err(Problem::invalid(shown, why));
            }
            if pairs[..nth].iter().any(|(other, _)| other == name) {
                let why = format!("`{shown}` is given more than once");
                return Err(Problem::invalid(shown, why));
            }
        }
        Ok(Self(pairs))
    }

    /// A parameter as it was sent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is parsed by its own type.
    pub(super) fn get<T: FromStr<Err: Display>>(&self, name: &str) -> HandlerResult<Option<T>> {
        self.parse(name, str::parse)
    }

    /// A parameter, parsed by a function whose errors are for the client.
    pub(super) fn parse<T, E: Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> HandlerResult<Option<T>> {
        let value = self.text(name).map(parse).transpose();
        value.map_err(|error| Problem::invalid(name, error.to_string()))
    }

    /// A parameter that must be one of a few words.
    pub(super) fn one_of<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> HandlerResult<Option<T>> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Err(not_allowed(
            name,
            text,
            &match allowed[..] {
                [one] => one.to_owned(),
                [one, other] => format!("{one} or {other}"),
                _ => format!("one of {}", allowed.join(", ")),
            },
        ))
    }

    /// An instant.
    pub(super) fn instant(&self, name: &str) -> HandlerResult<Option<Timestamp>> {
        self.parse(name, instant)
    }

    /// A gateway's id.
    pub(super) fn gateway_id(&self, name: &str) -> HandlerResult<Option<GatewayId>> {
        self.parse(name, |text| {
            text.parse()
                .map_err(|_| format!("must be a gateway's id, a UUID, not {}", quoted(text)))
        })
    }

    /// The size of a page.
    pub(super) fn limit(&self) -> HandlerResult<Option<usize>> {
        self.whole("limit", 1..=PageQuery::MAX_LIMIT)
    }

    /// A whole number.
    pub(super) fn whole<T: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        allowed: RangeInclusive<T>,
    ) -> HandlerResult<Option<T>> {
        self.parse(name, |text| {
            let number = text.parse().ok().filter(|number| allowed.contains(number));
            let (least, most) = allowed.into_inner();
            number.ok_or_else(|| {
                format!("must be a whole number from {least} to {most}, not {}", quoted(text))
            })
        })
    }
}

/// The error about a parameter that the request does not have.
fn unknown(shown: &str, known: &[String]) -> String {
    let advice = match names::closest(shown, known.iter().map(String::as_str)) {
        Some(closest) => format!("; did you mean `{closest}`?"),
        None if known.is_empty() => ", which has none".to_owned(),
        None => format!(", which has `{}`", known.join("`, `")),
    };
    format!("`{shown}` is not a parameter of this request{advice}")
}

/// Reads an instant from a query. A `+` in a query means a blank; an offset whose `+` was
/// not written as `%2B` is accepted with the blank.
fn instant(text: &str) -> Result<Timestamp, TimestampError> {
    const OFFSET: usize = " 01:00".len();
    let offset = text.len().checked_sub(OFFSET).and_then(|at| text.split_at_checked(at));
    match offset {
        Some((time, offset)) if offset.starts_with(' ') && time.contains(['T', 't']) => {
            Timestamp::parse(&format!("{time}+{}", offset.trim_start()))
        }
        _ => Timestamp::parse(text),
    }
}

/// A parameter whose value is not one of those allowed.
pub(super) fn not_allowed(parameter: &str, value: &str, allowed: &str) -> Problem {
    Problem::invalid(parameter, format!("must be {allowed}, not {}", quoted(value)))
}

/// The names that a type documents.
pub(super) fn documented<T: IntoParams>() -> Vec<String> {
    T::into_params(|| None).into_iter().map(|parameter| parameter.name).collect()
}

impl FromQuery for PageQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let cursor = parameters.text("cursor").map(str::to_owned);
        Ok(Self { limit: parameters.limit()?, cursor })
    }
}

impl FromQuery for Window {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self { from: parameters.instant("from")?, to: parameters.instant("to")? })
    }
}

/// A request without parameters.
impl FromQuery for () {
    fn names() -> Vec<String> {
        Vec::new()
    }

    fn from_query(_: &Parameters) -> HandlerResult<Self> {
        Ok(())
    }
}

macro_rules! groups {
    ($($group:ident),+) => {
        impl<$($group: FromQuery),+> FromQuery for ($($group,)+) {
            fn names() -> Vec<String> {
                [$($group::names()),+].concat()
            }

            fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
                Ok(($($group::from_query(parameters)?,)+))
            }
        }
    };
}

groups!(A, B);
groups!(A, B, C);

impl<S: Send + Sync, T: FromQuery> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> HandlerResult<Self> {
        let parameters = Parameters::new(&parts.uri, &T::names())?;
        T::from_query(&parameters).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromQuery>(query: &str) -> HandlerResult<T> {
        let uri = format!("/?{query}").parse().unwrap();
        T::from_query(&Parameters::new(&uri, &T::names())?)
    }

    #[test]
    fn a_query_has_documented_parameters_only_and_each_once() {
        let (window, page): (Window, PageQuery) =
            read("limit=7&from=2026-01-01T00:00:00%2B01:00&cursor=").unwrap();
        assert_eq!((page.limit, page.cursor.as_deref()), (Some(7), Some("")));
        assert_eq!(window.from, Timestamp::parse("2025-12-31T23:00:00Z").ok());
        for bad in ["limit=1&limit=1", "offset=1", "Limit=1"] {
            assert!(read::<(Window, PageQuery)>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_have_limits() {
        assert_eq!(read::<PageQuery>("").unwrap().limit, None);
        assert_eq!(read::<PageQuery>("limit=1000").unwrap().limit, Some(1000));
        for bad in ["0", "1001", "-1", "", "1e2", "99999999999999999999"] {
            assert!(read::<PageQuery>(&format!("limit={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_offset_in_a_query_may_have_lost_its_plus() {
        let utc = Timestamp::parse("2025-12-31T23:00:00Z").unwrap();
        for text in
            ["2026-01-01T00:00:00 01:00", "2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z"]
        {
            assert_eq!(instant(text).unwrap(), utc, "{text}");
        }
        for bad in ["2026-01-01 00:00", "2026-01-01T00:00:00", "T 01:00", " 01:00", "é 01:00", ""]
        {
            assert!(instant(bad).is_err(), "{bad:?}");
        }
    }
}
