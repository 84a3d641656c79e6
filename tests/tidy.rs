//! The house rules that a compiler can't check: who imports whom, which
//! outside crate lives in which room, how long a file may be, and that each
//! module says what it is for. A rule that is broken says where, and what to do.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/lexer.rs"]
mod lexer;

use lexer::{blank, named_after, names_crate};

/// Each room and what it may import besides itself: rooms that stand above it
/// only, so that no circle can be written down.
const ROOMS: [(&str, &[&str]); 24] = [
    ("clock", &[]),
    ("trace_context", &[]),
    ("event", &["clock", "trace_context"]),
    ("api", &["clock", "event", "trace_context"]),
    ("token", &[]),
    ("compute", &[]),
    ("files", &[]),
    ("jobs", &["clock"]),
    ("log_limit", &[]),
    ("event_types", &["event"]),
    ("wake", &["event"]),
    ("store", &["clock", "event", "event_types", "files", "jobs", "trace_context", "wake"]),
    ("socket", &["clock", "event", "trace_context"]),
    ("dispatch", &["clock", "event", "jobs", "log_limit", "socket", "store", "wake"]),
    (
        "intake",
        &["clock", "compute", "event", "event_types", "jobs", "socket", "store", "trace_context"],
    ),
    ("telemetry", &["clock"]),
    ("config", &["dispatch", "store", "telemetry"]),
    ("lifecycle", &[]),
    ("retention", &["event", "jobs", "store", "wake"]),
    (
        "http",
        &[
            "api",
            "clock",
            "compute",
            "config",
            "dispatch",
            "event",
            "event_types",
            "files",
            "intake",
            "jobs",
            "log_limit",
            "socket",
            "store",
            "telemetry",
            "token",
            "trace_context",
        ],
    ),
    (
        "app",
        &[
            "clock",
            "config",
            "dispatch",
            "event",
            "files",
            "http",
            "intake",
            "jobs",
            "lifecycle",
            "retention",
            "store",
            "telemetry",
            "token",
            "wake",
        ],
    ),
    ("client", &["api", "clock", "event"]),
    // The command line: clients of the API, but for `serve`, `migrate`, `verify` and `config`.
    (
        "cli",
        &["api", "app", "client", "clock", "config", "event", "lifecycle", "store", "telemetry"],
    ),
    ("main", &["cli"]),
];

/// Outside crates that have owners: files or folders under `src/`. A line of
/// code knows its room by the outside thing that it names.
const OWNERS: [(&str, &[&str]); 30] = [
    ("sqlx", &["store/"]),
    ("libsqlite3_sys", &["store/"]),
    ("deadpool", &["store/postgres/pool.rs"]),
    ("filedescriptor", &["store/postgres/sockets.rs"]),
    ("axum", &["http/", "socket/websocket.rs", "socket/websocket/"]),
    ("hyper", &["http/", "client/"]),
    ("hyper_util", &["http/", "client/"]),
    ("http_body_util", &["client/"]),
    ("tower", &["http/"]),
    ("tower_http", &["http/"]),
    ("governor", &["http/"]),
    ("proxy_header", &["http/proxy_protocol.rs"]),
    ("rcgen", &["http/tls/", "cli/bench/floor/"]),
    ("x509_parser", &["http/tls/"]),
    ("arc_swap", &["http/tls.rs"]),
    ("dashmap", &["wake.rs", "dispatch/", "http/"]),
    ("tokio_tungstenite", &["client/", "socket/websocket.rs", "socket/websocket/"]),
    ("reqwest", &["client/"]),
    ("clap", &["cli/", "main.rs"]),
    ("clap_complete", &["cli/", "main.rs"]),
    ("unicode_width", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("hdrhistogram", &["cli/bench/"]),
    ("anyhow", &["cli/", "main.rs"]),
    ("tracing_subscriber", &["telemetry.rs"]),
    ("metrics_exporter_prometheus", &["telemetry.rs"]),
    ("jsonschema", &["event_types.rs", "event_types/"]),
    ("jsonschema_regex", &["event_types/"]),
    ("regex_automata", &["event_types/"]),
    ("chrono", &["clock.rs"]),
];

const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION_HINT: &str = "split it along what it does; a file is read in one sitting";

/// What no committed line holds: leftovers, and words that promise later work.
const FORBIDDEN: [&str; 7] = [
    concat!("dbg", "!("),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("/tmp", "/"),
];

struct Source {
    /// Under the repository, with `/`.
    path: String,
    text: String,
    /// The text without comments and string literals, line by line.
    code: Vec<String>,
}

#[test]
fn rooms_import_one_way() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let room = room_of(&source.path);
        if room == "lib" || room == "build" {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            broken.push(format!("{}: the room `{room}` has no line in ROOMS", source.path));
            continue;
        };
        for (number, line) in numbered(&source) {
            for name in named_after(line, "crate::")
                .into_iter()
                .chain(named_after(line, "gateway_events::"))
            {
                // In the binary `crate` is the command line itself.
                let known = ROOMS.iter().any(|(other, _)| *other == name);
                if known && name != room && !allowed.contains(&name.as_str()) {
                    broken.push(format!(
                        "{}:{number}: `{room}` may not import `{name}`",
                        source.path
                    ));
                }
            }
        }
    }
    report("imports run one way; move the code, or argue for a line in ROOMS", &broken);
}

