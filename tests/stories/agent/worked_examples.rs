//! The programs in `config/agent/`, with a real nginx.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::process::{Child, Command};

use super::{Agent, confirmed, failures, until, why};
use crate::support::Service;
use crate::support::command::run;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/agent").join(name);
    path.to_string_lossy().into_owned()
}

/// Where nginx is on Debian, of which only root's PATH knows.
fn path() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").expect("a PATH"))
}

/// A running nginx.
struct Nginx {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Nginx {
    fn start(directory: &Path) -> Self {
        let directory = directory.join("nginx");
        fs::create_dir(&directory).expect("created");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let conf = directory.join("nginx.conf");
        fs::write(&conf, configuration(&directory, port, "one")).expect("written");
        let mut command = Command::new("nginx");
        command.env("PATH", path()).args(["-e", "stderr", "-g", "daemon off;", "-c"]).arg(&conf);
        let log = fs::File::create(directory.join("log")).expect("a log");
        command.stdin(Stdio::null()).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("nginx is installed");
        Self { process, directory, port }
    }

    fn conf(&self) -> String {
        self.directory.join("nginx.conf").to_string_lossy().into_owned()
    }

    /// Waits until it answers with this text.
    async fn answers(&self, service: &Service, text: &str) {
        let client = super::http(service);
        let mut polls = tokio::time::interval(std::time::Duration::from_millis(20));
        let url = format!("http://127.0.0.1:{}/", self.port);
        let answered = tokio::time::timeout(crate::support::TEST_TIMEOUT, async {
            loop {
                polls.tick().await;
                if let Ok(response) = client.get(&url).send().await
                    && response.text().await.is_ok_and(|body| body == text)
                {
                    return;
                }
            }
        });
        let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        assert!(answered.await.is_ok(), "nginx never said {text}: {}", log());
    }

