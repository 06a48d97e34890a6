//! What happens to the fleet, and what is to be learned from it.

use serde_json::{Value, json};

use crate::instance::Policy;
use crate::recorder::{Recorder, Sample};
use crate::world::{SECOND, Us};

/// Jain's index from which a fleet is called fair.
const FAIR: f64 = 0.97;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// Instances start within some seconds.
    Start {
        count: usize,
        over: u64,
        offered: f64,
        guarded: bool,
    },
    /// The first ones die; the system closes their sockets, and nobody tells the registry.
    Crash {
        first: usize,
    },
    /// The first ones shut down in order, within some seconds.
    Retire {
        first: usize,
        over: u64,
    },
    Ceiling(usize),
    /// The server stops, and is back with empty memory.
    Down,
    Up {
        accepts: Option<u64>,
    },
    /// The server closes all our connections, and others take every slot.
    Occupy,
    /// A client that is not ours takes slots and keeps them.
    Leak {
        per_second: usize,
    },
    LeakFixed,
}

type Extra = fn(&Scenario, &Recorder, Policy) -> Vec<(&'static str, Value)>;

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) maxclients: usize,
    pub(crate) max_connections: usize,
    pub(crate) seconds: u64,
    /// How often an instance's callers are looked at.
    pub(crate) tick: Us,
    /// The second from which on the results count.
    pub(crate) event: u64,
    pub(crate) policies: &'static [Policy],
    pub(crate) actions: Vec<(u64, Action)>,
    extra: Extra,
}

const TENTH: Us = SECOND / 10;

fn start(count: usize, over: u64, offered: f64) -> Action {
    Action::Start { count, over, offered, guarded: true }
}

/// The default set; `quick` leaves out those with thousands of instances.
pub(crate) fn all(quick: bool) -> Vec<Scenario> {
    let mut all = vec![
        autoscaling(),
        restart(),
        leak(),
        ceiling(),
        uneven(),
        rolling(),
        crash(),
        half_unguarded(),
        lone(),
        calm("calm-240", 10_000, 240),
        cold("cold-200", 200),
    ];
    if !quick {
        let calm = calm("calm-10000", 400_000, 10_000);
        all.extend([no_slot(), ten_thousand(), calm, cold("cold-10000", 10_000)]);
    }
    all
}

/// 240 servers on the way to 50 connections each, where 200 would fill the server.
fn autoscaling() -> Scenario {
    Scenario {
        name: "autoscaling",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 120,
        tick: TENTH,
        event: 40,
        policies: &Policy::ALL,
        actions: vec![
            (0, start(30, 5, 60.0)),
            (20, start(30, 1, 60.0)),
            (30, start(60, 1, 60.0)),
            (40, start(120, 1, 60.0)),
        ],
        extra: |_, _, _| Vec::new(),
    }
}

fn restart() -> Scenario {
    Scenario {
        name: "restart",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 60,
        tick: TENTH,
        event: 25,
        policies: &Policy::ALL,
        actions: vec![
            (0, start(200, 5, 20.0)),
            (20, Action::Down),
            (25, Action::Up { accepts: Some(1_000) }),
        ],
        extra: |scenario, run, _| {
            let up = scenario.event as f64;
            let served =
                (1..35_u32).map(f64::from).find(|s| run.success(up + s - 1.0, up + s) >= 0.99);
            vec![
                ("success_second_10", json!(run.success(up + 9.0, up + 10.0))),
                ("seconds_to_99_success", json!(served)),
                ("dials_after_restart", json!(run.dials_after(up).0)),
            ]
        },
    }
}

fn leak() -> Scenario {
    Scenario {
        name: "leak",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 260,
        tick: TENTH,
        event: 200,
        policies: &Policy::ALL,
        actions: vec![
            (0, start(100, 5, 60.0)),
            (20, Action::Leak { per_second: 100 }),
            (200, Action::LeakFixed),
        ],
        extra: |scenario, run, _| {
            let fixed = scenario.event as f64;
            let held = |from, to| run.between(from, to).map(|sample| sample.guarded);
            let before = held(19.0, 20.0).max().unwrap_or(0) as f64;
            let least = held(20.0, fixed).min().unwrap_or(0) as f64;
            let whole = |sample: &Sample| sample.guarded as f64 >= 0.95 * before;
            vec![
                ("guarded_rejected", json!(run.guarded_rejected)),
                ("kept_share_min", json!(least / before)),
                ("success_under_leak", json!(run.success(fixed - 60.0, fixed))),
                ("seconds_to_whole", json!(run.settled(fixed, fixed + 60.0, whole))),
            ]
        },
    }
}

