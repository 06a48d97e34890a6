//! What a run looked like, ten times a second.

use crate::instance::{Instance, Policy};
use crate::server::Server;
use crate::world::{SAMPLE, SECOND, Us};

/// The fleet and the server at one moment; the calls are those since the sample before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) used: usize,
    pub(crate) maxclients: usize,
    pub(crate) rejected: u64,
    /// What refusing has cost the server's core so far, in seconds.
    pub(crate) refusing: f64,
    /// The same of heartbeats.
    pub(crate) beating: f64,
    pub(crate) instances: usize,
    /// How many members an instance takes the fleet to have, on average.
    pub(crate) members: f64,
    /// Connections of the guarded instances, and of all.
    pub(crate) guarded: usize,
    pub(crate) ours: usize,
    /// Jain's index of the guarded instances' shares of what they need.
    pub(crate) jain: f64,
    pub(crate) arrived: f64,
    pub(crate) served: f64,
    /// The same of those that need most, and of the others.
    pub(crate) hot: [f64; 2],
    pub(crate) cold: [f64; 2],
}

impl Sample {
    pub(crate) fn of(now: Us, server: &Server, instances: &[Instance]) -> Self {
        let mut sample = Self {
            seconds: now as f64 / SECOND as f64,
            used: server.used,
            maxclients: server.maxclients,
            rejected: server.rejected,
            refusing: server.refusing as f64 / SECOND as f64,
            beating: server.beating as f64 / SECOND as f64,
            ..Self::default()
        };
        let hottest = instances.iter().map(|instance| instance.offered).fold(0.0, f64::max);
        let all_naive = instances.iter().all(|instance| instance.policy == Policy::Naive);
        let (mut sum, mut squares, mut judged) = (0.0, 0.0, 0.0);
        for instance in instances {
            sample.arrived += instance.calls.arrived;
            sample.served += instance.calls.served;
            let class =
                if instance.offered == hottest { &mut sample.hot } else { &mut sample.cold };
            class[0] += instance.calls.arrived;
            class[1] += instance.calls.served;
            if !instance.alive {
                continue;
            }
            sample.instances += 1;
            sample.members += instance.members as f64;
            sample.ours += instance.live;
            if all_naive || instance.policy != Policy::Naive {
                sample.guarded += instance.live;
                let need = instance.offered.min(instance.max_connections as f64);
                let share = (instance.live as f64 / need).min(1.0);
                (sum, squares, judged) = (sum + share, squares + share * share, judged + 1.0);
            }
        }
        sample.members /= sample.instances.max(1) as f64;
        sample.jain = if squares > 0.0 { sum * sum / (judged * squares) } else { 0.0 };
        sample
    }
}

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) samples: Vec<Sample>,
    /// Dials by tenth of a second.
    dials: Vec<usize>,
    pub(crate) beats: u64,
    /// Rejections that a guarded instance ran into.
    pub(crate) guarded_rejected: u64,
}

impl Recorder {
    pub(crate) fn sample(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    pub(crate) fn dials(&mut self, now: Us, dials: usize) {
        let bucket = usize::try_from(now / SAMPLE).expect("some minutes");
        if self.dials.len() <= bucket {
            self.dials.resize(bucket + 1, 0);
        }
        self.dials[bucket] += dials;
    }

    pub(crate) fn beat(&mut self) {
        self.beats += 1;
    }

    pub(crate) fn last(&self) -> &Sample {
        self.samples.last().expect("a run is longer than a tenth of a second")
    }

    /// The share of the server's core that refusing takes, and the refused dials.
    pub(crate) fn refusing(&self, from: f64, to: f64) -> (f64, u64) {
        let (before, after) = (self.at(from), self.at(to));
        ((after.refusing - before.refusing) / (to - from), after.rejected - before.rejected)
    }

    /// The share of the server's core that heartbeats take.
    pub(crate) fn beating(&self, from: f64, to: f64) -> f64 {
        (self.at(to).beating - self.at(from).beating) / (to - from)
    }

    fn at(&self, second: f64) -> Sample {
        let until = self.samples.iter().take_while(|sample| sample.seconds <= second);
        until.last().cloned().unwrap_or_default()
    }

    /// The samples from second `from` to second `to`.
    pub(crate) fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.seconds > from && sample.seconds <= to)
    }

    /// The first moment after `from` from which `holds` is true to the end, or to `to`.
    pub(crate) fn settled(
        &self,
        from: f64,
        to: f64,
        holds: impl Fn(&Sample) -> bool,
    ) -> Option<f64> {
        let mut settled = None;
        for sample in self.between(from, to) {
            settled = if holds(sample) { settled.or(Some(sample.seconds - from)) } else { None };
        }
        settled
    }

    /// Served of arrived.
    pub(crate) fn success(&self, from: f64, to: f64) -> f64 {
        let (arrived, served) = self
            .between(from, to)
            .fold((0.0, 0.0), |(a, s), sample| (a + sample.arrived, s + sample.served));
        served / arrived
    }

    /// Dials from second `from` on: all, and the most in a tenth of a second.
    pub(crate) fn dials_after(&self, from: f64) -> (usize, usize) {
        let dials = self.dials.iter().skip((from * 10.0) as usize);
        dials.fold((0, 0), |(sum, most), dials| (sum + dials, most.max(*dials)))
    }
}
