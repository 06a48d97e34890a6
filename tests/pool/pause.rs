//! This process is stopped for some seconds, and the server closes its connections meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use redis_guard::redis;
use tokio::time::sleep;

use crate::support::{TestServer, unhurried};
use crate::waiting::{cmd, sockets};

const NAME: &str = "paused";
const URL: &str = "REDIS_GUARD_TEST_URL";
/// So long that the sweep is late for nothing but a pause.
const PAUSE: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 32;
const CALLS: usize = 1_280;

/// The process that is stopped. It calls all the time, and says how many calls have failed.
#[test]
#[ignore = "the other test starts it"]
fn caller() {
    let Ok(url) = std::env::var(URL) else { return };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let pool = unhurried(url.as_str()).client_name(NAME).max_connections(CONNECTIONS);
        let pool = pool.watch(false).build().unwrap();
        pool.warm_up(CONNECTIONS).await.unwrap();
        println!("\nready");
        // They come together, so that all connections are wanted.
        let mut failed = Vec::new();
        std::io::stdin().read_line(&mut String::new()).unwrap();
        for _ in 0..CALLS / CONNECTIONS {
            let calls = (0..CONNECTIONS).map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut lease = pool.acquire("test").await.unwrap();
                    cmd("PING").query_async::<redis::Value>(&mut lease).await
                })
            });
            for call in calls.collect::<Vec<_>>() {
                failed.extend(call.await.unwrap().err());
            }
        }
        println!("\nfailed {} {failed:?}", failed.len());
    });
}

struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    fn start(server: &TestServer) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pause::caller", "--ignored", "--nocapture"])
            .env(URL, server.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    /// The next line that begins so.
    fn says(&mut self, word: &str) -> String {
        let mut lines = self.output.by_ref().lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with(word));
        line.unwrap_or_else(|| panic!("the caller has not said {word:?}"))
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn what_was_idle_over_a_pause_of_the_process_is_asked_before_it_is_lent() {
    let server = TestServer::start().unwrap();
    let mut caller = Caller::start(&server);
    caller.says("ready");
    caller.signal("STOP");
    server.admin().text(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(sockets(&server, NAME), Some(0));
    sleep(PAUSE).await;

    // The calls are there before anything else is.
    caller.input.write_all(b"go\n").unwrap();
    caller.signal("CONT");

    let line = caller.says("failed");
    println!("{line}");
    assert!(line.starts_with("failed 0 "), "{line}");
}