#[test]
fn no_room_knows_one_that_stands_below_it() {
    let order: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).collect();
    for (number, (name, allowed)) in ROOMS.iter().enumerate() {
        for other in *allowed {
            assert!(order[..number].contains(other), "`{name}` may not know `{other}`: a circle");
        }
    }
}

#[test]
fn each_outside_crate_has_its_room() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let inside = source.path.trim_start_matches("src/");
        for (name, owners) in OWNERS {
            let is_at_home =
                owners.iter().any(|owner| inside == *owner || inside.starts_with(owner));
            for (number, line) in numbered(&source).filter(|_| !is_at_home) {
                if names_crate(line, name) {
                    broken.push(format!(
                        "{}:{number}: `{name}` lives in {}",
                        source.path,
                        owners.join(", ")
                    ));
                }
            }
        }
    }
    report("an outside crate is named in its own room only", &broken);
}

#[test]
fn files_are_short_enough_to_read() {
    let broken: Vec<String> = sources("src")
        .into_iter()
        .chain(sources("tests"))
        .filter(|source| source.text.lines().count() > LONGEST_FILE)
        .map(|source| {
            format!(
                "{}: {} lines; at most {LONGEST_FILE}: {LONGEST_FUNCTION_HINT}",
                source.path,
                source.text.lines().count()
            )
        })
        .collect();
    report("no file in which a reader must search", &broken);
}

#[test]
fn every_module_says_what_it_is_for() {
    let broken: Vec<String> = sources("src")
        .into_iter()
        .chain(sources("tests"))
        .filter(|source| {
            let first = source.text.lines().next().unwrap_or_default();
            !first.starts_with("//!") && !first.starts_with("#![doc = include_str!(")
        })
        .map(|source| format!("{}: begin it with `//! What this room is for.`", source.path))
        .collect();
    report("a module's doc says what the room is for and what it refuses", &broken);
}

#[test]
fn nothing_is_left_lying_about() {
    let mut broken = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        for (number, line) in source.text.lines().enumerate() {
            for word in FORBIDDEN {
                if line.contains(word) {
                    broken.push(format!("{}:{}: `{word}`", source.path, number + 1));
                }
            }
        }
    }
    report("leftovers, or paths of one machine", &broken);
}

#[test]
fn tests_wait_for_events_and_not_for_a_while() {
    let mut broken = Vec::new();
    for source in sources("tests") {
        for (number, line) in numbered(&source) {
            if line.contains("sleep(") {
                broken.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report("wait with `eventually` or for the event itself, with a deadline", &broken);
}

#[test]
fn sql_is_in_lower_case() {
    let mut broken = Vec::new();
    for source in sources("src/store") {
        for (number, line) in source.text.lines().enumerate() {
            let shouts = ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", " WHERE "]
                .iter()
                .any(|word| line.contains(word));
            if shouts && !line.trim_start().starts_with("//") {
                broken.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("SQL in lower case", &broken);
}

#[test]
fn the_lexer_sees_code_only() {
    let code = blank(
        "let a = \"crate::x\"; // crate::y\n/* crate::z */ use crate::w; 'c' r#\"crate::v\"#",
    );
    assert_eq!(named_after(&code, "crate::"), ["w"]);
    assert_eq!(named_after("use crate::{clock, event::Event};", "crate::"), ["clock", "event"]);
    assert!(names_crate("let x = sqlx::query();", "sqlx"));
    assert!(!names_crate("let x = self.sqlx; my_sqlx::y()", "sqlx"));
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}\n", broken.join("\n  "));
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(&root.join(folder), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no Rust files; does it still exist?");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable source file");
            let shown =
                path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            let code = blank(&text).lines().map(str::to_owned).collect();
            Source { path: shown, text, code }
        })
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn numbered(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.code.iter().enumerate().map(|(number, line)| (number + 1, line.as_str()))
}

/// `src/http/tls.rs` is in the room `http`, `src/wake.rs` in `wake`.
fn room_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/");
    let end = inside.find(['/', '.']).unwrap_or(inside.len());
    inside[..end].to_owned()
}
