//! Rollouts: how far events have come at the gateways that they are for, and waiting for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};

/// How far to wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Wait until enough gateways have come this far. In plain mode only deployments
    /// (`….deployed`, `….undeployed`) are reported as applied; in reliable mode all events are.
    #[param(inline)]
    pub wait: Option<WaitFor>,
    /// How many gateways are enough: `all`, a number, or a percentage such as `80%`, which is
    /// rounded up. Only with `wait`.
    #[param(value_type = Option<String>, default = "all", example = "80%")]
    pub quorum: Option<Quorum>,
    /// How long to wait, such as `20s`; at most `10m`. A node responds at the latest 5 s before its
    /// `server.request_timeout`, with `ended` `timeout`: then repeat the request. Only with
    /// `wait`.
    #[param(example = "20s", default = "30s")]
    pub timeout: Option<String>,
}

/// How far a gateway has to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// It has confirmed the event.
    Received,
    /// It has reported that it applied the event.
    Applied,
}

impl WaitFor {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
        }
    }
}

impl FromStr for WaitFor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "received" => Ok(Self::Received),
            "applied" => Ok(Self::Applied),
            _ => Err("must be received or applied"),
        }
    }
}

/// How many gateways are enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quorum {
    /// All of them.
    #[default]
    All,
    /// This many, at least 1.
    Count(usize),
    /// This percentage of them, 1 to 100.
    Percent(u8),
}

impl Quorum {
    /// How many of `targets` that is. Not more than `targets`, except for a number that is larger.
    pub const fn of(self, targets: usize) -> usize {
        match self {
            Self::All => targets,
            Self::Count(count) => count,
            Self::Percent(percent) => targets.saturating_mul(percent as usize).div_ceil(100),
        }
    }
}

impl FromStr for Quorum {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "must be all, a number of gateways from 1 on, or a percentage from 1% to 100%";
        if text == "all" {
            return Ok(Self::All);
        }
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        match text.strip_suffix('%') {
            Some(percent) if is_number(percent) => {
                let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
                percent.map(Self::Percent).ok_or(WRONG)
            }
            None if is_number(text) => {
                let count = text.parse().ok().filter(|count| *count > 0);
                count.map(Self::Count).ok_or(WRONG)
            }
            _ => Err(WRONG),
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Count(count) => count.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Quorum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which events a rollout sums. Exactly one member is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct RolloutQuery {
    /// The events with this correlation id, at most 1,000.
    pub correlation_id: Option<CorrelationId>,
    /// One event.
    pub event_id: Option<EventId>,
}

/// How far events have come. Each gateway of each event is counted once: `targets` is the sum of
/// `applied`, `received`, `filtered`, `superseded`, `pending`, `notConnected` and `failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "targets": 2,
    "applied": 1,
    "received": 0,
    "filtered": 0,
    "superseded": 0,
    "pending": 0,
    "failed": 1,
    "notConnected": 0,
    "gateways": [
        {
            "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
            "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057",
            "gatewayName": "berlin",
            "sequence": 42,
            "state": "failed",
            "reason": "gateway_processing_error",
        },
        {
            "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
            "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8061",
            "gatewayName": "tokyo",
            "sequence": 17,
            "state": "applied",
            "reason": null,
        },
    ],
    "more": false,
}))]
pub struct Rollout {
    /// Gateways that an event is for, added up over the events.
    pub targets: usize,
    /// Those that reported that they have applied the event.
    pub applied: usize,
    /// Those that have confirmed the event, and have not reported that they applied it. In plain
    /// mode only deployments are reported.
    pub received: usize,
    /// Those whose instances all filtered it. They are not waited for, unless a connected instance has
    /// not reached the event yet.
    pub filtered: usize,
    /// Those at which a newer event with the same type and collapse key superseded it. They are not
    /// waited for.
    #[serde(default)]
    pub superseded: usize,
    /// Those that are connected and have not confirmed it.
    pub pending: usize,
    /// Those at which it was given up, for example because they refused it or it expired.
    pub failed: usize,
    /// Those that have not confirmed it and have no live connection.
    pub not_connected: usize,
    /// Whether enough gateways came as far as `wait` says. Omitted without `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reached: Option<bool>,
    /// How many gateways are enough: of `all` or a percentage, without those that are not waited
    /// for. Omitted without `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub needed: Option<usize>,
    /// Why the wait has ended. Omitted without `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ended: Option<WaitEnd>,
    /// Each event at each of its gateways.
    pub gateways: Vec<RolloutGateway>,
    /// Whether there are more than 1,000 events or 20,000 deliveries; the rest is left out of
    /// everything above.
    pub more: bool,
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WaitEnd {
    /// Enough gateways came far enough.
    Reached,
    /// Not enough gateways can come that far any more.
    Unreachable,
    /// The instances of all gateways filtered the event, so there is nothing to wait for.
    Filtered,
    /// Newer events superseded the event at a gateway, and the instances of all others filtered it, so
    /// there is nothing to wait for.
    Superseded,
    /// The time was up. Repeat the request to wait on.
    Timeout,
    /// The node is shutting down. Repeat the request to wait on, at another node.
    Shutdown,
}

/// An event at one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutGateway {
    /// The event.
    pub event_id: EventId,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The newest sequence of the event in the gateway's log.
    pub sequence: Sequence,
    /// How far it has come.
    pub state: RolloutState,
    /// Why it was given up; `null` unless it was.
    #[schema(required = true)]
    pub reason: Option<Reason>,
    /// The named instances of the gateway that filtered it, regardless of the outcome at other instances.
    /// Omitted if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filtered_by: Vec<String>,
}

