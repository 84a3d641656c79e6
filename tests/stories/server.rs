//! A Postgres server for this test process: real, empty, reached by a socket in
//! a directory of its own, and gone with the process however that ends. Each
//! test gets a database of its own.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Runs beside the tests and outlives them by a moment: its input is a pipe
/// that only this process holds, so that the end of the input is the end of
/// this process, also when it was killed. `initdb` refuses to be run by root.
const GUARD: &str = r#"
set -eu
bin=$1
home=$(mktemp -d)
as() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
end() {
    cd /
    as "$bin/pg_ctl" -D "$home/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$home"
}
trap end EXIT
if [ "$(id -u)" -eq 0 ]; then chown postgres "$home"; fi
cd "$home"
{
    as "$bin/initdb" -D "$home/data" -U postgres -A trust -E UTF8 --locale=C --no-sync &&
    as "$bin/pg_ctl" -D "$home/data" -w -l "$home/log" \
        -o "-k '$home' -c listen_addresses='' -c max_connections=300 -c fsync=off" start
} >"$home/start" 2>&1 </dev/null || { cat "$home/start" "$home/log" 2>/dev/null; exit 1; }
echo "ready $home"
cat >/dev/null
"#;

struct Server {
    bin: PathBuf,
    /// Where its socket is.
    home: PathBuf,
    /// It waits for the end of its input, which is held here.
    _guard: Child,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
static DATABASES: AtomicU32 = AtomicU32::new(1);

impl Server {
    fn start() -> Self {
        let bin = programs().expect(
            "a Postgres server (initdb, pg_ctl) is needed for this test: apt-get install -y postgresql",
        );
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&bin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not among those that a Ctrl-C ends, for it has still to tidy up.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut said = String::new();
        let mut lines = BufReader::new(guard.stdout.take().expect("a pipe")).lines();
        while let Some(Ok(line)) = lines.next() {
            if let Some(home) = line.strip_prefix("ready ") {
                return Self { bin, home: PathBuf::from(home), _guard: guard };
            }
            said.push_str(&line);
            said.push('\n');
        }
        let _ = guard.wait();
        panic!("the server did not start:\n{said}");
    }

    /// Runs a statement in a database.
    fn run(&self, database: &str, statement: &str) -> bool {
        Command::new(self.bin.join("psql"))
            .args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database])
            .args(["-o", "/dev/null", "-c", statement, "-h"])
            .arg(&self.home)
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// The folder of the server's programs: on the path, through links if there are
/// any, or where Debian keeps them.
pub(crate) fn programs() -> Option<PathBuf> {
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

/// A database of a test's own; it is dropped with this.
pub(crate) struct Database {
    name: String,
}

impl Database {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        assert!(
            SERVER.run("postgres", &format!("create database {name} template template0")),
            "{name}"
        );
        Self { name }
    }

    /// Does what a story can't do through a store: damage, or another clock.
    #[allow(dead_code, reason = "not every test binary that includes this file does damage")]
    pub(crate) fn run(&self, statement: &str) {
        assert!(SERVER.run(&self.name, statement), "{statement}");
    }

    /// How it is reached.
    pub(crate) fn url(&self) -> String {
        let home = SERVER.home.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{home}/{}", self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Whoever is still connected is a server of this very test.
        SERVER.run("postgres", &format!("drop database {} with (force)", self.name));
    }
}
