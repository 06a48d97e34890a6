//! CLIENT LIST, as any server of the family sends it, parsed.

use std::str::FromStr;

use serde::Serialize;

/// Who is connected to a server: its CLIENT LIST.
///
/// Of the slots that count against `maxclients` it shows clients and replicas, not the links of the
/// cluster bus.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ClientList {
    /// The connections, in the server's order: oldest first.
    pub clients: Vec<Client>,
    /// Lines that were none of a client.
    pub unreadable: usize,
}

/// One connection, as the server sees it. A field is `None` where the server did not send it, or
/// sent something that cannot be; the field of CLIENT LIST that it comes from is named with each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Client {
    /// Its number, never used twice: `id`.
    pub id: Option<u64>,
    /// Host and port, or the path of a Unix socket: `addr`.
    pub address: Option<String>,
    /// What it called itself: `name` (CLIENT SETNAME). An empty one is none.
    pub name: Option<String>,
    /// The client library: `lib-name` (Redis 7.2 and later, where the library tells).
    pub library: Option<String>,
    /// Who is logged in: `user` (Redis 6 and later).
    pub user: Option<String>,
    /// Seconds since it connected: `age`.
    pub age_seconds: Option<u64>,
    /// Seconds since its last command: `idle`.
    pub idle_seconds: Option<u64>,
    /// One letter each: `flags`.
    pub flags: String,
    /// Its last command: `cmd`. `NULL`, none yet, is `None`.
    pub command: Option<String>,
    /// The channels, patterns and shard channels that it is subscribed to: `sub`, `psub` and `ssub`.
    pub subscriptions: Option<u64>,
    /// Bytes of replies that it has yet to read: `omem`, and `obl` beside it.
    pub output_bytes: Option<u64>,
}

/// What the server says of the address of a socket that has no peer.
pub(crate) const DEAD: &str = "?:0";

impl ClientList {
    /// Parses the reply to CLIENT LIST.
    ///
    /// Never fails: a line without any field that is known is counted as
    /// [`unreadable`](Self::unreadable), and what a line lacks is unknown.
    #[must_use]
    pub fn parse(list: impl AsRef<[u8]>) -> Self {
        let mut parsed = Self::default();
        for line in String::from_utf8_lossy(list.as_ref()).split_inclusive('\n') {
            // The end of a reply that was cut short: its last field may have been longer.
            let whole = match (line.ends_with('\n'), line.rfind(' ')) {
                (true, _) => line,
                (false, Some(end)) => &line[..end],
                (false, None) => "",
            };
            match Client::parse(whole) {
                Some(client) => parsed.clients.push(client),
                None if line.trim().is_empty() => {}
                None => parsed.unreadable += 1,
            }
        }
        parsed
    }
}

impl Client {
    fn parse(line: &str) -> Option<Self> {
        let mut client = Self::default();
        let mut known = false;
        for (field, value) in line.split_ascii_whitespace().filter_map(|it| it.split_once('=')) {
            let add = |sum: Option<u64>| Some(sum?.saturating_add(number(value)?));
            match field {
                "id" => client.id = number(value),
                "addr" => client.address = text(value),
                "name" => client.name = text(value),
                "lib-name" => client.library = text(value),
                "user" => client.user = text(value),
                "age" => client.age_seconds = number(value),
                "idle" => client.idle_seconds = number(value),
                "flags" => client.flags = value.to_owned(),
                "cmd" => client.command = text(value).filter(|command| command != "NULL"),
                "sub" | "psub" | "ssub" => {
                    client.subscriptions = add(client.subscriptions.or(Some(0)));
                }
                "obl" | "omem" => {
                    client.output_bytes = add(client.output_bytes.or(Some(0)));
                }
                _ => continue,
            }
            known = true;
        }
        known.then_some(client)
    }

    /// Its host, without the port; `unix` for a Unix socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let address = self.address.as_deref()?;
        if address.starts_with('/') || self.has_flag('U') {
            return Some("unix");
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Some(host.trim_start_matches('[').trim_end_matches(']'))
    }

