use proptest::prelude::*;

use super::*;

fn sentence(plan: Plan) -> String {
    plan.work_out().to_string()
}

fn levers(plan: Plan) -> Vec<String> {
    plan.work_out().levers.iter().map(Lever::to_string).collect()
}

#[test]
fn a_plan_that_does_not_fit_says_so() {
    let plan = Plan::new(10_000).instances(240).pool_size(50);
    assert_eq!(sentence(plan), "240 × 50 = 12,000 does not fit 10,000 − 200");
    let outcome = plan.work_out();
    assert_eq!((outcome.needed, outcome.available), (12_000, 9_800));
    assert_eq!((outcome.headroom, outcome.shortfall), (0, 2_200));
    assert_eq!((outcome.largest_pool_size, outcome.largest_instances), (40, 196));
    assert_eq!(
        (outcome.fits(), outcome.is_tight(), outcome.saturation()),
        (false, false, Some(1.2))
    );
}

#[test]
fn the_floors_of_all_processes_have_to_fit_beside_what_else_there_is() {
    let plan = Plan::new(10_000).instances(240).pool_size(50).min_limit(40);
    let outcome = plan.work_out();
    assert_eq!((outcome.min_limit, outcome.floor, outcome.floor_fits()), (40, 9_600, true));
    assert!(!plan.others(201).work_out().floor_fits());
    // Nobody keeps more than it may have.
    assert_eq!(plan.pool_size(3).work_out().floor, 720);
}

#[test]
fn a_plan_that_fits_says_what_is_left() {
    let plan = Plan::new(10_000).instances(150).pool_size(50);
    assert_eq!(sentence(plan), "150 × 50 = 7,500 fits 10,000 − 200 (2,300 left)");
    let outcome = plan.work_out();
    assert_eq!((outcome.headroom, outcome.shortfall), (2_300, 0));
    assert_eq!((outcome.largest_pool_size, outcome.largest_instances), (65, 196));
    assert_eq!(
        (outcome.fits(), outcome.is_tight(), outcome.saturation()),
        (true, false, Some(0.75))
    );
}

#[test]
fn the_sentence_names_every_part_that_counts() {
    let plan = Plan::new(100_000).instances(240).surge(Surge::Percent(25)).workers(4).pool_size(50);
    assert_eq!(sentence(plan), "(240 + 60) × 4 × 50 = 60,000 fits 100,000 − 2,000 (38,000 left)");
    assert_eq!(
        sentence(plan.replicas(2).cluster_nodes(6).others(25)),
        "(240 + 60) × 4 × 50 + 2 replicas + 10 cluster links + 25 others = 60,037 fits \
         100,000 − 2,000 (37,963 left)"
    );
    assert_eq!(
        sentence(Plan::new(20).replicas(1).reserve(0)),
        "1 × 16 + 1 replica = 17 fits 20 (3 left)"
    );
    assert_eq!(sentence(Plan::new(20).others(1)), "1 × 16 + 1 other = 17 does not fit 20 − 5");
    assert_eq!(sentence(Plan::new(0)), "1 × 16 = 16 does not fit 0");
    assert_eq!(sentence(Plan::new(40).workers(0)), "1 × 0 × 16 = 0 fits 40 − 10 (30 left)");
}

#[test]
fn the_default_reserve_is_the_fleets() {
    let reserve = |maxclients| Plan::new(maxclients).work_out().reserve;
    assert_eq!(
        [0, 1, 30, 64, 65, 800, 801, 10_000, 65_000].map(reserve),
        [0, 1, 8, 16, 16, 16, 17, 200, 1_300]
    );
    assert_eq!(Plan::new(10).reserve(99).work_out().available, 0);
}

#[test]
fn a_server_that_takes_nobody_is_neither_full_nor_empty() {
    assert_eq!(Plan::new(0).work_out().saturation(), None);
}

