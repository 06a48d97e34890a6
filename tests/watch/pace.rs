//! How often a server is asked that does not tell, and how soon it is watched again once it does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::time::{Instant, sleep};

use crate::fake::Fake;
use crate::support::TestServer;
use crate::waiting::until;
use crate::{builder, heard};

/// As many as it takes to tell jitter from chance.
const POOLS: u64 = 16;
const EARLY: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(15);

/// A server of its own, and a pool that has one idle connection to it.
struct Watched {
    fake: Fake,
    pool: GuardedPool,
}

impl Watched {
    async fn start(seed: u64, fail: impl Fn(&Fake)) -> Self {
        let fake = Fake::start("").await;
        fail(&fake);
        let pool = GuardedPool::builder(fake.url()).seed(seed).build().unwrap();
        drop(pool.acquire("test").await.unwrap());
        until("the first question", &pool, || fake.infos() > 0).await;
        Self { fake, pool }
    }

    /// When it was asked, since it was first.
    fn asked(&self) -> Vec<Duration> {
        let asked = self.fake.asked_at();
        asked.iter().map(|at| *at - asked[0]).collect()
    }
}

/// A server that goes on failing is asked seldom, and less and less; a fleet does not ask as one; and
/// once it tells, everybody knows soon.
async fn is_left_in_peace(fail: impl Fn(&Fake), relent: impl Fn(&Fake)) {
    let mut watched = Vec::new();
    for seed in 1..=POOLS {
        watched.push(Watched::start(seed, &fail).await);
    }
    sleep(LONG).await;

    for each in &watched {
        let mut asked: Vec<_> = each.asked().into_iter().filter(|at| *at <= LONG).collect();
        asked.push(LONG);
        let early = asked.iter().filter(|at| **at <= EARLY).count();
        assert!(early <= 6, "{early} times in {EARLY:?}: {asked:?}");
        let gaps: Vec<_> = asked.windows(2).map(|two| two[1] - two[0]).collect();
        let back_off = gaps.iter().any(|gap| *gap >= gaps[0] * 3) || gaps[0] > EARLY;
        assert!(back_off, "no back-off: {asked:?}");
    }
    // When they were asked for the fourth time: far apart, beside how long that took.
    let fourth: Vec<_> = watched.iter().filter_map(|each| each.asked().get(3).copied()).collect();
    let (first, last) = (fourth.iter().min().unwrap(), fourth.iter().max().unwrap());
    assert!((*last - *first) * 6 > *last, "no jitter: {fourth:?}");

    watched.iter().for_each(|each| relent(&each.fake));
    let relented = Instant::now();
    for each in &watched {
        // No later than the longest pause between two looks at a server that is well.
        heard("a word", &each.pool, |_| true).await;
        assert_eq!(each.pool.status().watch.trouble, None);
    }
    println!("heard after {:?}", relented.elapsed());
}

const WELL: &str = "connected_clients:3 maxclients:1000 rejected_connections:0";

#[tokio::test]
async fn a_server_that_answers_with_an_error_is_asked_less_and_less() {
    let fail = |fake: &Fake| fake.replies("-ERR try again later\r\n");
    is_left_in_peace(fail, |fake| fake.says(WELL)).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_asked_less_and_less() {
    let fail = |fake: &Fake| fake.hold_info(true);
    let relent = |fake: &Fake| {
        fake.says(WELL);
        fake.hold_info(false);
    };
    is_left_in_peace(fail, relent).await;
}

/// INFO repeats what people have configured, in whatever encoding.
#[tokio::test]
async fn one_byte_that_is_no_utf_8_hides_nothing() {
    let server = TestServer::start().unwrap();
    let mut client = UnixStream::connect(server.socket_path()).unwrap();
    client.write_all(b"*3\r\n$9\r\nREPLICAOF\r\n$4\r\nh\xE9te\r\n$1\r\n1\r\n").unwrap();
    let mut ok = [0; 5];
    client.read_exact(&mut ok).unwrap();
    assert_eq!(&ok, b"+OK\r\n");
    let pool = builder(&server).build().unwrap();

    drop(pool.acquire("test").await.unwrap());

    heard("a word", &pool, |seen| seen.ceiling.is_some()).await;
    assert_eq!(pool.status().watch.trouble, None);
}
