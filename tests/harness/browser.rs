//! A real browser, driven as a person would: Chromium by WebDriver, which is JSON over HTTP.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guard::{Guard, MARK};
use crate::http::Client;
use crate::processes;
use crate::wait::{Look, TIMEOUT, until};

/// The key under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser without a window on any screen, and its driver.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    driver: Client,
    session: String,
    /// How long is waited for what should be there, in milliseconds.
    timeout_ms: AtomicU64,
    scratch: TempDir,
    _guard: Guard,
}

impl Browser {
    /// Starts one with a window of this size.
    pub async fn start(width: u32, height: u32) -> Self {
        let scratch =
            tempfile::Builder::new().prefix("hatchery-browser-").tempdir().expect("a scratch directory");
        let guard = Guard::over(scratch.path());
        let (child, port) = driver(scratch.path()).await;
        let driver = Client::new(([127, 0, 0, 1], port).into());
        let timeout_ms = AtomicU64::new(u64::try_from(TIMEOUT.as_millis()).unwrap_or(u64::MAX));
        let session = String::new();
        let mut browser = Self { child, driver, session, timeout_ms, scratch, _guard: guard };
        let profile = format!("--user-data-dir={}", browser.scratch.path().join("profile").display());
        let size = format!("--window-size={width},{height}");
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-background-timer-throttling",
            "--disable-renderer-backgrounding",
            "--force-color-profile=srgb",
            "--lang=en-GB",
            &profile,
            &size,
        ];
        // A farm's CA is no authority to a browser that was told nothing of it.
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = browser.call("POST", "/session", &wanted).await;
        browser.session = answer["sessionId"].as_str().expect("a session has an id").to_owned();
        browser
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
    }

    /// The error is WebDriver's word for it, and a sentence.
    async fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let path = if self.session.is_empty() {
            path.to_owned()
        } else {
            format!("/session/{}{path}", self.session)
        };
        let request = self.driver.request(method, &path);
        let request = if method == "POST" { request.json(body) } else { request };
        let answer = request.send().await;
        let mut json = answer.json();
        if answer.status == 200 {
            return Ok(json["value"].take());
        }
        Err(format!("{}: {}", json["value"]["error"], json["value"]["message"]))
    }

    /// Opens an address and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({"url": url})).await;
    }

    /// One more window, which is the one that is driven from now on.
    pub async fn new_window(&self) -> Window {
        let window = self.call("POST", "/window/new", &json!({"type": "window"})).await;
        let window = Window(window["handle"].as_str().expect("a window has a handle").to_owned());
        self.turn_to(&window).await;
        window
    }

    /// The window that is driven now.
    pub async fn window(&self) -> Window {
        Window(self.call("GET", "/window", &Value::Null).await.as_str().expect("a handle").to_owned())
    }

    /// Drives this window from now on.
    pub async fn turn_to(&self, window: &Window) {
        self.call("POST", "/window", &json!({"handle": window.0})).await;
    }

    /// Closes a window, as a person closes a tab. Another one must be turned to next; with the last one goes the session.
    pub async fn close(&self, window: &Window) {
        self.turn_to(window).await;
        self.call("DELETE", "/window", &Value::Null).await;
    }

    /// Runs a script's text as a function's body, which may await; what it returns. What it throws is a panic here.
    pub async fn run(&self, script: &str) -> Value {
        self.run_with(script, &json!([])).await
    }

    /// The same with `arguments`.
    pub async fn run_with(&self, script: &str, arguments: &Value) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];\
             (async function () {{ {script} }}).apply(null, arguments).then(\
               value => done({{value}}), error => done({{error: String(error && error.stack || error)}}));"
        );
        let answer = self.call("POST", "/execute/async", &json!({"script": script, "args": arguments})).await;
        assert!(answer["error"].is_null(), "{}", answer["error"].as_str().unwrap_or_default());
        answer["value"].clone()
    }

    /// How long scripts may take, and how long is waited for what should be there.
    pub async fn set_timeout(&self, limit: Duration) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.timeout_ms.store(millis, Ordering::Relaxed);
        self.call("POST", "/timeouts", &json!({"script": millis})).await;
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed))
    }

    async fn find(&self, css: &str) -> Result<String, String> {
        let wanted = json!({"using": "css selector", "value": css});
        let found = self.try_call("POST", "/element", &wanted).await?;
        Ok(found[ELEMENT].as_str().expect("an element has an id").to_owned())
    }

    /// Does something to an element as soon as it is there, in sight and not covered.
    async fn act(&self, css: &str, what: &str, body: &Value) {
        until(&format!("{what} {css}"), self.limit(), async || {
            let done = async {
                let element = self.find(css).await?;
                self.try_call("POST", &format!("/element/{element}/{what}"), body).await
            };
            match done.await {
                Ok(_) => Look::Ready(()),
                Err(why) => Look::NotYet(why),
            }
        })
        .await;
    }

    /// Clicks on it.
    pub async fn click(&self, css: &str) {
        self.act(css, "click", &json!({})).await;
    }

    /// Empties a field and types into it.
    pub async fn fill(&self, css: &str, text: &str) {
        self.act(css, "clear", &json!({})).await;
        self.act(css, "value", &json!({"text": text})).await;
    }

    /// Types into it; [`keys`] has names for keys without a letter.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.act(css, "value", &json!({"text": text})).await;
    }

    /// Presses keys, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let presses: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": presses}]});
        self.call("POST", "/actions", &actions).await;
    }

    /// The text one sees there; empty where nothing is.
    pub async fn text(&self, css: &str) -> String {
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : '';";
        self.run_with(script, &json!([css])).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until one sees this text there.
    pub async fn sees(&self, css: &str, text: &str) {
        self.sees_within(css, text, self.limit()).await;
    }

    /// The same with a limit of its own.
    pub async fn sees_within(&self, css: &str, text: &str, limit: Duration) {
        until(&format!("{css} says {text:?}"), limit, async || {
            let said = self.text(css).await;
            Look::when(said.contains(text), || format!("it says {said:?}"))
        })
        .await;
    }

    /// Waits until a script's expression is true.
    pub async fn holds(&self, expression: &str) {
        until(expression, self.limit(), async || {
            let value = self.run(&format!("return {expression};")).await;
            Look::when(value == true, || value.to_string())
        })
        .await;
    }

    /// Does something inside a frame of the page.
    pub async fn in_frame<T>(&self, css: &str, work: impl AsyncFnOnce() -> T) -> T {
        let frame = self.find(css).await.expect("the frame is there");
        self.call("POST", "/frame", &json!({"id": {ELEMENT: frame}})).await;
        let value = work().await;
        self.call("POST", "/frame", &json!({"id": null})).await;
        value
    }

    /// Shows pages in this colour scheme, `light` or `dark`.
    pub async fn prefers(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features})).await;
    }

    /// Shows pages as on a screen of this size.
    pub async fn screen(&self, width: u32, height: u32, phone: bool) {
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": if phone { 2 } else { 1 }, "mobile": phone});
        self.devtools("Emulation.setDeviceMetricsOverride", &screen).await;
    }

    async fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters})).await
    }

    /// Keeps a picture of what is to be seen now, as a part of the test's output; the file.
    pub async fn picture(&self, name: &str) -> PathBuf {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pages");
        fs::create_dir_all(&directory).expect("a directory can be made");
        let png = self.call("GET", "/screenshot", &Value::Null).await;
        let file = directory.join(format!("{name}.png"));
        fs::write(&file, base64(png.as_str().expect("a picture"))).expect("a file can be written");
        file
    }

    /// What pages wrote to the console since this was asked last: refusals of the policy and scripts that failed are there.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.call("POST", "/se/log", &json!({"type": "browser"})).await;
        let text = |line: &Value| format!("{}: {}", line["level"], line["message"]);
        lines.as_array().into_iter().flatten().map(text).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().ok();
        processes::end_all(self.scratch.path());
    }
}

