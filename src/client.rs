//! Clients of the service: of the HTTP API; a gateway in [reliable mode](reliable), for programs
//! that confirm what they have applied; and a gateway that behaves like the unmodified ones in the
//! field. Used by the command line, the load generator and the tests, too. Depends on no other module
//! of the service than the vocabulary, the clock and the frames.

pub mod api;
pub mod feed;
pub mod follow;
pub mod gateway;
mod lines;
pub mod probe;
mod problem;
mod protocol;
pub mod reliable;
mod socket;
pub mod tls;

pub use crate::api::BASE_PATH;
pub use reqwest::Url;
pub use socket::{DialError, Endpoint, Socket};
pub use tokio_util::sync::CancellationToken;