#[test]
fn a_surge_in_percent_is_rounded_up() {
    let of = |percent, instances| Surge::Percent(percent).of(instances);
    assert_eq!([of(25, 240), of(25, 150), of(25, 1), of(25, 0)], [60, 38, 1, 0]);
    assert_eq!([of(0, 7), of(1, 1), of(100, 7), of(150, 3)], [0, 1, 7, 5]);
    assert_eq!(of(100, u64::MAX), u64::MAX);
    assert_eq!(of(u32::MAX, u64::MAX), u64::MAX);
}

#[test]
fn a_cluster_has_two_links_to_each_other_node() {
    let links = |nodes| Plan::new(100).pool_size(0).cluster_nodes(nodes).work_out().needed;
    assert_eq!([0, 1, 2, 6].map(links), [0, 0, 2, 10]);
    assert_eq!(links(u64::MAX), u64::MAX);
}

#[test]
fn a_server_tells_its_part() {
    let info =
        "connected_clients:31\nconnected_slaves:2\ncluster_connections:10\nmaxclients:10000\n";
    let plan = Plan::for_server(&ServerSnapshot::parse(info)).expect("it says its maxclients");
    assert_eq!(
        sentence(plan.pool_size(50)),
        "1 × 50 + 2 replicas + 10 cluster links = 62 fits 10,000 − 200 (9,738 left)"
    );
    let keydb = format!("{info}maxclients-reserved:50\n");
    let keydb = Plan::for_server(&ServerSnapshot::parse(keydb)).expect("it says its maxclients");
    assert_eq!(keydb.work_out().reserve, plan.work_out().reserve + 50);
    assert_eq!(keydb.reserve(7).work_out().available, 10_000 - 57);

    let silent = ServerSnapshot::parse("connected_clients:31\nmaxclients:-1\n");
    assert_eq!(Plan::for_server(&silent), None);
}

#[test]
fn a_cluster_is_as_large_as_its_tightest_node() {
    let node = |maxclients: u64, replicas: u64| {
        let info = format!(
            "connected_slaves:{replicas}\ncluster_connections:10\nmaxclients:{maxclients}\n"
        );
        ServerSnapshot::parse(info)
    };
    let nodes = [node(1_000, 0), node(400, 1), node(400, 3), node(2_000, 0)];
    let plan = Plan::for_cluster(&nodes).expect("they say their maxclients");
    assert_eq!(
        sentence(plan.instances(10).pool_size(30)),
        "10 × 30 + 3 replicas + 10 cluster links = 313 fits 400 − 16 (71 left)"
    );
    // Two in which not even the links fit.
    let plan = Plan::for_cluster(&[node(9, 0), node(5, 0)]).expect("they do");
    assert_eq!(plan.work_out().maxclients, 5);
    assert_eq!(Plan::for_cluster(&[ServerSnapshot::default()]), None);
}

#[test]
fn the_levers_of_a_fleet_that_does_not_fit() {
    let plan = Plan::new(10_000).instances(240).pool_size(50);
    let expected = [
        "max_connections 50 → 40 frees 2,400 slots",
        "shared handles, 1 connection in each process: needs 240, frees 11,760 slots",
        "fleet(..): shares by need, 40 each when all want more; their sum never passes what is free",
        "instances 240 → 196 frees 2,200 slots",
        "maxclients 10,000 → 12,245 adds 2,245 slots; needs ulimit -n 12,277, and 6 to 86 MB of memory",
    ];
    assert_eq!(levers(plan), expected);
}

#[test]
fn a_fleet_keeps_a_slot_for_each_member() {
    let plan = Plan::new(10_000).instances(245).pool_size(50);
    let lever = plan.work_out().levers.into_iter().find_map(|lever| match lever.change {
        Change::Fleet { share } => Some((share, lever.needed)),
        _ => None,
    });
    assert_eq!(lever, Some((39, 9_755)), "245 × 40 would fit 10,000 − 200");
}

