//! What a pool of a cluster is told to begin with, and what the nodes tell it then.

use std::net::TcpListener;
use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool};
use tokio::time::Instant;

use crate::support::{
    Auth, Cluster, HANG, Resp, SEVEN, TestServer, Transport, dials, lacks, unhurried,
};
use crate::waiting::{cmd, soon};
use crate::{NAME, ask, cluster_status, masters, refused, unhurried_pool};

const NODES: [usize; 3] = [0, 1, 2];
/// Nobody may listen there but root.
const NOBODY: &str = "redis://127.0.0.1:1";
/// Far below any timeout of the pool's here, and far above what a busy machine takes.
const AT_ONCE: Duration = Duration::from_secs(5);

fn pool_of(seeds: impl IntoIterator<Item = String>) -> GuardedPool {
    let builder = GuardedPool::cluster(seeds).max_connections(4).client_name(NAME);
    builder.acquire_timeout(HANG).response_timeout(HANG).build().unwrap()
}

/// Each node's keys are served.
async fn serves(pool: &GuardedPool, cluster: &Cluster) {
    let mut handle = pool.shared("test");
    for key in NODES.map(|node| cluster.key_on(node)) {
        let () = soon("SET", handle.set(&key, &key)).await.unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(soon("GET", handle.get::<_, String>(&key)).await.unwrap(), key);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn tcp_settings_hold_for_all_nodes() {
    use crate::support::sockets::asked_after;
    use crate::waiting::until;
    use redis_guard::redis::IntoConnectionInfo;
    use redis_guard::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};

    let cluster = masters();
    let long = Duration::from_secs(1_000);
    let keepalive = TcpKeepalive::new().with_time(long);
    let settings = TcpSettings::default().set_keepalive(keepalive);
    let seed = cluster.urls()[0].as_str().into_connection_info().unwrap();
    let pool = GuardedPool::cluster([seed.set_tcp_settings(settings)]).build().unwrap();
    serves(&pool, &cluster).await;

    until("the settings", &pool, || {
        NODES.iter().all(|node| asked_after(cluster.node(*node).port(), long / 2) == 1)
    })
    .await;
}

/// What a caller is told, at once, and so is the next one.
async fn refusal(pool: &GuardedPool) -> String {
    let begun = Instant::now();
    let told = soon("an answer", pool.shared("test").send(&cmd("GET key"))).await.unwrap_err();
    let told = told.to_string();
    println!("{told}");
    let again = match soon("a lease", pool.acquire_for("test", "key")).await {
        Ok(_) => panic!("a lease, although: {told}"),
        Err(error) => error.to_string(),
    };
    let words = told.split("; n").next().unwrap();
    assert!(again.starts_with(words), "{again}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}: {told}", begun.elapsed());
    told
}

/// Sets it on every node.
fn configure(cluster: &Cluster, name: &str, value: impl Fn(usize) -> String) {
    for node in NODES {
        cluster.node(node).admin().text(&["CONFIG", "SET", name, &value(node)]);
    }
}

/// Returns when every node tells of every other so.
fn until_told(cluster: &Cluster, of: impl Fn(usize) -> String) {
    let told = |node: usize| {
        let slots = cluster.node(node).admin().text(&["CLUSTER", "SLOTS"]);
        NODES.iter().all(|other| slots.contains(&of(*other)))
    };
    let all = || NODES.iter().all(|node| told(*node)).then_some(());
    crate::support::server::poll(HANG, all).expect("the nodes should tell of each other");
}

#[tokio::test]
async fn one_seed_is_enough() {
    let cluster = masters();
    for seed in cluster.urls() {
        serves(&pool_of([seed]), &cluster).await;
    }
}

#[tokio::test]
async fn seeds_that_are_down_or_silent_are_done_without() {
    let cluster = masters();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("redis://{}", silent.local_addr().unwrap());

    let begun = Instant::now();
    let pool = pool_of([NOBODY.to_owned(), silent, cluster.urls().remove(2)]);
    serves(&pool, &cluster).await;

    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    let status = cluster_status(&pool);
    assert_eq!((status.nodes.len(), status.trouble), (3, None));
}

#[tokio::test]
async fn seeds_that_are_all_down_are_an_error_that_names_one() {
    let told = refusal(&pool_of([NOBODY.to_owned(), "redis://127.0.0.1:2".to_owned()])).await;
    assert!(told.contains("127.0.0.1:1") || told.contains("127.0.0.1:2"), "{told}");
    assert!(told.contains("refused"), "{told}");
}

#[tokio::test]
async fn nobody_goes_on_asking_who_the_nodes_are_where_nobody_waits() {
    let pool = pool_of([NOBODY.to_owned()]);
    refusal(&pool).await;
    let dialed = dials(&pool);

    // Three questions would fit in.
    tokio::time::sleep(Duration::from_millis(3_300)).await;

    // One that the last caller asked for may have been under way.
    let [before, after] = [dialed, dials(&pool)].map(|dials| dials.values().sum::<u64>());
    assert!(after <= before + 1, "{before} dials, then {after}");
}

/// As where an endpoint is configured, and the nodes announce their addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_the_cluster_knows_by_another_name_is_left_for_good() {
    if lacks("statistics by subcommand", SEVEN) {
        return;
    }
    let cluster = masters();
    let seed = format!("redis://localhost:{}", cluster.node(0).port());
    let pool = pool_of([seed]);
    serves(&pool, &cluster).await;
    let questions =
        || -> u64 { NODES.iter().map(|node| crate::calls(&cluster, *node, "cluster|slots")).sum() };
    // Longer than a pool waits that finds the cluster unsettled.
    let calm = Duration::from_millis(3_500);
    let mut asked = 0;
    let settled = async {
        while asked != questions() {
            asked = questions();
            tokio::time::sleep(calm).await;
        }
    };
    soon("calm", settled).await;

    // A reason to ask anew, once.
    let key = cluster.key_on(0);
    cluster.move_slot(crate::support::cluster::slot_of(&key), 1);
    let _: Option<String> = soon("GET", pool.shared("test").get(&key)).await.unwrap();

    tokio::time::sleep(calm).await;
    assert_eq!(questions(), asked + 1);
}

