//! A Postgres server for this test process: real, empty, reached by a socket in its own directory,
//! and stopped when the process ends in any way. Each test gets its own database. A test that stops
//! the server, or measures synced commits, gets its own server, which is reached by TCP.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};

/// Runs beside the tests and ends shortly after them: its input is a pipe that only this process
/// holds, so the end of the input is the end of this process, even if it was killed. Input lines
/// are arguments of `pg_ctl`. `initdb` refuses to be run by root.
const GUARD: &str = r#"
set -eu
bin=$1
fsync=$2
host=$3
files=$4
primary=$5
port=5432
home=$(mktemp -d)
as() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
server() {
    as "$bin/pg_ctl" -D "$home/data" -w -l "$home/log" \
        -o "-k '$home' -p $port -c listen_addresses='$host' -c max_connections=300 -c fsync=$fsync ${files:+-c ssl=on}" "$@"
}
# The key must be its own, and hidden from others.
secure() {
    if [ -z "$files" ]; then return; fi
    as sh -c 'umask 077; cat >"$0"' "$home/data/server.key" <"$files/server.key" &&
        as sh -c 'cat >"$0"' "$home/data/server.crt" <"$files/server.crt" &&
        as sh -c 'cat >"$0"' "$home/data/pg_hba.conf" <"$files/pg_hba.conf"
}
# A port outside the range of ephemeral ports, so that it is still free after a stop.
start() {
    if [ -z "$host" ]; then server start; return; fi
    for port in $(shuf -i 20000-30000 -n 5); do
        if server start; then return; fi
    done
    return 1
}
# An empty cluster, or a standby that follows the server of this socket and port.
make() {
    if [ -z "$primary" ]; then
        as "$bin/initdb" -D "$home/data" -U postgres -A trust -E UTF8 --locale=C --no-sync
    else
        as "$bin/pg_basebackup" -h "${primary% *}" -p "${primary#* }" -U postgres -D "$home/data" -R -c fast --no-sync
    fi
}
end() {
    cd /
    as "$bin/pg_ctl" -D "$home/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$home"
}
trap end EXIT
if [ "$(id -u)" -eq 0 ]; then chown postgres "$home"; fi
cd "$home"
{
    make && secure && start
} >"$home/start" 2>&1 </dev/null || { cat "$home/start" "$home/log" 2>/dev/null; exit 1; }
echo "ready $port $home"
while read -r command; do
    if server $command >>"$home/start" 2>&1 </dev/null; then echo "done"; else cat "$home/start"; fi
done
"#;

pub(crate) struct Server {
    bin: PathBuf,
    /// The directory of its socket.
    home: PathBuf,
    port: u16,
    /// It waits for the end of its input, which is held here.
    guard: Mutex<Guard>,
}

struct Guard {
    process: Child,
    said: BufReader<ChildStdout>,
}

/// The addresses that a server of a single test listens on.
const LOOPBACK: &str = "127.0.0.1,::1";

static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start("off", "", None, None, &[]));
static DATABASES: AtomicU32 = AtomicU32::new(1);

impl Server {
    /// Starts another server, which requires TLS and passwords for TCP. The directory contains its
    /// `server.key`, `server.crt` and `pg_hba.conf`.
    #[allow(dead_code, reason = "not every test binary that includes this file needs TLS")]
    pub(crate) fn with_tls(files: &Path) -> Self {
        Self::start("off", "127.0.0.1", Some(files), None, &[])
    }

    /// Starts a standby of this server, which is read-only.
    #[allow(dead_code, reason = "not every test binary that includes this file has a standby")]
    pub(crate) fn standby(&self) -> Self {
        Self::start("on", LOOPBACK, None, Some(self), &[])
    }

