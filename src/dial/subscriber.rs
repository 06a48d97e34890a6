//! A subscriber's connection: subscriptions go out, messages come in.
//!
//! Our own, because redis-rs's sends no SSUBSCRIBE. It speaks RESP2, whatever the login says: every server and
//! proxy knows that, for shard channels too.

use redis::{
    ErrorKind, Msg, PushInfo, PushKind, RedisError, RedisResult, Value, parse_redis_value_async,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::{Driver, closed};
use crate::vocabulary::reply::is_unknown_command;

/// A connection that has been dialed for a subscriber.
pub(crate) struct Subscriber {
    pub(crate) sink: Sink,
    /// Ends when the connection does.
    pub(crate) messages: mpsc::UnboundedReceiver<Msg>,
    pub(crate) driver: Driver,
}

/// Where subscriptions are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Sink(mpsc::UnboundedSender<Request>);

/// What one can subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Channel,
    Pattern,
    ShardChannel,
}

#[derive(Debug)]
struct Request {
    command: Vec<u8>,
    pending: Pending,
}

/// A command that was sent, and the replies that it waits for.
#[derive(Debug)]
struct Pending {
    /// The first word of each.
    word: &'static str,
    left: usize,
    answer: oneshot::Sender<RedisResult<()>>,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::ShardChannel];

    const fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "SUBSCRIBE",
            Self::Pattern => "PSUBSCRIBE",
            Self::ShardChannel => "SSUBSCRIBE",
        }
    }

    const fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "UNSUBSCRIBE",
            Self::Pattern => "PUNSUBSCRIBE",
            Self::ShardChannel => "SUNSUBSCRIBE",
        }
    }
}

impl Subscriber {
    /// Over a stream that is logged in, from which nothing is left to be read.
    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sink, requests) = mpsc::unbounded_channel();
        let (sender, messages) = mpsc::unbounded_channel();
        // Whatever it ended with, it has ended.
        let driver = Box::pin(async move { drop(drive(stream, requests, sender).await) });
        Self { sink: Sink(sink), messages, driver }
    }
}

impl Sink {
    /// Sends a PING, at once; the answer is not waited for.
    pub(crate) fn ping(&self) {
        drop(self.send("PING", "PONG", &[]));
    }

    pub(crate) async fn subscribe(&self, kind: Kind, names: &[Vec<u8>]) -> RedisResult<()> {
        let word = kind.subscribe();
        match answer(self.send(word, word, names)).await {
            Err(error) if kind == Kind::ShardChannel && is_unknown_command(&error) => {
                let what = "SSUBSCRIBE needs Redis 7.0";
                Err((ErrorKind::Client, what, error.to_string()).into())
            }
            answer => answer,
        }
    }

    pub(crate) async fn unsubscribe(&self, kind: Kind, names: &[Vec<u8>]) -> RedisResult<()> {
        let word = kind.unsubscribe();
        answer(self.send(word, word, names)).await
    }

    fn send(
        &self,
        command: &str,
        word: &'static str,
        names: &[Vec<u8>],
    ) -> oneshot::Receiver<RedisResult<()>> {
        let command = redis::cmd(command).arg(names).get_packed_command();
        let (answer, receiver) = oneshot::channel();
        let pending = Pending { word, left: names.len(), answer };
        // The answer of a connection that is gone is dropped with it.
        let _ = self.0.send(Request { command, pending });
        receiver
    }
}

async fn answer(receiver: oneshot::Receiver<RedisResult<()>>) -> RedisResult<()> {
    receiver.await.unwrap_or_else(|_| Err(closed()))
}

