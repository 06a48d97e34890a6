//! Whatever happens to heartbeats, members, clocks and keys: a grant never exceeds what was free when
//! it was made.

use std::time::Duration;

use proptest::prelude::*;
use redis_guard::internal::sim::{Beat, FLOOR, Membership, Report};
use tokio::time::Instant;

use super::script::{Script, ServerState};
use super::{keys, load};

const MEMBERS: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    /// A member sends a beat, whether or not it still waits for the reply to the last.
    Beat {
        member: usize,
        hungry: bool,
        base: usize,
        peak: usize,
    },
    /// One of the messages under way arrives, or is lost.
    Deliver(usize),
    Lose(usize),
    /// A member starts a dial, if it may.
    Dial(usize),
    /// Its dial reaches the server.
    Arrive(usize),
    /// One of its connections ends.
    Close(usize),
    /// It dies with all its connections; another process takes its place.
    Crash(usize),
    Pass(u64),
    /// The registry's keys are deleted.
    Delete,
    /// Clients that are not members take and leave slots.
    Foreign(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let member = || 0..MEMBERS;
    prop_oneof![
        6 => (member(), any::<bool>(), 0..60_usize, 0..90_usize)
            .prop_map(|(member, hungry, base, peak)| Step::Beat { member, hungry, base, peak }),
        10 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Lose),
        12 => member().prop_map(Step::Dial),
        12 => member().prop_map(Step::Arrive),
        2 => member().prop_map(Step::Close),
        1 => member().prop_map(Step::Crash),
        4 => (0..3_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Delete),
        2 => (0..80_u64).prop_map(Step::Foreign),
    ]
}

struct Node {
    membership: Membership,
    max: usize,
    live: usize,
    dialing: bool,
    /// Its clock runs at that rate, from a time of its own.
    rate: f64,
    epoch: Instant,
    /// The beat whose reply it waits for.
    expects: Option<usize>,
    /// What was left when it lost a connection since that beat.
    left: Option<usize>,
    /// The registry was deleted since it last heard of this member.
    forgotten: bool,
}

struct Message {
    member: usize,
    number: usize,
    beat: Beat,
    sockets: usize,
    sent: Instant,
    /// `None`: not at the server yet. The time until which the member heeds it: a seventh before
    /// the registry gives the member up, and counted from when the beat was sent, on its own clock.
    reply: Option<(Vec<i64>, Instant)>,
}

struct World {
    script: Script,
    maxclients: u64,
    now_ms: u64,
    foreign: u64,
    nodes: Vec<Node>,
    wire: Vec<Message>,
    numbers: usize,
}

impl Node {
    fn new(number: usize, max: usize, rate: f64, epoch: Instant) -> Self {
        let id = format!("member-{number}");
        let membership = Membership::new(id, max, 0, epoch, number as u64);
        Self {
            membership,
            max,
            live: 0,
            dialing: false,
            rate,
            epoch,
            expects: None,
            left: None,
            forgotten: false,
        }
    }

    fn clock(&self, now_ms: u64) -> Instant {
        self.epoch + Duration::from_millis(now_ms).mul_f64(self.rate)
    }

    fn sockets(&self) -> usize {
        self.live + usize::from(self.dialing)
    }

    fn lost(&mut self) {
        self.left = Some(self.sockets());
        self.membership.lost(self.sockets());
    }
}

impl World {
    fn used(&self) -> u64 {
        self.foreign + self.nodes.iter().map(|node| node.live as u64).sum::<u64>()
    }

