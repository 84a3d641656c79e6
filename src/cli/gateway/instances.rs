//! `gateway instances` and `gateway forget-instance`.

use std::process::ExitCode;

use gateway_events::api::Instances;
use gateway_events::client::api::Api;

use super::super::access::ClientOptions;
use super::super::confirm::Confirmation;
use super::super::output::{age, answer, cell, clean, optional};
use super::super::reference::GatewayRef;
use super::super::table::table;

pub(super) async fn list(
    gateway: &GatewayRef,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let found = api.instances(gateway.resolve(api).await?).await?;
    answer(client.json, &found, shown)
}

pub(super) async fn forget(
    gateway: &GatewayRef,
    instance: &str,
    confirmation: Confirmation,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let id = gateway.resolve(api).await?;
    let name = clean(instance);
    confirmation.require(
        format_args!(
            "The position of instance {name} will be removed. If it connects again, it starts like a new one."
        ),
        "Forget it?",
    )?;
    api.forget_instance(id, instance).await?;
    answer(client.json, &(), |()| format!("instance {name} is forgotten"))
}

fn shown(found: &Instances) -> String {
    let live = found.list.iter().map(|it| {
        let connection = it.connection.as_ref();
        [
            cell(&it.name),
            cell(if it.connected { "connected" } else { "away" }),
            cell(it.confirm.as_str()),
            cell(it.received),
            cell(it.applied),
            cell(it.lag),
            optional(connection.map(|connection| &connection.transport)),
            optional(it.resync.as_ref().map(|resync| resync.state.as_str())),
            age(it.last_seen_at),
        ]
    });
    let expired = found.expired.iter().map(|it| {
        [
            cell(&it.name),
            cell("expired"),
            cell(it.confirm.as_str()),
            cell(it.received),
            cell(it.applied),
            cell("-"),
            cell("-"),
            cell("-"),
            age(it.last_seen_at),
        ]
    });
    let header = [
        "instance",
        "status",
        "confirms",
        "received",
        "applied",
        "lag",
        "transport",
        "resync",
        "last seen",
    ];
    table(header, live.chain(expired), "no named instances")
}