fn ceiling() -> Scenario {
    Scenario {
        name: "ceiling",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 100,
        tick: TENTH,
        event: 40,
        policies: &Policy::ALL,
        actions: vec![(0, start(240, 5, 60.0)), (40, Action::Ceiling(6_000))],
        extra: |scenario, run, policy| {
            let lowered = scenario.event as f64;
            let interval = if policy == Policy::Fleet { 2.0 } else { 3.0 };
            let below = run.settled(lowered, 100.0, |sample| sample.used <= sample.maxclients);
            vec![("below_ceiling_after_intervals", json!(below.map(|seconds| seconds / interval)))]
        },
    }
}

/// One in ten needs ten times as much: an equal share would be 13 connections each.
fn uneven() -> Scenario {
    Scenario {
        name: "uneven",
        maxclients: 10_000,
        max_connections: 100,
        seconds: 80,
        tick: TENTH,
        event: 20,
        policies: &Policy::ALL,
        actions: vec![(0, start(74, 5, 50.0)), (0, start(666, 5, 5.0))],
        extra: |scenario, run, _| {
            let served = |class: fn(&Sample) -> [f64; 2]| {
                let samples = run.between(scenario.event as f64, 80.0).map(class);
                let sum = samples.fold([0.0; 2], |sum, [a, s]| [sum[0] + a, sum[1] + s]);
                json!(sum[1] / sum[0])
            };
            vec![
                ("hot_success", served(|sample| sample.hot)),
                ("cold_success", served(|sample| sample.cold)),
            ]
        },
    }
}

/// Every old instance leaves only when all the new ones are up.
fn rolling() -> Scenario {
    Scenario {
        name: "rolling",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 120,
        tick: TENTH,
        event: 40,
        policies: &Policy::ALL,
        actions: vec![
            (0, start(240, 5, 60.0)),
            (40, start(240, 20, 60.0)),
            (70, Action::Retire { first: 240, over: 20 }),
        ],
        extra: |_, run, _| {
            let fair = run.settled(60.0, 70.0, |sample| sample.jain >= FAIR);
            vec![("seconds_to_fair_in_overlap", json!(fair))]
        },
    }
}

fn crash() -> Scenario {
    Scenario {
        name: "crash",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 100,
        tick: TENTH,
        event: 40,
        policies: &Policy::ALL,
        actions: vec![
            (0, start(240, 5, 60.0)),
            (40, Action::Crash { first: 120 }),
            (41, start(120, 1, 60.0)),
        ],
        extra: |scenario, run, _| {
            let crashed = scenario.event as f64;
            let full = |sample: &Sample| sample.used as f64 >= 0.9 * sample.maxclients as f64;
            vec![("seconds_to_utilised", json!(run.settled(crashed, 100.0, full)))]
        },
    }
}

fn half_unguarded() -> Scenario {
    Scenario {
        name: "half-unguarded",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 120,
        tick: TENTH,
        event: 20,
        policies: &[Policy::Gate, Policy::PriceLaw, Policy::Fleet],
        actions: vec![
            (0, start(120, 5, 60.0)),
            (20, Action::Start { count: 120, over: 1, offered: 60.0, guarded: false }),
        ],
        extra: |_, run, _| {
            let share = |sample: &Sample| sample.guarded as f64 / sample.ours.max(1) as f64;
            let least = run.between(30.0, 120.0).map(share).fold(1.0, f64::min);
            vec![
                ("guarded_rejected", json!(run.guarded_rejected)),
                ("guarded_share_min", json!(least)),
                ("guarded_share_end", json!(share(run.last()))),
            ]
        },
    }
}

/// One instance, and nobody else.
fn lone() -> Scenario {
    Scenario {
        name: "lone",
        maxclients: 10_000,
        max_connections: 50,
        seconds: 10,
        tick: SECOND / 100,
        event: 0,
        policies: &Policy::ALL,
        actions: vec![(0, start(1, 0, 60.0))],
        extra: |_, run, _| {
            let full = |sample: &Sample| sample.guarded == 50;
            vec![("seconds_to_max", json!(run.settled(0.0, 10.0, full)))]
        },
    }
}

