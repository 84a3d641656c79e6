//! From the database's plain values to the vocabulary's types, and back.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType};
use crate::store::{Result, StoreError};

/// A value that this program never writes.
pub(super) fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// The columns of an event, as every query that needs a whole one names them.
#[derive(Debug)]
pub(super) struct EventColumns {
    pub(super) id: String,
    pub(super) event_type: String,
    pub(super) payload: String,
    pub(super) correlation_id: String,
    pub(super) user_id: Option<String>,
    pub(super) occurred_at: i64,
    pub(super) expires_at: Option<i64>,
}

impl EventColumns {
    pub(super) fn into_event(self) -> Result<Arc<Event>> {
        Ok(Arc::new(Event {
            id: EventId::new(self.id).map_err(corrupt)?,
            event_type: EventType::new(self.event_type).map_err(corrupt)?,
            payload: RawValue::from_string(self.payload).map_err(corrupt)?,
            correlation_id: CorrelationId::new(self.correlation_id).map_err(corrupt)?,
            user_id: self.user_id,
            occurred_at: time(self.occurred_at),
            expires_at: self.expires_at.map(time),
        }))
    }
}
