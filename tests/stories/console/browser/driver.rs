//! Chromium, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/) by chromedriver.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Service, TEST_TIMEOUT};

/// The version of axe-core that `tests/run` installs.
const AXE: &str = "axe-core-4.14.1";
/// How an element is named in answers of WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// How many keystrokes may pass before an element has the focus.
const STOPS: usize = 200;

/// A width and a theme.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    width: u32,
    theme: &'static str,
}

impl Look {
    /// What every page is looked at with.
    pub(crate) const ALL: [Self; 4] = [
        Self { width: 360, theme: "light" },
        Self { width: 360, theme: "dark" },
        Self { width: 1920, theme: "light" },
        Self { width: 1920, theme: "dark" },
    ];

    /// That of a picture in the docs.
    pub(crate) const fn of_picture(theme: &'static str) -> Self {
        Self { width: 1280, theme }
    }
}

/// A browser with an empty profile.
pub(crate) struct Browser {
    client: Client,
    session: String,
    origin: String,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    pub(crate) async fn start(service: &Service) -> Self {
        Self::start_with(service, &json!({})).await
    }

    /// A browser that runs no scripts of pages.
    pub(crate) async fn without_scripts(service: &Service) -> Self {
        let off = json!({"profile.managed_default_content_settings.javascript": 2});
        Self::start_with(service, &off).await
    }

