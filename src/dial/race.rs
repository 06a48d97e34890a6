//! Which of a name's addresses is connected to: RFC 8305, "Happy Eyeballs".
//!
//! One that drops packets says nothing for as long as one waits, so the next is tried beside it after a
//! head start. A dial is to cost the server one slot: whatever else is in flight when one has connected is
//! closed before a byte is sent, and a SYN that was not answered costs no slot at all.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{ErrorKind, RedisError};
use tokio::time::{Instant, sleep_until};

use super::classify;

/// How long an address is tried before the next one is as well: what RFC 8305, section 8 recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// The most that it grows to where an address is known to take longer: the RFC's maximum.
const LONGEST_HEAD_START: Duration = Duration::from_secs(2);

/// An address that was connected to, and how long that took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) address: SocketAddr,
    pub(super) took: Duration,
}

/// The addresses in the order in which they are tried: the last that was reached, then the resolver's
/// order, the families in turn.
pub(super) fn ordered(mut addresses: Vec<SocketAddr>, last: Option<SocketAddr>) -> Vec<SocketAddr> {
    if let Some(at) = addresses.iter().position(|address| Some(*address) == last) {
        addresses[..=at].rotate_right(1);
    }
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut ordered = Vec::with_capacity(same.len() + other.len());
    while same.len() + other.len() > 0 {
        ordered.extend(same.next());
        ordered.extend(other.next());
    }
    ordered
}

