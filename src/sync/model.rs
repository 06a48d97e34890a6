//! The types of the model checker, and how a model is run.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant as Clock};

use loom::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, atomic};
use loom::thread::JoinHandle;
use pin_project::{pin_project, pinned_drop};
use tokio::time::Instant;

thread_local! {
    /// The tasks that the code under test has spawned. loom's threads are all on one of the system's.
    static TASKS: RefCell<Vec<JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
}

/// Enough for the futures of the crate without optimization, in words.
const STACK: usize = 128 * 1024;

/// Runs a model through every order of its threads' steps, as far as no run has more than so many switches away from a
/// thread that could go on; `None`: through all. Prints how many there were.
///
/// The model is run on a thread with room on its stack, beside three others at the most.
pub(crate) fn explore(
    name: &str,
    switches: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(switches);
    builder.max_branches = 20_000;
    let (model, orders) = (Arc::new(model), Arc::new(Count::new(0)));
    let (counted, started) = (Arc::clone(&orders), Clock::now());
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        TASKS.take();
        let model = Arc::clone(&model);
        join(thread(move || model()));
    });
    let (orders, took) = (orders.load(Relaxed), started.elapsed().as_secs_f64());
    let bound = builder
        .preemption_bound
        .map_or("any number of".to_owned(), |most| format!("at most {most}"));
    println!("{name}: {orders} interleavings with {bound} switches, {took:.1} s");
}

/// A thread of a model.
pub(crate) fn thread(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = loom::thread::Builder::new().stack_size(STACK);
    thread.spawn(run).expect("no thread of the system's is started")
}

pub(crate) fn join(thread: JoinHandle<()>) {
    thread.join().expect("where it panics, so does the model");
}

/// Runs a task of the code under test on a thread of its own.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    let task = thread(move || block_on(task));
    TASKS.with_borrow_mut(|tasks| tasks.push(task));
}

/// Waits for all tasks that were spawned.
pub(crate) fn join_tasks() {
    while let Some(task) = TASKS.with_borrow_mut(Vec::pop) {
        join(task);
    }
}

/// Waits for a future. Its waker is copied without a step of loom's, for tokio does that under a lock of its own, and
/// another thread that came to that lock then would stand still for ever.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let parked = Arc::new(Parked(loom::sync::Notify::new()));
    let waker = Waker::from(Arc::clone(&parked));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        parked.0.wait();
    }
}

/// A thread that waits to be woken.
struct Parked(loom::sync::Notify);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Polls once.
pub(crate) async fn once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await
}

/// The limit of the time never comes.
pub(crate) async fn timeout<F: Future>(_: Duration, future: F) -> Result<F::Output, Late> {
    Ok(future.await)
}

pub(crate) async fn timeout_at<F: Future>(_: Instant, future: F) -> Result<F::Output, Late> {
    Ok(future.await)
}

/// The time is over.
#[derive(Debug)]
pub(crate) struct Late;

/// Where threads meet in one of tokio's types, which loom does not see.
#[derive(Debug, Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    /// The step of the type that follows is one with this one: nothing of loom's stands between them.
    fn step(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify {
    meeting: Meeting,
    notify: tokio::sync::Notify,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.meeting.step();
        self.notify.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        self.meeting.step();
        self.notify.notify_waiters();
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        self.meeting.step();
        Notified { meeting: &self.meeting, notified: Some(self.notify.notified()) }
    }
}

#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub(crate) struct Notified<'a> {
    meeting: &'a Meeting,
    /// `Some` until the drop.
    #[pin]
    notified: Option<tokio::sync::futures::Notified<'a>>,
}

impl Notified<'_> {
    pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
        let this = self.project();
        this.meeting.step();
        this.notified.as_pin_mut().is_some_and(|notified| notified.enable())
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.meeting.step();
        this.notified.as_pin_mut().map_or(Poll::Ready(()), |notified| notified.poll(cx))
    }
}

#[pinned_drop]
impl PinnedDrop for Notified<'_> {
    /// It may pass a notification on.
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.meeting.step();
        this.notified.set(None);
    }
}

pub(crate) mod oneshot {
    use super::*;
    pub(crate) use tokio::sync::oneshot::error;
    use tokio::sync::oneshot::{self, error::TryRecvError};

    #[derive(Debug)]
    pub(crate) struct Sender<T> {
        meeting: Arc<Meeting>,
        /// `Some` until it is sent on, or dropped.
        sender: Option<oneshot::Sender<T>>,
    }

    #[derive(Debug)]
    pub(crate) struct Receiver<T> {
        meeting: Arc<Meeting>,
        /// `Some` until the drop.
        receiver: Option<oneshot::Receiver<T>>,
    }

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let meeting = Arc::<Meeting>::default();
        let (sender, receiver) = oneshot::channel();
        let sender = Sender { meeting: Arc::clone(&meeting), sender: Some(sender) };
        (sender, Receiver { meeting, receiver: Some(receiver) })
    }

    impl<T> Sender<T> {
        pub(crate) fn send(mut self, value: T) -> Result<(), T> {
            self.meeting.step();
            self.sender.take().expect("sent on once").send(value)
        }

        pub(crate) fn is_closed(&self) -> bool {
            self.meeting.step();
            self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if let Some(sender) = self.sender.take() {
                self.meeting.step();
                drop(sender);
            }
        }
    }

    impl<T> Receiver<T> {
        fn receiver(&mut self) -> &mut oneshot::Receiver<T> {
            self.meeting.step();
            self.receiver.as_mut().expect("there until the drop")
        }

        pub(crate) fn close(&mut self) {
            self.receiver().close();
        }

        pub(crate) fn try_recv(&mut self) -> Result<T, TryRecvError> {
            self.receiver().try_recv()
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            Pin::new(self.receiver()).poll(cx)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.meeting.step();
            drop(self.receiver.take());
        }
    }
}