#[test]
fn workers_and_surge_are_levers_where_there_are_some() {
    let plan = Plan::new(10_000).instances(60).workers(4).surge(Surge::Percent(25)).pool_size(38);
    assert_eq!(
        levers(plan)[3..5],
        ["workers 4 → 3 frees 2,850 slots", "surge 25 % → 6 % frees 1,672 slots"]
    );
    let by_number = levers(plan.surge(Surge::Instances(15)));
    assert_eq!(by_number[4], "surge 15 instances → 4 instances frees 1,672 slots");
    // 60 instances alone are too many: the surge goes as far down as it goes.
    let too_many = levers(plan.pool_size(45).surge(Surge::Percent(25)));
    assert_eq!(too_many[4], "surge 25 % → 1 instance frees 2,520 slots, and does not suffice");
}

#[test]
fn what_fits_can_still_take_less() {
    let plan = Plan::new(10_000).instances(20).workers(2).surge(Surge::Percent(25)).pool_size(50);
    assert_eq!(
        levers(plan),
        [
            "shared handles, 1 connection in each process: needs 50, frees 2,450 slots",
            "workers 2 → 1 frees 1,250 slots",
            "surge 25 % → 1 instance frees 400 slots",
        ]
    );
}

#[test]
fn no_lever_leaves_less_than_one_of_anything_and_none_leaves_all_as_it_is() {
    let none = Plan::new(10_000).workers(20_000).pool_size(1);
    let names =
        |plan: Plan| plan.work_out().levers.iter().map(|lever| lever.change).collect::<Vec<_>>();
    assert!(
        matches!(names(none)[..], [Change::Workers { to: 9_800, .. }, Change::MaxClients { .. }]),
        "not even one instance fits: {:?}",
        names(none)
    );
    for fits in [Plan::new(10_000).pool_size(1), Plan::new(10_000).pool_size(0).instances(20_000)] {
        assert_eq!(names(fits.surge(Surge::Instances(1))), []);
    }
    assert_eq!(
        levers(Plan::new(10_000).pool_size(1).surge(Surge::Instances(2))),
        ["surge 2 instances → 1 instance frees 1 slot"]
    );
}

#[test]
fn the_ceiling_that_would_do_is_told_however_high_it_is() {
    let plan = Plan::new(100).instances(1 << 62).pool_size(1).reserve(0);
    let last = plan.work_out().levers.pop().expect("a higher ceiling");
    assert!(matches!(last.change, Change::MaxClients { to: 0x4000_0000_0000_0000, .. }), "{last}");
}

#[test]
fn too_many_processes_for_any_pool() {
    let plan = Plan::new(1_000).instances(2_000).pool_size(2);
    assert_eq!(plan.work_out().largest_pool_size, 0);
    assert_eq!(
        levers(plan),
        [
            "shared handles, 1 connection in each process: needs 2,000, frees 2,000 slots, and does \
             not suffice",
            "instances 2,000 → 490 frees 3,020 slots",
            "maxclients 1,000 → 4,082 adds 3,082 slots; needs ulimit -n 4,114, and 8 to 118 MB of \
             memory",
        ]
    );
}

#[test]
fn sandboxes_count_twice() {
    let plan = Plan::serverless(10_000).instances(3_000);
    assert_eq!(sentence(plan), "(3,000 + 3,000) × 1 = 6,000 fits 10,000 − 200 (3,800 left)");
    let fuller = plan.instances(4_000).work_out();
    assert!(fuller.headroom == 1_800 && !fuller.is_tight(), "the deployment is counted already");
    assert_eq!(
        levers(plan.pool_size(2)),
        [
            "shared handles, 1 connection in each process: needs 6,000, frees 6,000 slots",
            "concurrency 3,000 → 2,450 frees 2,200 slots",
            "maxclients 10,000 → 12,245 adds 2,245 slots; needs ulimit -n 12,277, and 6 to 86 MB of \
             memory",
        ]
    );
}

#[test]
fn less_left_than_the_reserve_or_one_more_deployment_is_tight() {
    let plan = Plan::new(10_000).pool_size(48);
    let tight = |plan: Plan| plan.work_out().is_tight();
    assert!(!tight(plan.instances(200)), "exactly the reserve is left");
    assert!(tight(plan.instances(201)));
    assert!(!tight(plan.instances(205)), "it does not fit");
    assert!(!tight(plan.instances(136).surge(Surge::Percent(25))));
    assert!(tight(plan.instances(137).surge(Surge::Percent(25))), "35 × 48 are more than 1,544");
    let plan =
        Plan::new(10_000).instances(100).surge(Surge::Instances(50)).pool_size(50).reserve(0);
    assert!(!tight(plan), "exactly one more deployment is left");
    assert!(tight(plan.others(1)));
}

