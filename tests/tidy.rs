//! House rules that neither the compiler nor clippy checks: which module may import which,
//! which dependency is used where, how files are named, and that each file starts with a
//! doc comment. A violation is reported with its file, line and remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/lexer.rs"]
mod lexer;

use lexer::{blank, imports, literals, named_after, names_crate};

/// Each module under `src/` and the modules that it may import: only ones listed above it,
/// so that there can be no cycle.
const MODULES: &[(&str, &[&str])] = &[
    ("backoff", &[]),
    ("defaults", &[]),
    ("clock", &[]),
    ("trace_context", &[]),
    ("json_error", &[]),
    ("cloud_event", &[]),
    ("event", &["clock", "cloud_event", "trace_context"]),
    ("api", &["clock", "cloud_event", "event", "trace_context"]),
    ("token", &[]),
    ("metric", &[]),
    ("compute", &["metric"]),
    ("files", &[]),
    ("jobs", &["backoff", "clock", "metric"]),
    ("log_limit", &[]),
    ("names", &[]),
    ("event_types", &["event", "metric"]),
    ("wake", &["event"]),
    (
        "store",
        &[
            "backoff",
            "clock",
            "cloud_event",
            "defaults",
            "event",
            "event_types",
            "files",
            "jobs",
            "names",
            "trace_context",
            "wake",
            "metric",
        ],
    ),
    ("feed", &["clock", "event", "jobs", "metric", "store", "wake"]),
    ("transport", &["clock", "cloud_event", "event", "json_error", "trace_context"]),
    (
        "dispatch",
        &[
            "backoff",
            "clock",
            "defaults",
            "event",
            "event_types",
            "jobs",
            "log_limit",
            "store",
            "transport",
            "wake",
            "metric",
        ],
    ),
    ("admission", &["clock", "dispatch", "event", "jobs", "store", "token", "transport", "wake"]),
    (
        "ingest",
        &[
            "api",
            "clock",
            "cloud_event",
            "compute",
            "event",
            "event_types",
            "jobs",
            "json_error",
            "store",
            "trace_context",
            "transport",
            "metric",
        ],
    ),
    ("telemetry", &["clock", "event", "log_limit", "trace_context", "metric"]),
    ("config", &["defaults", "dispatch", "store", "telemetry", "transport"]),
    ("lifecycle", &[]),
    (
        "alerts",
        &[
            "api", "backoff", "clock", "config", "event", "files", "jobs", "metric", "names",
            "store",
        ],
    ),
    ("retention", &["event", "jobs", "store", "wake", "metric"]),
    ("bulk", &["event", "jobs", "store", "wake", "metric"]),
    ("diagnosis", &["clock", "event", "names", "store"]),
    (
        "http",
        &[
            "alerts",
            "api",
            "clock",
            "cloud_event",
            "compute",
            "config",
            "diagnosis",
            "dispatch",
            "event",
            "event_types",
            "feed",
            "files",
            "ingest",
            "jobs",
            "log_limit",
            "names",
            "admission",
            "store",
            "telemetry",
            "token",
            "trace_context",
            "transport",
            "metric",
        ],
    ),
    (
        "app",
        &[
            "alerts",
            "api",
            "bulk",
            "clock",
            "config",
            "dispatch",
            "event",
            "feed",
            "files",
            "http",
            "ingest",
            "jobs",
            "lifecycle",
            "retention",
            "store",
            "telemetry",
            "token",
            "transport",
            "wake",
            "metric",
        ],
    ),
    ("client", &["api", "backoff", "clock", "cloud_event", "event", "files", "names", "transport"]),
    (
        "agent",
        &[
            "backoff",
            "client",
            "clock",
            "cloud_event",
            "event",
            "files",
            "metric",
            "names",
            "trace_context",
            "transport",
        ],
    ),
    ("command", &["client", "clock", "files", "names", "token"]),
    // Clients of the API, except for those that open the database, and `config`.
    (
        "cli",
        &[
            "agent",
            "api",
            "app",
            "client",
            "clock",
            "cloud_event",
            "command",
            "config",
            "event",
            "event_types",
            "http",
            "lifecycle",
            "names",
            "store",
            "telemetry",
            "token",
            "trace_context",
        ],
    ),
    ("main", &["cli", "command"]),
    // The load generator: a client of the API that also writes databases of its own.
    ("bin", &["api", "backoff", "client", "clock", "command", "event", "store", "transport"]),
];

