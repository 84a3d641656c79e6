//! The deployment examples in `config/` are valid for this version: every variable is a setting,
//! every file exists, and the addresses match. No container is started.

use std::path::Path;

use serde_norway::Value;

use crate::support::command::{command, run};

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compose() -> Value {
    let mut compose: Value =
        serde_norway::from_str(&text("config/compose.yaml")).expect("well-formed YAML");
    compose.apply_merge().expect("what is merged is a mapping");
    compose
}

#[tokio::test]
async fn the_settings_in_compose_are_valid() {
    let compose = compose();
    for node in ["node-1", "node-2"] {
        let settings = compose["services"][node]["environment"].as_mapping().expect("settings");
        assert!(settings.len() >= 4, "{settings:?}");
        let mut show = command("config show");
        for (name, value) in settings {
            let (name, value) = (name.as_str().expect("a name"), value.as_str().expect("a text"));
            assert!(name.starts_with("GATEWAY_EVENTS__"), "{name}");
            show.env(name, value.replace("${POSTGRES_PASSWORD:?set it, see above}", "p"));
        }
        // An unknown setting or an invalid value would be refused.
        let shown = run(&mut show).await;
        assert!(shown.well().contains("172.30.0.10"), "{shown:?}");
        show.env("GATEWAY_EVENTS__SERVER__NO_SUCH_THING", "x");
        assert_ne!(run(&mut show).await.code, Some(0), "an unknown one is noticed");
    }
}

#[test]
fn files_that_compose_mounts_exist_or_are_created_as_documented() {
    let (compose, written) = (compose(), text("config/compose.yaml"));
    let mut mounted = 0;
    for (name, service) in compose["services"].as_mapping().expect("services") {
        for volume in service["volumes"].as_sequence().into_iter().flatten() {
            let source = volume.as_str().and_then(|it| it.split(':').next()).expect("a source");
            mounted += 1;
            if let Some(secret) = source.strip_prefix("./secrets/") {
                let made = format!("config/secrets/{secret}");
                assert!(written.matches(&made).count() >= 1, "{name:?}: no example creates {made}");
            } else if let Some(file) = source.strip_prefix("./") {
                text(&format!("config/{file}"));
            } else {
                assert!(compose["volumes"].get(source).is_some(), "{name:?}: {source}");
            }
        }
        let build = service["build"]["dockerfile"].as_str();
        build.map(text);
    }
    assert!(mounted >= 8, "{mounted}");
}

#[test]
fn the_balancers_address_and_the_nodes_names_agree() {
    let (compose, haproxy) = (compose(), text("config/haproxy.cfg"));
    let address = &compose["services"]["haproxy"]["networks"]["inside"]["ipv4_address"];
    let address = address.as_str().expect("an address");
    assert!(haproxy.contains(&format!("    source {address}\n")), "{address}");
    for node in ["node-1", "node-2"] {
        assert!(haproxy.contains(&format!(" {node}:8443\n")), "{node}");
        let environment = &compose["services"][node]["environment"];
        assert_eq!(environment["GATEWAY_EVENTS__SERVER__PROXY_PROTOCOL_FROM"], address);
    }
}

#[test]
fn files_that_the_image_copies_exist() {
    let mut copied = 0;
    for line in text("config/Dockerfile").lines() {
        let Some(files) = line.strip_prefix("COPY ").filter(|it| !it.starts_with("--from")) else {
            continue;
        };
        let mut files: Vec<&str> = files.split_whitespace().collect();
        files.pop();
        for file in files {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file}");
            copied += 1;
        }
    }
    assert!(copied >= 5, "{copied}");
}

#[test]
fn the_build_context_contains_only_what_the_image_copies() {
    let ignored = text(".dockerignore");
    let admitted: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignored.lines().any(|line| line == "*"), "everything else is ignored");
    let dockerfile = text("config/Dockerfile");
    let mut copied: Vec<&str> = Vec::new();
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        if !line.starts_with("--from") {
            let files: Vec<&str> = line.split_whitespace().collect();
            copied.extend(&files[..files.len() - 1]);
        }
    }
    copied.sort_unstable();
    let mut sorted = admitted.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, copied);
}

#[test]
fn the_image_runs_as_a_numeric_user() {
    let dockerfile = text("config/Dockerfile");
    let user = dockerfile.lines().find_map(|line| line.strip_prefix("USER ")).expect("a user");
    for part in user.split(':') {
        assert!(part.parse::<u32>().is_ok_and(|id| id > 0), "{user}");
    }
}

#[test]
fn data_of_the_tour_is_not_committed() {
    for folder in ["/data", "/target", "/config/secrets"] {
        assert!(text(".gitignore").lines().any(|line| line == folder), "{folder}");
    }
}
