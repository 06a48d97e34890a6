//! What sentinels are asked, and what they answer. Pure.

use std::sync::Arc;

use redis::{Cmd, RedisResult, Value, from_redis_value};

use super::instance::{Instance, Named};

/// Where the servers of a master's name are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Question {
    /// The master.
    Master(Arc<str>),
    /// Its replicas that can be read from.
    Replicas(Arc<str>),
}

/// In characters.
const LONGEST: usize = 200;

impl Question {
    /// The master's name.
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Master(name) | Self::Replicas(name) => name,
        }
    }

    pub(super) fn command(&self) -> Cmd {
        let mut command = redis::cmd("SENTINEL");
        match self {
            Self::Master(name) => command.arg("GET-MASTER-ADDR-BY-NAME").arg(&**name),
            // REPLICAS has a second name only since Redis 5, and keeps the first.
            Self::Replicas(name) => command.arg("SLAVES").arg(&**name),
        };
        command
    }

    /// What the reply says; in words where it says nothing that can be dialed.
    pub(super) fn answer(&self, reply: Value) -> Result<Vec<Named>, String> {
        let reply = reply.extract_error().map_err(|error| brief(&error))?;
        let strange = |reply: &Value| brief(&format_args!("an answer that is none: {reply:?}"));
        match self {
            Self::Master(name) if reply == Value::Nil => {
                Err(format!("it knows no master named {name:?}"))
            }
            Self::Master(_) => match master(&reply) {
                Some(master) => Ok(vec![master]),
                None => Err(strange(&reply)),
            },
            Self::Replicas(name) => {
                let Value::Array(replicas) = &reply else { return Err(strange(&reply)) };
                let replicas: RedisResult<Vec<Instance>> =
                    replicas.iter().cloned().map(Instance::parse).collect();
                let replicas = replicas.map_err(|_| strange(&reply))?;
                match usable(replicas) {
                    none if none.is_empty() => {
                        Err(format!("it knows no replica of {name:?} that is up"))
                    }
                    usable => Ok(usable),
                }
            }
        }
    }
}

