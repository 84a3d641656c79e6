//! The transports over which gateways of a measurement connect.

use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use rustls::ClientConfig;

/// How gateways connect. Except in plain mode they acknowledge events as `applied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// WebSocket in plain mode, as unmodified gateways use it: a pong is the receipt.
    WebSocket,
    /// WebSocket in reliable mode.
    WebSocketV1,
    /// Server-sent events over HTTP/2, with acknowledgements by `POST` on the same connection.
    EventStream,
    /// Long polling over HTTP/1.1; each request acknowledges the events before it.
    LongPoll,
    /// gRPC.
    Grpc,
}

/// Stands for all transports.
const ALL: &str = "all";

impl Transport {
    pub(crate) const ALL: [Self; 5] =
        [Self::WebSocket, Self::WebSocketV1, Self::EventStream, Self::LongPoll, Self::Grpc];

    /// Its name in the API and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::WebSocketV1 => "websocket.v1",
            Self::EventStream => "sse",
            Self::LongPoll => "long_poll",
            Self::Grpc => "grpc",
        }
    }

    /// The client's TLS for it: HTTP/2 is chosen by ALPN.
    pub(crate) fn tls(self, config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
        match self {
            Self::WebSocket | Self::WebSocketV1 | Self::LongPoll => Arc::clone(config),
            Self::EventStream | Self::Grpc => {
                let mut config = config.as_ref().clone();
                config.alpn_protocols = vec![b"h2".to_vec()];
                Arc::new(config)
            }
        }
    }

    /// The transports of this name.
    fn named(name: &str) -> Vec<Self> {
        Self::ALL.into_iter().filter(|it| name == ALL || name == it.name()).collect()
    }
}

/// Which transports to measure.
#[derive(Debug, Args)]
pub(crate) struct Transports {
    /// How gateways connect; several are measured one after the other. `websocket` is plain mode,
    /// `websocket.v1` and all others are reliable mode
    #[arg(
        long = "transport",
        value_name = "TRANSPORT",
        value_delimiter = ',',
        default_value = "websocket",
        value_parser = PossibleValuesParser::new(
            Transport::ALL.map(Transport::name).into_iter().chain([ALL])
        )
        .map(Named)
    )]
    named: Vec<Named>,
}

/// The name of a transport, or of all.
#[derive(Clone, Debug)]
struct Named(String);

impl Transports {
    /// The transports, in the order in which they were named.
    pub(crate) fn selected(&self) -> Vec<Transport> {
        self.named.iter().flat_map(|Named(name)| Transport::named(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        transports: Transports,
    }

    #[test]
    fn transports_are_selected_by_name() {
        let selected = |arguments: &[&str]| {
            let words = ["bench"].iter().chain(arguments);
            CommandLine::try_parse_from(words).map(|line| line.transports.selected()).ok()
        };
        assert_eq!(selected(&[]), Some(vec![Transport::WebSocket]));
        assert_eq!(selected(&["--transport", "all"]), Some(Transport::ALL.to_vec()));
        let two = Some(vec![Transport::Grpc, Transport::WebSocketV1]);
        assert_eq!(selected(&["--transport", "grpc,websocket.v1"]), two);
        assert_eq!(selected(&["--transport", "amqp"]), None);
    }
}
