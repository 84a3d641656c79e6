//! The options of a running service's sockets, as reported by the kernel.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

use crate::both_databases::Backend;
use crate::server::Database;
use crate::support::Service;

/// A TCP connection of the service.
#[derive(Debug)]
struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
    is_nodelay: bool,
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
}

impl Connection {
    fn of(socket: &OwnedFd) -> Option<Self> {
        let socket = SockRef::from(socket);
        let peer = socket.peer_addr().ok()?.as_socket()?;
        let is_kept_alive = socket.keepalive().ok()?;
        Some(Self {
            local: socket.local_addr().ok()?.as_socket()?,
            peer,
            is_nodelay: socket.tcp_nodelay().ok()?,
            keepalive: is_kept_alive.then(|| socket.tcp_keepalive_time().ok()).flatten(),
            user_timeout: socket.tcp_user_timeout().ok()?,
        })
    }
}

/// All TCP connections that the service has open.
fn connections(service: &Service) -> Vec<Connection> {
    let pid = Pid::from_raw(i32::try_from(service.pid()).expect("a pid")).expect("a pid");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the process");
    std::fs::read_dir(format!("/proc/{}/fd", service.pid()))
        .expect("its descriptors")
        .filter_map(|entry| entry.expect("an entry").file_name().to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .filter_map(|descriptor| Connection::of(&descriptor))
        .collect()
}

#[tokio::test]
async fn database_sockets_send_at_once_and_notice_a_dead_server() {
    let backend = Backend::Postgres(Database::alone());
    let Backend::Postgres(database) = &backend else { unreachable!() };
    let port = database.own_server().port();
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let _socket = service.connected(&key).await;
    let event = crate::support::deployed(&[&id], "d-1");
    service.api().post("/events", &event).await.expect("accepted");
    // The writer, the heartbeat, two listeners, and the pool.
    let mut polls = tokio::time::interval(Duration::from_millis(50));
    let found = tokio::time::timeout(crate::support::TEST_TIMEOUT, async {
        loop {
            polls.tick().await;
            let all = connections(&service);
            let is_prepared = |it: &&Connection| it.peer.port() == port && it.keepalive.is_some();
            if all.iter().filter(is_prepared).count() >= 5 {
                return all;
            }
        }
    });
    let all = found.await.unwrap_or_else(|_| panic!("{:#?}", connections(&service)));
    for connection in all.iter().filter(|it| it.peer.port() == port) {
        assert!(connection.is_nodelay, "{connection:?}");
        assert!(connection.keepalive.is_some(), "{connection:?}");
        assert!(connection.user_timeout.is_some(), "{connection:?}");
    }
    // Gateways are pinged, so their connections need no keepalive.
    let accepted: Vec<_> = all.iter().filter(|it| it.local.port() == service.port).collect();
    assert!(!accepted.is_empty(), "{all:#?}");
    for connection in accepted {
        assert!(connection.is_nodelay && connection.user_timeout.is_some(), "{connection:?}");
    }
}
