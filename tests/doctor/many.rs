//! Ten thousand clients.

use std::fmt::Write as _;
use std::time::Duration;

use redis_guard::server::ClientList;
use tokio::time::Instant;

use crate::fake::Fake;
use crate::run::Doctor;
use crate::support::Crowd;

const MANY: usize = 10_000;
/// A second is asked for of a quiet machine and a release build. What takes the square of its time, or
/// asks the server once for each client, takes minutes of a debug build.
const BOUND: Duration = Duration::from_secs(30);

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

/// 200 sources of 50.
fn list() -> String {
    (0..MANY).fold(String::new(), |mut list, number| {
        let (source, idle) = (number % 200, if number % 5 == 0 { 0 } else { 400 + number % 97 });
        writeln!(
            list,
            "id={} addr=10.0.{source}.7:{} laddr=10.0.255.1:6379 fd={number} name=api-{} age={} \
             idle={idle} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 \
             multi-mem=0 rbs=1024 rbp=0 obl=0 oll=0 omem=0 tot-mem=1928 events=r cmd=get \
             user=default redir=-1 resp=2 lib-name=redis-rs lib-ver=1.8.1",
            number + 10,
            20_000 + number,
            source % 7,
            5_000 + number % 13,
        )
        .unwrap();
        list
    })
}

#[test]
fn a_list_of_ten_thousand_is_parsed_in_time() {
    let list = list();
    let began = Instant::now();
    let parsed = ClientList::parse(&list);
    let took = began.elapsed();
    assert_eq!((parsed.clients.len(), parsed.unreadable), (MANY, 0));
    println!("CLIENT LIST of {MANY} ({} KiB) parsed in {took:?}", list.len() >> 10);
    assert!(took < BOUND, "{took:?}");
}

#[test]
fn a_server_that_says_it_has_ten_thousand_is_examined_in_time() {
    let real = crate::server().start().unwrap();
    let info = real.admin().text(&["INFO"]);
    let info = info.replace("connected_clients:1\r", "connected_clients:9900\r");
    let fake = Fake::builder().info(&info).client_list(list()).start();
    let began = Instant::now();
    let report = Doctor::of(&[&fake.url(), "--sample", "0s"]).report();
    let took = began.elapsed();
    println!("{MANY} clients of a script examined in {took:?}, the process and its start included");
    let seen = report.is(2, "oversized_pools");
    assert_eq!(seen.number("/holders/clients"), count(MANY));
    assert_eq!(seen.number("/holders/idle"), count(MANY / 5 * 4));
    assert_eq!(seen.number("/holders/sources"), 200, "an address with its name");
    assert!(took < BOUND, "{took:?}");
}

/// As many as this process may open, and no more than that.
fn affordable() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    soft.map_or(500, |soft| soft.saturating_sub(400) / 2).min(MANY - 10)
}

#[test]
fn a_real_server_with_as_many_clients_as_this_machine_allows() {
    let server = crate::server().start().unwrap();
    let sources = 20;
    let each =
        affordable().min(usize::try_from(server.admin().maxclients()).unwrap() - 10) / sources;
    let pools: Vec<_> = (0..sources)
        .map(|source| Crowd::from(&server, 10 + u8::try_from(source).unwrap()).open(each))
        .collect();
    let clients = each * pools.len();

    let began = Instant::now();
    let report = Doctor::of(&[&server.url(), "--sample", "0s"]).report_of(&[&server]);
    let took = began.elapsed();
    println!("{clients} real clients examined in {took:?}, the process and its start included");
    let seen = report.server(0);
    assert_eq!(seen.number("/holders/clients"), count(clients + 1));
    assert_eq!(seen.number("/holders/sources"), count(sources + 1));
    assert_eq!(seen.number("/capacity/used"), server.admin().used_slots() + 1);
    assert!(took < BOUND, "{took:?}");
}