    /// Slots that a member may still take because the registry said so.
    fn promised(&self, member: usize) -> u64 {
        let node = &self.nodes[member];
        let clock = node.clock(self.now_ms);
        if node.forgotten || node.live == 0 {
            return 0;
        }
        let held = node.membership.share(clock).map(|share| share.limit);
        let coming = self.wire.iter().find_map(|message| match &message.reply {
            Some((reply, until))
                if (message.member, Some(message.number)) == (member, node.expects)
                    && clock < *until =>
            {
                let limit = usize::try_from(reply[0]).ok()?;
                Some(node.left.map_or(limit, |left| limit.min(left)))
            }
            _ => None,
        });
        // A dial that outlived its grant is nobody's promise.
        held.max(coming).map_or(0, |limit| limit.max(node.sockets()) - node.live) as u64
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Beat { member, hungry, base, peak } => {
                let Node { live, dialing, .. } = self.nodes[member];
                let dialing = usize::from(dialing);
                self.send(member, &Report { live, dialing, base, peak, hungry });
            }
            Step::Deliver(index) if !self.wire.is_empty() => {
                let index = index % self.wire.len();
                match self.wire[index].reply {
                    None => self.execute(index)?,
                    Some(_) => self.receive(index)?,
                }
            }
            Step::Lose(index) if !self.wire.is_empty() => {
                self.wire.swap_remove(index % self.wire.len());
            }
            Step::Deliver(_) | Step::Lose(_) => {}
            Step::Dial(member) => {
                let node = &mut self.nodes[member];
                let share = node.membership.share(node.clock(self.now_ms));
                let limit = share.map_or(node.live.max(1), |share| share.limit);
                node.dialing |= node.sockets() < limit;
            }
            Step::Arrive(member) => self.arrive(member),
            Step::Close(member) => {
                let node = &mut self.nodes[member];
                if node.live > 0 {
                    node.live -= 1;
                    node.lost();
                }
            }
            Step::Crash(member) => {
                self.numbers += 1;
                let old = &self.nodes[member];
                self.nodes[member] = Node::new(1_000 + self.numbers, old.max, old.rate, old.epoch);
            }
            Step::Pass(ms) => self.now_ms += ms,
            Step::Delete => {
                self.script.flush();
                for node in &mut self.nodes {
                    node.forgotten = true;
                }
            }
            Step::Foreign(count) => {
                let ours = self.used() - self.foreign;
                self.foreign = count.min(self.maxclients.saturating_sub(ours));
            }
        }
        Ok(())
    }

    fn arrive(&mut self, member: usize) {
        let room = self.used() < self.maxclients;
        let node = &mut self.nodes[member];
        if std::mem::take(&mut node.dialing) {
            if room {
                node.live += 1;
            } else {
                node.lost();
            }
        }
    }

    /// Without a connection there is nothing to send it over.
    fn send(&mut self, member: usize, report: &Report) {
        if report.live == 0 {
            return;
        }
        let node = &mut self.nodes[member];
        let sent = node.clock(self.now_ms);
        let beat = node.membership.beat(sent, report);
        self.numbers += 1;
        (node.expects, node.left) = (Some(self.numbers), None);
        let (number, sockets) = (self.numbers, node.sockets());
        self.wire.push(Message { member, number, beat, sockets, sent, reply: None });
    }

    /// A beat arrives at the server.
    fn execute(&mut self, index: usize) -> Result<(), TestCaseError> {
        let used = self.used();
        let others: u64 = (0..MEMBERS)
            .filter(|member| *member != self.wire[index].member)
            .map(|member| self.promised(member))
            .sum();
        let server = ServerState {
            now_ms: self.now_ms,
            connected_clients: used,
            maxclients: Some(self.maxclients),
            ..ServerState::default()
        };
        let message = &mut self.wire[index];
        let reply = self.script.run(server, &keys(), &message.beat.args);
        let reply = reply.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let node = &mut self.nodes[message.member];
        if reply == [-1] || node.expects != Some(message.number) {
            // Overtaken, or its member has given it up, or is dead: nobody is told.
            self.wire.swap_remove(index);
            return Ok(());
        }
        node.forgotten = false;
        let limit = usize::try_from(reply[0]).expect("a limit");
        prop_assert!(limit >= 1 && limit <= node.max.max(1), "{reply:?}");
        let dialing = message.sockets - node.live.min(message.sockets);
        if limit < FLOOR.min(node.max) {
            let full = 1_000 * (self.maxclients - 1) / self.maxclients;
            prop_assert!(u64::try_from(reply[5]).expect("a share") >= full, "{reply:?}");
        }
        if limit > message.sockets && node.left.is_none() {
            let granted = (limit - message.sockets) as u64;
            // Only the floor comes out of the reserve.
            let reserve =
                if limit <= FLOOR { 0 } else { u64::try_from(reply[4]).expect("a count") };
            let taken = used + others + dialing as u64 + reserve;
            let free = self.maxclients.saturating_sub(taken);
            prop_assert!(granted <= free, "{granted} of {free} free: {reply:?}");
        }
        let ttl = Duration::from_millis(u64::try_from(reply[2]).expect("a time"));
        let until = message.sent + ttl.mul_f64(6.0 / 7.0);
        message.reply = Some((reply, until));
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<(), TestCaseError> {
        let message = self.wire.swap_remove(index);
        let node = &mut self.nodes[message.member];
        if node.expects == Some(message.number)
            && let Some((reply, _)) = message.reply
        {
            prop_assert!(node.membership.replied(&message.beat, &reply));
            node.expects = None;
            let share = node.membership.share(node.clock(self.now_ms));
            // Idle connections above the limit close at once.
            node.live = share.map_or(node.live, |share| node.live.min(share.limit));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_grant_never_exceeds_what_was_free(
        maxclients in 8..200_u64,
        maxima in proptest::collection::vec(1..60_usize, MEMBERS),
        rates in proptest::collection::vec(0.9..1.1, MEMBERS),
        offsets in proptest::collection::vec(0..1_000_000_u64, MEMBERS),
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let start = Instant::now();
        let node = |number: usize| {
            let epoch = start + Duration::from_secs(offsets[number]);
            Node::new(number, maxima[number], rates[number], epoch)
        };
        let mut world = World {
            script: load(),
            maxclients,
            now_ms: 1_000_000,
            foreign: 0,
            nodes: (0..MEMBERS).map(node).collect(),
            wire: Vec::new(),
            numbers: 0,
        };
        for step in steps {
            world.step(step)?;
        }
    }
}
