//! `serve`: settings, logs and signals for the service, which does the rest.

use std::path::PathBuf;
use std::process::ExitCode;

use gateway_events::app;
use gateway_events::config::{Config, Flags, Sources};
use gateway_events::lifecycle::Signals;
use gateway_events::telemetry;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// No TLS: keys and events travel in the clear; on loopback addresses only
    #[arg(long)]
    plaintext: bool,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

/// Where settings come from; environment variables `GATEWAY_EVENTS__…` too.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for the database and the certificate
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
}

impl Settings {
    /// Reads them all; the arguments win.
    pub(crate) fn load(self, listen: Option<String>, plaintext: bool) -> anyhow::Result<Config> {
        let flags = Flags { data_dir: self.data_dir, listen, plaintext: plaintext.then_some(true) };
        Ok(Config::load(&Sources::from_environment(self.config, flags))?)
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.settings.load(args.listen, args.plaintext)?;
    telemetry::start_logs(&config.log)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let signals = Signals::of_process()?;
    let outcome = app::serve(config, signals, &mut std::io::stdout()).await?;
    Ok(outcome.into())
}
