//! `health`: checks the service on this machine, for a container's health check, which runs a
//! command and uses its exit code. It takes the address from the service's own settings, so the
//! environment variables of client commands, which may name another service, have no effect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use gateway_events::client::api::Api;
use gateway_events::client::tls::Trust;

use super::output::{clean, say};
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only check whether the service runs and answers, not whether its database does: a restart
    /// does not repair a database, and disconnects all gateways
    #[arg(long)]
    live: bool,
    /// The service's address; by default, the one in its settings
    #[arg(long)]
    url: Option<String>,
    /// PEM file with the certificate to trust; without it, the certificate is verified only with
    /// --url
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca_file: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let trust = match args.ca_file {
        Some(path) => Trust::CaFile(path),
        None if args.insecure => Trust::Insecure,
        None if args.url.is_some() => Trust::Platform,
        // Its certificate may not be issued for the local address, and no secret is sent.
        None => Trust::Insecure,
    };
    let address = match args.url {
        Some(url) => url,
        None => local(args.settings)?,
    };
    let api = Api::new(&address, None, &trust)?;
    let said = api.root(if args.live { "/livez" } else { "/readyz" }).await?;
    say(clean(said.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}

/// The address that the service listens on, by its settings.
fn local(settings: Settings) -> anyhow::Result<String> {
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
    Ok(format!("{scheme}://{address}"))
}