/// Dependencies that only some files or folders under `src/` may name. `http/` includes
/// `http.rs`.
const OWNERS: &[(&str, &[&str])] = &[
    ("sqlx", &["store/", BENCH]),
    ("libsqlite3_sys", &["store/"]),
    ("deadpool", &["store/postgres/pool.rs"]),
    ("filedescriptor", &["store/postgres/sockets.rs"]),
    ("axum", &["http/", "transport/websocket/"]),
    ("utoipa", &["api/", "http/", "ingest/body.rs", "transport/frames/", "transport/report.rs"]),
    ("utoipa_axum", &["http/"]),
    ("maud", &["http/console/"]),
    ("hyper", &["agent/metrics.rs", "client/reliable/grpc.rs", "http/", BENCH]),
    ("hyper_util", &["agent/metrics.rs", "client/reliable/grpc.rs", "http/", BENCH]),
    ("http_body_util", &[BENCH]),
    ("tonic", &["client/reliable/grpc.rs", "http/grpc/", "transport/grpc/"]),
    ("tonic_prost", &["transport/grpc/"]),
    ("tonic_types", &["transport/grpc/"]),
    ("tonic_health", &["http/grpc.rs"]),
    ("tonic_reflection", &["http/grpc.rs"]),
    ("prost", &["transport/grpc/", BENCH]),
    ("prost_types", &["transport/grpc/"]),
    ("tower", &["http/"]),
    ("tower_http", &["http/"]),
    ("governor", &["admission/"]),
    ("proxy_header", &["http/proxy_protocol.rs"]),
    ("rcgen", &["http/tls/", BENCH]),
    ("x509_parser", &["client/probe.rs", "http/tls/"]),
    ("arc_swap", &["http/tls.rs"]),
    ("dashmap", &["wake.rs", "admission/", "dispatch/", "http/"]),
    ("tokio_tungstenite", &["client/", "transport/websocket/", BENCH]),
    ("reqwest", &["agent/forward.rs", "alerts/", "client/", "telemetry/otlp.rs"]),
    ("lettre", &["alerts/email.rs"]),
    ("opentelemetry", &["telemetry/otlp.rs"]),
    ("opentelemetry_http", &["telemetry/otlp.rs"]),
    ("opentelemetry_otlp", &["telemetry/otlp.rs"]),
    ("opentelemetry_sdk", &["telemetry/otlp.rs"]),
    ("tracing_opentelemetry", &["telemetry/otlp.rs"]),
    ("clap", &["command/", "cli/", "main.rs", BENCH]),
    ("clap_complete", &["cli/", "main.rs"]),
    ("clap_mangen", &["cli/"]),
    ("csv", &["command/formats.rs"]),
    ("serde_norway", &["command/formats.rs"]),
    ("unicode_width", &["command/"]),
    ("unicode_general_category", &["names.rs"]),
    ("indicatif", &[BENCH]),
    ("hdrhistogram", &[BENCH]),
    ("anyhow", &["command/", "cli/", "main.rs", BENCH]),
    ("tracing_subscriber", &["telemetry/"]),
    ("metrics_exporter_prometheus", &["telemetry/"]),
    ("metrics_process", &["app/metrics.rs"]),
    ("jsonschema", &["event_types/"]),
    ("jsonschema_regex", &["event_types/"]),
    ("regex_automata", &["event_types/"]),
    ("chrono", &["clock.rs"]),
];

/// The load generator.
const BENCH: &str = "bin/gateway-events-bench/";

/// Text that must not be committed: debugging leftovers, notes of later work, local paths.
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
fn modules_import_in_one_direction() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let module = module_of(&source.path);
        if module == "lib" || module == "build" {
            continue;
        }
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{}: the module `{module}` is not in MODULES", source.path));
            continue;
        };
        for (number, line) in numbered(&source) {
            for name in named_after(line, "crate::")
                .into_iter()
                .chain(named_after(line, "gateway_events::"))
            {
                // In the binaries `crate::` names their own modules.
                let known = MODULES.iter().any(|(other, _)| *other == name);
                if known && name != module && !allowed.contains(&name.as_str()) {
                    broken.push(format!(
                        "{}:{number}: `{module}` may not import `{name}`",
                        source.path
                    ));
                }
            }
        }
    }
    report("imports run in one direction; move the code, or extend MODULES", &broken);
}

#[test]
fn modules_are_listed_after_those_they_import() {
    let order: Vec<&str> = MODULES.iter().map(|(name, _)| *name).collect();
    for (number, (name, allowed)) in MODULES.iter().enumerate() {
        for other in *allowed {
            assert!(
                order[..number].contains(other),
                "`{name}` imports `{other}`, which is listed below it"
            );
        }
    }
}

