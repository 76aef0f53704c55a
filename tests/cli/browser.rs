//! Pages as a browser shows them: headless Chromium, where there is one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use tempfile::TempDir;

/// Names under which Chromium is found; `RESIDUUM_TEST_CHROMIUM` is another.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// Looks at the page that it stands in and leaves what it finds in an attribute of the root of the page around it.
const INSPECT: &str = include_str!("inspect.js");
/// High enough for every page of the tests: only what lies in the window can be asked what it lies on.
const HEIGHT: u32 = 60_000;

/// The colours that a reader's system asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Dark = 0,
    Light = 1,
}

/// What was found on a page.
#[derive(Debug, Deserialize)]
pub struct Findings {
    /// Width of the window in pixels, as the page sees it.
    pub width: u32,
    /// Whether the page was shown in dark colours.
    pub dark: bool,
    /// Elements that reach beyond the window, and those that hide a part of what is in them.
    pub overflow: Vec<String>,
    /// Texts of less contrast than 4.5 to what they lie on.
    pub faint: Vec<String>,
    /// Number of texts that were looked at.
    pub texts: usize,
    /// Addresses that the page asked for.
    pub requests: Vec<String>,
    /// Whether some text of the page was run as a script.
    pub was_run: bool,
    /// All text, and what stands in for the images.
    pub words: String,
}

/// A browser.
pub struct Browser {
    program: PathBuf,
    folder: TempDir,
}

impl Browser {
    /// The browser of this machine; says on stdout that the test is skipped where there is none.
    pub fn find() -> Option<Browser> {
        let runs = |program: &PathBuf| {
            let output = Command::new(program).arg("--version").stderr(Stdio::null()).output();
            output.is_ok_and(|output| output.status.success())
        };
        let named = std::env::var_os("RESIDUUM_TEST_CHROMIUM").map(PathBuf::from);
        let program = named.into_iter().chain(NAMES.map(PathBuf::from)).find(runs);
        if program.is_none() {
            println!("skipped: no Chromium (RESIDUUM_TEST_CHROMIUM names one)");
        }
        Some(Browser { program: program?, folder: TempDir::new().unwrap() })
    }

    /// A window without a screen, which can reach this machine alone.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", self.folder.path().join("profile").display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// What is found on a copy of `page` in a window of this width: in a frame, as no window is narrower than 500 pixels.
    #[track_caller]
    pub fn inspect(&self, page: &Path, width: u32, theme: Theme) -> Findings {
        let html = fs::read_to_string(page).unwrap();
        let (head, rest) = html.split_once("<head>").expect("a page has a head");
        let copy = self.folder.path().join("page.html");
        fs::write(&copy, format!("{head}<head><script>{INSPECT}</script>{rest}")).unwrap();
        let around = self.folder.path().join("around.html");
        let schemes = "<meta name=color-scheme content='light dark'>";
        let frame = format!("<iframe src=page.html style='border:0' width={width} height={HEIGHT}></iframe>");
        fs::write(&around, format!("<!DOCTYPE html><html><head>{schemes}</head><body>{frame}</body></html>"))
            .unwrap();
        let output = self
            .command()
            .arg("--allow-file-access-from-files")
            .arg(format!("--blink-settings=preferredColorScheme={}", theme as u8))
            .arg("--dump-dom")
            .arg(format!("file://{}", around.display()))
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&output.stdout);
        let found = dom.split_once("data-found=\"").and_then(|(_, rest)| rest.split_once('"'));
        let (found, _) = found.unwrap_or_else(|| panic!("{} was not looked at: {dom:.400}", page.display()));
        let findings: Findings = serde_json::from_slice(&BASE64_STANDARD.decode(found).unwrap()).unwrap();
        assert_eq!((findings.width, findings.dark), (width, theme == Theme::Dark), "the window is another");
        findings
    }

    /// Opens `address` and keeps it open until the process that is returned ends.
    pub fn open(&self, address: &str) -> Child {
        let mut command = self.command();
        command.args(["--remote-debugging-port=0", address]).stdout(Stdio::null()).spawn().unwrap()
    }
}