    /// Stops it, with its workers.
    async fn stop(mut self) {
        super::signal_process(self.process.id().expect("it runs"), rustix::process::Signal::TERM);
        self.process.wait().await.expect("it ends");
    }
}

fn configuration(directory: &Path, port: u16, answer: &str) -> String {
    let directory = directory.display();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {directory}/{name};\n"))
        .concat();
    format!(
        "pid {directory}/pid;\nworker_processes 1;\nevents {{}}\nhttp {{\n    access_log off;\n{paths}    \
         server {{\n        listen 127.0.0.1:{port};\n        location / {{ return 200 '{answer}'; }}\n    \
         }}\n}}\n"
    )
}

async fn update(service: &Service, gateway: &str, payload: &serde_json::Value) {
    let event =
        json!({"type": "gateway.config.updated", "gatewayIds": [gateway], "payload": payload});
    service.api().post("/events", &event).await.expect("accepted");
}

#[tokio::test]
async fn nginx_is_reloaded_and_a_configuration_that_it_refuses_is_a_failed_delivery() {
    let service = Service::start().await;
    let (id, key) = service.gateway("edge").await;
    let nginx = Nginx::start(service.directory());
    nginx.answers(&service, "one").await;
    let (path, conf) = (path(), nginx.conf());
    let variables = [("NGINX_CONF", conf.as_str()), ("PATH", path.as_str())];
    let reload = example("nginx-reload");
    let agent = Agent::start_with(&service, &key, &variables, &["--exec", &reload]);
    let with = |text: String| json!({"configType": "nginx", "action": "update", "config": text});

    let second = configuration(&nginx.directory, nginx.port, "two");
    update(&service, &id, &with(second.clone())).await;
    nginx.answers(&service, "two").await;
    confirmed(&service, &id, 1).await;
    assert_eq!(fs::read_to_string(&conf).expect("readable"), second, "byte for byte");

    let wrong = second.replace("return 200", "retrun 200");
    update(&service, &id, &with(wrong)).await;
    update(&service, &id, &json!({"configType": "nginx", "action": "update"})).await;
    update(&service, &id, &json!({"configType": "cache", "action": "update"})).await;
    confirmed(&service, &id, 4).await;
    let failed = failures(&service, &id, 2).await;
    let (reason, detail) = why(&failed[0]);
    assert_eq!(reason, "apply_failed");
    assert!(detail.contains("unknown directive \"retrun\""), "{detail}");
    assert_eq!(why(&failed[1]), ("invalid", "exit status 65: the payload has no text `config`"));
    let said = run(&mut service.command("delivery failed --gateway edge --json")).await;
    assert!(said.well().contains("unknown directive \\\"retrun\\\""), "{said:?}");
    let said = run(&mut service.command("delivery failed --gateway edge")).await;
    assert!(said.well().contains("apply_failed"), "{said:?}");
    nginx.answers(&service, "two").await;
    assert_eq!(fs::read_to_string(&conf).expect("readable"), second, "nothing was replaced");

    update(&service, &id, &with(configuration(&nginx.directory, nginx.port, "three"))).await;
    nginx.answers(&service, "three").await;
    confirmed(&service, &id, 5).await;

    // `nginx -t` accepts a port that another process uses, and the reload fails.
    let third = fs::read_to_string(&conf).expect("readable");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let log = nginx.directory.join("error.log");
    let conflicting = configuration(&nginx.directory, port, "four");
    let conflicting = format!("error_log {};\n{conflicting}", log.display());
    update(&service, &id, &with(conflicting)).await;
    confirmed(&service, &id, 6).await;
    let failed = failures(&service, &id, 3).await;
    let (reason, detail) = why(&failed[2]);
    assert_eq!(reason, "apply_failed");
    assert!(detail.contains("runs with the previous one"), "{detail}");
    nginx.answers(&service, "three").await;
    assert_eq!(fs::read_to_string(&conf).expect("readable"), third, "it was put back");
    drop(taken);

    // Without nginx, the file is replaced for its next start.
    let last = configuration(&nginx.directory, nginx.port, "five");
    nginx.stop().await;
    update(&service, &id, &with(last.clone())).await;
    confirmed(&service, &id, 7).await;
    assert_eq!(fs::read_to_string(&conf).expect("readable"), last);
    failures(&service, &id, 3).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_directory_follows_deployments_and_no_id_leads_out_of_it() {
    let service = Service::start().await;
    let (id, key) = service.gateway("edge").await;
    let directory = service.directory().join("apis");
    fs::create_dir(&directory).expect("created");
    let outside = service.directory().join("outside.json");
    fs::write(&outside, "kept").expect("written");
    let files = example("deployed-files");
    let target = directory.to_string_lossy().into_owned();
    let variables = [("DEPLOYED_DIR", target.as_str())];
    let agent = Agent::start_with(&service, &key, &variables, &["--exec", &files]);
    let event = |kind: &str, api: &str| {
        json!({"type": kind, "gatewayIds": [id], "payload": {
            "apiId": api, "deploymentId": "d", "performedAt": "2026-01-31T09:30:00Z"}})
    };
    let long = "x".repeat(300);
    let events = [
        event("api.deployed", "a-1"),
        event("api.deployed", "a-2"),
        event("api.undeployed", "a-1"),
        event("api.undeployed", "never-deployed"),
        event("api.deployed", "../outside"),
        event("api.deployed", "/etc/passwd"),
        event("api.undeployed", "../outside"),
        event("api.deployed", ".."),
        event("api.deployed", "-rf \n$HOME`touch y`\u{0}"),
        event("api.deployed", &long),
        event("api.deployed", "a-3"),
    ];
    service.api().post("/events", &json!(events)).await.expect("accepted");
    confirmed(&service, &id, 11).await;
    let names = || {
        let entries = fs::read_dir(&directory).expect("a directory").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let expected = [
        "%2Fetc%2Fpasswd.json",
        "-rf%20%0A%24HOME%60touch%20y%60%00.json",
        "...json",
        "a-2.json",
        "a-3.json",
    ];
    until(|| names() == expected, || format!("{:?}", names())).await;
    let content = fs::read_to_string(directory.join("a-2.json")).expect("readable");
    let content: serde_json::Value = serde_json::from_str(&content).expect("JSON");
    assert_eq!(content["apiId"], "a-2");
    assert_eq!(fs::read_to_string(&outside).expect("kept"), "kept");
    let failed = failures(&service, &id, 1).await;
    assert_eq!(failed[0]["sequence"], 10);
    assert!(why(&failed[0]).1.contains("File name too long"), "{:#}", failed[0]);
    agent.stop().await;
}