/// A window of a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window(String);

/// Keys without a letter, for [`Browser::press`].
pub mod keys {
    /// To the next control.
    pub const TAB: &str = "\u{e004}";
    /// Takes away what is chosen, or one character.
    pub const BACKSPACE: &str = "\u{e003}";
    /// Presses a button, submits a form.
    pub const ENTER: &str = "\u{e007}";
    /// Closes a dialog.
    pub const ESCAPE: &str = "\u{e00c}";
    /// One row down.
    pub const DOWN: &str = "\u{e015}";
    /// To the end of a list.
    pub const END: &str = "\u{e010}";
}

/// A running chromedriver, and its port.
///
/// It takes a free port of one address family and then wants the same number in the other one. Another process may have that,
/// and then it ends; only a new start helps.
async fn driver(mark: &Path) -> (Child, u16) {
    let log = mark.join("driver.log");
    loop {
        let file = File::create(&log).expect("a file can be made");
        let output = || file.try_clone().expect("a descriptor can be copied");
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .env(MARK, mark)
            .env("TMPDIR", mark)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .spawn()
            .expect("chromedriver is installed (tests/run sees to it)");
        let port = until("chromedriver listens", TIMEOUT, async || {
            let lines = fs::read_to_string(&log).unwrap_or_default();
            if let Some(port) = listening_port(&lines) {
                return Look::Ready(Some(port));
            }
            match child.try_wait().expect("a child can be waited for") {
                Some(_) if lines.contains("port not available") => Look::Ready(None),
                Some(status) => panic!("chromedriver ended, {status}: {lines}"),
                None => Look::NotYet(lines),
            }
        })
        .await;
        if let Some(port) = port {
            return (child, port);
        }
    }
}

fn listening_port(lines: &str) -> Option<u16> {
    let rest = lines.split("started successfully on port ").nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for c in text.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap_or_default());
        }
    }
    bytes
}
