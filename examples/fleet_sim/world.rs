//! Virtual time: the events of a fleet and its server, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use redis_guard::Outcome;
use redis_guard::internal::sim::{Decision, Report, Signal, failure};
use tokio::time::Instant;

use crate::instance::{CONNECT_TIMEOUT, Instance, Policy};
use crate::recorder::{Recorder, Sample};
use crate::scenario::{Action, Scenario};
use crate::server::Server;

/// Microseconds of virtual time.
pub(crate) type Us = u64;
pub(crate) const SECOND: Us = 1_000_000;

/// How often the recorder looks.
pub(crate) const SAMPLE: Us = SECOND / 10;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An instance's callers of one tick.
    Tick(usize),
    /// A dial of an instance ends; its number, so that an old one is told from the current.
    Dialed(usize, Us),
    /// The gate lets an instance dial.
    Wake(usize),
    /// An instance looks at the server, or beats.
    Watch(usize),
    /// An instance starts, or leaves in order.
    Start(usize),
    Leave(usize),
    Act(usize),
    /// The leak takes more.
    Leak,
    Sample,
}

#[derive(Debug)]
pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    policy: Policy,
    start: Instant,
    now: Us,
    events: BinaryHeap<Reverse<(Us, u64, Event)>>,
    event_count: u64,
    rng: Rng,
    server: Server,
    instances: Vec<Instance>,
    leak_per_second: usize,
    recorder: Recorder,
}

/// Runs a scenario under one policy.
pub(crate) fn run(scenario: &Scenario, policy: Policy, seed: u64) -> Recorder {
    let mut world = World {
        scenario,
        policy,
        start: Instant::now(),
        now: 0,
        events: BinaryHeap::new(),
        event_count: 0,
        rng: Rng::with_seed(seed),
        server: Server::new(scenario.maxclients),
        instances: Vec::new(),
        leak_per_second: 0,
        recorder: Recorder::default(),
    };
    for (number, (at, _)) in scenario.actions.iter().enumerate() {
        world.schedule(*at * SECOND, Event::Act(number));
    }
    world.schedule(SAMPLE, Event::Sample);
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        if now > scenario.seconds * SECOND {
            break;
        }
        world.now = now;
        world.handle(event);
    }
    world.recorder
}