    /// True while it waits in a blocking command (flag `b`).
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.has_flag('b')
    }

    /// True where it is subscribed to something: flag `P`, or, from servers that know none, the number of
    /// its subscriptions.
    #[must_use]
    pub fn is_subscriber(&self) -> bool {
        self.has_flag('P') || self.subscriptions.is_some_and(|subscriptions| subscriptions > 0)
    }

    /// True where its socket is dead, and the server has not noticed: it has no peer any more, and
    /// `addr` is `?:0`.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.address.as_deref() == Some(DEAD)
    }

    /// True for a replica's connection (flag `S`; a MONITOR has it too, beside `O`).
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.has_flag('S') && !self.is_monitor()
    }

    /// True for a MONITOR (flag `O`).
    #[must_use]
    pub fn is_monitor(&self) -> bool {
        self.has_flag('O')
    }

    /// True for the connection to the server's own master (flag `M`).
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.has_flag('M')
    }

    fn has_flag(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn number<N: FromStr>(value: &str) -> Option<N> {
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "id=7 addr=10.0.0.7:52555 laddr=10.0.0.1:6379 fd=8 name=checkout age=855 \
        idle=400 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 obl=10 oll=2 omem=40984 \
        tot-mem=22298 events=r cmd=get user=app redir=-1 resp=3 lib-name=redis-rs lib-ver=1.8.1\n";

    #[test]
    fn a_line_of_redis_7_is_read() {
        let list = ClientList::parse(LINE);
        let [client] = list.clients.as_slice() else { panic!("{list:?}") };
        assert_eq!(client.host(), Some("10.0.0.7"));
        assert_eq!(client.name.as_deref(), Some("checkout"));
        assert_eq!(client.library.as_deref(), Some("redis-rs"));
        assert_eq!(client.user.as_deref(), Some("app"));
        assert_eq!((client.age_seconds, client.idle_seconds), (Some(855), Some(400)));
        assert_eq!(client.output_bytes, Some(40_994));
        assert_eq!(client.command.as_deref(), Some("get"));
    }

    #[test]
    fn hosts_of_every_kind() {
        let host = |address: &str, flags: &str| {
            let list = ClientList::parse(format!("addr={address} flags={flags}\n"));
            list.clients[0].host().map(str::to_owned)
        };
        assert_eq!(host("10.0.0.7:52555", "N").as_deref(), Some("10.0.0.7"));
        assert_eq!(host("[::1]:52555", "N").as_deref(), Some("::1"));
        assert_eq!(host("/run/redis.sock:0", "U").as_deref(), Some("unix"));
        assert_eq!(host("/run/redis.sock:0", "N").as_deref(), Some("unix"));
        assert_eq!(host("redis.sock:0", "U").as_deref(), Some("unix"));
        assert_eq!(host("?:0", "N").as_deref(), Some("?"));
        assert_eq!(host("", "N"), None);
    }

    #[test]
    fn flags_tell_what_it_is() {
        let client = |flags: &str| ClientList::parse(format!("flags={flags}\n")).clients.remove(0);
        assert!(client("b").is_blocked() && client("Pb").is_subscriber());
        assert!(client("S").is_replica() && !client("OS").is_replica());
        assert!(client("OS").is_monitor() && client("M").is_master() && !client("S").is_master());
        assert!(!client("").is_blocked(), "an empty field is no flag");
    }

    #[test]
    fn subscribers_of_servers_without_the_flag_are_known_by_what_they_listen_to() {
        let client = |line: &str| ClientList::parse(format!("{line}\n")).clients.remove(0);
        for line in ["sub=1 psub=0", "sub=0 psub=2", "sub=0 psub=0 ssub=1", "flags=P"] {
            assert!(client(line).is_subscriber(), "{line}");
        }
        for line in ["flags=N sub=0 psub=0 ssub=0", "flags=N sub=x", "flags=N"] {
            assert!(!client(line).is_subscriber(), "{line}");
        }
        assert_eq!(client("sub=1 psub=2 ssub=4").subscriptions, Some(7));
    }

    #[test]
    fn a_socket_without_a_peer_is_dead() {
        let client = |line: &str| ClientList::parse(format!("{line}\n")).clients.remove(0);
        assert!(client("addr=?:0").is_dead());
        assert!(
            !client("addr=10.0.0.7:52555").is_dead() && !client("addr=/run/redis.sock:0").is_dead()
        );
        assert!(!client("id=1").is_dead(), "unknown");
    }

    #[test]
    fn what_is_missing_or_nonsense_is_unknown() {
        let list = ClientList::parse("id=x age=-4 idle=many name= cmd=NULL future=1\n");
        assert_eq!(list.clients, [Client::default()]);
    }

    #[test]
    fn lines_that_are_no_client_are_counted_and_the_rest_is_read() {
        let list = ClientList::parse(format!("hello there\n\n{LINE}\u{0}\nx=y\n{LINE}"));
        assert_eq!((list.clients.len(), list.unreadable), (2, 3));
    }

    #[test]
    fn a_list_that_was_cut_short_has_no_half_numbers() {
        let list = ClientList::parse("id=1 age=5 idle=5\nid=2 age=855 idle=85");
        assert_eq!(list.clients[1].age_seconds, Some(855));
        assert_eq!(list.clients[1].idle_seconds, None, "it may have been 855");
        assert_eq!(ClientList::parse("id=1").clients, []);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = ClientList::parse(bytes);
        }
    }
}