/// Moves the bytes until the connection ends, or is out of step.
async fn drive(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut requests: mpsc::UnboundedReceiver<Request>,
    messages: mpsc::UnboundedSender<Msg>,
) -> RedisResult<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let (sent, pending) = mpsc::unbounded_channel();
    let writing = async {
        while let Some(Request { mut command, pending }) = requests.recv().await {
            // Before it can be answered.
            let _ = sent.send(pending);
            // In one go, so that the server most likely does them so.
            while let Ok(next) = requests.try_recv() {
                let _ = sent.send(next.pending);
                command.extend(next.command);
            }
            write.write_all(&command).await?;
            write.flush().await?;
        }
        Ok(())
    };
    let reading = async {
        let mut decoder = Default::default();
        let mut replies = Replies { pending, first: None };
        loop {
            let value = parse_redis_value_async(&mut decoder, &mut read).await?;
            if let Some(message) = replies.take(value)? {
                messages.send(message).map_err(|_| closed())?;
            }
        }
    };
    // At the same time: a server that does not read, for we do not read either, may wait for us.
    tokio::select! {
        // Writing first: what was asked is noted before anything is read.
        biased;
        result = writing => result,
        result = reading => result,
    }
}

/// Matches what the server says with what it was asked.
struct Replies {
    pending: mpsc::UnboundedReceiver<Pending>,
    /// The first of them, once it was looked at.
    first: Option<Pending>,
}

impl Replies {
    /// The message, if it is one.
    fn take(&mut self, value: Value) -> RedisResult<Option<Msg>> {
        match value {
            Value::Array(mut items) if !items.is_empty() => {
                let Value::BulkString(word) = items.remove(0) else { return Err(out_of_step()) };
                let kind = match word.as_slice() {
                    b"message" => PushKind::Message,
                    b"pmessage" => PushKind::PMessage,
                    b"smessage" => PushKind::SMessage,
                    word => return self.confirmed(word).map(|()| None),
                };
                Msg::from_push_info(PushInfo { kind, data: items })
                    .map(Some)
                    .ok_or_else(out_of_step)
            }
            Value::ServerError(error) => self.answered(Err(error.into())).map(|()| None),
            _ => self.answered(Ok(())).map(|()| None),
        }
    }

    fn first(&mut self) -> Option<Pending> {
        self.first.take().or_else(|| self.pending.try_recv().ok())
    }

    /// One of the replies of a subscription, or of a PING.
    fn confirmed(&mut self, word: &[u8]) -> RedisResult<()> {
        match self.first() {
            Some(mut first) if word.eq_ignore_ascii_case(first.word.as_bytes()) => {
                if first.left > 1 {
                    first.left -= 1;
                    self.first = Some(first);
                    return Ok(());
                }
                // Whoever asked may be gone.
                let _ = first.answer.send(Ok(()));
                Ok(())
            }
            first => {
                self.first = first;
                // A cluster ends a shard channel's subscription when its slot moves: it is to be made anew,
                // on another connection.
                let ended = word == b"sunsubscribe";
                if ended { Err(out_of_step()) } else { Ok(()) }
            }
        }
    }

    /// A reply that is the only one of its command.
    fn answered(&mut self, reply: RedisResult<()>) -> RedisResult<()> {
        let first = self.first().ok_or_else(out_of_step)?;
        let _ = first.answer.send(reply);
        Ok(())
    }
}

