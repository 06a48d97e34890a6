//! The doctor as a library call: the report as data.

use std::time::Duration;

use redis_guard::doctor::{Access, Doctor, Level, SCHEMA_VERSION, VerdictKind};

use crate::run::{OWN_NAME, SECRET};
use crate::support::server::poll;
use crate::support::{Crowd, impatient, unhurried};

const SAMPLE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_report_is_data() {
    let server = crate::server().maxclients(24).start().unwrap();
    let _busy = [2, 3, 4, 5, 6, 7, 8].map(|host| Crowd::from(&server, host).open(3).busy());
    let report = Doctor::new([server.url()]).sample(SAMPLE).examine().await;

    assert_eq!((report.exit_code(false), report.exit_code(true)), (2, 2));
    assert_eq!(report.schema_version, SCHEMA_VERSION);
    let [seen] = report.servers.as_slice() else { panic!("{report:?}") };
    assert_eq!(seen.verdict.kind, VerdictKind::CeilingTooLow, "{report}");
    assert_eq!(seen.level(), Level::Failed);
    assert_eq!(seen.check("capacity.saturation").map(|check| check.level), Some(Level::Failed));
    assert_eq!(seen.holders.as_ref().map(|holders| holders.clients), Some(22));
    assert_eq!(seen.capacity.as_ref().and_then(|capacity| capacity.used), Some(23));
}

#[tokio::test]
async fn displayed_it_is_what_the_binary_prints() {
    let server = crate::server().start().unwrap();
    let report = Doctor::new([server.url()]).sample(SAMPLE).examine().await;
    let (plain, coloured) = (format!("{report}"), format!("{report:#}"));
    assert!(!plain.contains('\u{1b}') && coloured.contains('\u{1b}'));
    let printed = crate::run::Doctor::words(&["doctor", &server.url()]).run();
    let title = |text: &str| text.lines().next().unwrap().split(" · up").next().unwrap().to_owned();
    assert_eq!(title(&printed.stdout), title(&plain));
}

#[tokio::test]
async fn no_url_is_an_empty_report() {
    let report = Doctor::new(Vec::<String>::new()).examine().await;
    assert_eq!(
        (report.servers.len(), report.exit_code(true), report.worst.as_deref()),
        (0, 0, None)
    );
}

#[tokio::test]
async fn a_password_beside_the_url() {
    let server = crate::server().password(SECRET).start().unwrap();
    let access = Access::default().password(SECRET);
    let doctor = Doctor::new([server.url()]).access(access).sample(SAMPLE);
    assert_eq!(doctor.examine().await.exit_code(false), 0, "it is let in");
    assert!(!format!("{doctor:?}").contains(SECRET), "nor in Debug");
}

#[tokio::test]
async fn a_password_in_the_url_is_not_in_debug() {
    let doctor = Doctor::new([format!("redis://:{SECRET}@127.0.0.1:1")]);
    assert!(!format!("{doctor:?}").contains(SECRET), "{doctor:?}");
}

/// What is left to look with when nobody is let in.
#[tokio::test]
async fn a_full_server_is_examined_over_a_connection_that_a_pool_has() {
    let server = crate::server().maxclients(12).start().unwrap();
    let pool = unhurried(server.url()).max_connections(2).build().unwrap();
    pool.warm_up(1).await.unwrap();
    let _occupants = server.fill();
    let refused = server.admin().info_u64("rejected_connections");
    let before = server.admin().info_u64("total_connections_received");

    let doctor = Doctor::new(Vec::<String>::new()).sample(SAMPLE);
    let report = doctor.examine_pool(&pool).await.unwrap();
    let [seen] = report.servers.as_slice() else { panic!("{report:?}") };
    assert_eq!(seen.verdict.kind, VerdictKind::Unused, "{report}");
    assert_eq!(seen.capacity.as_ref().and_then(|capacity| capacity.used), Some(12));
    assert_eq!(report.exit_code(false), 2, "it is connected, and full: {report}");
    assert_eq!(server.admin().info_u64("total_connections_received"), before, "no dial");
    // The pool's own dials, if it made any, would be refused.
    assert_eq!(server.admin().info_u64("rejected_connections"), refused);
    assert_eq!(pool.status().in_use, 0, "the lease is given back");
}

/// A pool that may open more than its process may.
#[tokio::test]
async fn a_pool_that_is_larger_than_the_limit_of_files_is_told() {
    let server = crate::server().start().unwrap();
    let doctor = Doctor::new(Vec::<String>::new()).sample(SAMPLE);
    for (connections, level) in [(2, Level::Ok), (1_000_000, Level::Warning)] {
        let builder = unhurried(server.url()).own_gate(true).max_connections(connections);
        let pool = builder.build().unwrap();

        let report = doctor.examine_pool(&pool).await.unwrap();

        let check = report.servers[0].check("reachability.own_files").unwrap();
        // A machine that allows a million and more has room.
        let told = check.level == level || (check.level == Level::Ok && connections > 2);
        assert!(told && check.evidence.contains("this process may open"), "{check:?}");
    }
}

#[tokio::test]
async fn a_pool_without_a_connection_says_so() {
    let server = crate::server().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = impatient(&server.url()).build().unwrap();
    let error = Doctor::new(Vec::<String>::new()).examine_pool(&pool).await.unwrap_err();
    assert!(error.is_rejected(), "{error}");
}

#[tokio::test]
async fn no_time_that_the_doctor_is_given_is_an_overflow() {
    let server = crate::server().start().unwrap();
    let long = Duration::MAX;
    let doctor =
        |url: String| Doctor::new([url]).access(Access::default().timeout(long)).wait(long);

    let report =
        doctor(server.url()).idle_after(long).top(usize::MAX).sample(SAMPLE).examine().await;

    assert!(report.servers[0].reachability.connected, "{report}");
    let forever = doctor(server.url()).sample(long);
    let there = async {
        while server.admin().clients_named(OWN_NAME) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        report = forever.examine() => panic!("its sample has not passed: {report}"),
        () = there => {}
    }
}

#[tokio::test]
async fn dropping_an_examination_closes_its_connection() {
    let server = crate::server().start().unwrap();
    let doctor = Doctor::new([server.url()]).sample(Duration::from_secs(60));
    let there = async {
        while server.admin().clients_named(crate::run::OWN_NAME) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        report = doctor.examine() => panic!("a minute has not passed: {report}"),
        () = there => {}
    }
    let gone = async {
        while server.admin().clients_named(crate::run::OWN_NAME) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::IDLE_LIMIT, gone).await.expect("the doctor goes");
}

/// Given up at ever later moments, between which all its awaits lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_examination_that_is_dropped_leaves_no_connection_and_no_lease() {
    let server = crate::server().start().unwrap();
    let pool = impatient(&server.url()).client_name("app").max_connections(1).build().unwrap();
    pool.warm_up(1).await.unwrap();
    let doctor = Doctor::new([server.url()]).sample(SAMPLE);
    for micros in (0..12).map(|nth| 50 << nth) {
        let limit = Duration::from_micros(micros);
        let _ = tokio::time::timeout(limit, doctor.examine()).await;
        let _ = tokio::time::timeout(limit, doctor.examine_pool(&pool)).await;
        assert_eq!(pool.status().in_use, 0, "after {limit:?}");
        // The one connection there is serves the next.
        let lease = pool.acquire("next").await.unwrap();
        drop(lease);
    }
    let gone = || (server.admin().clients_named(OWN_NAME) == 0).then_some(());
    poll(crate::IDLE_LIMIT, gone).expect("the doctor's connections are closed");
}
