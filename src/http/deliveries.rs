//! What failed, over a window of time; and appending it again.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::auth::{Admin, Reader};
use super::cursor;
use super::extract::{self, Query};
use super::problem::{Answer, Problem};
use crate::clock::Timestamp;
use crate::event::{GatewayId, Sequence, quoted};
use crate::intake::object::Object;
use crate::store::{DeliveryCursor, DeliveryFilter, RedriveCursor, RedriveSelection, SummaryBy};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const LONGEST_BUCKET_SECS: u64 = 366 * 24 * 3600;
/// More buckets than a chart has pixels help nobody.
const MAX_BUCKETS: u128 = 2000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ask {
    status: Option<String>,
    from: Option<String>,
    to: Option<String>,
    gateway_id: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    reason: Option<String>,
    event_id: Option<String>,
    correlation_id: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

impl Ask {
    /// The filter as it was asked, and with the window's defaults filled in.
    fn filter(&self) -> Answer<(DeliveryFilter, DeliveryFilter)> {
        let asked = DeliveryFilter {
            from: read("from", self.from.as_deref(), extract::instant)?,
            to: read("to", self.to.as_deref(), extract::instant)?,
            gateway_id: read("gatewayId", self.gateway_id.as_deref(), gateway_id)?,
            event_type: read("type", self.event_type.as_deref(), str::parse)?,
            reason: read("reason", self.reason.as_deref(), str::parse)?,
            event_id: read("eventId", self.event_id.as_deref(), str::parse)?,
            correlation_id: read("correlationId", self.correlation_id.as_deref(), str::parse)?,
        };
        let (from, to) = open_window(asked.from, asked.to)?;
        let filled = DeliveryFilter { from: Some(from), to: Some(to), ..asked.clone() };
        Ok((asked, filled))
    }
}

/// Where a page begins, and the window that the first page was asked for:
/// "until now" must mean the same moment on every page.
type Position = (DeliveryCursor, Timestamp, Timestamp);

/// `GET /deliveries`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Query(ask): Query<Ask>,
) -> Answer<Json<Value>> {
    if let Some(status) = ask.status.as_deref().filter(|status| *status != "failed") {
        return Err(cursor::not_allowed("status", status, "failed"));
    }
    let limit = cursor::limit(ask.limit.as_deref())?;
    let (asked, mut filter) = ask.filter()?;
    let position =
        ask.cursor.as_deref().map(|text| cursor::decode::<Position>(text, &asked)).transpose()?;
    if let Some((_, from, to)) = position {
        filter.from = Some(from);
        filter.to = Some(to);
    }
    let page = app
        .store
        .failed_deliveries(organisation, &filter, position.map(|(at, ..)| at), limit)
        .await?;
    let next = page.next.zip(filter.from.zip(filter.to));
    let next = next.map(|(at, (from, to))| cursor::encode(&(at, from, to), &asked));
    let list: Vec<Value> = page.rows.iter().map(|row| json!(row)).collect();
    Ok(Json(cursor::page(&list, limit, next.as_deref())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskSummary {
    from: Option<String>,
    to: Option<String>,
    bucket: Option<String>,
    by: Option<String>,
}

/// `GET /deliveries/summary`.
pub(super) async fn summary(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Query(ask): Query<AskSummary>,
) -> Answer<Json<Value>> {
    let (from, to) = window(
        read("from", ask.from.as_deref(), extract::instant)?,
        read("to", ask.to.as_deref(), extract::instant)?,
    )?;
    let bucket = read("bucket", ask.bucket.as_deref(), bucket)?.unwrap_or(HOUR);
    if to.since(from).as_micros() / bucket.as_micros() > MAX_BUCKETS {
        return Err(Problem::invalid(
            "bucket",
            format!("the window would have more than {MAX_BUCKETS} buckets; ask for longer ones"),
        ));
    }
    let by = read("by", ask.by.as_deref(), summary_by)?.unwrap_or(SummaryBy::Reason);
    let rows = app.store.failure_summary(organisation, from, to, bucket, by).await?;
    let list: Vec<Value> = rows.iter().map(|row| json!(row)).collect();
    Ok(Json(json!({
        "count": list.len(),
        "list": list,
        "from": from,
        "to": to,
        "bucketSeconds": bucket.as_secs(),
        "by": by,
    })))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Redrive {
    gateway_id: Option<GatewayId>,
    sequence: Option<Sequence>,
    filter: Option<Object<DeliveryFilter>>,
    cursor: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /deliveries/redrive`.
pub(super) async fn redrive(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    extract::Json(asked): extract::Json<Redrive>,
) -> Answer<Json<Value>> {
    let question =
        ("redrive", asked.filter.as_ref().map(|Object(filter)| filter.clone()), asked.dry_run);
    let at = asked.cursor.as_deref();
    let at = at.map(|text| cursor::decode::<RedrivePosition>(text, &question)).transpose()?;
    let mut of = None;
    let selection = match (asked.gateway_id, asked.sequence, asked.filter) {
        (Some(gateway), Some(sequence), None) if at.is_none() => {
            if !(1..=Sequence::MAX.0).contains(&sequence.0) {
                return Err(Problem::invalid("sequence", "must be 1 to 9007199254740991"));
            }
            RedriveSelection::One(gateway, sequence)
        }
        (None, None, Some(Object(mut filter))) => {
            let (from, to) = match at {
                Some((_, from, to)) => (from, to),
                None => window(filter.from, filter.to)?,
            };
            filter.from = Some(from);
            filter.to = Some(to);
            of = Some((from, to));
            RedriveSelection::Filter(filter, at.map(|(at, ..)| at))
        }
        _ => {
            return Err(Problem::invalid(
                "body",
                "name one delivery by gatewayId and sequence, or many by filter",
            ));
        }
    };
    let redriven = app.store.redrive(organisation, selection, asked.dry_run).await?;
    let next = redriven.next.zip(of);
    let next = next.map(|(at, (from, to))| cursor::encode(&(at, from, to), &question));
    let mut shown = json!(redriven);
    shown["next"] = json!(next);
    Ok(Json(shown))
}

/// How far a redrive has come, and the window of its first call.
type RedrivePosition = (RedriveCursor, Timestamp, Timestamp);

/// The last 24 hours, unless told otherwise. Without an end it is open: what was
/// recorded before the clock was set back is part of it.
fn open_window(from: Option<Timestamp>, to: Option<Timestamp>) -> Answer<(Timestamp, Timestamp)> {
    let from = from.unwrap_or_else(|| to.unwrap_or_else(Timestamp::now).minus(DAY));
    window(Some(from), to.or(Some(Timestamp::LAST)))
}

/// The last 24 hours until now, unless told otherwise.
fn window(from: Option<Timestamp>, to: Option<Timestamp>) -> Answer<(Timestamp, Timestamp)> {
    let to = to.unwrap_or_else(Timestamp::now);
    let from = from.unwrap_or_else(|| to.minus(DAY));
    if from < to {
        return Ok((from, to));
    }
    Err(Problem::invalid("from", format!("{from} must lie before to, which is {to}")))
}

fn read<'a, T, E: std::fmt::Display>(
    field: &str,
    text: Option<&'a str>,
    parse: impl FnOnce(&'a str) -> Result<T, E>,
) -> Answer<Option<T>> {
    text.map(parse).transpose().map_err(|error| Problem::invalid(field, error.to_string()))
}

fn gateway_id(text: &str) -> Result<GatewayId, String> {
    text.parse().map_err(|_| format!("must be a gateway's id, a UUID, not {}", quoted(text)))
}

fn summary_by(text: &str) -> Result<SummaryBy, String> {
    match text {
        "reason" => Ok(SummaryBy::Reason),
        "gateway" => Ok(SummaryBy::Gateway),
        "type" => Ok(SummaryBy::Type),
        _ => Err(format!("must be one of reason, gateway, type, not {}", quoted(text))),
    }
}

fn bucket(text: &str) -> Result<Duration, String> {
    let secs = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(24 * 3600),
        _ => None,
    };
    let read = || {
        let unit = text.chars().last()?;
        let number: u64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
        number.checked_mul(secs(unit)?).filter(|secs| (1..=LONGEST_BUCKET_SECS).contains(secs))
    };
    read().map(Duration::from_secs).ok_or_else(|| {
        format!(
            "must be seconds, minutes, hours or days, at most 366d, such as 60s, 5m, 1h, 1d; not {}",
            quoted(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_hold_nothing_are_refused() {
        let at = Timestamp::from_micros(1);
        assert!(window(Some(at), Some(at)).is_err());
        let (from, to) = window(None, None).unwrap();
        assert_eq!(to.since(from), DAY);
        assert!(read("from", Some("2026-01-01T00:00:00"), Timestamp::parse).is_err());
    }

    #[test]
    fn buckets_are_numbers_with_a_unit() {
        assert_eq!(bucket("5m").unwrap(), Duration::from_mins(5));
        for bad in ["", "m", "0s", "5", "5é", "-1h", "99999999999999999999d"] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
    }
}