/// Connects to the first of `addresses` that answers, or returns the error that says most. Each has its
/// turn before `deadline`. `silent` are then those that had not answered when their head start was over.
/// `last`: the last that was reached, which gets a longer head start where it
/// needs one: else a server that is far away would see two connections for every dial.
pub(super) async fn race<T, F>(
    addresses: &[SocketAddr],
    last: Option<Reached>,
    deadline: Instant,
    silent: &mut Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(Reached, T), RedisError>
where
    F: Future<Output = Result<T, RedisError>>,
{
    let mut left = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut error = None;
    loop {
        let now = Instant::now();
        let mut head_start = deadline.saturating_duration_since(now);
        if let Some(address) = left.next() {
            let attempts_left = u32::try_from(left.len() + 1).unwrap_or(u32::MAX);
            head_start = (head_start / attempts_left).min(head_start_of(address, last));
            let attempt = connect(address);
            attempts.push(async move { (address, now.elapsed(), attempt.await) });
        }
        let mut next = pin!(sleep_until(now + head_start));
        tokio::select! {
            biased;
            ended = attempts.next() => match ended {
                Some((address, took, Ok(stream))) => {
                    silent.retain(|silent| *silent != address);
                    return Ok((Reached { address, took }, stream));
                }
                Some((.., Err(new))) => {
                    error = Some(match error {
                        Some(error) if classify::is_no_way(&new) => error,
                        _ => new,
                    });
                }
                None => return Err(error.unwrap_or_else(no_address)),
            },
            () = &mut next, if left.len() > 0 => {
                silent.extend(addresses.get(addresses.len() - left.len() - 1));
            }
        }
    }
}

fn head_start_of(address: SocketAddr, last: Option<Reached>) -> Duration {
    let known =
        last.filter(|last| last.address == address).map_or(Duration::ZERO, |last| last.took);
    known.saturating_mul(2).clamp(HEAD_START, LONGEST_HEAD_START)
}

fn no_address() -> RedisError {
    (ErrorKind::Io, "the name has no address").into()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    fn all(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_after_the_last_that_was_reached() {
        let resolved = all(&["[::1]:1", "[::2]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let in_turn = all(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(ordered(resolved.clone(), None), in_turn);
        let last = all(&["10.0.0.2:1"])[0];
        let from_last = all(&["10.0.0.2:1", "[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.3:1"]);
        assert_eq!(ordered(resolved.clone(), Some(last)), from_last);
        let gone = all(&["10.0.0.9:1"])[0];
        assert_eq!(ordered(resolved, Some(gone)), in_turn, "it is no address of the name's now");
        assert_eq!(ordered(Vec::new(), Some(gone)), []);
    }

    /// An address's port is how many milliseconds it takes; from 10,000 on it refuses, after as many
    /// more. `open` counts what is in flight or connected.
    struct Network<'a>(&'a Mutex<Vec<(Instant, u16)>>);

    struct Socket<'a>(&'a Mutex<Vec<(Instant, u16)>>, u16);

    impl Drop for Socket<'_> {
        fn drop(&mut self) {
            self.0.lock().unwrap().retain(|(_, port)| *port != self.1);
        }
    }

    impl<'a> Network<'a> {
        async fn connect(&self, address: SocketAddr) -> Result<Socket<'a>, RedisError> {
            let port = address.port();
            self.0.lock().unwrap().push((Instant::now(), port));
            let socket = Socket(self.0, port);
            tokio::time::sleep(Duration::from_millis(u64::from(port % 10_000))).await;
            match port {
                0..10_000 => Ok(socket),
                _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            }
        }
    }

    /// Which address won, and after how many milliseconds.
    async fn raced(addresses: &[&str], last: Option<Reached>, limit: u64) -> (Option<u16>, u128) {
        let open = Mutex::new(Vec::new());
        let network = Network(&open);
        let started = Instant::now();
        let deadline = started + Duration::from_millis(limit);
        let (addresses, mut silent) = (all(addresses), Vec::new());
        let race =
            race(&addresses, last, deadline, &mut silent, |address| network.connect(address));
        let won = tokio::time::timeout_at(deadline, race).await;
        let won = won.ok().and_then(Result::ok);
        let (port, took) =
            (won.as_ref().map(|(_, socket)| socket.1), started.elapsed().as_millis());
        let still_open = open.lock().unwrap().iter().map(|(_, port)| *port).collect::<Vec<_>>();
        assert_eq!(still_open, Vec::from_iter(port), "the others are closed");
        (port, took)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_costs_a_head_start() {
        assert_eq!(raced(&["[::1]:9999", "10.0.0.1:20"], None, 2_000).await, (Some(20), 270));
        assert_eq!(raced(&["[::1]:20", "10.0.0.1:10"], None, 2_000).await, (Some(20), 20));
        let three = ["[::1]:9999", "10.0.0.1:9998", "10.0.0.2:20"];
        assert_eq!(raced(&three, None, 2_000).await, (Some(20), 520));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_gives_way_at_once() {
        assert_eq!(raced(&["[::1]:10001", "10.0.0.1:20"], None, 2_000).await, (Some(20), 21));
        assert_eq!(raced(&["[::1]:10001", "10.0.0.1:10002"], None, 2_000).await, (None, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_may_still_win_after_its_head_start() {
        assert_eq!(raced(&["[::1]:300", "10.0.0.1:100"], None, 2_000).await, (Some(300), 300));
        assert_eq!(raced(&["[::1]:400", "10.0.0.1:100"], None, 2_000).await, (Some(100), 350));
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_has_its_turn_within_the_timeout() {
        assert_eq!(raced(&["[::1]:9999", "10.0.0.1:20"], None, 100).await, (Some(20), 70));
        assert_eq!(raced(&["[::1]:9999", "10.0.0.1:9998"], None, 100).await, (None, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_known_to_be_far_away_is_not_raced_against() {
        let last = |port, took| {
            let address = all(&[&format!("[::1]:{port}")])[0];
            Some(Reached { address, took: Duration::from_millis(took) })
        };
        assert_eq!(
            raced(&["[::1]:400", "10.0.0.1:1"], last(400, 390), 5_000).await,
            (Some(400), 400)
        );
        // It has gone silent.
        assert_eq!(
            raced(&["[::1]:9999", "10.0.0.1:1"], last(9999, 9_000), 5_000).await,
            (Some(1), 2_001)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_that_of_an_address_there_is_a_way_to() {
        let kinds = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NetworkUnreachable];
        for kinds in [kinds, [kinds[1], kinds[0]]] {
            let deadline = Instant::now() + Duration::from_secs(2);
            let addresses = all(&["10.0.0.1:0", "10.0.0.1:1"]);
            let failing = |address: SocketAddr| async move {
                let kind = kinds[usize::from(address.port())];
                Err::<(), RedisError>(io::Error::from(kind).into())
            };
            let error =
                race(&addresses, None, deadline, &mut Vec::new(), failing).await.unwrap_err();
            assert!(error.is_connection_refusal(), "{error}");
        }
    }
}