    /// Its port, if it listens on TCP.
    #[allow(dead_code, reason = "not every test binary that includes this file needs TLS")]
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    fn start(
        fsync: &str,
        host: &str,
        files: Option<&Path>,
        primary: Option<&Self>,
        variables: &[(&str, String)],
    ) -> Self {
        let bin = programs().expect(
            "a Postgres server (initdb, pg_ctl) is needed for this test: apt-get install -y postgresql",
        );
        let mut process = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&bin)
            .args([fsync, host])
            .arg(files.unwrap_or(Path::new("")))
            .arg(primary.map(|it| format!("{} {}", it.home.display(), it.port)).unwrap_or_default())
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In its own process group, so that Ctrl-C does not end it before it has cleaned up.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut said = BufReader::new(process.stdout.take().expect("a pipe"));
        let (mut line, mut all) = (String::new(), String::new());
        while said.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            if let Some((port, home)) =
                line.strip_prefix("ready ").and_then(|said| said.trim_end().split_once(' '))
            {
                let (port, home) = (port.parse().expect("a port"), PathBuf::from(home));
                return Self { bin, home, port, guard: Mutex::new(Guard { process, said }) };
            }
            all.push_str(&line);
            line.clear();
        }
        let _ = process.wait();
        panic!("the server did not start:\n{all}");
    }

    /// Runs `pg_ctl` with these arguments, and waits for it.
    #[allow(dead_code, reason = "not every test binary that includes this file stops its server")]
    pub(crate) fn control(&self, command: &str) {
        let mut guard = self.guard.lock().expect("not poisoned");
        let input = guard.process.stdin.as_mut().expect("a pipe");
        writeln!(input, "{command}").expect("it listens");
        let mut line = String::new();
        guard.said.read_line(&mut line).expect("text");
        assert_eq!(line.trim_end(), "done", "{command}");
    }

    /// Makes it a standby of another server at its next start.
    #[allow(dead_code, reason = "not every test binary that includes this file has a standby")]
    pub(crate) fn follow(&self, primary: &Self) {
        let data = self.home.join("data");
        let settings = format!(
            "primary_conninfo = 'host={} port={} user=postgres'\n",
            primary.home.display(),
            primary.port
        );
        let file = std::fs::File::options().append(true).open(data.join("postgresql.auto.conf"));
        file.and_then(|mut file| file.write_all(settings.as_bytes())).expect("written");
        std::fs::write(data.join("standby.signal"), "").expect("written");
    }

    /// Runs a statement in a database, and ignores errors.
    #[allow(dead_code, reason = "not every test binary that includes this file asks")]
    pub(crate) fn run_quietly(&self, database: &str, statement: &str) -> bool {
        let mut psql = self.psql(database, statement);
        psql.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Runs a statement in a database; returns whether it succeeded.
    pub(crate) fn run(&self, database: &str, statement: &str) -> bool {
        self.psql(database, statement).status().is_ok_and(|status| status.success())
    }

    fn psql(&self, database: &str, statement: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database])
            .args(["-o", "/dev/null", "-c", statement])
            .args(["-p", &self.port.to_string(), "-h"])
            .arg(&self.home);
        psql
    }
}

/// The directory of the server's programs: in the path, with links resolved, or where Debian
/// installs them.
fn programs() -> Option<PathBuf> {
    let has_them =
        |folder: &PathBuf| ["initdb", "pg_ctl", "psql"].iter().all(|it| folder.join(it).exists());
    let followed =
        |folder: PathBuf| folder.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter_map(followed).find(has_them);
    if on_path.is_some() {
        return on_path;
    }
    let mut installed: Vec<(u32, PathBuf)> = std::fs::read_dir(Path::new("/usr/lib/postgresql"))
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| has_them(folder))
        .collect();
    installed.sort();
    installed.pop().map(|(_, folder)| folder)
}

/// The end of its input ends the guard. It has cleaned up when it has exited.
impl Drop for Server {
    fn drop(&mut self) {
        let guard = self.guard.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(guard.process.stdin.take());
        let _ = guard.process.wait();
    }
}

/// A database of one test, which is dropped with this value.
pub(crate) struct Database {
    name: String,
    /// Its server, if it is not the shared one.
    own: Option<Server>,
}

impl Database {
    /// An empty database.
    pub(crate) fn new() -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        Self::on(None, format!("test_{number}"))
    }

    /// An empty database on its own server, which syncs commits and can be
    /// [controlled](Self::control).
    #[allow(dead_code, reason = "not every test binary that includes this file stops its server")]
    pub(crate) fn alone() -> Self {
        Self::alone_with(&[])
    }

    /// Likewise, with environment variables for the server.
    #[allow(dead_code, reason = "not every test binary that includes this file needs them")]
    pub(crate) fn alone_with(variables: &[(&str, String)]) -> Self {
        let server = Server::start("on", LOOPBACK, None, None, variables);
        Self::on(Some(server), "test".to_owned())
    }

    fn on(own: Option<Server>, name: String) -> Self {
        let database = Self { name, own };
        let create = format!("create database {} template template0", database.name);
        assert!(database.server().run("postgres", &create), "{create}");
        database
    }

    fn server(&self) -> &Server {
        self.own.as_ref().unwrap_or_else(|| &SERVER)
    }

    /// Its own server.
    #[allow(dead_code, reason = "not every test binary that includes this file has one")]
    pub(crate) fn own_server(&self) -> &Server {
        self.own.as_ref().expect("a server of its own")
    }

    /// Runs `pg_ctl` with these arguments on its own server.
    #[allow(dead_code, reason = "not every test binary that includes this file stops its server")]
    pub(crate) fn control(&self, command: &str) {
        self.own.as_ref().expect("a server of its own").control(command);
    }

    /// Does what a test can't do through a store: damage, or another clock.
    #[allow(dead_code, reason = "not every test binary that includes this file does damage")]
    pub(crate) fn run(&self, statement: &str) {
        assert!(self.server().run(&self.name, statement), "{statement}");
    }

    /// The name of the database.
    #[allow(dead_code, reason = "not every test binary that includes this file asks")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the server's socket.
    #[allow(dead_code, reason = "not every test binary that includes this file asks")]
    #[expect(clippy::unused_self, reason = "there is no socket before there is a database")]
    pub(crate) fn socket_directory(&self) -> &'static Path {
        &SERVER.home
    }

    /// The URL of the database.
    pub(crate) fn url(&self) -> String {
        if let Some(server) = &self.own {
            return format!("postgres://postgres@127.0.0.1:{}/{}", server.port, self.name);
        }
        let home = SERVER.home.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{home}/{}", self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.own.is_none() {
            // Sessions that are still connected belong to this test.
            SERVER.run("postgres", &format!("drop database {} with (force)", self.name));
        }
    }
}