/// A module and its submodules may use each other; other files may not.
#[test]
fn no_two_files_import_each_other() {
    let sources = sources("src");
    let modules: BTreeMap<Vec<String>, &str> =
        sources.iter().map(|source| (module_path(&source.path), source.path.as_str())).collect();
    let mut imported: BTreeSet<(&[String], &[String])> = BTreeSet::new();
    for (source, own) in sources.iter().map(|source| (source, module_path(&source.path))) {
        let Some((own, _)) = modules.get_key_value(&own) else { continue };
        for path in imports(&source.code.join("\n")) {
            let target = resolved(own, &path);
            let file = (1..=target.len())
                .filter_map(|length| modules.get_key_value(&target[..length]))
                .next_back();
            if let Some((file, _)) = file {
                imported.insert((own, file));
            }
        }
    }
    let broken: Vec<String> = imported
        .iter()
        .filter(|(from, to)| from < to && imported.contains(&(*to, *from)))
        .filter(|(from, to)| !to.starts_with(from))
        .map(|(from, to)| format!("{} and {}", modules[*from], modules[*to]))
        .collect();
    report("two files do not import each other; move what they share to a third one", &broken);
}

/// The path of a file's module: `["http", "tls"]` for `src/http/tls.rs`.
fn module_path(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    inside.split('/').map(str::to_owned).collect()
}

/// An imported path, from the root of the crate.
fn resolved(own: &[String], path: &[String]) -> Vec<String> {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    let (parents, rest) = match path.first().map(String::as_str) {
        Some("crate" | "gateway_events") => (&own[..0], &path[1..]),
        Some("self") => (own, &path[1..]),
        Some("super") => (&own[..own.len().saturating_sub(supers)], &path[supers..]),
        _ => (own, path),
    };
    parents.iter().chain(rest).cloned().collect()
}

#[test]
fn dependencies_are_used_where_they_belong() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let inside = source.path.trim_start_matches("src/");
        for (name, owners) in OWNERS {
            let is_owner = owners.iter().any(|owner| {
                inside.starts_with(owner) || owner.strip_suffix('/') == inside.strip_suffix(".rs")
            });
            for (number, line) in numbered(&source).filter(|_| !is_owner) {
                if names_crate(line, name) {
                    broken.push(format!(
                        "{}:{number}: `{name}` belongs in {}",
                        source.path,
                        owners.join(", ")
                    ));
                }
            }
        }
    }
    report("a dependency is used by its owners only", &broken);
}

/// Only transports encode and decode frames.
#[test]
fn delivery_and_admission_have_no_wire_format() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let forbidden: &[&str] = match source.path.trim_start_matches("src/") {
            // The settings of delivery are read from the configuration.
            "dispatch.rs" => &["frame", "frames"],
            "admission.rs" => &["frame", "frames", "serde", "serde_json"],
            inside if inside.starts_with("dispatch/") || inside.starts_with("admission/") => {
                &["frame", "frames", "serde", "serde_json"]
            }
            _ => continue,
        };
        for (number, line) in numbered(&source) {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                if forbidden.contains(&word) {
                    broken.push(format!("{}:{number}: `{word}`", source.path));
                }
            }
        }
    }
    report("a lane passes messages of `transport`, and transports turn them into frames", &broken);
}

#[test]
fn files_are_named_after_their_modules() {
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    let broken: Vec<String> = sources
        .iter()
        .filter_map(|source| source.path.strip_suffix("/mod.rs"))
        .filter(|folder| {
            // A file that a `#[path]` names has its submodules beside it.
            let name = folder.rsplit('/').next().unwrap_or(folder);
            let attribute = format!("{name}/mod.rs\"]");
            !sources.iter().any(|source| source.text.contains(&attribute))
        })
        .map(|folder| format!("{folder}/mod.rs"))
        .collect();
    report("the module `foo` is in `foo.rs` and its submodules in `foo/`", &broken);
}

#[test]
fn every_file_starts_with_a_doc_comment() {
    let broken: Vec<String> = sources("src")
        .into_iter()
        .chain(sources("tests"))
        .filter(|source| {
            let first = source.text.lines().next().unwrap_or_default();
            !first.starts_with("//!")
        })
        .map(|source| format!("{}: does not start with `//!`", source.path))
        .collect();
    report("the doc comment of a module says what it is for", &broken);
}

