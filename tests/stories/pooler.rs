//! A real PgBouncer in front of the tests' Postgres, in transaction mode: each transaction gets any
//! free session, and never the same one twice in a row.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::server::Database;

/// Runs beside the tests and ends with its input, like the server's guard. `pgbouncer` refuses to
/// be run by root.
const GUARD: &str = r#"
set -eu
pgbouncer=$1
server=$2
home=$(mktemp -d)
as() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
end() {
    cd /
    kill "$(cat "$home/pid")" 2>/dev/null || true
    rm -rf "$home"
}
trap end EXIT
cat >"$home/ini" <<INI
[databases]
* = host=$server user=postgres
[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = $home
pidfile = $home/pid
logfile = $home/log
max_client_conn = 400
default_pool_size = 12
server_round_robin = 1
INI
if [ "$(id -u)" -eq 0 ]; then chown -R postgres "$home"; fi
cd "$home"
as "$pgbouncer" -q -d "$home/ini" >"$home/start" 2>&1 </dev/null || { cat "$home/start" "$home/log"; exit 1; }
tries=0
until [ -S "$home/.s.PGSQL.6432" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { cat "$home/start" "$home/log"; exit 1; }
    sleep 0.05
done
echo "ready $home"
cat >/dev/null
"#;

/// Stops when it is dropped, or when the tests end.
pub(crate) struct Pooler {
    home: PathBuf,
    guard: Child,
}

impl Pooler {
    /// Starts one in front of the server of a database.
    pub(crate) fn before(database: &Database) -> Self {
        let program =
            program().expect("PgBouncer is needed for this test: apt-get install -y pgbouncer");
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args([&program, database.socket_directory()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In its own process group, so that Ctrl-C does not end it before it has cleaned up.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut said = String::new();
        let mut lines = BufReader::new(guard.stdout.take().expect("a pipe")).lines();
        while let Some(Ok(line)) = lines.next() {
            if let Some(home) = line.strip_prefix("ready ") {
                return Self { home: PathBuf::from(home), guard };
            }
            said.push_str(&line);
            said.push('\n');
        }
        let _ = guard.wait();
        panic!("PgBouncer did not start:\n{said}");
    }

    /// The URL of a database through it.
    pub(crate) fn url(&self, database: &Database) -> String {
        let home = self.home.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{home}:6432/{}", database.name())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Debian installs it in a directory that is only in root's path.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| Path::exists(program))
}
