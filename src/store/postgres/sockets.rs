//! Options of the TCP sockets that the driver opens.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// A connection whose server acknowledges nothing for this long is closed.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// An idle connection is probed after this time, then at this interval, so often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Sets TCP_NODELAY, keepalive and TCP_USER_TIMEOUT on this process's connections
/// to a server; call it after each connect.
///
/// sqlx 0.9.0 leaves TCP_NODELAY off (its issue 4335), so that the last packet of
/// each request waits for a delayed acknowledgement: 40 ms with TLS. It gives no
/// access to its sockets, and they are found by the server's address. When the
/// pinned sqlx contains pull request 4336, `set_tcp_nodelay` can go; when it takes
/// keepalive settings or a connected socket, this module and the dependency on
/// `filedescriptor` can go.
///
/// Elsewhere than on Linux it does nothing.
pub(super) async fn prepare(server: &PgConnectOptions) {
    #[cfg(target_os = "linux")]
    linux::prepare(server).await;
    #[cfg(not(target_os = "linux"))]
    let _ = server;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::SocketAddr;
    use std::os::fd::RawFd;

    use filedescriptor::OwnedHandle;
    use socket2::{SockRef, TcpKeepalive};
    use sqlx::postgres::PgConnectOptions;

    use super::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, USER_TIMEOUT};

    pub(super) async fn prepare(server: &PgConnectOptions) {
        let host = server.get_host();
        if server.get_socket().is_some() || host.starts_with('/') {
            return;
        }
        let prepared = match tokio::net::lookup_host((host, server.get_port())).await {
            Ok(peers) => {
                let peers: Vec<SocketAddr> = peers.collect();
                let prepared = tokio::task::spawn_blocking(move || prepare_connections_to(&peers));
                prepared.await.unwrap_or_else(|error| Err(error.into()))
            }
            Err(error) => Err(error),
        };
        match prepared {
            Ok(0) => tracing::warn!(
                host,
                "the socket of a database connection was not found; TCP_NODELAY stays off"
            ),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, host, "the options of a database socket can't be set");
            }
        }
    }

    /// Prepares all connections to these addresses; returns how many there are.
    fn prepare_connections_to(peers: &[SocketAddr]) -> io::Result<usize> {
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        let mut prepared = 0;
        for entry in std::fs::read_dir("/proc/self/fd")?.filter_map(Result::ok) {
            // Others may close theirs at any moment. A file must not even be
            // duplicated: closing the duplicate would give up its locks.
            let is_socket = std::fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
            let (true, Some(number)) = (is_socket, number) else { continue };
            let Ok(duplicate) = OwnedHandle::dup(&number) else { continue };
            let socket = SockRef::from(&duplicate);
            let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
            if peer.is_some_and(|peer| peers.contains(&peer)) {
                socket.set_tcp_nodelay(true)?;
                socket.set_tcp_keepalive(&keepalive)?;
                socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                prepared += 1;
            }
        }
        Ok(prepared)
    }
}