/// All are cut off and find every slot taken by others, for ten minutes.
fn no_slot() -> Scenario {
    Scenario {
        name: "no-slot",
        maxclients: 10_000,
        max_connections: 10,
        seconds: 620,
        tick: SECOND,
        event: 20,
        policies: &[Policy::Gate, Policy::PriceLaw, Policy::Fleet],
        actions: vec![(0, start(1_000, 5, 5.0)), (20, Action::Occupy)],
        extra: |scenario, run, policy| {
            let (dials, most) = run.dials_after(scenario.event as f64);
            let members = run.between(19.0, 20.0).map(|sample| sample.members).fold(0.0, f64::max);
            let cap = match policy {
                Policy::Gate => 5.0,
                _ => (0.0053 * members).clamp(1.0, 30.0),
            };
            vec![
                ("dials_per_instance", json!(dials as f64 / 1_000.0)),
                ("dials_expected", json!(6.0 + 4.0 * 600.0 / (3.0 * cap))),
                ("largest_100ms_share", json!(most as f64 / 1_000.0)),
            ]
        },
    }
}

fn ten_thousand() -> Scenario {
    Scenario {
        name: "ten-thousand",
        maxclients: 65_000,
        max_connections: 50,
        seconds: 150,
        tick: SECOND,
        event: 30,
        policies: &Policy::ALL,
        actions: vec![(0, start(2_000, 10, 8.0)), (30, start(8_000, 30, 8.0))],
        extra: |_, _, _| Vec::new(),
    }
}

/// Everybody has what it needs, and the server has room.
fn calm(name: &'static str, maxclients: usize, instances: usize) -> Scenario {
    Scenario {
        name,
        maxclients,
        max_connections: 50,
        seconds: 240,
        tick: TENTH,
        event: 120,
        policies: &[Policy::Fleet],
        actions: vec![(0, start(instances, 5, 10.0))],
        extra: |_, _, _| Vec::new(),
    }
}

/// Processes that start while others have every slot, and that nobody has told how many they are. The slots are
/// free after two minutes.
fn cold(name: &'static str, instances: usize) -> Scenario {
    Scenario {
        name,
        maxclients: 2 * instances,
        max_connections: 1,
        seconds: 130,
        tick: TENTH,
        event: 120,
        policies: &[Policy::Gate],
        actions: vec![(0, Action::Occupy), (0, start(instances, 1, 1.0)), (120, Action::LeakFixed)],
        extra: |scenario, run, _| {
            let count = run.last().instances as f64;
            let core = |from, to| json!(100.0 * run.refusing(from, to).0);
            let served = |sample: &Sample| sample.guarded as f64 >= 0.95 * count;
            let (freed, end) = (scenario.event as f64, scenario.seconds as f64);
            vec![
                ("dials_each_in_8s", json!(run.refusing(0.0, 9.0).1 as f64 / count)),
                ("core_percent_10s", core(0.0, 10.0)),
                ("core_percent_60s", core(0.0, 60.0)),
                ("core_percent_120s", core(0.0, 120.0)),
                ("core_percent_at_120s", core(110.0, 120.0)),
                ("seconds_to_95_percent", json!(run.settled(freed, end, served))),
            ]
        },
    }
}

impl Scenario {
    /// The run as a row of the report.
    pub(crate) fn row(&self, policy: Policy, run: &Recorder) -> Value {
        let (from, to) = (self.event as f64, self.seconds as f64);
        let end = run.last();
        let mut row = json!({
            "scenario": self.name,
            "policy": policy.name(),
            "instances": end.instances,
            "maxclients": self.maxclients,
            "rejected": end.rejected,
            "success_ratio": run.success(from, to),
            "jain_end": end.jain,
            "seconds_to_fair": run.settled(from, to, |sample| sample.jain >= FAIR),
            "utilisation_end": end.used as f64 / end.maxclients as f64,
            "peak_used": run.samples.iter().map(|sample| sample.used).max(),
        });
        if policy == Policy::Fleet {
            row["beats"] = json!(run.beats);
            row["beats_core_percent"] = json!(100.0 * run.beating(from, to));
        }
        for (name, value) in (self.extra)(self, run, policy) {
            row[name] = value;
        }
        row
    }
}