fn out_of_step() -> RedisError {
    (ErrorKind::Parse, "a reply that nobody has asked for").into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    /// How the driver ended that heard this, after a PING was sent.
    async fn heard(said: &[u8]) -> (Option<Msg>, RedisResult<()>) {
        let (ours, mut theirs) = duplex(1024);
        let Subscriber { sink, mut messages, driver } = Subscriber::over(ours);
        let pong = sink.send("PING", "PONG", &[]);
        theirs.write_all(said).await.unwrap();
        // The end of what it says.
        theirs.shutdown().await.unwrap();
        driver.await;
        (messages.recv().await, answer(pong).await)
    }

    #[tokio::test]
    async fn what_comes_between_is_no_answer() {
        let said = b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n*3\r\n$8\r\nsmessage\r\n$1\r\ns\r\n$1\r\n1\r\n\
                     *2\r\n$4\r\npong\r\n$0\r\n\r\n";
        let (message, pong) = heard(said).await;
        assert_eq!(message.unwrap().get_payload_bytes(), b"1");
        pong.unwrap();
    }

    /// A server's end, and a sink whose driver runs.
    fn subscribed() -> (DuplexStream, Sink) {
        let (ours, theirs) = duplex(1024);
        let Subscriber { sink, driver, messages } = Subscriber::over(ours);
        tokio::spawn(async move {
            driver.await;
            drop(messages);
        });
        (theirs, sink)
    }

    /// What a test waits for, which would otherwise not end where it does not come.
    async fn soon<T>(future: impl Future<Output = T>) -> T {
        let limit = std::time::Duration::from_secs(1);
        tokio::time::timeout(limit, future).await.expect("it comes")
    }

    async fn hears(server: &mut DuplexStream, words: &[&str]) {
        let expected = redis::cmd(words[0]).arg(&words[1..]).get_packed_command();
        let mut heard = vec![0; expected.len()];
        soon(server.read_exact(&mut heard)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(&expected));
    }

    fn names() -> Vec<Vec<u8>> {
        ["a", "b", "c"].map(|name| name.as_bytes().to_vec()).to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_is_made_or_ended_once_every_name_of_it_is_confirmed() {
        for (kind, word) in Kind::ALL.into_iter().zip(["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"]) {
            let end = word.replace("SUB", "UNSUB");
            for (is_end, word) in [(false, word), (true, &end)] {
                let (mut server, sink) = subscribed();
                let asked = tokio::spawn(async move {
                    if is_end {
                        sink.unsubscribe(kind, &names()).await
                    } else {
                        sink.subscribe(kind, &names()).await
                    }
                });
                hears(&mut server, &[word, "a", "b", "c"]).await;
                let word = word.to_ascii_lowercase();
                for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
                    // Over when everybody waits.
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    assert!(!asked.is_finished(), "{word}: {at} of three are confirmed");
                    let length = word.len();
                    let said = format!("*3\r\n${length}\r\n{word}\r\n$1\r\n{name}\r\n:1\r\n");
                    server.write_all(said.as_bytes()).await.unwrap();
                }
                assert_eq!(soon(asked).await.unwrap(), Ok(()), "{word}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_that_is_refused_says_why() {
        const UNKNOWN: &str = "ERR unknown command 'X'";
        const DENIED: &str = "NOPERM no permissions to access a channel";
        for (kind, said, needs_newer) in [
            (Kind::ShardChannel, UNKNOWN, true),
            (Kind::ShardChannel, DENIED, false),
            (Kind::Channel, UNKNOWN, false),
        ] {
            let (mut server, sink) = subscribed();
            server.write_all(format!("-{said}\r\n").as_bytes()).await.unwrap();
            let error = soon(sink.subscribe(kind, &names())).await.unwrap_err().to_string();
            assert!(error.contains(said.split_once(' ').unwrap().1), "{error}");
            assert_eq!(error.contains("needs Redis 7.0"), needs_newer, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_is_sent_at_once_and_an_empty_answer_to_it_is_an_answer() {
        let (mut server, sink) = subscribed();
        sink.ping();
        hears(&mut server, &["PING"]).await;
        heard(b"*0\r\n").await.1.unwrap();
    }

    #[tokio::test]
    async fn it_ends_when_the_server_ends_a_shard_channel_or_makes_no_sense() {
        let moved = b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n+PONG\r\n".as_slice();
        let nonsense = b"*1\r\n:1\r\n+PONG\r\n".as_slice();
        for said in [moved, nonsense, b"HTTP/1.1 400\r\n"] {
            assert!(heard(said).await.1.is_err(), "{}", String::from_utf8_lossy(said));
        }
    }
}