impl World<'_> {
    fn schedule(&mut self, at: Us, event: Event) {
        self.event_count += 1;
        self.events.push(Reverse((at, self.event_count, event)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn us(&self, instant: Instant) -> Us {
        // Rounded up: an event is never before it is due.
        let nanos = instant.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos.div_ceil(1_000)).expect("some minutes")
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(id) => self.tick(id),
            Event::Dialed(id, started) => self.dialed(id, started),
            Event::Wake(id) => {
                self.instances[id].wake_at = Us::MAX;
                self.dial(id);
            }
            Event::Watch(id) => {
                if self.instances[id].watch_at == self.now {
                    self.watch(id);
                }
            }
            Event::Start(id) => {
                self.instances[id].alive = true;
                self.tick(id);
            }
            Event::Leave(id) => {
                if self.policy == Policy::Fleet && self.instances[id].policy == Policy::Fleet {
                    self.server.eval(self.now, &self.instances[id].member.leave());
                }
                self.kill(id);
            }
            Event::Act(number) => self.act(&self.scenario.actions[number].1),
            Event::Leak => {
                let wanted = self.leak_per_second / 10;
                self.server.foreign += self.server.accept_many(wanted, wanted, SAMPLE, self.now);
                if self.leak_per_second > 0 {
                    self.schedule(self.now + SAMPLE, Event::Leak);
                }
            }
            Event::Sample => {
                let instances = &self.instances;
                self.recorder.sample(Sample::of(self.now, &self.server, instances));
                for instance in &mut self.instances {
                    instance.calls = Default::default();
                }
                self.schedule(self.now + SAMPLE, Event::Sample);
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Start { count, over, offered, guarded } => {
                for _ in 0..count {
                    let policy = if guarded { self.policy } else { Policy::Naive };
                    let at = self.now + self.rng.u64(0..=over * SECOND);
                    let born = self.start + Duration::from_micros(at);
                    let (id, max) = (self.instances.len(), self.scenario.max_connections);
                    let mut instance = Instance::new(id, policy, max, offered, born, &mut self.rng);
                    instance.alive = false;
                    self.instances.push(instance);
                    self.schedule(at, Event::Start(id));
                }
            }
            Action::Crash { first } => (0..first).for_each(|id| self.kill(id)),
            Action::Retire { first, over } => {
                for id in 0..first {
                    let at = self.now + self.rng.u64(0..=over * SECOND);
                    self.schedule(at, Event::Leave(id));
                }
            }
            Action::Ceiling(maxclients) => self.server.maxclients = maxclients,
            Action::Down => {
                self.server.stop();
                self.cut_off();
            }
            Action::Up { accepts } => {
                self.server.up = true;
                self.server.accepts = accepts;
            }
            Action::Occupy => {
                self.server.used = self.server.maxclients;
                self.server.foreign = self.server.maxclients;
                self.cut_off();
            }
            Action::Leak { per_second } => {
                self.leak_per_second = per_second;
                self.schedule(self.now, Event::Leak);
            }
            Action::LeakFixed => {
                self.leak_per_second = 0;
                self.server.used -= self.server.foreign;
                self.server.foreign = 0;
            }
        }
    }

    /// Every connection ends.
    fn cut_off(&mut self) {
        let now = self.instant();
        for id in 0..self.instances.len() {
            let instance = &mut self.instances[id];
            if instance.live > 0 {
                instance.live = 0;
                instance.price.lost(0);
                instance.member.lost(0);
                instance.gate.disconnected(now);
                instance.gate.lost_all(now);
                self.dial(id);
            }
        }
    }

    fn kill(&mut self, id: usize) {
        let instance = &mut self.instances[id];
        instance.alive = false;
        self.server.used -= std::mem::take(&mut instance.live);
    }

    fn tick(&mut self, id: usize) {
        if !self.instances[id].alive {
            return;
        }
        let (now, tick) = (self.instant(), self.scenario.tick);
        let dials = self.instances[id].serve(tick as f64 / SECOND as f64, now);
        if dials > 0 && self.server.up {
            let wanted = self.instances[id].wanted.saturating_sub(self.instances[id].live);
            let taken = self.server.accept_many(dials, wanted, tick, self.now);
            self.instances[id].live += taken;
            self.recorder.dials(self.now, dials);
        }
        self.watch_if_due(id);
        self.dial(id);
        self.schedule(self.now + tick, Event::Tick(id));
    }

    /// Dials if somebody wants a connection, and the limit and the gate allow it.
    fn dial(&mut self, id: usize) {
        let now = self.instant();
        let instance = &mut self.instances[id];
        if !instance.alive || instance.policy == Policy::Naive {
            return;
        }
        let wants = instance.wanted > instance.live && instance.dial.is_none();
        if !wants || instance.sockets() >= instance.limit(now) {
            return;
        }
        match instance.gate.ask(now) {
            Decision::Dial(approval) => {
                instance.dial = Some((approval, self.now));
                self.recorder.dials(self.now, 1);
                let end = if self.server.up {
                    let timeout = self.now + CONNECT_TIMEOUT.as_micros() as Us;
                    self.server.accept_time(self.now).min(timeout)
                } else {
                    self.now + 1_000
                };
                self.schedule(end, Event::Dialed(id, self.now));
            }
            Decision::WaitUntil(due) => {
                let due = self.us(due);
                if self.instances[id].wake_at > due {
                    self.instances[id].wake_at = due;
                    self.schedule(due, Event::Wake(id));
                }
            }
            Decision::Held => {}
        }
    }

    fn dialed(&mut self, id: usize, started: Us) {
        let now = self.instant();
        let took = Duration::from_micros(self.now - started);
        let instance = &mut self.instances[id];
        let Some((approval, _)) = instance.dial.take() else {
            return;
        };
        let outcome = if !self.server.up {
            Outcome::Refused
        } else if took >= CONNECT_TIMEOUT {
            Outcome::Timeout
        } else if !instance.alive {
            return;
        } else if self.server.accept(self.now) {
            Outcome::Connected
        } else {
            Outcome::MaxClients
        };
        let live = instance.live;
        if outcome == Outcome::Connected {
            let room = instance.frozen.is_none_or(|frozen| live + 1 > frozen);
            instance.frozen = instance.frozen.filter(|_| !room);
            instance.live += 1;
            instance.gate.connected(approval, room, took, now);
            if instance.live == 1 && instance.policy != Policy::Gate {
                self.watch(id);
            }
            self.watch_if_due(id);
        } else {
            if outcome == Outcome::MaxClients {
                self.recorder.guarded_rejected += 1;
                instance.frozen = Some(live);
                instance.price.lost(live);
                instance.member.lost(live);
            }
            instance.gate.failed(approval, live == 0, failure(outcome), now);
        }
        self.dial(id);
    }

    /// Looks if it is due, or sees to it that it does when it will be.
    fn watch_if_due(&mut self, id: usize) {
        if self.instances[id].live == 0 {
            return;
        }
        match self.next_watch(id) {
            Some(due) if due > self.now => self.schedule_watch(id, due),
            Some(_) => self.watch(id),
            None => {}
        }
    }

    /// When it looks next; `None`: never.
    fn next_watch(&self, id: usize) -> Option<Us> {
        let instance = &self.instances[id];
        let hungry = instance.is_hungry(self.instant());
        let due = match instance.policy {
            Policy::Naive | Policy::Gate => return None,
            Policy::PriceLaw => instance.price.due(instance.live, hungry),
            Policy::Fleet => {
                let beat = instance.member.due(hungry, instance.live);
                beat.map(|beat| instance.member.glance_due().map_or(beat, |due| due.min(beat)))
            }
        };
        Some(due.map_or(self.now, |due| self.us(due)))
    }

    /// A look at the registry, where that is due before a beat; false if it is not, or there are news.
    fn glance(&mut self, id: usize) -> bool {
        let now = self.instant();
        let instance = &mut self.instances[id];
        let hungry = instance.is_hungry(now);
        let beats = |instance: &Instance| {
            instance.member.due(hungry, instance.live).is_none_or(|due| due <= now)
        };
        if instance.policy != Policy::Fleet || beats(instance) {
            return false;
        }
        if instance.member.glance_due().is_some_and(|due| due <= now) {
            instance.member.glance(now);
            instance.member.glanced(self.server.glance(self.now));
        }
        !beats(instance)
    }

    fn schedule_watch(&mut self, id: usize, due: Us) {
        if self.instances[id].watch_at != due {
            self.instances[id].watch_at = due;
            self.schedule(due, Event::Watch(id));
        }
    }

    /// One look at the server, over a connection that is there.
    fn watch(&mut self, id: usize) {
        let now = self.instant();
        let (used, maxclients) = (self.server.used as u64, self.server.maxclients as u64);
        let instance = &mut self.instances[id];
        instance.watch_at = Us::MAX;
        if !instance.alive || instance.live == 0 {
            return;
        }
        if self.glance(id) {
            if let Some(due) = self.next_watch(id) {
                self.schedule_watch(id, due);
            }
            return;
        }
        let instance = &mut self.instances[id];
        let hungry = instance.is_hungry(now);
        let members = if instance.policy == Policy::PriceLaw {
            let before = instance.rejected_seen.replace(self.server.rejected);
            let rejected = self.server.rejected - before.unwrap_or(self.server.rejected);
            let (live, demand) = (instance.sockets(), instance.demand.generous());
            let seen = Signal { used, maxclients, rejected, live, hungry, demand };
            instance.price.step(now, &seen);
            instance.price.peers()
        } else {
            let report = Report {
                live: instance.live,
                dialing: usize::from(instance.dial.is_some()),
                base: instance.demand.base(),
                peak: instance.demand.peak(),
                hungry,
            };
            let beat = instance.member.beat(now, &report);
            let reply = self.server.eval(self.now, &beat.args);
            assert!(instance.member.replied(&beat, &reply), "{reply:?}");
            self.recorder.beat();
            instance.member.share(now).map_or(1, |share| share.members)
        };
        instance.members = members;
        instance.gate.fleet_of(members);
        let over = instance.live.saturating_sub(instance.limit(now));
        instance.live -= over;
        self.server.used -= over;
        // Where the price law would look again at once, the next tick or connection is soon enough.
        if let Some(due) = self.next_watch(id).filter(|due| *due > self.now) {
            self.schedule_watch(id, due);
        }
        self.dial(id);
    }
}
