//! Tasks and positions of jobs as they are stored: JSON, which only this service reads.

use serde::{Deserialize, Serialize};

use super::BulkTask;
use crate::event::{GatewayId, Sequence};
use crate::store::{Range, Result, StoreError};

/// The parameters of a replay in the database; those of a redrive are its filter. The names are those
/// of stored rows: a renamed field needs an alias.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplayParameters {
    gateway_id: GatewayId,
    first: Sequence,
    last: Sequence,
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
        match self {
            Self::Redrive(filter) => to_json(filter),
            Self::Replay(gateway_id, Range { first, last }) => {
                to_json(&ReplayParameters { gateway_id: *gateway_id, first: *first, last: *last })
            }
            Self::Unreadable => Ok("{}".to_owned()),
        }
    }

    /// Reads a task that was stored.
    pub(crate) fn stored(kind: &str, parameters: &str) -> Result<Self> {
        match kind {
            Self::REDRIVE => Ok(Self::Redrive(from_json(parameters)?)),
            Self::REPLAY => {
                let ReplayParameters { gateway_id, first, last } = from_json(parameters)?;
                Ok(Self::Replay(gateway_id, Range { first, last }))
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
    use crate::clock::{TimeWindow, Timestamp};
    use crate::event::Reason;
    use crate::store::{DeliveryCursor, DeliveryFilter, DeliveryKey};

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
