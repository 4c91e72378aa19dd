//! Chromium without a window, driven by chromedriver over WebDriver (W3C). It shows pages as people see them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::servers::{
    http::Http,
    pki::Pki,
    process::{Launch, Process, Scratch},
    wait,
};

/// The sizes of a telephone and of a desk, in pixels of CSS.
pub const SIZES: [(&str, [u32; 2]); 2] = [("phone", [390, 844]), ("desk", [1280, 900])];

/// The key of the keyboard that goes to the next thing, as a code of WebDriver.
pub const TAB: char = '\u{E004}';
/// The key with the arrow to the right.
pub const RIGHT: char = '\u{E014}';

/// The words before the port in the log of chromedriver.
const LISTENING: &str = "started successfully on port ";

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    // Dropped in this order: the browser, a child of the driver, writes into the folder until it has ended.
    _driver: Process,
    http: Http,
    session: String,
    _folder: Scratch,
}

impl Browser {
    /// Starts a browser.
    ///
    /// # Errors
    ///
    /// If chromedriver or Chromium does not start; the end of the log is in the message.
    pub async fn start() -> Result<Self> {
        let folder = Scratch::new()?;
        let program = crate::servers::setting(crate::servers::CHROMEDRIVER)?;
        let mut driver = Launch::new("chromedriver", program, folder.path()).arg("--port=0").start()?;
        let port: u16 = wait::until("chromedriver to listen", wait::START, async || {
            if driver.exited()?.is_some() {
                bail!("chromedriver does not start:\n{}", driver.last_words());
            }
            let log = driver.log();
            let port = log.lines().find_map(|line| line.split_once(LISTENING)?.1.strip_suffix('.'));
            port.map(|port| port.parse().context("a port")).transpose()
        })
        .await?;
        let http = Http::new(format!("http://127.0.0.1:{port}"), &Pki::new()?.ca.cert, None)?;
        // The sandbox of Chromium refuses to run as root.
        let args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": args}}}});
        let made = http.send("POST", "/session", &wanted).await?;
        let session = made.text("/value/sessionId").with_context(|| driver.last_words())?;
        Ok(Self { _driver: driver, http, session, _folder: folder })
    }

    async fn call(&self, command: &str, body: &Value) -> Result<Value> {
        let path = format!("/session/{}/{command}", self.session);
        let mut answer = self.http.send("POST", &path, body).await?.ok()?;
        Ok(answer["value"].take())
    }

    /// Calls a method of the DevTools protocol.
    ///
    /// # Errors
    ///
    /// If the browser refuses it.
    pub async fn devtools(&self, method: &str, parameters: &Value) -> Result<Value> {
        self.call("goog/cdp/execute", &json!({"cmd": method, "params": parameters})).await
    }

    /// Opens a file in a window of this size, in pixels of CSS.
    ///
    /// # Errors
    ///
    /// If the page does not load.
    pub async fn open(&self, file: &Path, size: [u32; 2]) -> Result<()> {
        self.visit(&format!("file://{}", file.display()), size).await
    }

    /// Opens an address in a window of this size, in pixels of CSS.
    ///
    /// # Errors
    ///
    /// If the page does not load.
    pub async fn visit(&self, url: &str, [width, height]: [u32; 2]) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", &size).await?;
        self.call("url", &json!({"url": url})).await?;
        Ok(())
    }

    /// Runs the body of a function in the page, and returns its result.
    ///
    /// # Errors
    ///
    /// If the script throws.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.call("execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Finds what may look wrong in the page that is open: text that is faint, small, outside of its figure, over another one or
    /// the same as another label, a page that is wider than its window, figures without a name, states without a sign, scripts. The result equals
    /// [`looks_right`] if nothing does.
    ///
    /// # Errors
    ///
    /// If the page is not one of this project.
    pub async fn look(&self) -> Result<Value> {
        self.run(include_str!("look.js")).await
    }

    /// Presses a key, as a person would. `key` is a character, or a code of WebDriver for other keys.
    ///
    /// # Errors
    ///
    /// If the browser does not take it.
    pub async fn press(&self, key: char) -> Result<()> {
        let actions = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.call("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}))
            .await?;
        Ok(())
    }

    /// The whole page as a PNG.
    ///
    /// # Errors
    ///
    /// If the browser does not draw it.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        let drawn = self.devtools("Page.captureScreenshot", &json!({"captureBeyondViewport": true})).await?;
        STANDARD.decode(drawn["data"].as_str().context("a picture")?).context("a picture in base64")
    }

    /// The page on paper, as a PDF.
    ///
    /// # Errors
    ///
    /// If the browser does not print it.
    pub async fn print(&self) -> Result<Vec<u8>> {
        let printed = self.call("print", &json!({})).await?;
        STANDARD.decode(printed.as_str().context("a document")?).context("a document in base64")
    }
}

/// What [`Browser::look`] finds in a page with this number of rows in its tables that looks right.
#[must_use]
pub fn looks_right(rows: u32) -> Value {
    json!({
        "rows": rows, "wide": 0, "small": [], "outside": [], "overlaps": [], "alike": [], "unnamed": 0, "faint": [], "unstyled": 0,
        "signless": 0, "scripts": 0,
    })
}

/// Keeps a picture for people, if the run wants pictures.
///
/// # Errors
///
/// If the file cannot be written.
pub fn keep(name: &str, bytes: &[u8]) -> Result<()> {
    let Some(folder) = crate::servers::optional_setting(crate::servers::PICTURES) else { return Ok(()) };
    std::fs::write(folder.join(name), bytes).with_context(|| format!("keep the picture {name}"))
}
