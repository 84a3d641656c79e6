//! What every scenario can be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::super::confirm::Confirmation;
use super::super::time::parse_duration;

/// How much there is before anything is measured.
#[derive(Debug, Args)]
pub(crate) struct Past {
    /// Events that are stored already, for a hundred other gateways: to see whether an event's
    /// cost grows with the log
    #[arg(long, value_name = "EVENTS", default_value_t = 0)]
    pub(super) stored: u32,
}

/// Options of all scenarios.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Bytes of each event's payload, more or less
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(super) payload: usize,
    /// Repeat so often and report medians
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) runs: u32,
    /// Measure each limit of the machine for so long
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(super) floor_time: Duration,
    /// Make temporary files below this directory: on the disk to be measured
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) directory: Option<PathBuf>,
    /// A Postgres server, for databases that are made for this and dropped
    /// afterwards; SQLite if there is none. TLS is used if the server offers it, unless
    /// `sslmode` says otherwise. A password comes better from PGPASSWORD
    #[arg(
        long,
        value_name = "URL",
        env = "GATEWAY_EVENTS_BENCH_DATABASE_URL",
        hide_env_values = true
    )]
    pub(super) database_url: Option<SecretString>,
    /// The process of the running service that is measured (with --url, on this machine)
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,
    #[command(flatten)]
    pub(super) confirmation: Confirmation,
}
