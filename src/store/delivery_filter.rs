//! The filter of lists of failed deliveries, redrives and jobs, and each form that the store has of it.
//! The exhaustive patterns make the compiler name the places that a new field concerns.

use serde::{Deserialize, Serialize};

use super::EventFilter;
use super::audit::Facts;
use crate::clock::TimeWindow;
use crate::event::{CorrelationId, EventId, EventType, GatewayId, Reason};

/// Selects failed deliveries. A delivery matches if an attempt at it failed in the window for
/// `reason`. It is returned once, at its newest matching failure; newest first.
///
/// It is stored with a job: the serialized names are those in the database, so a renamed field needs an
/// alias.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryFilter {
    /// When the attempt failed.
    #[serde(flatten, with = "stored_window")]
    pub window: TimeWindow,
    /// One gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<GatewayId>,
    /// One event type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<EventType>,
    /// One reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// One event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    /// One correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

impl DeliveryFilter {
    /// Whether it names events, so that a search starts from these.
    pub(crate) const fn names_events(&self) -> bool {
        let Self { window: _, gateway_id: _, event_type: _, reason: _, event_id, correlation_id } =
            self;
        event_id.is_some() || correlation_id.is_some()
    }

    /// Whether it has conditions on events, besides those that name them.
    pub(crate) const fn selects_events(&self) -> bool {
        let Self {
            window: _,
            gateway_id: _,
            event_type,
            reason: _,
            event_id: _,
            correlation_id: _,
        } = self;
        event_type.is_some()
    }

    /// The same conditions, for the events of a log that were appended in the window.
    pub(crate) fn events(&self) -> EventFilter {
        let Self { window, gateway_id: _, event_type, reason: _, event_id: _, correlation_id: _ } =
            self;
        EventFilter { window: *window, event_type: event_type.clone(), ..EventFilter::default() }
    }

    /// Its values in the audit log.
    pub(super) fn facts(&self) -> Facts {
        let Self { window, gateway_id, event_type, reason, event_id, correlation_id } = self;
        let from = Some(window.from()).filter(|at| at.micros() > 0);
        Facts::none()
            .with_some("from", from)
            .with("to", window.to())
            .with_some("gatewayId", gateway_id.map(|id| id.to_string()).as_deref())
            .with_some("type", event_type.as_ref().map(EventType::as_str))
            .with_some("reason", reason.map(Reason::as_str))
            .with_some("eventId", event_id.as_ref().map(EventId::as_str))
            .with_some("correlationId", correlation_id.as_ref().map(CorrelationId::as_str))
    }
}

/// A window as a job stores it: its ends as members of the filter, in microseconds.
mod stored_window {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::clock::{TimeWindow, Timestamp};

    #[derive(Serialize, Deserialize)]
    struct Ends {
        from: Option<i64>,
        to: Option<i64>,
    }

    pub(super) fn serialize<S: Serializer>(
        window: &TimeWindow,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let (from, to) = (Some(window.from().micros()), Some(window.to().micros()));
        Ends { from, to }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TimeWindow, D::Error> {
        let Ends { from, to } = Ends::deserialize(deserializer)?;
        let (from, to) = (from.map(Timestamp::from_micros), to.map(Timestamp::from_micros));
        TimeWindow::between(from, to).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    /// The text is in the databases of existing installations.
    #[test]
    fn a_stored_filter_keeps_its_names() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let stored = format!(
            r#"{{"from":5,"to":7,"gatewayId":"{id}","eventType":"api.deployed","reason":"not_connected","eventId":"e1","correlationId":"c1"}}"#
        );
        let filter = DeliveryFilter {
            window: TimeWindow::new(Timestamp::from_micros(5), Timestamp::from_micros(7)).unwrap(),
            gateway_id: Some(id.parse().unwrap()),
            event_type: Some("api.deployed".parse().unwrap()),
            reason: Some(Reason::NotConnected),
            event_id: Some("e1".parse().unwrap()),
            correlation_id: Some("c1".parse().unwrap()),
        };
        assert_eq!(serde_json::to_string(&filter).unwrap(), stored);
        assert_eq!(serde_json::from_str::<DeliveryFilter>(&stored).unwrap(), filter);
        assert_eq!(
            serde_json::from_str::<DeliveryFilter>("{}").unwrap(),
            DeliveryFilter::default()
        );
        assert!(serde_json::from_str::<DeliveryFilter>(r#"{"from":7,"to":5}"#).is_err());
    }
}
