//! Opens pages in a real headless Chromium and does there what a person would. It is spoken to by the
//! DevTools protocol over a pair of pipes, so no port is opened, and the browser ends with the test
//! process, however that ends: its pipes close.
//!
//! Without a Chromium on the machine a test that asks for one fails and says what to install; it is
//! never skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;
use std::{env, thread};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::processes::{DEADLINE, wait_until};

/// Names a Chromium that is not on the path, or not the first there.
const CHROMIUM: &str = "CHROMIUM";

/// What Chromium is called by those who package it.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Chromium reads the protocol from descriptor 3 and answers on 4 (`--remote-debugging-pipe`). A shell
/// moves standard input and output there, for Rust's `Command` has no others.
const MOVE_PIPES: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null";

/// The sandbox wants namespaces that containers and root do not have; the pages are our own.
const OPTIONS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
];

/// A browser with one page. Dropping it ends it.
#[derive(Debug)]
pub struct Chromium {
    browser: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    /// What the browser told without being asked, in order.
    events: Vec<Value>,
    session: Option<String>,
    last_id: u64,
    _profile: TempDir,
}

impl Chromium {
    /// Starts a browser with an empty page.
    ///
    /// # Panics
    /// When there is none, or it cannot be started, with what to do.
    #[track_caller]
    pub fn start() -> Self {
        let program = find().unwrap_or_else(|| {
            panic!(
                "no Chromium is on the path ({}); install one, for example by `apt-get install \
                 chromium`, or name one by {CHROMIUM}",
                NAMES.join(", ")
            )
        });
        let profile = crate::processes::folder();
        let mut browser = Command::new("sh")
            .args(["-c", MOVE_PIPES])
            .arg(&program)
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        let commands = browser.stdin.take();
        let mut answers = BufReader::new(browser.stdout.take().expect("it is piped"));
        let (sender, messages) = mpsc::channel();
        // Ends when the browser does.
        thread::spawn(move || {
            let mut message = Vec::new();
            while answers
                .read_until(0, &mut message)
                .is_ok_and(|read| read > 0)
            {
                message.pop();
                let value = serde_json::from_slice(&message).expect("the protocol is JSON");
                message.clear();
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let mut chromium = Self {
            browser,
            commands,
            messages,
            events: Vec::new(),
            session: None,
            last_id: 0,
            _profile: profile,
        };
        let target = chromium.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = chromium.call("Target.attachToTarget", target);
        chromium.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            chromium.call(&format!("{domain}.enable"), json!({}));
        }
        chromium
    }

    /// Opens a file and returns when it is loaded.
    #[track_caller]
    pub fn open(&mut self, path: &Path) {
        self.events.clear();
        let url = format!("file://{}", path.display());
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(answer["errorText"], Value::Null, "{url}");
        let loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(loaded) {
            let event = self.next();
            self.events.push(event);
        }
    }

    /// The value of an expression on the page.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let what = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", what);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// The value of an expression that is a text.
    #[track_caller]
    pub fn text(&mut self, expression: &str) -> String {
        let value = self.value(expression);
        let text = value.as_str().map(str::to_owned);
        text.unwrap_or_else(|| panic!("{expression} is {value}"))
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        wait_until(expression, || self.value(expression) == true);
    }

    /// Clicks the middle of what a selector finds, as a mouse does.
    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        let (x, y) = self.place(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Moves the mouse to the middle of what a selector finds.
    #[track_caller]
    pub fn point_at(&mut self, selector: &str) {
        let (x, y) = self.place(selector);
        let event = json!({ "type": "mouseMoved", "x": x, "y": y });
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Presses a key that has no character, by its name.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// The middle of what a selector finds, once it is in view, holds still, and nothing lies over it.
    #[track_caller]
    fn place(&mut self, selector: &str) -> (f64, f64) {
        let middle = format!(
            "(() => {{ const found = document.querySelector({selector:?}); \
             found.scrollIntoView({{ block: 'center' }}); \
             const {{ x, y, width, height }} = found.getBoundingClientRect(); \
             const middle = [x + width / 2, y + height / 2]; \
             const hit = document.elementFromPoint(...middle); \
             const holds = found.contains(hit) || found.closest('label')?.contains(hit); \
             return holds ? middle : null; }})()"
        );
        let mut before = Value::Null;
        wait_until(&format!("{selector} can be pointed at"), || {
            let now = self.value(&middle);
            let is_still = !now.is_null() && now == before;
            before = now;
            is_still
        });
        let coordinate = |number: usize| before[number].as_f64().expect("a number");
        (coordinate(0), coordinate(1))
    }

    /// What the page complained about since it was opened: errors, warnings, refusals of its policy.
    pub fn complaints(&mut self) -> Vec<Value> {
        // What was told before the answer to this has been read then.
        self.value("0");
        let complains = |event: &&Value| {
            let method = event["method"].as_str().unwrap_or_default();
            [
                "Runtime.exceptionThrown",
                "Runtime.consoleAPICalled",
                "Log.entryAdded",
            ]
            .contains(&method)
        };
        self.events.iter().filter(complains).cloned().collect()
    }

    /// Everything that was asked for since the page was opened, itself included.
    pub fn requests(&mut self) -> Vec<String> {
        self.value("0");
        let requests = self
            .events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent");
        let url = |event: &Value| {
            event["params"]["request"]["url"]
                .as_str()
                .map(str::to_owned)
        };
        requests.filter_map(url).collect()
    }

    /// Sends a command and returns its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        let commands = self.commands.as_mut().expect("open until it is dropped");
        commands.write_all(&bytes).expect("the browser listens");
        loop {
            let message = self.next();
            if message["id"] != self.last_id {
                self.events.push(message);
                continue;
            }
            assert_eq!(message["error"], Value::Null, "{method}");
            return message["result"].clone();
        }
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        let message = self.messages.recv_timeout(DEADLINE);
        message.unwrap_or_else(|error| panic!("the browser says nothing: {error}"))
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It ends when its pipe does; only one that hangs is killed.
        self.commands = None;
        let until = Instant::now() + DEADLINE;
        let ended = |browser: &mut Child| matches!(browser.try_wait(), Ok(Some(_)));
        while !ended(&mut self.browser) && Instant::now() < until {
            // The reader's end of the channel is the end of the browser's output.
            if self.messages.recv_timeout(DEADLINE).is_err() {
                break;
            }
        }
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

/// The Chromium of this machine.
fn find() -> Option<PathBuf> {
    if let Some(named) = env::var_os(CHROMIUM) {
        return Some(named.into());
    }
    let path = env::var_os("PATH")?;
    let folders: Vec<_> = env::split_paths(&path).collect();
    let places = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}