#[test]
fn data_for_a_program() {
    let outcome =
        Plan::new(10_000).instances(240).surge(Surge::Percent(1)).pool_size(50).work_out();
    let json = serde_json::to_value(&outcome).expect("numbers and names");
    assert_eq!(json["instances"], 240);
    assert_eq!(json["surge"], serde_json::json!({ "percent": 1 }));
    assert_eq!(json["needed"], 12_150);
    assert_eq!(
        json["levers"][0],
        serde_json::json!({
            "change": "max_connections", "from": 50, "to": 40,
            "slots": 2_430, "needed": 9_720, "fits": true,
        })
    );
}

/// Numbers as people plan with them, and the ends of what a `u64` holds.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..200,
        4 => 0_u64..100_000,
        1 => any::<u64>(),
        1 => Just(0),
        1 => Just(u64::MAX),
    ]
}

fn surge() -> impl Strategy<Value = Surge> {
    prop_oneof![
        count().prop_map(Surge::Instances),
        (0_u32..300).prop_map(Surge::Percent),
        any::<u32>().prop_map(Surge::Percent),
    ]
}

prop_compose! {
    fn plan()(
        [maxclients, instances, workers, pool_size] in [count(), count(), count(), count()],
        surge in surge(),
        [replicas, nodes, others] in [count(), count(), count()],
        small in any::<bool>(),
        reserve in prop::option::of(count()),
        serverless in any::<bool>(),
    ) -> Plan {
        let new = if serverless { Plan::serverless } else { Plan::new };
        let plan = new(maxclients).instances(instances).surge(surge).workers(workers);
        let plan = plan.pool_size(narrow(pool_size));
        // Where everything is large nothing fits, and there is little to see.
        let plan = if small {
            plan.replicas(replicas % 8).others(others % 50).workers(workers % 5)
        } else {
            plan.replicas(replicas).cluster_nodes(nodes).others(others)
        };
        Plan { reserve, ..plan }
    }
}

/// The sum in numbers that hold it.
fn needed(plan: Plan) -> u128 {
    let instances = u128::from(plan.instances);
    let surge = match plan.surge {
        Surge::Instances(surge) => surge.into(),
        Surge::Percent(percent) => (instances * u128::from(percent)).div_ceil(100),
    };
    let pools = (instances + surge)
        .saturating_mul(plan.workers.into())
        .saturating_mul(wide(plan.pool_size).into());
    let beside = [plan.replicas, plan.cluster_links, plan.others].map(u128::from);
    beside.iter().fold(pools, |sum, count| sum.saturating_add(*count))
}

fn fits(plan: Plan) -> bool {
    let reserve = plan.reserve.unwrap_or_else(|| default_reserve(plan.maxclients));
    needed(plan) <= plan.maxclients.saturating_sub(reserve).into()
}