#[tokio::test]
async fn a_pool_whose_seeds_come_up_later_serves_then() {
    let cluster = masters();
    NODES.iter().for_each(|node| cluster.node(*node).crash());
    let pool = unhurried_pool(&cluster);
    refusal(&pool).await;

    NODES.iter().for_each(|node| cluster.node(*node).restart().unwrap());
    cluster.until_whole();

    let begun = Instant::now();
    let asking = async {
        // A node that was asked just before it came up says so once.
        for key in NODES.map(|node| cluster.key_on(node)) {
            while pool.shared("test").set::<_, _, ()>(&key, 1).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    soon("the cluster", asking).await;
    println!("served after {:?}", begun.elapsed());
    serves(&pool, &cluster).await;
}

#[tokio::test]
async fn a_seed_that_is_no_cluster_is_an_error_that_says_so() {
    let server = TestServer::start().unwrap();

    let told = refusal(&pool_of([server.url()])).await;

    assert!(told.contains(&format!("127.0.0.1:{}", server.port())), "{told}");
    assert!(told.contains("cluster support disabled") || told.contains("no cluster"), "{told}");
}

#[tokio::test]
async fn seeds_of_two_clusters_are_an_error_that_names_both() {
    let (one, two) = (masters(), masters());

    let told = refusal(&pool_of([one.urls().remove(0), two.urls().remove(1)])).await;

    assert!(told.contains(&one.address(0)) && told.contains(&two.address(1)), "{told}");
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_the_nodes_is_told_so() {
    let cluster = masters();
    let rules = ["on", ">pw", "~*", "&*", "+@all", "-cluster"];
    for node in NODES {
        cluster.node(node).admin().text(&[&["ACL", "SETUSER", "app"][..], &rules].concat());
    }
    let auth = Auth::User("app", "pw");
    let seeds =
        cluster.nodes().iter().map(|node| node.url_with(Transport::Tcp, Resp::Resp2, auth, 0));

    let told = refusal(&pool_of(seeds)).await;

    assert!(told.contains("no permissions") && told.contains("CLUSTER SLOTS"), "{told}");
    assert!(NODES.iter().any(|node| told.contains(&cluster.address(*node))), "{told}");
}

#[tokio::test]
async fn the_password_of_the_first_seed_is_for_all_nodes() {
    let settings = TestServer::builder().password("secret").arg("masterauth", "secret");
    let cluster = Cluster::start(3, &settings).unwrap();
    let auth = Auth::Password("secret");
    let first = cluster.node(0).url_with(Transport::Tcp, Resp::Resp2, auth, 0);

    serves(&pool_of([first, cluster.node(1).url()]), &cluster).await;

    let wrong = cluster.node(0).url_with(Transport::Tcp, Resp::Resp2, Auth::Password("no"), 0);
    let told = refusal(&pool_of([wrong])).await;
    assert!(told.contains("WRONGPASS") && told.contains(&cluster.address(0)), "{told}");
}

#[tokio::test]
async fn resp3_too() {
    let cluster = masters();
    let url = |node: &TestServer| node.url_with(Transport::Tcp, Resp::Resp3, Auth::None, 0);
    serves(&pool_of(cluster.nodes().iter().map(url)), &cluster).await;
}

#[cfg(feature = "tls-rustls")]
#[tokio::test]
async fn tls_of_the_first_seed_is_for_all_nodes() {
    if crate::support::lacks_tls() {
        return;
    }
    let settings = TestServer::builder().tls(true).arg("tls-cluster", "yes");
    let cluster = Cluster::start(3, &settings).unwrap();
    let certificates = redis_guard::redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(cluster.node(0).ca_pem().as_bytes().to_vec()),
    };
    let seeds = cluster.nodes().iter().map(TestServer::tls_url);
    let builder = GuardedPool::cluster(seeds).max_connections(4).tls_certificates(certificates);

    serves(&builder.build().unwrap(), &cluster).await;
}

#[tokio::test]
async fn a_node_that_does_not_say_where_it_is_is_where_it_was_asked() {
    if lacks("announced host names", SEVEN) {
        return;
    }
    let cluster = masters();
    configure(&cluster, "cluster-preferred-endpoint-type", |_| "unknown-endpoint".to_owned());

    serves(&unhurried_pool(&cluster), &cluster).await;
}

#[tokio::test]
async fn a_node_that_has_no_host_name_to_tell_is_where_it_was_asked() {
    if lacks("announced host names", SEVEN) {
        return;
    }
    let cluster = masters();
    configure(&cluster, "cluster-preferred-endpoint-type", |_| "hostname".to_owned());

    serves(&unhurried_pool(&cluster), &cluster).await;
}

#[tokio::test]
async fn announced_addresses_are_mapped() {
    if lacks("node that minds a new port of its own", SEVEN) {
        return;
    }
    let cluster = masters();
    // Ports where nobody listens.
    configure(&cluster, "cluster-announce-port", |node| (node + 1).to_string());
    until_told(&cluster, |node| format!("127.0.0.1\n{}\n", node + 1));

    let mut builder = GuardedPool::cluster(cluster.urls()).max_connections(4);
    for node in NODES {
        builder = builder.map_address(format!("127.0.0.1:{}", node + 1), cluster.address(node));
    }
    serves(&builder.build().unwrap(), &cluster).await;

    // Without the map.
    let error = refusal(&pool_of(cluster.urls())).await;
    assert!(error.contains("127.0.0.1:") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn announced_hosts_are_mapped_whatever_the_port() {
    if lacks("announced host names", SEVEN) {
        return;
    }
    let cluster = masters();
    configure(&cluster, "cluster-announce-hostname", |node| format!("node{node}.guard.test"));
    configure(&cluster, "cluster-preferred-endpoint-type", |_| "hostname".to_owned());
    until_told(&cluster, |node| format!("node{node}.guard.test"));

    let mut builder = GuardedPool::cluster(cluster.urls()).max_connections(4);
    for node in NODES {
        builder = builder.map_address(format!("node{node}.guard.test"), "127.0.0.1");
    }
    serves(&builder.build().unwrap(), &cluster).await;
}

#[tokio::test]
async fn nodes_at_ipv6_addresses() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: there is no IPv6 here");
        return;
    }
    let settings =
        TestServer::builder().arg("bind", "127.0.0.1 ::1").arg("cluster-announce-ip", "::1");
    let cluster = Cluster::start(3, &settings).unwrap();
    let pool = pool_of([format!("redis://[::1]:{}", cluster.node(0).port())]);

    serves(&pool, &cluster).await;

    let mut servers: Vec<_> =
        cluster_status(&pool).nodes.iter().map(|node| node.status.server.to_string()).collect();
    servers.sort();
    let mut wanted = NODES.map(|node| format!("[::1]:{}", cluster.node(node).port()));
    wanted.sort();
    assert_eq!(servers, wanted);
}

#[tokio::test]
async fn a_slot_that_nobody_serves_is_an_error_at_once_and_no_other_key_feels_it() {
    let settings = TestServer::builder().arg("cluster-require-full-coverage", "no");
    let cluster = Cluster::start(3, &settings).unwrap();
    let key = cluster.key_on(1);
    let slot = crate::support::cluster::slot_of(&key).to_string();
    for node in NODES {
        cluster.node(node).admin().text(&["CLUSTER", "DELSLOTS", &slot]);
    }
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");

    let error = refused(&mut handle, &format!("GET {key}")).await;
    println!("{error}");
    assert!(error.to_string().contains(&slot), "{error}");
    assert_eq!(error.code(), Some("CLUSTERDOWN"), "{error:?}");
    let other = cluster.key_on(1);
    let () = ask(&mut handle, &format!("SET {other} 1")).await;
    assert_eq!(cluster_status(&pool).unserved_slots, 1);

    cluster.node(2).admin().text(&["CLUSTER", "ADDSLOTS", &slot]);
    let asking = async {
        while handle.set::<_, _, ()>(&key, 1).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the slot", asking).await;
    assert_eq!(cluster.primary_of_key(&key), 2);
}

/// One server is no cluster, and its pool says nothing of one.
#[tokio::test]
async fn a_pool_of_one_server_has_no_nodes() {
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    assert!(pool.status().cluster.is_none());
}

#[tokio::test]
async fn what_cannot_be_a_cluster_is_told_by_build() {
    let no_seeds = GuardedPool::cluster([""; 0]).build().unwrap_err();
    println!("{no_seeds}");
    let database = GuardedPool::cluster(["redis://127.0.0.1:1/3"]).build().unwrap_err();
    assert!(database.to_string().contains("database"), "{database}");
    let socket = GuardedPool::cluster(["redis+unix:///tmp/x.sock"]).build().unwrap_err();
    println!("{socket}");
}
