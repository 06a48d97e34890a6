//! Whatever comes in whatever order, no budget is exceeded and every permit comes back.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis_guard::{Backoff, BreakerState, Budget, Class, Guard, Outcome, Permit};
use tokio::time::advance;
use tokio_test::task::{Spawn, spawn};

use crate::{assert_at_rest, failed};

const MAX: usize = 8;
const ENDPOINTS: [(&str, usize, usize); 4] =
    [("checkout", 6, 2), ("search", 4, 0), ("mail", 3, 1), ("other", MAX, 0)];

#[derive(Clone, Debug)]
enum Step {
    Admit(usize),
    Wait(usize),
    /// The call that is so far along among those in flight ends so.
    Finish(usize, Class),
    Drop(usize),
    /// The waiter that is so far along goes away.
    Leave(usize),
    Advance(u64),
    Force(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![
        12 => Just(Class::Worked),
        1 => Just(Class::Unknown),
        2 => Just(failed(Outcome::MaxClients)),
        1 => Just(failed(Outcome::SuspectedMaxClients)),
        2 => Just(failed(Outcome::Timeout)),
        1 => Just(failed(Outcome::Auth)),
    ];
    prop_oneof![
        10 => (0..ENDPOINTS.len()).prop_map(Step::Admit),
        5 => (0..ENDPOINTS.len()).prop_map(Step::Wait),
        10 => (0..100_usize, class).prop_map(|(at, class)| Step::Finish(at, class)),
        3 => (0..100_usize).prop_map(Step::Drop),
        2 => (0..100_usize).prop_map(Step::Leave),
        4 => (0..1_500_u64).prop_map(Step::Advance),
        1 => (0..6_u8).prop_map(Step::Force),
    ]
}

type Waiting<'a> =
    Spawn<Pin<Box<dyn Future<Output = Result<Permit, redis_guard::Rejection>> + Send + 'a>>>;

#[derive(Default)]
struct World<'a> {
    permits: Vec<Permit>,
    waiting: Vec<Waiting<'a>>,
}

impl<'a> World<'a> {
    async fn take(&mut self, guard: &'a Guard, step: Step) {
        match step {
            Step::Admit(at) => {
                let (name, max, _) = ENDPOINTS[at];
                let before = guard.status();
                let admitted = guard.admit(name);
                let endpoint = before.endpoints.iter().find(|e| e.name.as_str() == name);
                let (held, reserve) =
                    endpoint.map_or((0, 0), |endpoint| (endpoint.in_flight, endpoint.reserve));
                let open = before.breaker.forced && before.breaker.state == BreakerState::Open;
                if held < reserve && held < max && !open {
                    assert!(admitted.is_ok(), "{name}'s reserve was not kept: {before:#?}");
                }
                self.permits.extend(admitted);
            }
            Step::Wait(at) => {
                self.waiting.push(spawn(Box::pin(guard.wait(ENDPOINTS[at].0))));
            }
            Step::Finish(at, class) if !self.permits.is_empty() => {
                let at = at % self.permits.len();
                self.permits.swap_remove(at).finish(class);
            }
            Step::Drop(at) if !self.permits.is_empty() => {
                let at = at % self.permits.len();
                drop(self.permits.swap_remove(at));
            }
            Step::Leave(at) if !self.waiting.is_empty() => {
                let at = at % self.waiting.len();
                drop(self.waiting.swap_remove(at));
            }
            Step::Advance(millis) => advance(Duration::from_millis(millis)).await,
            Step::Force(0) => guard.breaker().force_open(),
            Step::Force(1) => guard.breaker().force_closed(),
            Step::Force(_) => guard.breaker().auto(),
            Step::Finish(..) | Step::Drop(_) | Step::Leave(_) => {}
        }
        // What one of them does may serve another before it.
        while self.poll() {}
    }

    /// Polls all who wait; true if one of them was woken by it.
    fn poll(&mut self) -> bool {
        let (permits, mut still) = (&mut self.permits, Vec::new());
        for mut waiter in self.waiting.drain(..) {
            match waiter.poll() {
                Poll::Ready(answer) => permits.extend(answer),
                Poll::Pending => still.push(waiter),
            }
        }
        self.waiting = still;
        self.waiting.iter().any(Spawn::is_woken)
    }

    fn check(&self, guard: &Guard) {
        let status = guard.status();
        assert!(status.in_flight <= MAX && status.limit <= MAX, "{status:#?}");
        assert_eq!(status.in_flight, self.permits.len(), "{status:#?}");
        assert_eq!(status.waiting, self.waiting.len(), "{status:#?}");
        let mut sum = 0;
        for endpoint in &status.endpoints {
            assert!(endpoint.in_flight <= endpoint.max, "{status:#?}");
            sum += endpoint.in_flight;
        }
        assert_eq!(sum, status.in_flight);
        // Of what may be in flight, the others leave what is reserved and not in use.
        if status.limit == MAX {
            let kept = |e: &redis_guard::CallsStatus| e.reserve.saturating_sub(e.in_flight);
            let reserved: usize = status.endpoints.iter().map(kept).sum();
            assert!(status.in_flight + reserved <= MAX, "{status:#?}");
        }
    }
}

fn walk(steps: Vec<Step>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut builder = Guard::builder()
            .max_in_flight(MAX)
            .acquire_timeout(Duration::from_secs(2))
            .queue_limit(16)
            .seed(1)
            .backoff(Backoff::without_jitter(Duration::from_millis(250), Duration::from_secs(1)));
        for (name, max, reserve) in ENDPOINTS {
            builder = builder.endpoint(name, Budget::max(max).reserve(reserve));
        }
        let guard = builder.build().unwrap();
        let mut world = World::default();
        for step in steps {
            world.take(&guard, step).await;
            world.check(&guard);
        }
        drop(world);
        assert_at_rest(&guard);
        guard.breaker().force_closed();
        let all: Vec<_> = (0..MAX - 3).map(|_| guard.admit("other").unwrap()).collect();
        assert!(guard.admit("other").is_err());
        drop(all);
        assert_at_rest(&guard);
    });
}

#[test]
fn no_budget_is_exceeded_in_ten_thousand_random_steps() {
    let config = Config { cases: 20, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(), 500);
    TestRunner::new(config)
        .run(&steps, |steps| {
            walk(steps);
            Ok(())
        })
        .unwrap();
}
