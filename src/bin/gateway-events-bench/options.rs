//! Options that all scenarios share.

use gateway_events::command::number::whole;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use gateway_events::command::access::Credentials;
use gateway_events::command::confirm::Confirmation;
use gateway_events::command::time::parse_duration;

/// What the database contains before the measurement.
#[derive(Debug, Args)]
pub(crate) struct Preload {
    /// Events stored beforehand, for a hundred other gateways: shows whether an event's cost
    /// grows with the log
    #[arg(long, value_name = "EVENTS", default_value_t = 0)]
    pub(crate) stored: u32,
}

/// Options of all scenarios.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Approximate size of each event's payload in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) payload: usize,
    /// Number of runs; medians are reported
    #[arg(long, default_value_t = 1, value_parser = whole(1_u32..=1000))]
    pub(crate) runs: u32,
    /// How long each baseline is measured
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) baseline_time: Duration,
    /// Create the temporary files in this directory: selects the disk that is measured
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// A Postgres server, on which databases are created for the measurement and dropped
    /// afterwards; without it SQLite is measured. TLS is used if the server offers it, unless
    /// `sslmode` says otherwise. Prefer PGPASSWORD to a password in the URL
    #[arg(
        long,
        value_name = "URL",
        env = "GATEWAY_EVENTS_BENCH_DATABASE_URL",
        hide_env_values = true
    )]
    pub(crate) database_url: Option<SecretString>,
    /// The `gateway-events` program to start; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Measure the running service at this address instead of starting one
    #[arg(long)]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
    /// The process id of the running service (with --url, on this machine)
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    #[command(flatten)]
    pub(crate) confirmation: Confirmation,
}
