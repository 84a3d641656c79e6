//! `health`: asks a node how it is, for whoever can run a command and read an
//! exit code, but has no HTTP client at hand: a container's engine.

use std::process::ExitCode;

use gateway_events::client::api::Api;

use super::access::ClientOptions;
use super::output::{clean, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask only whether it runs and answers, and not for its database. Whoever restarts what is
    /// not healthy asks this: a restart helps no database, and ends the gateways' sockets
    #[arg(long)]
    live: bool,
}

pub(crate) async fn run(args: Args, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(&client.address()?, None, &client.trust())?;
    let said = api.ask_at_root(if args.live { "/livez" } else { "/readyz" }).await?;
    say(clean(said.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}
