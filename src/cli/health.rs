//! `health`: checks the service on this machine, for a container's health check, which runs a
//! command and uses its exit code. It takes the address from the service's own settings.
//! Environment variables of client commands, such as the address of another service, are ignored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use gateway_events::client::api::Api;
use gateway_events::client::tls::Trust;

use super::access::ClientOptions;
use super::output::{clean, say};
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only check whether the service runs and answers, not whether its database does: a restart
    /// does not repair a database, and disconnects all gateways
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) async fn run(args: Args, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let (address, trust) = match &client.url {
        Some(url) => (url.clone(), client.trust_by_options()),
        None => local(args.settings, client)?,
    };
    let api = Api::new(&address, None, &trust)?;
    let said = api.root(if args.live { "/livez" } else { "/readyz" }).await?;
    say(clean(said.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}

/// The address that the service listens on, by its settings. Its certificate may not be issued for
/// that address, and no secret is sent, so it is not verified unless an option requires it.
fn local(settings: Settings, client: &ClientOptions) -> anyhow::Result<(String, Trust)> {
    let server = settings.load()?.server;
    let mut address = server.listen;
    anyhow::ensure!(
        address.port() != 0,
        "server.listen has port 0, so the service's port is unknown; pass its address by --url"
    );
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let scheme = if server.plaintext { "http" } else { "https" };
    let trust = match client.trust_by_options() {
        Trust::Platform => Trust::Insecure,
        explicit => explicit,
    };
    Ok((format!("{scheme}://{address}"), trust))
}
