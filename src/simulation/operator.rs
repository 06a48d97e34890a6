//! What goes wrong around the pools, and what operators do.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::callers::Pools;
use super::commands::publish;
use super::server::{PLENTY, PORT, Weather};
use super::shape::Kind;
use super::world::World;
use crate::dial::memory::HangUp;

pub(super) struct Operator {
    pub(super) world: Arc<World>,
    pub(super) pools: Arc<Pools>,
    pub(super) rng: Rng,
}

impl Operator {
    /// Does one thing after the other until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let pause = if self.rng.bool() { self.rng.u64(..50) } else { self.rng.u64(..1_500) };
            sleep(Duration::from_millis(pause)).await;
            self.act().await;
        }
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(..most))
    }

    fn any_host(&mut self) -> usize {
        let hosts = self.world.lock().hosts.len();
        self.rng.usize(..hosts)
    }

    // Long because it is a table: one arm for each thing that can be done.
    async fn act(&mut self) {
        let host = self.any_host();
        match self.rng.u32(..24) {
            0..4 => {
                let weather = match self.rng.bool() {
                    true => Weather::bad(&mut self.rng),
                    false => Weather::default(),
                };
                self.world.lock().weather = weather;
                self.world.event("weather", format_args!("{weather:?}"));
            }
            4..7 => {
                let ceiling = match self.rng.u32(..3) {
                    0 => PLENTY,
                    _ => self.rng.usize(1..24),
                };
                let foreign = self.rng.usize(..8);
                {
                    let mut state = self.world.lock();
                    state.hosts[host].maxclients = ceiling;
                    state.hosts[host].foreign = foreign;
                }
                self.world.event("ceiling", format_args!("h{host} {ceiling}, {foreign} others"));
            }
            7..9 => {
                let (part, how) = (self.rng.u32(1..4), self.how());
                let killed = {
                    let mut state = self.world.lock();
                    let rng = &mut self.rng;
                    state.hosts[host].hang_up(how, |_| rng.u32(..3) < part)
                };
                self.world.event("killed", format_args!("h{host} {killed} by {how:?}"));
            }
            9..11 => {
                let time = self.millis(1_500);
                self.world.lock().hosts[host].frozen_until = Instant::now() + time;
                self.world.event("frozen", format_args!("h{host} {time:?}"));
            }
            11 => self.restart(host).await,
            12 => {
                self.world.lock().hosts[host].is_reachable = false;
                self.world.event("unreachable", format_args!("h{host}"));
                self.mute(host);
                let time = self.millis(1_000);
                sleep(time).await;
                self.world.lock().hosts[host].is_reachable = true;
                self.world.step(format_args!("h{host} is reachable"));
            }
            13 => self.mute(host),
            14 | 15 => self.replace_pool().await,
            16 => {
                let breaker = self.pools.pick(&mut self.rng).breaker();
                let open = self.rng.bool();
                if open {
                    breaker.force_open()
                } else {
                    breaker.force_closed()
                }
                self.world.event("forced", format_args!("open: {open}"));
                let time = self.millis(300);
                sleep(time).await;
                breaker.auto();
            }
            17 => {
                let pool = self.pools.pick(&mut self.rng);
                let password = self.rng.u32(..1_000).to_string();
                pool.set_credentials(None, &password);
                self.world.event("credentials", format_args!("{password}"));
            }
            _ => self.change_shape().await,
        }
    }

    fn how(&mut self) -> HangUp {
        if self.rng.bool() { HangUp::End } else { HangUp::Reset }
    }

    /// Some of its connections are silent from now on.
    fn mute(&mut self, host: usize) {
        let muted = {
            let mut state = self.world.lock();
            let connections = state.hosts[host].connections.values_mut();
            let muted = connections.filter(|_| self.rng.bool()).map(|it| it.is_mute = true);
            muted.count()
        };
        self.world.event("muted", format_args!("h{host} {muted}"));
    }

    async fn restart(&mut self, host: usize) {
        let how = self.how();
        {
            let mut state = self.world.lock();
            state.hosts[host].is_up = false;
            state.hosts[host].hang_up(how, |_| true);
        }
        self.world.event("down", format_args!("h{host} {how:?}"));
        let time = self.millis(800);
        sleep(time).await;
        let loading = self.millis(400);
        {
            let mut state = self.world.lock();
            let host = &mut state.hosts[host];
            (host.is_up, host.rejected, host.received, host.run) = (true, 0, 0, host.run + 1);
            if !host.is_sentinel {
                host.loading_until = Instant::now() + loading;
            }
        }
        self.world.step(format_args!("h{host} is up"));
    }

    /// Closes a pool, and opens another one in its place.
    async fn replace_pool(&mut self) {
        let pool = self.pools.plan.pool(&self.world, self.rng.u64(..));
        self.world.watch(pool.books());
        let old = {
            let mut open = self.pools.open.lock().expect("nobody panics with it");
            let at = self.rng.usize(..open.len());
            std::mem::replace(&mut open[at], pool)
        };
        let waits = self.rng.bool();
        self.world.event("replaced", format_args!("waits: {waits}"));
        if waits {
            old.close().await;
        }
    }

    async fn change_shape(&mut self) {
        let kind = self.pools.plan.kind;
        match kind {
            Kind::Single => {
                self.world.lock().hosts[0].is_demoted = true;
                self.world.event("demoted", format_args!("h0"));
                let time = self.millis(1_000);
                sleep(time).await;
                self.world.lock().hosts[0].is_demoted = false;
                self.world.step(format_args!("h0 is promoted"));
            }
            Kind::Cluster if self.rng.u32(..4) > 0 => {
                let what = self.world.lock().shape.move_slots(&mut self.rng);
                self.world.event("moving", format_args!("{what}"));
            }
            _ => {
                let moved = self.world.lock().shape.fail_over(&mut self.rng);
                let Some((old, new)) = moved else { return };
                self.world.event("failover", format_args!("h{old} to h{new}"));
                if kind == Kind::Sentinel {
                    let time = self.millis(300);
                    sleep(time).await;
                    self.announce(old, new);
                }
                if self.rng.bool() {
                    self.restart(old).await;
                }
            }
        }
    }

    /// Sentinels hear of it, and say so.
    fn announce(&mut self, old: usize, new: usize) {
        let (old, named) = (self.world.ip(old), self.world.ip(new));
        let message = format!("m {old} {PORT} {named} {PORT}");
        let mut state = self.world.lock();
        state.shape.named = new;
        for host in state.shape.data()..state.shape.hosts() {
            publish(&mut state, host, "+switch-master", &message);
        }
    }

    /// Everything works again.
    pub(super) fn heal(world: &World, pools: &Pools) {
        let open = pools.open.lock().expect("nobody panics with it").clone();
        open.iter().for_each(|pool| pool.breaker().auto());
        let mut state = world.lock();
        state.weather = Weather::default();
        let now = Instant::now();
        for host in &mut state.hosts {
            (host.is_up, host.is_reachable, host.is_demoted) = (true, true, false);
            (host.frozen_until, host.loading_until) = (now, now);
            (host.maxclients, host.foreign) = (PLENTY, 0);
        }
        let primary = state.shape.primaries().next();
        state.shape.named = primary.unwrap_or_default();
    }
}