    async fn start_with(service: &Service, preferences: &Value) -> Self {
        let (driver, port) = chromedriver().await;
        let profile = tempfile::tempdir().expect("a temporary directory");
        let config = service.trust().client_config().expect("a TLS client");
        let client = Client::builder()
            .tls_backend_preconfigured(config.as_ref().clone())
            .no_proxy()
            .timeout(TEST_TIMEOUT)
            .build()
            .expect("a client");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({"args": arguments, "prefs": preferences});
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true, "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"}, "timeouts": {"script": 60_000},
        }}});
        let root = format!("http://127.0.0.1:{port}/session");
        let answer = send(client.post(&root).json(&wanted)).await;
        let id = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer:#}"));
        let browser = Self {
            session: format!("{root}/{id}"),
            client,
            origin: format!("https://localhost:{}", service.port),
            _driver: driver,
            _profile: profile,
        };
        browser.look(Look { width: 1280, theme: "light" }).await;
        browser
    }

    /// Ends the browser. Without it, chromedriver ends it when it is killed.
    pub(crate) async fn close(&self) {
        self.command(Method::DELETE, "", &Value::Null).await;
    }

    async fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = self.client.request(method.clone(), format!("{}{path}", self.session));
        let request = if method == Method::POST { request.json(body) } else { request };
        send(request).await
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        self.command(Method::POST, path, body).await
    }

    /// A command of the Chrome DevTools Protocol.
    async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.post("/goog/cdp/execute", &body).await;
    }

    pub(crate) async fn look(&self, look: Look) {
        let size =
            json!({"width": look.width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let theme = json!({"features": [{"name": "prefers-color-scheme", "value": look.theme}]});
        self.devtools("Emulation.setEmulatedMedia", theme).await;
    }

    pub(crate) async fn go(&self, path: &str) {
        self.post("/url", &json!({"url": format!("{}{path}", self.origin)})).await;
    }

    /// Runs a script; returns its result.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []})).await
    }

    pub(crate) async fn holds(&self, script: &str) -> bool {
        self.run(script).await == true
    }

    /// Waits until a script returns true. The page may be another one at any moment.
    pub(crate) async fn until(&self, script: &str) {
        let mut polls = tokio::time::interval(Duration::from_millis(50));
        let found = tokio::time::timeout(TEST_TIMEOUT, async {
            while !self.holds(script).await {
                polls.tick().await;
            }
        });
        if found.await.is_err() {
            let text = self.run("return location.href + '\\n' + document.body.innerText").await;
            panic!("never so: {script}\n{}", text.as_str().unwrap_or_default());
        }
    }

    async fn element(&self, selector: &str) -> String {
        let by = json!({"using": "css selector", "value": selector});
        let found = self.post("/element", &by).await;
        let id = found[ELEMENT].as_str();
        id.unwrap_or_else(|| panic!("{selector} is not on the page: {found:#}")).to_owned()
    }

    pub(crate) async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        let done = self.post(&format!("/element/{element}/click"), &json!({})).await;
        assert!(done.is_null(), "{selector} can't be clicked: {done:#}");
    }

    /// Clicks the first link with this text that can be clicked, once there is one.
    pub(crate) async fn follow(&self, text: &str) {
        self.click_any(&format!("//a[normalize-space()={text:?}]")).await;
    }

    /// Clicks the first button with this text that can be clicked, once there is one.
    pub(crate) async fn press(&self, text: &str) {
        self.click_any(&format!("//button[normalize-space()={text:?}]")).await;
    }

    /// Likewise the summary of a part that can be opened.
    pub(crate) async fn unfold(&self, text: &str) {
        self.click_any(&format!("//summary[normalize-space()={text:?}]")).await;
    }

    /// Clicks an element that a part which refreshes may replace at any moment.
    async fn click_any(&self, path: &str) {
        let mut polls = tokio::time::interval(Duration::from_millis(50));
        let by = json!({"using": "xpath", "value": path});
        let clicked = tokio::time::timeout(TEST_TIMEOUT, async {
            loop {
                polls.tick().await;
                let found = self.post("/elements", &by).await;
                let ids = found.as_array().into_iter().flatten();
                for id in ids.filter_map(|element| element[ELEMENT].as_str()) {
                    let click = format!("/element/{id}/click");
                    if self.post(&click, &json!({})).await.is_null() {
                        return;
                    }
                }
            }
        });
        if clicked.await.is_err() {
            let text = self.run("return location.href + '\\n' + document.body.innerText").await;
            panic!("can't be clicked: {path}\n{}", text.as_str().unwrap_or_default());
        }
    }

    /// Waits until the main part of the page contains a text.
    pub(crate) async fn until_says(&self, text: &str) {
        let says = "return document.querySelector('main')?.innerText.includes";
        self.until(&format!("{says}({}) === true", json!(text))).await;
    }

    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.post(&format!("/element/{element}/value"), &json!({"text": text})).await;
    }

    pub(crate) async fn text(&self, selector: &str) -> String {
        let element = self.element(selector).await;
        let path = format!("/element/{element}/text");
        let text = self.command(Method::GET, &path, &Value::Null).await;
        text.as_str().expect("text").to_owned()
    }

    pub(crate) async fn sign_in(&self, token: &str) {
        self.type_into("#token", token).await;
        self.click("form.card button").await;
        self.until("return document.querySelector('.who') !== null").await;
    }

    /// Moves the pointer to an element.
    pub(crate) async fn point_at(&self, selector: &str) {
        let origin = json!({ELEMENT: self.element(selector).await});
        let step = json!({"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0});
        let mouse = json!({"type": "pointer", "id": "mouse", "actions": [step]});
        self.post("/actions", &json!({"actions": [mouse]})).await;
    }

    /// Presses keys one after another, wherever the focus is. `\u{e004}` is Tab, `\u{e007}` is Enter.
    pub(crate) async fn keys(&self, keys: &str) {
        let steps: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": steps});
        self.post("/actions", &json!({"actions": [keyboard]})).await;
    }

    /// Presses Tab until an element has the focus.
    pub(crate) async fn tab_to(&self, selector: &str) {
        let is_there = format!("return document.activeElement?.matches({})", json!(selector));
        for _ in 0..STOPS {
            if self.holds(&is_there).await {
                return;
            }
            self.keys("\u{e004}").await;
        }
        panic!("{selector} is not reached by Tab");
    }

    /// Presses Tab until the focus is where it was: nothing holds it.
    pub(crate) async fn tab_around(&self) {
        self.keys("\u{e004}").await;
        self.run("window.start = document.activeElement").await;
        for _ in 0..STOPS {
            self.keys("\u{e004}").await;
            if self.holds("return document.activeElement === window.start").await {
                return;
            }
        }
        panic!("the focus does not come back");
    }

    /// What is wrong with the page: it scrolls sideways, or axe-core finds a violation.
    pub(crate) async fn problems(&self, path: &str, look: Look) -> Vec<String> {
        let mut problems = Vec::new();
        let width = "return document.documentElement.scrollWidth > innerWidth";
        if self.holds(width).await {
            problems.push(format!("{path} {look:?}: scrolls sideways"));
        }
        self.run(&AXE_SOURCE).await;
        let check = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(\
            found => done(found.violations.map(it => it.id + ': ' + it.help + ': ' + it.nodes.slice(0, 3)\
            .map(node => node.html.slice(0, 200) + ' ' + node.failureSummary).join(' | '))), \
            error => done(['axe failed: ' + error]))";
        let found = self.post("/execute/async", &json!({"script": check, "args": []})).await;
        let found = found.as_array().unwrap_or_else(|| panic!("no result: {found:#}"));
        let found = found.iter().filter_map(Value::as_str);
        problems.extend(found.map(|it| format!("{path} {look:?}: {it}")));
        let log = self.post("/se/log", &json!({"type": "browser"})).await;
        let lines =
            log.as_array().into_iter().flatten().filter_map(|line| line["message"].as_str());
        let refused = lines.filter(|line| line.contains("Content Security Policy"));
        problems.extend(refused.map(|line| format!("{path} {look:?}: {line}")));
        self.save_screenshot(path, look).await;
        problems
    }

    /// Saves a picture for people to look at, in the folder that `CONSOLE_SCREENSHOTS` names.
    async fn save_screenshot(&self, path: &str, look: Look) {
        let Some(folder) = std::env::var_os("CONSOLE_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        let height = self.run("return document.documentElement.scrollHeight").await;
        let size =
            json!({"width": look.width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let name: String =
            path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.save(&folder, &format!("{name}-{}-{}.png", look.width, look.theme)).await;
        self.look(look).await;
    }

    /// Saves what the window shows, in the folder that `CONSOLE_SCREENSHOTS` names.
    pub(crate) async fn save_picture(&self, name: &str, theme: &'static str) {
        let Some(folder) = std::env::var_os("CONSOLE_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        self.devtools("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
        self.look(Look::of_picture(theme)).await;
        self.save(&folder, &format!("{name}.png")).await;
    }

    async fn save(&self, folder: &Path, file: &str) {
        let picture = self.command(Method::GET, "/screenshot", &Value::Null).await;
        let picture = picture.as_str().expect("base64").as_bytes();
        let picture = data_encoding::BASE64.decode(picture).expect("base64");
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(folder.join(file), picture).expect("written");
    }
}

async fn send(request: reqwest::RequestBuilder) -> Value {
    let answer = request.send().await.expect("chromedriver answers");
    let mut answer: Value = answer.json().await.expect("JSON");
    answer["value"].take()
}

/// Starts chromedriver on a free port.
async fn chromedriver() -> (Child, u16) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect(
            "chromedriver: tests/run installs the Debian packages chromium and chromium-driver",
        );
    let mut lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
    let started = tokio::time::timeout(TEST_TIMEOUT, async {
        while let Some(line) = lines.next_line().await.expect("readable") {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                return port.trim_end_matches('.').parse().expect("a port");
            }
        }
        panic!("chromedriver has ended")
    });
    let port = started.await.expect("it starts in time");
    // Its output is read to the end, so that it never waits.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (driver, port)
}

/// axe-core, as `tests/run` installs it.
static AXE_SOURCE: LazyLock<String> = LazyLock::new(|| {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let folder = cache.unwrap_or_else(home).join("gateway-events").join(AXE);
    let file = folder.join("node_modules/axe-core/axe.min.js");
    let why = |error| panic!("{}: {error}; tests/run installs it", file.display());
    std::fs::read_to_string(&file).unwrap_or_else(why)
});
