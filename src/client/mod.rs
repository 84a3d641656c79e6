//! The other side of the wire: an ordinary client of the HTTP API, and a
//! gateway that behaves as the unmodified ones in the field do. Used by the
//! command line and by the tests. Knows nothing of the service's own rooms
//! but the vocabulary and the clock.

pub mod api;
pub mod backoff;
pub mod follow;
pub mod frames;
pub mod gateway;
pub mod kept;
pub mod problem;
mod protocol;
mod socket;
pub mod tls;

pub use reqwest::Url;
pub use socket::Endpoint;
pub use tokio_util::sync::CancellationToken;

/// The path that every call but the operational ones begins with.
pub const BASE_PATH: &str = "/api/internal/v1";
