//! Which settings are accepted, and the errors for invalid ones.

use super::*;

fn load(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(&Sources {
        environment: environment.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        ..Sources::default()
    })
}

#[test]
fn the_defaults_are_complete_and_good() {
    let config = load(&[]).unwrap();
    assert_eq!(config.limits.event_bytes.as_u64(), 1_048_576);
    assert!(config.show().contains("attempts_per_minute"));
}

#[test]
fn every_kind_of_value_is_strict() {
    // The kinds of all settings, from a file and from the environment: text that
    // only looks like a value of another kind is refused.
    let mistaken = ["true", "1", "text", "1.5", "", "yes", "0x10", "1e3"];
    let defaults = defaults();
    let mut tried = 0;
    for (section, table) in &defaults {
        for (key, default) in table.as_table().into_iter().flatten() {
            let variable = format!("GATEWAY_EVENTS__{section}__{key}").to_ascii_uppercase();
            for text in mistaken {
                let fits = match default {
                    toml::Value::Integer(_) => text == "1",
                    toml::Value::Boolean(_) => text == "true",
                    _ => continue,
                };
                tried += 1;
                match load(&[(&variable, text)]) {
                    Ok(_) => assert!(fits, "{variable}={text} is accepted"),
                    // It may be outside of its range all the same.
                    Err(error) => {
                        let shown = error.to_string();
                        assert!(shown.contains(&variable), "{shown}");
                        assert!(fits || !shown.contains("must be at least"), "{shown}");
                    }
                }
            }
            for written in ["true", "\"1\"", "1", "[1]", "\"true\"", "1.0"] {
                let text = format!("[{section}]\n{key} = {written}\n");
                let value = text.parse::<toml::Table>().unwrap()[section][key].clone();
                let is_size = matches!(default, toml::Value::String(text) if text.ends_with("iB"));
                // A whole number may be written without its decimal point.
                let takes_integers = is_size || default.is_float();
                if value.same_type(default) || (takes_integers && value.is_integer()) {
                    continue;
                }
                tried += 1;
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), &text).unwrap();
                let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
                let error = Config::load(&sources).expect_err(&text).to_string();
                assert!(error.contains(&format!("{section}.{key}")), "{text}: {error}");
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn a_misspelt_variable_is_refused_with_the_one_that_was_meant() {
    for (misspelt, meant) in [
        ("GATEWAY_EVENTS_SERVER_LISTEN", "GATEWAY_EVENTS__SERVER__LISTEN"),
        ("GATEWAY_EVENTS__SERVER_LISTEN", "GATEWAY_EVENTS__SERVER__LISTEN"),
        ("GATEWAY_EVENTS__SERVER__LISTENN", "GATEWAY_EVENTS__SERVER__LISTEN"),
        ("GATEWAY_EVENTS_DATA_DIR", "GATEWAY_EVENTS__DATA_DIR"),
        ("gateway_events__data_dir", "GATEWAY_EVENTS__DATA_DIR"),
        ("GATEWAY_EVENT__DATABASE__URL", "GATEWAY_EVENTS__DATABASE__URL"),
        ("GATEWAY_EVENTS_LIMITS_EVENT_BYTE", "GATEWAY_EVENTS__LIMITS__EVENT_BYTES"),
        ("GATEWAYEVENTS_DELIVERY_MAX_CONECTIONS", "GATEWAY_EVENTS__DELIVERY__MAX_CONNECTIONS"),
    ] {
        let shown = load(&[(misspelt, "postgres://u:hunter2@h/d")]).unwrap_err().to_string();
        assert!(shown.contains(misspelt) && shown.contains(meant), "{shown}");
        assert!(!misspelt.contains("URL") || !shown.contains("hunter2"), "{shown}");
    }
    // What Kubernetes sets for services of such names, the clients' own, and others'.
    let accepted = [
        "GATEWAY_EVENTS_SERVICE_HOST",
        "GATEWAY_EVENTS_SERVICE_PORT_HTTPS",
        "GATEWAY_EVENTS_PORT",
        "GATEWAY_EVENTS_PORT_8443_TCP_ADDR",
        "GATEWAY_EVENTS_DATABASE_PORT",
        "GATEWAY_EVENTS_URL",
        "GATEWAY_EVENTS_BENCH_DATABASE_URL",
        "GATEWAY_URL",
        "PATH",
    ];
    let config = load(&accepted.map(|name| (name, "something"))).unwrap();
    assert_eq!(config.warnings(), <[String; 0]>::default());
    let unknown = load(&[("GATEWAY_EVENTS_COLOUR", "red")]).unwrap();
    assert!(unknown.warnings()[0].contains("GATEWAY_EVENTS_COLOUR"), "{:?}", unknown.warnings());
}

#[cfg(unix)]
#[test]
fn paths_keep_their_bytes() {
    use std::os::unix::ffi::OsStringExt as _;
    let path = std::ffi::OsString::from_vec(b"data-\xff".to_vec());
    let postgres = ("GATEWAY_EVENTS__DATABASE__URL".into(), "postgres://db/events".into());
    let with = |key: &str| Sources {
        environment: vec![postgres.clone(), (key.into(), path.clone())],
        ..Sources::default()
    };
    let config = Config::load(&with("GATEWAY_EVENTS__DATA_DIR")).unwrap();
    assert_eq!(config.data_dir.as_os_str(), path);
    let refused = Config::load(&with("GATEWAY_EVENTS__LOG__FILTER")).unwrap_err().to_string();
    assert!(
        refused.contains("GATEWAY_EVENTS__LOG__FILTER") && refused.contains("UTF-8"),
        "{refused}"
    );
    let flags = Flags { data_dir: Some(path.clone().into()), ..Flags::default() };
    let mut sources = Sources { environment: vec![postgres], flags, ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().data_dir.as_os_str(), path);
    // SQLite's driver can't open it; another directory is no answer.
    sources.environment.clear();
    let refused = Config::load(&sources).unwrap_err().to_string();
    assert!(refused.contains("--data-dir") && refused.contains("\\xff"), "{refused}");
}

#[test]
fn texts_that_look_like_numbers_stay_as_they_are() {
    let config = load(&[("GATEWAY_EVENTS__DATA_DIR", "0012345")]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("0012345"));
}

#[test]
fn an_error_names_key_value_and_source() {
    for (variable, value, key) in [
        ("GATEWAY_EVENTS__SERVER__LISTEN", "nowhere", "server.listen"),
        ("GATEWAY_EVENTS__LIMITS__ATTEMPTS_PER_MINUTE", "0", "limits.attempts_per_minute"),
        ("GATEWAY_EVENTS__SERVER__HEADER_TIMEOUT", "soon", "server.header_timeout"),
        ("GATEWAY_EVENTS__SERVER__TRUSTED_PROXIES", "10.0.0.0/33", "server.trusted_proxies"),
        ("GATEWAY_EVENTS__SERVER__LISTN", "1", "server.listn"),
        ("GATEWAY_EVENTS__LOG__FORMAT", "", "log.format"),
        ("GATEWAY_EVENTS__LOG__FORMAT", "xml", "log.format"),
        ("GATEWAY_EVENTS__DELIVERY__MAX_ATTEMPTS", "0", "delivery.max_attempts"),
        ("GATEWAY_EVENTS__DELIVERY__HEARTBEAT_INTERVAL", "0s", "delivery.heartbeat_interval"),
        ("GATEWAY_EVENTS__DELIVERY__HEARTBEAT_TIMEOUT", "31s", "delivery.heartbeat_timeout"),
        ("GATEWAY_EVENTS__DELIVERY__HEARTBEAT_TIMEOUT", "10s", "delivery.heartbeat_timeout"),
    ] {
        let shown = load(&[(variable, value)]).unwrap_err().to_string();
        assert!(shown.contains(key), "{shown}");
        assert!(shown.contains(variable), "{shown}");
        assert!(shown.contains(value), "{shown}");
    }
}

#[test]
fn heartbeats_that_could_not_keep_their_promise_are_refused() {
    for (setting, value) in [
        ("HEARTBEAT_INTERVAL", "0s"),
        ("HEARTBEAT_INTERVAL", "25s"),
        ("HEARTBEAT_TIMEOUT", "10s"),
        ("HEARTBEAT_TIMEOUT", "31s"),
        ("CONFIRMATION_TIMEOUT", "0s"),
        ("WRITE_TIMEOUT", "0s"),
        ("MAX_ATTEMPTS", "0"),
        ("MAX_CONNECTIONS", "0"),
        ("WINDOW_EVENTS", "0"),
    ] {
        let variable = format!("GATEWAY_EVENTS__DELIVERY__{setting}");
        let refused = load(&[(&variable, value)]).expect_err(setting).to_string();
        assert!(refused.contains("delivery."), "{refused}");
        assert!(refused.contains(value) || refused.contains("heartbeat"), "{refused}");
    }
    let shortest = [
        ("GATEWAY_EVENTS__DELIVERY__HEARTBEAT_INTERVAL", "10ms"),
        ("GATEWAY_EVENTS__DELIVERY__HEARTBEAT_TIMEOUT", "20ms"),
    ];
    assert!(load(&shortest).is_ok());
}

#[test]
fn plaintext_is_for_loopback_only() {
    assert!(load(&[("GATEWAY_EVENTS__SERVER__PLAINTEXT", "true")]).is_err());
    let loopback = [
        ("GATEWAY_EVENTS__SERVER__PLAINTEXT", "true"),
        ("GATEWAY_EVENTS__SERVER__LISTEN", "127.0.0.1:0"),
    ];
    assert!(load(&loopback).is_ok());
}

#[test]
fn networks_contain_what_they_should() {
    let net: Network = "10.0.0.0/8".parse().unwrap();
    assert!(net.contains("10.255.0.1".parse().unwrap()));
    assert!(net.contains("::ffff:10.1.1.1".parse().unwrap()));
    assert!(!net.contains("11.0.0.1".parse().unwrap()));
    let all: Network = "::/0".parse().unwrap();
    assert!(all.contains("fe80::1".parse().unwrap()));
}

#[test]
fn the_databases_password_is_never_shown() {
    for url in [
        "postgres://me:hunter2@db:5432/events?sslmode=require",
        "postgres://me:hunter2/@x@db/events",
        "postgres://db/events?user=me&password=hunter2",
        "mysql://me:hunter2@db/events",
        "hunter2",
    ] {
        let listener = [
            ("GATEWAY_EVENTS__DATABASE__URL", "postgres://db/events"),
            ("GATEWAY_EVENTS__DATABASE__LISTENER_URL", url),
        ];
        match load(&listener) {
            Ok(config) => {
                assert!(!config.show().contains("hunter2"), "{}", config.show());
                assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
            }
            Err(error) => {
                let shown = error.to_string();
                assert!(shown.contains("database.listener_url"), "{shown}");
                assert!(!shown.contains("hunter2"), "{shown}");
            }
        }
        match load(&[("GATEWAY_EVENTS__DATABASE__URL", url)]) {
            Ok(config) => {
                assert!(!config.show().contains("hunter2"), "{}", config.show());
                assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
                assert!(config.show().contains("db"), "{}", config.show());
            }
            Err(error) => {
                let shown = error.to_string();
                assert!(shown.contains("database.url") && !shown.contains("hunter2"), "{shown}");
            }
        }
    }
}

#[test]
fn a_listener_needs_a_shared_database() {
    let alone = [("GATEWAY_EVENTS__DATABASE__LISTENER_URL", "postgres://db/events")];
    let refused = load(&alone).unwrap_err().to_string();
    assert!(refused.contains("database.listener_url"), "{refused}");
    assert!(load(&[("GATEWAY_EVENTS__DATABASE__NOTIFY", "perhaps")]).is_err());
    assert!(!load(&[("GATEWAY_EVENTS__DATABASE__NOTIFY", "false")]).unwrap().database.notify);
}