/// How far an event has come at a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RolloutState {
    /// The gateway reported that it has applied it.
    Applied,
    /// The gateway has confirmed it.
    Received,
    /// The gateway's instances filtered it: its type is not among those that they requested, or
    /// they started after it. None of them has received it.
    Filtered,
    /// The gateway's position has passed it without it: a newer event with the same type and collapse key
    /// is sent instead.
    Superseded,
    /// The gateway is connected and has not confirmed it.
    Pending,
    /// The gateway has not confirmed it and has no live connection.
    NotConnected,
    /// It was given up.
    Failed,
}

impl RolloutState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Received => "received",
            Self::Filtered => "filtered",
            Self::Superseded => "superseded",
            Self::Pending => "pending",
            Self::NotConnected => "notConnected",
            Self::Failed => "failed",
        }
    }
}

/// `GET /rollouts`: how far several events have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutOfEvents {
    /// The events, in the order of their appending.
    pub events: Vec<RolloutEvent>,
    /// How far they have come.
    pub rollout: Rollout,
}

/// An event of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutEvent {
    /// Its id.
    pub id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Whether gateways report that they have applied it.
    #[schema(example = true)]
    pub reported: bool,
}

/// The state of an event over all its gateways: the first one that applies, since when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "state": "failed",
    "since": "2026-01-31T09:30:00.750000Z",
    "reason": "gateway_processing_error",
    "gateways": 1,
    "targets": 1,
    "filtered": 0,
    "superseded": 0,
    "summary": "failed at 1 of 1 gateway since 2026-01-31T09:30:00Z: GATEWAY_PROCESSING_ERROR",
}))]
pub struct EventVerdict {
    /// The state.
    pub state: EventState,
    /// When the state began.
    pub since: Timestamp,
    /// The reason of a failure, or `no_gateways_matched`; `null` if there is none.
    #[schema(required = true)]
    pub reason: Option<String>,
    /// How many gateways are in the state.
    pub gateways: usize,
    /// How many gateways the event is for.
    pub targets: usize,
    /// At how many of them the instances filtered it.
    pub filtered: usize,
    /// At how many of them a newer event superseded it.
    #[serde(default)]
    pub superseded: usize,
    /// The verdict in a sentence, for people.
    pub summary: String,
}

/// The states of an event, by decreasing precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// No gateway matched its target.
    Unmatched,
    /// It was given up at a gateway, and not delivered there since.
    Failed,
    /// A gateway has not confirmed it yet.
    Pending,
    /// All gateways have confirmed it, except those where it was filtered or superseded.
    Delivered,
    /// It was superseded at a gateway, and filtered at all others.
    Superseded,
    /// The instances of all gateways filtered it.
    Filtered,
}

impl EventState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Failed => "failed",
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Superseded => "superseded",
            Self::Filtered => "filtered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_all_a_number_or_a_percentage() {
        for (text, of_seven) in [("all", 7), ("1", 1), ("9", 9), ("1%", 1), ("50%", 4), ("100%", 7)]
        {
            let quorum: Quorum = text.parse().unwrap();
            assert_eq!(quorum.of(7), of_seven, "{text}");
            assert_eq!(quorum.to_string(), text);
        }
        for bad in
            ["", "0", "-1", "+1", "0%", "101%", "%", "1.5", "1 %", "ALL", "99999999999999999999999"]
        {
            assert!(bad.parse::<Quorum>().is_err(), "{bad}");
        }
    }
}