proptest! {
    #[test]
    fn the_verdict_is_that_of_unbounded_arithmetic(plan in plan()) {
        let outcome = plan.work_out();
        prop_assert_eq!(outcome.fits(), fits(plan));
        let exact = u64::try_from(needed(plan)).unwrap_or(u64::MAX);
        prop_assert_eq!(outcome.needed, exact);
        let shown = (outcome.available, outcome.headroom);
        prop_assert_eq!(shown, if outcome.fits() {
            (exact + outcome.headroom, outcome.headroom)
        } else {
            (exact - outcome.shortfall, 0)
        });
        prop_assert!(outcome.fits() || !outcome.is_tight());
        prop_assert!(!outcome.to_string().is_empty());
    }

    #[test]
    fn the_largest_pool_fits_and_one_more_does_not(plan in plan()) {
        let outcome = plan.work_out();
        let largest = outcome.largest_pool_size;
        prop_assert!(wide(largest) <= outcome.available);
        prop_assert!(largest == 0 || fits(plan.pool_size(largest)));
        if outcome.processes > 0 && largest < usize::MAX {
            prop_assert!(!fits(plan.pool_size(largest + 1)));
        }
    }

    #[test]
    fn the_largest_number_of_instances_fits_and_one_more_does_not(plan in plan()) {
        let outcome = plan.work_out();
        let largest = outcome.largest_instances;
        prop_assert!(largest <= outcome.available);
        prop_assert!(largest == 0 || fits(plan.instances(largest)));
        if plan.workers > 0 && plan.pool_size > 0 && largest < u64::MAX {
            prop_assert!(!fits(plan.instances(largest + 1)));
        }
    }

    #[test]
    fn more_of_anything_never_makes_it_fit(plan in plan(), more in count()) {
        prop_assume!(!fits(plan));
        let larger = [
            plan.instances(plan.instances.saturating_add(more)),
            plan.workers(plan.workers.saturating_add(more)),
            plan.pool_size(plan.pool_size.saturating_add(narrow(more))),
            plan.replicas(plan.replicas.saturating_add(more)),
            plan.others(plan.others.saturating_add(more)),
            plan.surge(match plan.surge {
                Surge::Instances(surge) => Surge::Instances(surge.saturating_add(more)),
                Surge::Percent(percent) => Surge::Percent(percent.saturating_add(7)),
            }),
            Plan { maxclients: plan.maxclients.saturating_sub(more), ..plan },
        ];
        for larger in larger {
            prop_assert!(!larger.work_out().fits(), "{larger:?}");
        }
    }

    #[test]
    fn what_a_lever_claims_is_so(plan in plan()) {
        let before = plan.work_out();
        let exact = |plan| u64::try_from(needed(plan)).unwrap_or(u64::MAX);
        for lever in &before.levers {
            let after = lever.change.apply(plan);
            prop_assert!(lever.slots > 0, "{lever}");
            prop_assert!(!before.fits() || lever.fits, "{lever}");
            match lever.change {
                Change::MaxClients { from, to, open_files } => {
                    prop_assert_eq!((lever.slots, open_files), (to - from, to + 32));
                    let lower = Plan { maxclients: to - 1, ..plan };
                    prop_assert!(fits(after) && !fits(lower));
                }
                Change::Fleet { share } => {
                    let granted = u128::from(share) * u128::from(before.processes);
                    let beside = plan.beside_pools();
                    prop_assert!(granted + u128::from(beside) <= before.available.into());
                    prop_assert!(share <= wide(plan.pool_size) && lever.fits);
                    prop_assert_eq!(lever.slots, before.needed - lever.needed);
                }
                _ => {
                    prop_assert_eq!(lever.needed, exact(after), "{}", lever);
                    prop_assert_eq!(lever.slots, exact(plan) - exact(after), "{}", lever);
                    prop_assert_eq!(lever.fits, fits(after), "{}", lever);
                }
            }
        }
    }

    #[test]
    fn a_lever_goes_no_further_than_it_has_to(plan in plan()) {
        let outcome = plan.work_out();
        for lever in outcome.levers.iter().filter(|lever| !outcome.fits() && lever.fits) {
            let less = match lever.change {
                Change::MaxConnections { to, .. } => plan.pool_size(to + 1),
                Change::Workers { to, .. } => plan.workers(to + 1),
                Change::Instances { to, .. } | Change::Concurrency { to, .. } => {
                    plan.instances(to + 1)
                }
                Change::Surge { to: Surge::Instances(to), from: Surge::Instances(_) } => {
                    plan.surge(Surge::Instances(to + 1))
                }
                Change::Surge { to: Surge::Percent(to), .. } => plan.surge(Surge::Percent(to + 1)),
                _ => continue,
            };
            prop_assert!(!fits(less), "{lever}");
        }
    }

    #[test]
    fn any_info_gives_a_plan_or_none(info in "(maxclients|connected_slaves|cluster_connections):[-0-9]{0,25}\n") {
        let _ = Plan::for_server(&ServerSnapshot::parse(info)).map(Plan::work_out);
    }
}
