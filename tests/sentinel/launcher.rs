//! The set that the tests start does what they want of it.

use crate::support::{SentinelSet, TestServer};

/// Moves the master, and brings the set back to what it was.
fn moves(set: &SentinelSet, fail: impl FnOnce(), mend: impl FnOnce()) {
    let switches = set.switches();
    let old = set.master();
    fail();
    let new = set.moved_from(old);
    mend();
    set.until_whole();

    assert_eq!(set.master(), new);
    let switch = switches.first(set.name()).unwrap();
    assert_eq!((switch.from, switch.to), (set.address(old), set.address(new)));
    assert_eq!(set.server(new).admin().text(&["SET", "key", "value"]), "OK");
}

#[test]
fn a_set_fails_over_and_becomes_whole_again() {
    let set = SentinelSet::builder().watchful().start().unwrap();

    moves(&set, || set.fail_over(), || ());
    let master = set.master();
    moves(&set, || set.server(master).crash(), || set.server(master).restart().unwrap());
    let master = set.master();
    moves(&set, || set.server(master).pause(), || set.server(master).resume());

    set.sentinel(0).crash();
    let master = set.master();
    moves(&set, || set.server(master).crash(), || set.server(master).restart().unwrap());
    set.restart_sentinel(0).unwrap();
    set.until_whole();
}

#[test]
fn passwords_and_tls() {
    if crate::support::lacks_tls() {
        return;
    }
    let builder = SentinelSet::builder().server_password("server's").sentinel_password("theirs");
    let set = builder.tls(true).sentinels(2).replicas(1).start().unwrap();

    moves(&set, || set.fail_over(), || ());

    assert_eq!(SentinelSet::clients(set.server(set.master())).unwrap().len(), 0);
    assert_eq!(SentinelSet::clients(set.sentinel(0)).unwrap().len(), 0);
}

#[test]
fn one_set_watches_two_masters() {
    let other = TestServer::start().unwrap();
    let set = SentinelSet::start().unwrap();

    set.also_watch("other", &other);

    moves(&set, || set.fail_over(), || ());
}
