//! Sentinels that no sentinel is: they hang up, chatter, and answer what is none.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::time::{Instant, sleep};

use crate::support::TestServer;
use crate::waiting::{soon, until};

/// What it does beside answering.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    HangsUp,
    Chatters,
    /// A number, whatever it is asked.
    Babbles,
}

struct Odd {
    port: u16,
    /// Where it says that the master is.
    master: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
}

impl Odd {
    fn start(manner: Manner, master: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let master = Arc::new(AtomicU16::new(master.port()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (word, count) = (Arc::clone(&master), Arc::clone(&connections));
        // Both end with the process.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let word = Arc::clone(&word);
                thread::spawn(move || serve(&connection, manner, &word));
            }
        });
        Self { port, master, connections }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn serve(connection: &TcpStream, manner: Manner, master: &AtomicU16) {
    let writer = Arc::new(Mutex::new(connection.try_clone().unwrap()));
    let mut reader = BufReader::new(connection);
    while let Some(command) = read(&mut reader) {
        let name = command[0].to_ascii_uppercase();
        let answer = match &*name {
            _ if manner == Manner::Babbles && name != "CLIENT" && name != "PING" => ":7\r\n".into(),
            "PING" => "+PONG\r\n".into(),
            "SUBSCRIBE" | "UNSUBSCRIBE" => {
                let (kind, channel) = (name.to_ascii_lowercase(), &command[1]);
                let (kinds, channels) = (kind.len(), channel.len());
                format!("*3\r\n${kinds}\r\n{kind}\r\n${channels}\r\n{channel}\r\n:1\r\n")
            }
            "SENTINEL" => {
                let port = master.load(Ordering::Relaxed).to_string();
                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
            }
            _ => "+OK\r\n".into(),
        };
        let mut held = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if held.write_all(answer.as_bytes()).is_err() {
            return;
        }
        drop(held);
        let is_last = name == "SUBSCRIBE" && command[1] == "-sdown";
        if is_last && manner == Manner::HangsUp {
            return;
        }
        if is_last && manner == Manner::Chatters {
            let writer = Arc::clone(&writer);
            thread::spawn(move || chatter(&writer));
        }
    }
}

fn chatter(writer: &Mutex<TcpStream>) {
    let said = "*3\r\n$7\r\nmessage\r\n$6\r\n+sdown\r\n$23\r\nmaster other 10.0.0.1 1\r\n";
    loop {
        let mut held = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if held.write_all(said.as_bytes()).is_err() {
            return;
        }
        drop(held);
        thread::sleep(Duration::from_millis(100));
    }
}

/// A command; `None` at the end.
fn read(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |reader: &mut dyn BufRead| {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        line.trim_end().get(1..)?.parse::<usize>().ok()
    };
    let words = number(reader)?;
    let mut command = Vec::new();
    for _ in 0..words {
        let mut word = vec![0; number(reader)? + 2];
        reader.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        command.push(String::from_utf8(word).ok()?);
    }
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_chatters_is_asked_all_the_same() {
    let (before, after) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    let odd = Odd::start(Manner::Chatters, &before);
    let pool = GuardedPool::sentinel([odd.url()], "m").build().unwrap();
    drop(soon("a lease", pool.acquire("web")).await.unwrap());

    odd.master.store(after.port(), Ordering::Relaxed);
    let there = format!("127.0.0.1:{}", after.port());
    until("the other server", &pool, || *pool.status().server == *there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_up_or_babbles_is_not_dialed_without_end() {
    let server = TestServer::start().unwrap();
    for manner in [Manner::HangsUp, Manner::Babbles] {
        let odd = [Odd::start(manner, &server), Odd::start(manner, &server)];
        let pool = GuardedPool::sentinel(odd.iter().map(Odd::url), "m").build().unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            let _ = soon("an answer", pool.acquire("web")).await;
            sleep(Duration::from_millis(20)).await;
        }
        let dialed: usize = odd.iter().map(|odd| odd.connections.load(Ordering::Relaxed)).sum();

        assert!(dialed <= 80, "{dialed} dials in 5 s");
    }
}
