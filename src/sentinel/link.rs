//! The connection to a sentinel: asks, and listens in between.
//!
//! One connection does both, in RESP2, which every sentinel speaks: it is subscribed, and for a question
//! it unsubscribes, asks and subscribes again, all in one packet. What was published in between is in the
//! answer.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use redis::{RedisResult, Value, parse_redis_value_async};
use tokio::io::{AsyncWriteExt, WriteHalf};

use super::instance::Named;
use super::question::{CHANNELS, Publication, Question, brief};
use crate::dial::{Stream as Socket, Tap};

/// A connection to a sentinel, logged in.
pub(super) struct Link {
    /// Keeps what was read of a reply that is not complete.
    replies: Pin<Box<dyn Stream<Item = RedisResult<Value>> + Send>>,
    writer: WriteHalf<Tap<Socket>>,
    published: VecDeque<Publication>,
}

/// What a sentinel answered to a question; in words where it could not.
pub(super) type Answer = Result<Vec<Named>, String>;

impl Link {
    pub(super) fn new(opened: Tap<Socket>) -> Self {
        let (reader, writer) = tokio::io::split(opened);
        let replies =
            stream::unfold((reader, Default::default()), |(mut reader, mut decoder)| async move {
                let reply = parse_redis_value_async(&mut decoder, &mut reader).await;
                Some((reply, (reader, decoder)))
            });
        Self { replies: Box::pin(replies), writer, published: VecDeque::new() }
    }

    /// Asks, and listens from then on.
    pub(super) async fn ask(&mut self, questions: &[Question]) -> RedisResult<Vec<Answer>> {
        let mut packet = redis::pipe();
        for channel in CHANNELS {
            packet.cmd("UNSUBSCRIBE").arg(channel);
        }
        for question in questions {
            packet.add_command(question.command());
        }
        for channel in CHANNELS {
            packet.cmd("SUBSCRIBE").arg(channel);
        }
        self.writer.write_all(&packet.get_packed_pipeline()).await?;
        self.writer.flush().await?;
        self.skip(CHANNELS.len()).await?;
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            answers.push(question.answer(self.read().await?));
        }
        // The answers know of it, and may know more.
        self.published.clear();
        // A user who may not subscribe is answered with an error: then there is what is asked.
        self.skip(CHANNELS.len()).await?;
        Ok(answers)
    }

    /// The next publication.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> RedisResult<Publication> {
        loop {
            if let Some(publication) = self.published.pop_front() {
                return Ok(publication);
            }
            let value = self.read().await?;
            if !self.keep(&value) {
                let what = brief(&format_args!("something it was not asked for: {value:?}"));
                return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
            }
        }
    }

    /// Reads so many replies that matter to nobody; keeps what was published meanwhile.
    async fn skip(&mut self, replies: usize) -> RedisResult<()> {
        let mut left = replies;
        while left > 0 {
            let value = self.read().await?;
            left -= usize::from(!self.keep(&value));
        }
        Ok(())
    }

    /// True if it was published.
    fn keep(&mut self, value: &Value) -> bool {
        let message = Publication::of(value);
        if let Some((channel, message)) = &message {
            self.published.extend(Publication::parse(channel, message));
        }
        message.is_some()
    }

    async fn read(&mut self) -> RedisResult<Value> {
        match self.replies.next().await {
            Some(reply) => reply,
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}
