//! Tasks and positions of jobs as they are stored: JSON, which only this service reads.

use serde::{Deserialize, Serialize};

use super::BulkTask;
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};
use crate::store::{DeliveryFilter, Range, Result, StoreError};

/// The parameters of a task in the database. Instants are microseconds. Its names are those of stored
/// rows: a renamed field needs an alias.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_id: Option<GatewayId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Sequence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Sequence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<EventType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<CorrelationId>,
}

impl BulkTask {
    const REDRIVE: &'static str = "redrive";
    const REPLAY: &'static str = "replay";
    const UNREADABLE: &'static str = "unknown";

    /// Its kind in the database and in the API.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Redrive(_) => Self::REDRIVE,
            Self::Replay(..) => Self::REPLAY,
            Self::Unreadable => Self::UNREADABLE,
        }
    }

    /// Its parameters as they are stored.
    pub(crate) fn to_stored(&self) -> Result<String> {
        let parameters = match self.clone() {
            Self::Redrive(filter) => {
                let DeliveryFilter {
                    window,
                    gateway_id,
                    event_type,
                    reason,
                    event_id,
                    correlation_id,
                } = filter;
                Parameters {
                    gateway_id,
                    from: Some(window.from().micros()),
                    to: Some(window.to().micros()),
                    event_type,
                    reason,
                    event_id,
                    correlation_id,
                    ..Parameters::default()
                }
            }
            Self::Replay(gateway, range) => Parameters {
                gateway_id: Some(gateway),
                first: Some(range.first),
                last: Some(range.last),
                ..Parameters::default()
            },
            Self::Unreadable => Parameters::default(),
        };
        to_json(&parameters)
    }

    /// Reads a task that was stored.
    pub(crate) fn stored(kind: &str, parameters: &str) -> Result<Self> {
        let Parameters {
            gateway_id,
            first,
            last,
            from,
            to,
            event_type,
            reason,
            event_id,
            correlation_id,
        } = from_json(parameters)?;
        let (from, to) = (from.map(Timestamp::from_micros), to.map(Timestamp::from_micros));
        match (kind, gateway_id, first, last) {
            (Self::REDRIVE, ..) => Ok(Self::Redrive(DeliveryFilter {
                window: TimeWindow::between(from, to)
                    .map_err(|error| StoreError::Corrupt(format!("a job: {error}")))?,
                gateway_id,
                event_type,
                reason,
                event_id,
                correlation_id,
            })),
            (Self::REPLAY, Some(gateway), Some(first), Some(last)) => {
                Ok(Self::Replay(gateway, Range { first, last }))
            }
            _ => Err(StoreError::Corrupt(format!("unknown kind of job: {kind:?} {parameters}"))),
        }
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt(format!("a job can't be stored: {error}")))
}

pub(crate) fn from_json<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("a job: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::BulkPosition;
    use super::*;
    use crate::store::{DeliveryCursor, DeliveryKey};

    #[test]
    fn a_task_and_a_position_are_read_as_they_were_stored() {
        let range = Range { first: Sequence(3), last: Sequence(9) };
        let window = TimeWindow::new(Timestamp::from_micros(5), Timestamp::from_micros(7));
        for task in [
            BulkTask::Replay(GatewayId::new(), range),
            BulkTask::Redrive(DeliveryFilter::default()),
            BulkTask::Redrive(DeliveryFilter {
                window: window.unwrap(),
                gateway_id: Some(GatewayId::new()),
                event_type: Some("api.deployed".parse().unwrap()),
                reason: Some(Reason::NotConnected),
                event_id: Some("e1".parse().unwrap()),
                correlation_id: Some("c1".parse().unwrap()),
            }),
        ] {
            let stored = task.to_stored().unwrap();
            assert_eq!(BulkTask::stored(task.kind(), &stored).unwrap(), task, "{stored}");
        }
        assert!(BulkTask::stored("replay", "{}").is_err());
        assert!(BulkTask::stored("skip", "{}").is_err());
        let at = DeliveryCursor { as_of: 1, finished_at: 2, attempt: 3, sequence: 4 };
        for position in [
            BulkPosition::Counted(None),
            BulkPosition::Counted(Some(at)),
            BulkPosition::Redriven(DeliveryKey::new(1, 2).into()),
            BulkPosition::Replayed(Sequence(7)),
        ] {
            let stored = to_json(&position).unwrap();
            assert_eq!(from_json::<BulkPosition>(&stored).unwrap(), position, "{stored}");
        }
    }
}
