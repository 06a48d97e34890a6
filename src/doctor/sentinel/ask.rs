//! What a sentinel is asked.

use std::collections::{BTreeSet, HashMap};

use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use super::{Instance, Master, Named, PeerWord, Quorum, Slots, View, WatchedMaster, Word};
use crate::doctor::facts::{Answer, Info, NoAnswer};
use crate::doctor::probe::Probe;

/// A sentinel that answers each question just in time is not asked for longer than so many timeouts.
const TIMEOUTS: u32 = 3;

/// Asks the sentinel of a URL for all that it knows, of one master or of all. `info` is what it has said
/// already.
pub(in crate::doctor) async fn ask(probe: &mut Probe, info: &Info, wanted: Option<&str>) -> Word {
    let until = Instant::now() + probe.timeout * TIMEOUTS;
    let id = probe.ask(&sentinel("MYID", None)).await.ok();
    let (listed, refused) = match list(probe, &sentinel("MASTERS", None)).await {
        Ok(masters) => (masters.iter().filter_map(name_and_address).collect(), None),
        Err(why) => {
            let told = probe.watched_masters().unwrap_or_default().iter().cloned();
            let told = told.map(|WatchedMaster { name, host, port }| (name, Named { host, port }));
            (told.collect::<Vec<_>>(), Some(why))
        }
    };
    let chosen = listed.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name));
    let mut masters = Vec::new();
    for (name, listed) in chosen.cloned() {
        let view = view(probe, &name, until).await;
        let sentinels = list_until(probe, "SENTINELS", &name, until).await;
        let mut replicas = list_until(probe, "REPLICAS", &name, until).await;
        // Before Redis 5 it does not know the word.
        if let Err(NoAnswer::Denied(_)) = replicas {
            replicas = list_until(probe, "SLAVES", &name, until).await.or(replicas);
        }
        masters.push(Master { name, listed, view, sentinels, replicas });
    }
    let missing = wanted.filter(|_| masters.is_empty()).map(str::to_owned);
    let in_tilt = info.field("sentinel_tilt") == Some(1_u8);
    Word { id, listed, masters, refused, missing, in_tilt }
}

/// Asks another sentinel for its word on these masters.
pub(super) async fn ask_peer(
    probe: &mut Probe,
    names: BTreeSet<String>,
) -> HashMap<String, PeerWord> {
    let until = Instant::now() + probe.timeout * TIMEOUTS;
    let info = probe.info().await.map(|text| {
        let seen = probe.observe_in(&text);
        Slots::of(&Info::new(&text, seen, None))
    });
    let slots = info.map_err(|error| NoAnswer::of(&error));
    let mut words = HashMap::new();
    for name in names {
        let view = view(probe, &name, until).await;
        words.insert(name, PeerWord { view, slots: slots.clone() });
    }
    words
}

async fn view(probe: &mut Probe, name: &str, until: Instant) -> View {
    if Instant::now() >= until {
        let late = || NoAnswer::Lost("its answers take too long".to_owned());
        return View { address: Err(late()), said: Err(late()), quorum: Err(late()) };
    }
    let get = sentinel("GET-MASTER-ADDR-BY-NAME", Some(name));
    let address = match probe.ask::<Option<(String, String)>>(&get).await {
        Ok(Some((host, port))) => match Named::new(&host, &port) {
            Some(named) => Ok(Some(named)),
            None => Err(unreadable()),
        },
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    let said = probe.ask(&sentinel("MASTER", Some(name))).await.and_then(Instance::parse);
    let quorum = match probe.ask::<String>(&sentinel("CKQUORUM", Some(name))).await {
        Ok(words) => Ok(Quorum { is_reached: words.starts_with("OK"), words }),
        Err(error) if error.code() == Some("NOQUORUM") => {
            let words = format!("NOQUORUM {}", error.detail().unwrap_or_default());
            Ok(Quorum { is_reached: false, words })
        }
        Err(error) => Err(error),
    };
    let why = |error: RedisError| NoAnswer::of(&error);
    View { address: address.map_err(why), said: said.map_err(why), quorum: quorum.map_err(why) }
}

async fn list_until(
    probe: &mut Probe,
    what: &str,
    name: &str,
    until: Instant,
) -> Answer<Vec<Instance>> {
    match Instant::now() < until {
        true => list(probe, &sentinel(what, Some(name))).await,
        false => Err(NoAnswer::Lost("its answers take too long".to_owned())),
    }
}

async fn list(probe: &mut Probe, question: &Cmd) -> Answer<Vec<Instance>> {
    let reply: RedisResult<Value> = probe.ask(question).await;
    let instances = reply.and_then(|reply| {
        let items: Vec<Value> = from_redis_value(reply)?;
        items.into_iter().map(Instance::parse).collect()
    });
    instances.map_err(|error| NoAnswer::of(&error))
}

fn sentinel(word: &str, name: Option<&str>) -> Cmd {
    let mut command = redis::cmd("SENTINEL");
    command.arg(word).arg(name);
    command
}

fn name_and_address(instance: &Instance) -> Option<(String, Named)> {
    Some((instance.field("name")?, instance.address()?))
}

fn unreadable() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "no address").into()
}
