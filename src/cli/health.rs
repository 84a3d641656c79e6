//! `health`: asks the service on this machine how it is, for a container's health
//! check, which can run a command and read its exit code. It finds the service by
//! the service's own settings; what the environment holds for clients, such as the
//! address of another service, does not count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use gateway_events::client::api::Api;
use gateway_events::client::tls::Trust;

use super::access::ClientOptions;
use super::output::{clean, say};
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask only whether it runs and answers, not whether its database does: a restart does not
    /// bring a database back, and it disconnects all gateways
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

/// The address that the service listens on by its settings. Its certificate need
/// not name that address, and no secret is sent: it is not verified, unless an
/// option says how.
fn local(settings: Settings, client: &ClientOptions) -> anyhow::Result<(String, Trust)> {
    let server = settings.load()?.server;
    let mut address = server.listen;
    anyhow::ensure!(
        address.port() != 0,
        "server.listen has port 0, so the service's port is not known; name its address by --url"
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
