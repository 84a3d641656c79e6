//! The transports of reliable mode, as an option.

use gateway_events::client::Endpoint;
use gateway_events::client::reliable::{EventStream, Grpc, LongPoll, Transport, WebSocket};
use secrecy::SecretString;

/// A transport of reliable mode.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum TransportKind {
    /// WebSocket
    #[default]
    Websocket,
    /// Server-sent events; confirmations are requests of their own
    Sse,
    /// One request after another
    LongPoll,
    /// gRPC
    Grpc,
}

impl TransportKind {
    /// A transport of this kind to a service, with a gateway's key.
    pub(crate) fn transport(
        self,
        endpoint: Endpoint,
        key: SecretString,
    ) -> anyhow::Result<Box<dyn Transport>> {
        let is_plaintext = endpoint.base.scheme() == "http";
        anyhow::ensure!(
            !(is_plaintext && matches!(self, Self::Grpc)),
            "gRPC needs TLS, and {} has none; use an https:// address, or another --transport",
            endpoint.base
        );
        Ok(match self {
            Self::Websocket => Box::new(WebSocket::new(endpoint, key)),
            Self::Sse => Box::new(EventStream::new(&endpoint, &key)?),
            Self::LongPoll => Box::new(LongPoll::new(&endpoint, &key)?),
            Self::Grpc => Box::new(Grpc::new(&endpoint, &key)?),
        })
    }
}
