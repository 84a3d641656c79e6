//! The filter of the `delivery` commands: its options, and the filter of a job as text.

use clap::{Args, Command, Id};
use gateway_events::api::DeliveryFilter;
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::{CorrelationId, EventId, EventType, Reason};

use super::super::output::{cell, time};
use super::super::reference::{GatewayRef, Names, event_id};
use super::super::time::parse_instant;

/// The options for deliveries in any state.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// From this time on: RFC 3339, or how long ago, like 2h or "15m ago"
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// To one gateway, by its name or id
    #[arg(long)]
    gateway: Option<GatewayRef>,
    /// Of one event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventType>,
    /// Of one event, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// With this correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
}

/// The options for failed deliveries.
#[derive(Debug, Args)]
pub(crate) struct FailureFilter {
    #[command(flatten)]
    filter: Filter,
    /// For one reason, such as not_connected
    #[arg(long)]
    reason: Option<Reason>,
}

impl Filter {
    /// The filter of the API. Looks up the gateway and the event.
    pub(crate) async fn resolve(self, api: &Api) -> anyhow::Result<DeliveryFilter> {
        let Self { from, to, gateway, event_type, event, correlation_id } = self;
        let gateway_id = match &gateway {
            Some(gateway) => Some(gateway.resolve(api).await?),
            None => None,
        };
        let event_id = match &event {
            Some(id) => Some(event_id(id, api).await?),
            None => None,
        };
        let reason = None;
        Ok(DeliveryFilter { from, to, gateway_id, event_type, reason, event_id, correlation_id })
    }
}

impl FailureFilter {
    /// The filter of the API. Looks up the gateway and the event.
    pub(crate) async fn resolve(self, api: &Api) -> anyhow::Result<DeliveryFilter> {
        let Self { filter, reason } = self;
        Ok(DeliveryFilter { reason, ..filter.resolve(api).await? })
    }

    /// The ids of its options.
    pub(super) fn options() -> Vec<Id> {
        let command = Self::augment_args(Command::new("filter"));
        command.get_arguments().map(|option| option.get_id().clone()).collect()
    }

    /// The ids of its options, except for the gateway.
    pub(super) fn options_besides_gateway() -> Vec<Id> {
        Self::options().into_iter().filter(|id| id != "gateway").collect()
    }
}

/// The filter of a job on one line.
pub(crate) fn shown(filter: &DeliveryFilter, names: &Names) -> String {
    let DeliveryFilter { from, to, gateway_id, event_type, reason, event_id, correlation_id } =
        filter;
    let parts = [
        gateway_id.map(|id| names.cell(id)),
        event_type.as_ref().map(cell),
        reason.map(cell),
        event_id.as_ref().map(cell),
        correlation_id.as_ref().map(cell),
        from.map(|at| format!("from {}", time(at))),
        to.map(|at| format!("until {}", time(at))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
