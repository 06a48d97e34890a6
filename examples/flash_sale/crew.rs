//! The worker processes, as the program sees them.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Failure;
use crate::args::WORKER;
use crate::orders::{Done, Order, Setup, Word};
use crate::plan::raised;

/// How long a worker may take to answer when it matters: it drains its pools before it is done.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Some processes that hold the app servers between them. They are killed on drop, and end by
/// themselves should this one be killed.
pub(crate) struct Crew {
    workers: Vec<Worker>,
    words: mpsc::UnboundedReceiver<(usize, Result<Word, Failure>)>,
}

struct Worker {
    process: Child,
    orders: ChildStdin,
}

impl Crew {
    pub(crate) async fn start(setup: &Setup, workers: usize) -> Result<Self, Failure> {
        let (sender, words) = mpsc::unbounded_channel();
        let mut crew = Self { workers: Vec::new(), words };
        for number in 0..workers {
            let mut command = Command::from(raised());
            command.arg(std::env::current_exe()?).arg(WORKER);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut process = command.spawn().map_err(|e| format!("cannot start a worker: {e}"))?;
            let (orders, words) = (process.stdin.take(), process.stdout.take());
            let (Some(orders), Some(words)) = (orders, words) else {
                return Err("a worker without pipes".into());
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(words).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let word = serde_json::from_str(&line).map_err(Failure::from);
                    if sender.send((number, word)).is_err() {
                        return;
                    }
                }
            });
            crew.workers.push(Worker { process, orders });
            crew.tell(number, serde_json::to_string(setup)?).await?;
        }
        Ok(crew)
    }

    /// Opens the app servers of these numbers, dealt out like cards.
    pub(crate) async fn open(&mut self, apps: std::ops::Range<usize>) -> Result<(), Failure> {
        let workers = self.workers.len();
        for number in 0..workers {
            let apps = apps.clone().filter(|app| app % workers == number).collect();
            self.order(number, &Order::Open { apps }).await?;
        }
        Ok(())
    }

    pub(crate) async fn look(&mut self) -> Result<(), Failure> {
        self.order_all(&Order::Look).await
    }

    /// What the workers have said, and which, up to now.
    pub(crate) fn heard(&mut self) -> Result<Option<(usize, Word)>, Failure> {
        match self.words.try_recv() {
            Ok((number, word)) => Ok(Some((number, word?))),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err("all workers have ended".into()),
        }
    }

    /// CPU time of all workers together, where it can be had.
    pub(crate) async fn cpu_time(&mut self) -> Result<Option<Duration>, Failure> {
        self.order_all(&Order::Cpu).await?;
        let times = self.answers(|word| match word {
            Word::Cpu(nanos) => Some(nanos.map(Duration::from_nanos)),
            _ => None,
        });
        Ok(times.await?.into_iter().sum())
    }

    /// Ends the app servers and the workers.
    pub(crate) async fn stop(mut self) -> Result<Vec<Done>, Failure> {
        self.order_all(&Order::Stop).await?;
        let done = self.answers(|word| match word {
            Word::Done(done) => Some(done),
            _ => None,
        });
        let done = done.await?;
        for worker in &mut self.workers {
            let ended = timeout(ANSWERS_WITHIN, worker.process.wait()).await;
            ended.map_err(|_| "a worker does not end")??;
        }
        Ok(done)
    }

    /// One answer of each worker. Older words are dropped.
    async fn answers<T>(&mut self, pick: impl Fn(Word) -> Option<T>) -> Result<Vec<T>, Failure> {
        let mut answers = Vec::new();
        while answers.len() < self.workers.len() {
            let word = timeout(ANSWERS_WITHIN, self.words.recv()).await;
            let (_, word) = word
                .map_err(|_| format!("a worker was silent for {ANSWERS_WITHIN:?}"))?
                .ok_or("a worker has ended")?;
            answers.extend(pick(word?));
        }
        Ok(answers)
    }

    async fn order_all(&mut self, order: &Order) -> Result<(), Failure> {
        for number in 0..self.workers.len() {
            self.order(number, order).await?;
        }
        Ok(())
    }

    async fn order(&mut self, number: usize, order: &Order) -> Result<(), Failure> {
        self.tell(number, serde_json::to_string(order)?).await
    }

    async fn tell(&mut self, number: usize, line: String) -> Result<(), Failure> {
        let told = self.workers[number].orders.write_all((line + "\n").as_bytes()).await;
        Ok(told.map_err(|e| format!("worker {number} has ended: {e}"))?)
    }
}
