//! `serve`: runs the service with settings, logging and signal handlers.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use gateway_events::app;
use gateway_events::config::{Config, Flags, Sources};
use gateway_events::event::NodeId;
use gateway_events::lifecycle::Signals;
use gateway_events::telemetry;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Serve without TLS, so that keys and events are sent unencrypted; only on loopback addresses
    #[arg(long)]
    plaintext: bool,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// File with the first admin access token (see `token generate`); created at the first start if
    /// it does not exist
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Print the first admin access token even if standard output is written to a log
    #[arg(long)]
    print_token: bool,
}

/// Where settings come from, besides environment variables `GATEWAY_EVENTS__…`.
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
    /// Loads all settings. Arguments take precedence.
    pub(crate) fn load(self) -> anyhow::Result<Config> {
        self.load_with(Flags::default())
    }

    /// As [`Settings::load`], with all problems in the error.
    pub(crate) fn load_all(self) -> anyhow::Result<Config> {
        let flags = Flags { data_dir: self.data_dir, ..Flags::default() };
        Config::load_all(&Sources::from_environment(self.config, flags)).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", problems.join("\n"))
        })
    }

    fn load_with(self, flags: Flags) -> anyhow::Result<Config> {
        let flags = Flags { data_dir: self.data_dir, ..flags };
        Ok(Config::load(&Sources::from_environment(self.config, flags))?)
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.settings.load_with(Flags {
        listen: args.listen,
        plaintext: args.plaintext.then_some(true),
        admin_token_file: args.admin_token_file,
        ..Flags::default()
    })?;
    let may_print = config.admin_token_file.is_none() && !output_is_kept();
    let print_token = args.print_token || may_print;
    let node = NodeId::new();
    let _telemetry = telemetry::start(&config.log, &config.otlp, node)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let signals = Signals::of_process()?;
    let outcome = app::serve(config, node, print_token, signals, &mut std::io::stdout()).await?;
    Ok(outcome.into())
}

/// Whether standard output is written to a log that others can read later: systemd's journal, which
/// `JOURNAL_STREAM` identifies by device and inode (systemd.exec(5)), or a container's log, if this
/// is the container's main process (process id 1).
fn output_is_kept() -> bool {
    let is_journal = |stream: String| {
        let output = std::fs::metadata("/dev/stdout").ok()?;
        Some(stream == format!("{}:{}", output.dev(), output.ino()))
    };
    let journal = std::env::var("JOURNAL_STREAM").ok().and_then(is_journal);
    journal.unwrap_or(false) || std::process::id() == 1
}
