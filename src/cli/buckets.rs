//! The options of commands that count over time.

use clap::Args;
use gateway_events::api::Window;
use gateway_events::clock::Timestamp;

use super::time::parse_instant;

#[derive(Debug, Args)]
pub(crate) struct Buckets {
    /// From this time on: RFC 3339, how long ago (such as 2h), or yesterday; 24h by default
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// The width of a bucket, such as 5m, 1h or 1d
    #[arg(long, default_value = "1h")]
    pub(crate) bucket: String,
}

impl Buckets {
    pub(crate) const fn window(&self) -> Window {
        Window { from: self.from, to: self.to }
    }
}