#[test]
fn links_in_documents_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for folder in ["docs", ".github"] {
        let entries = fs::read_dir(root.join(folder)).expect("a folder");
        documents.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut broken = Vec::new();
    for document in documents.iter().filter(|path| path.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(document).expect("a readable document");
        let folder = document.parent().unwrap_or(root);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or(link);
            let is_url = link.contains("://");
            if !is_url && !file.is_empty() && !folder.join(file).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    report("relative links lead to files of the repository", &broken);
}

/// Paths in backticks, from the root of the repository or of a folder that the document is about.
#[test]
fn paths_in_documents_for_developers_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "src", "src/store", "src/store/postgres"];
    let (mut count, mut broken) = (0, Vec::new());
    for document in [".github/CONTRIBUTING.md", "docs/ARCHITECTURE.md"] {
        let text = fs::read_to_string(root.join(document)).expect("a readable document");
        for path in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = path.rsplit('.').next() == Some("rs")
                || (path.contains('/') && !path.starts_with('/'));
            let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
            if is_path && is_plain {
                count += 1;
                if !folders.iter().any(|folder| root.join(folder).join(path).exists()) {
                    broken.push(format!("{document}: `{path}`"));
                }
            }
        }
    }
    assert!(count > 100, "only {count} paths were found");
    report("paths in backticks exist", &broken);
}

#[test]
fn no_leftovers_are_committed() {
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
    report("leftovers and local paths", &broken);
}

#[test]
fn tests_wait_for_conditions_instead_of_sleeping() {
    let mut broken = Vec::new();
    for source in sources("tests") {
        for (number, line) in numbered(&source) {
            if line.contains("sleep(") {
                broken.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report("wait for the condition with a deadline, for example with `eventually`", &broken);
}

#[test]
fn sql_is_in_lower_case() {
    let mut broken = Vec::new();
    for source in sources("src/store") {
        for (number, line) in source.text.lines().enumerate() {
            let is_upper_case = ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", " WHERE "]
                .iter()
                .any(|word| line.contains(word));
            if is_upper_case && !line.trim_start().starts_with("//") {
                broken.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("SQL in lower case", &broken);
}

#[test]
fn statements_with_one_text_are_shared_by_both_databases() {
    let statements = |folder| -> Vec<(String, String)> {
        let sources = sources(folder).into_iter();
        let texts = sources.flat_map(|Source { path, text, .. }| {
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            let texts = literals(product).into_iter().filter_map(statement);
            texts.map(|text| (path.clone(), text)).collect::<Vec<_>>()
        });
        texts.collect()
    };
    let (sqlite, postgres) =
        (statements("src/store/sqlite/statements"), statements("src/store/postgres/statements"));
    assert!(sqlite.len() > 50 && postgres.len() > 50, "{} and {}", sqlite.len(), postgres.len());
    let broken: Vec<String> = sqlite
        .iter()
        .filter(|(_, text)| postgres.iter().any(|(_, other)| other == text))
        .map(|(path, text)| format!("{path}: {}", text.chars().take(80).collect::<String>()))
        .collect();
    report("a statement that both databases word alike is in `src/store/sql/`", &broken);
}

/// A literal that is a whole SQL statement, on one line.
fn statement(literal: &str) -> Option<String> {
    let words: Vec<&str> = literal.split_whitespace().collect();
    let is_verb = ["select", "insert", "update", "delete", "with"].contains(words.first()?);
    (is_verb && words.len() > 1).then(|| words.join(" "))
}

#[test]
fn the_lexer_ignores_comments_and_literals() {
    let code = blank(
        "let a = \"crate::x\"; // crate::y\n/* crate::z */ use crate::w; 'c' r#\"crate::v\"#",
    );
    assert_eq!(named_after(&code, "crate::"), ["w"]);
    assert_eq!(named_after("use crate::{clock, event::Event};", "crate::"), ["clock", "event"]);
    assert_eq!(
        literals("a(\"b c\"); // \"d\"\nr#\"e \"f\"#, '\"', \"g\\\"\""),
        ["b c", "e \"f", "g\\\""]
    );
    let paths = imports("pub use super::{a, b::{self, C as D}};\nlet x = 1;\nuse crate::e;");
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["super::a", "super::b::self", "super::b::C", "crate::e"]);
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

/// The top-level module of a file: `http` for `src/http/tls.rs` and `src/http.rs`.
fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/");
    let end = inside.find(['/', '.']).unwrap_or(inside.len());
    inside[..end].to_owned()
}
