//! What the server executes, as MONITOR tells it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::TestServer;

/// One executed command.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Who sent it: the peer's address, or `lua`.
    pub(crate) client: String,
    /// Its words, in upper case.
    pub(crate) command: String,
}

/// Listens until it is dropped. Takes one of the server's slots.
pub(crate) struct Spy {
    lines: Arc<Mutex<Vec<Line>>>,
    stream: UnixStream,
}

impl Spy {
    pub(crate) fn on(server: &TestServer) -> Self {
        let mut stream = UnixStream::connect(server.socket_path()).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut ok = String::new();
        reader.read_line(&mut ok).unwrap();
        assert_eq!(ok, "+OK\r\n");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        thread::spawn(move || {
            // +1700000000.000000 [0 127.0.0.1:50000] "INFO" "clients"
            for line in reader.lines().map_while(Result::ok) {
                let Some((head, command)) = line.split_once("] ") else { continue };
                let client = head.rsplit(' ').next().unwrap_or_default().to_owned();
                let command = command.replace('"', "").to_ascii_uppercase();
                heard.lock().unwrap().push(Line { client, command });
            }
        });
        Self { lines, stream }
    }

    /// Everything so far that came over TCP, as the pools' commands do and the operator's do not.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.client.starts_with("127.")).cloned().collect()
    }

    pub(crate) fn count(&self, command: &str) -> usize {
        self.lines().iter().filter(|line| line.command.starts_with(command)).count()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
