//! `health` checks the service on this machine: it takes the address from the service's settings,
//! and ignores environment variables of client commands.

use crate::support::Service;
use crate::support::command::{command, run};

#[tokio::test]
async fn health_checks_the_service_that_the_settings_describe() {
    let service = Service::start().await;
    let health = |arguments: &str| {
        let mut command = command(&format!("health {arguments}"));
        command
            .env("GATEWAY_EVENTS__SERVER__LISTEN", format!("0.0.0.0:{}", service.port))
            // Set for a client of another service, which does not exist.
            .env("GATEWAY_EVENTS_URL", "https://127.0.0.1:1")
            .env("GATEWAY_EVENTS_TOKEN", "two words")
            .env("GATEWAY_EVENTS_CA_FILE", "nowhere.pem");
        command
    };
    run(&mut health("")).await.well();
    run(&mut health("--live")).await.well();
    run(&mut health("--insecure --live")).await.well();
    let trusting = format!("--ca-file {}", service.certificate().display());
    run(&mut health(&trusting)).await.well();
    let named = format!("--url https://localhost:{} --insecure", service.port);
    run(&mut health(&named)).await.well();
    run(&mut health("--url https://127.0.0.1:1")).await.failed(1, &["127.0.0.1:1"]);
    let mut wrong = health("");
    wrong.env("GATEWAY_EVENTS__SERVER__LISTEN", "127.0.0.1:1");
    run(&mut wrong).await.failed(1, &["127.0.0.1:1", "failed to connect"]);
    wrong.env("GATEWAY_EVENTS__SERVER__LISTEN", "127.0.0.1:0");
    run(&mut wrong).await.failed(1, &["port 0", "--url"]);
    // The address can also come from a configuration file.
    let file = service.directory().join("settings.toml");
    let text = format!("[server]\nlisten = \"[::]:{}\"\n", service.port);
    std::fs::write(&file, &text).expect("written");
    let by_file = format!("health --config {}", file.display());
    let said = run(&mut command(&by_file)).await;
    // The service only listens on IPv4; what matters is the address in the error.
    said.failed(1, &[&format!("[::1]:{}", service.port)]);
}

#[tokio::test]
async fn health_uses_plaintext_if_the_service_does() {
    let service = tempfile::tempdir().expect("a directory");
    let mut serve = command("serve --plaintext --listen 127.0.0.1:0 --data-dir");
    let mut running = serve.arg(service.path()).spawn().expect("it starts");
    let out = tokio::io::BufReader::new(running.stdout.take().expect("a pipe"));
    let mut lines = tokio::io::AsyncBufReadExt::lines(out);
    let port = loop {
        let line = lines.next_line().await.expect("text").expect("it listens");
        if let Some((_, address)) = line.split_once("listening on http://") {
            break address.rsplit(':').next().expect("a port").to_owned();
        }
    };
    let mut health = command("health --live");
    health
        .env("GATEWAY_EVENTS__SERVER__LISTEN", format!("127.0.0.1:{port}"))
        .env("GATEWAY_EVENTS__SERVER__PLAINTEXT", "true");
    run(&mut health).await.well();
    running.kill().await.expect("it ran");
}