/// As much of a sentinel's words as a message has room for.
pub(super) fn brief(words: &impl ToString) -> String {
    let words = words.to_string();
    match words.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

fn master(reply: &Value) -> Option<Named> {
    let (host, port): (String, String) = from_redis_value(reply.clone()).ok()?;
    Named::new(&host, &port)
}

/// Those that are up; of these, those that are in step with the master, if any is.
fn usable(replicas: Vec<Instance>) -> Vec<Named> {
    let in_step = |replica: &Instance| replica.link_up() == Some(true);
    let up: Vec<_> = replicas.into_iter().filter(|replica| !replica.is_down()).collect();
    let any = up.iter().any(in_step);
    up.iter().filter(|replica| in_step(replica) || !any).filter_map(Instance::address).collect()
}

/// What sentinels publish that may change an answer: the master's move, and replicas that come, go
/// down, or are up again. The sentinel that carries a failover out names the new master from
/// `+promoted-slave` on, and publishes the switch only when the replicas follow, a second or more later;
/// what the old one acknowledges meanwhile is lost.
pub(super) const CHANNELS: [&str; 5] =
    ["+switch-master", "+promoted-slave", "+slave", "+sdown", "-sdown"];

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Publication {
    /// The master of this name is elsewhere now.
    Moved(String, Named),
    /// Something about the servers of this name.
    Changed(String),
}

impl Publication {
    /// `None` for what is not about any master.
    pub(super) fn parse(channel: &str, message: &str) -> Option<Self> {
        let words: Vec<&str> = message.split(' ').collect();
        if channel == "+switch-master" {
            // <name> <old ip> <old port> <new ip> <new port>
            let [name, _, _, host, port] = words[..] else { return None };
            return Some(Self::Moved(name.to_owned(), Named::new(host, port)?));
        }
        // <type> <name> <ip> <port> @ <master's name> <ip> <port>, or without the rest of a master itself.
        let name = match words.iter().position(|word| *word == "@") {
            Some(at) => words.get(at + 1)?,
            None => words.get(1)?,
        };
        Some(Self::Changed((*name).to_owned()))
    }

    /// The message of a subscription, if the value is one: its channel and what was said.
    pub(super) fn of(value: &Value) -> Option<(String, String)> {
        let Value::Array(parts) = value else { return None };
        let [Value::BulkString(kind), channel, message] = &parts[..] else { return None };
        (kind == b"message").then_some(())?;
        let text = |value: &Value| from_redis_value::<String>(value.clone()).ok();
        Some((text(channel)?, text(message)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn texts(words: &str) -> Value {
        Value::Array(words.split(' ').map(text).collect())
    }

    fn replica(port: u16, flags: &str, link: &str) -> Value {
        texts(&format!("name x ip 10.0.0.9 port {port} flags {flags} master-link-status {link}"))
    }

    fn ports(replicas: Vec<Value>) -> Result<Vec<u16>, String> {
        let answer = Question::Replicas("m".into()).answer(Value::Array(replicas))?;
        Ok(answer.into_iter().map(|named| named.port).collect())
    }

    #[test]
    fn the_master_is_where_the_answer_says() {
        let question = Question::Master("m".into());
        let at = |host: &str| Ok(Named::new(host, "6379").into_iter().collect());
        assert_eq!(question.answer(texts("10.0.0.1 6379")), at("10.0.0.1"));
        assert_eq!(question.answer(texts("::1 6379")), at("::1"));
        let unknown = question.answer(Value::Nil).unwrap_err();
        assert!(unknown.contains("no master named \"m\""), "{unknown}");
    }

    #[test]
    fn what_cannot_be_dialed_is_no_answer() {
        let question = Question::Master("m".into());
        for reply in [
            texts("10.0.0.1 0"),
            texts("10.0.0.1 70000"),
            texts("10.0.0.1"),
            texts(" 6379"),
            Value::Array(vec![text("a\nb"), text("6379")]),
            Value::Array(vec![text(&"a".repeat(1_000_000)), text("6379")]),
            texts("a 1 b 2"),
            Value::Int(6379),
            Value::Okay,
            Value::Array(vec![Value::Nil, Value::Nil]),
        ] {
            let told = question.answer(reply.clone()).unwrap_err();
            assert!(told.contains("an answer that is none"), "{reply:?}: {told}");
        }
    }

    #[test]
    fn however_much_a_sentinel_says_a_message_has_little_of_it() {
        let endless = "é".repeat(1_000_000);
        for reply in [text(&endless), Value::Array(vec![text(&endless); 3])] {
            for question in [Question::Master("m".into()), Question::Replicas("m".into())] {
                let told = question.answer(reply.clone()).unwrap_err();
                assert!(told.chars().count() <= LONGEST + 1, "{}", told.len());
            }
        }
    }

    #[test]
    fn replicas_that_are_down_or_behind_are_left_out() {
        let all = vec![
            replica(1, "slave,s_down", "ok"),
            replica(2, "slave,disconnected", "ok"),
            replica(3, "slave", "err"),
            replica(4, "slave", "ok"),
        ];
        assert_eq!(ports(all.clone()), Ok(vec![4]));
        assert_eq!(ports(all[..3].to_vec()), Ok(vec![3]), "rather one that is behind than none");
        assert!(ports(all[..2].to_vec()).unwrap_err().contains("no replica"));
        assert!(ports(vec![Value::Int(1)]).unwrap_err().contains("an answer that is none"));
    }

    #[test]
    fn publications_say_whose_servers_changed() {
        let moved = Publication::parse("+switch-master", "m 10.0.0.1 6379 10.0.0.2 6380");
        assert_eq!(
            moved,
            Some(Publication::Moved("m".into(), Named::new("10.0.0.2", "6380").unwrap()))
        );
        let changed = Some(Publication::Changed("m".into()));
        let replica = "slave 10.0.0.2:6379 10.0.0.2 6379 @ m 10.0.0.1 6379";
        assert_eq!(Publication::parse("+sdown", replica), changed);
        assert_eq!(Publication::parse("+promoted-slave", replica), changed);
        assert_eq!(Publication::parse("+sdown", "master m 10.0.0.1 6379"), changed);
        for (channel, message) in [
            ("+switch-master", "m 10.0.0.1"),
            ("+switch-master", "m a 1 b x"),
            ("+sdown", ""),
            ("+slave", "a @"),
        ] {
            assert_eq!(Publication::parse(channel, message), None, "{channel} {message}");
        }
    }
}
