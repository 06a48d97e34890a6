//! Pictures of what somebody sees who looks at it: the doctor's report, the watch, the page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use redis_guard::doctor::Report;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::Failure;
use crate::args::Args;
use crate::browser::{Browser, View};
use crate::chromium::on_path;
use crate::incident::{IDLE_AFTER, doctor_command, redis_guard_binary};
use crate::terminal;

/// Of the terminals, in characters.
const COLUMNS: usize = 116;
const ROWS: usize = 40;

/// A picture that is larger than this is taken again, with fewer pixels.
const LARGE: usize = 250_000;
/// Pixels for a CSS pixel.
const SCALES: [f64; 3] = [2.0, 1.5, 1.0];

/// How long a page that has been resized may draw its charts again.
const SETTLE: Duration = Duration::from_millis(1_200);

/// Watches from the start, so that what is seen has a past.
pub(crate) struct Camera {
    dir: PathBuf,
    /// The recording of the watch, and the terminal pages.
    scratch: TempDir,
    _watch: Child,
    browser: Option<Browser>,
}

impl Camera {
    /// # Errors
    /// Something is missing: told before the incident begins.
    pub(crate) async fn set_up(
        dir: &Path,
        args: &Args,
        url: &str,
        page: &str,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        let binary = redis_guard_binary().ok_or(
            "--screenshots needs the binary beside this example: cargo build --bin redis-guard --features cli \
             (--release, if this is)",
        )?;
        let script = on_path(&["script"])
            .ok_or("--screenshots needs script(1) (Debian and Ubuntu: apt-get install bsdutils)")?;
        let scratch = tempfile::Builder::new().prefix("redis-guard-on-call-").tempdir()?;
        let command = format!(
            "stty cols {COLUMNS} rows {ROWS}; exec \"$REDIS_GUARD\" watch {url} --idle-after {}s --count {}",
            IDLE_AFTER.as_secs(),
            // It ends by itself, should this program be killed.
            args.length.as_secs() + 60
        );
        let watch = Command::new(script)
            .args(["-qefc", &command])
            .arg(scratch.path().join("watch"))
            .env("REDIS_GUARD", binary)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A Ctrl-C is for us, and ends it with us.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut browser = Browser::start().await?;
        browser.look(DESK).await?;
        browser.open(page).await?;
        Ok(Self { dir: dir.to_owned(), scratch, _watch: watch, browser: Some(browser) })
    }

    /// All of them, now. Returns what has been written.
    pub(crate) async fn shoot(
        &mut self,
        url: &str,
        refused: &Report,
        report: &Report,
        lines: usize,
    ) -> Result<String, Failure> {
        let mut browser = self.browser.take().ok_or("there are pictures already")?;
        let recorded = fs::read(self.scratch.path().join("watch"))?;
        let watched = terminal::last_screen(&String::from_utf8_lossy(&recorded))
            .ok_or("redis-guard watch has drawn nothing")?;

        let mut written = Vec::new();
        for (name, view, last) in [("page", DESK, "#endpoints"), ("page-phone", PHONE, "#server")] {
            browser.look(view).await?;
            sleep(SETTLE).await;
            // What is below is for those who scroll.
            let end = format!("document.querySelector('{last}').getBoundingClientRect().bottom");
            let end = browser.eval(&end).await?.as_f64().ok_or("the page is another one")?;
            let picture = browser.picture(f64::from(view.width), end).await?;
            written.push(self.write(name, &picture)?);
        }
        for (name, lines) in [("doctor", doctor(url, refused, report, lines)), ("watch", watched)] {
            let html = self.scratch.path().join(format!("{name}.html"));
            fs::write(&html, terminal::page(&lines, COLUMNS))?;
            browser.open(&format!("file://{}", html.display())).await?;
            let mut picture = Vec::new();
            for scale in SCALES {
                picture = terminal_picture(&mut browser, scale).await?;
                if picture.len() <= LARGE {
                    break;
                }
            }
            written.push(self.write(name, &picture)?);
        }
        browser.close().await?;
        Ok(written.join(", "))
    }

    fn write(&self, name: &str, picture: &[u8]) -> Result<String, Failure> {
        let path = self.dir.join(format!("{name}.png"));
        fs::write(&path, picture)?;
        Ok(format!("{} ({} kB)", path.display(), picture.len() / 1_000))
    }
}

const DESK: View = View { width: 1_200, height: 900, scale: 1.0, phone: false, dark: false };
const PHONE: View = View { width: 390, height: 844, scale: 2.0, phone: true, dark: true };

async fn terminal_picture(browser: &mut Browser, scale: f64) -> Result<Vec<u8>, Failure> {
    browser.look(View { scale, ..DESK }).await?;
    let size = |side| format!("document.querySelector('main').getBoundingClientRect().{side}");
    let width = browser.eval(&size("width")).await?.as_f64().unwrap_or(0.0);
    let height = browser.eval(&size("height")).await?.as_f64().unwrap_or(0.0);
    browser.picture(width, height).await
}

/// What the doctor said from outside, and then from inside: the first lines of it.
fn doctor(url: &str, refused: &Report, report: &Report, most: usize) -> Vec<String> {
    let typed = |command: &str| format!("\x1b[2m{command}\x1b[0m");
    let mut lines = vec![typed(&format!("$ {}", doctor_command(url)))];
    lines.extend(cut(refused, 6));
    lines.push(String::new());
    lines.push(typed(
        "# the same, over a connection that a pool holds: Doctor::examine_pool(&pool)",
    ));
    lines.extend(cut(report, most));
    lines
}

fn cut(report: &Report, most: usize) -> Vec<String> {
    let text = format!("{report:#}");
    let mut lines: Vec<String> = text.lines().take(most).map(str::to_owned).collect();
    if text.lines().count() > most {
        lines.push("\x1b[2m…\x1b[0m".to_owned());
    }
    lines.push(format!("exit code {}", report.exit_code(false)));
    lines
}
