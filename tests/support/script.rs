//! A server's script engine and the little of a server that the registry's script uses, in memory and
//! in virtual time: the simulator and the property tests run the very text that Redis runs.
#![allow(dead_code, reason = "every test and example uses its own part of the support code")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};

/// What the script sees of the server at the moment it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerState {
    pub(crate) now_ms: u64,
    pub(crate) connected_clients: u64,
    /// `None`: INFO does not tell.
    pub(crate) maxclients: Option<u64>,
    /// Of a Valkey that reserves slots: those of `connected_clients` for whom it does.
    pub(crate) priority_clients: Option<u64>,
}

/// A key's value.
#[derive(Debug)]
enum Stored {
    Text,
    Hash(BTreeMap<String, String>),
    SortedSet(SortedSet),
}

/// Scores are times here: whole and not negative.
#[derive(Debug, Default)]
struct SortedSet {
    scores: HashMap<String, u64>,
    order: BTreeSet<(u64, String)>,
}

impl SortedSet {
    fn insert(&mut self, member: &str, score: u64) {
        self.remove(member);
        self.scores.insert(member.to_owned(), score);
        self.order.insert((score, member.to_owned()));
    }

    fn remove(&mut self, member: &str) {
        if let Some(score) = self.scores.remove(member) {
            self.order.remove(&(score, member.to_owned()));
        }
    }
}

#[derive(Debug, Default)]
struct Database {
    server: ServerState,
    keys: HashMap<String, Stored>,
}

/// One script, loaded, with a database for it.
#[derive(Debug)]
pub(crate) struct Script {
    lua: Lua,
    body: Function,
    database: Rc<RefCell<Database>>,
}

impl Script {
    /// # Panics
    /// If the text is not Lua 5.1.
    pub(crate) fn load(text: &str) -> Self {
        let lua = Lua::new();
        let database = Rc::new(RefCell::new(Database::default()));
        let redis = lua.create_table().expect("a table");
        let ours = Rc::clone(&database);
        let call = lua.create_function(move |lua, args: MultiValue| {
            let args: Vec<String> = args.iter().map(argument).collect();
            ours.borrow_mut().run(lua, &args).map_err(mlua::Error::runtime)
        });
        redis.set("call", call.expect("a function")).expect("a field");
        let error = lua.create_function(|_, text: String| -> mlua::Result<Value> {
            Err(mlua::Error::runtime(text))
        });
        redis.set("error_reply", error.expect("a function")).expect("a field");
        lua.globals().set("redis", redis).expect("a global");
        let body = lua.load(text).set_name("script").into_function().expect("valid Lua");
        Self { lua, body, database }
    }

    /// EVALSHA.
    ///
    /// # Errors
    /// What the script died of.
    pub(crate) fn run(
        &self,
        server: ServerState,
        keys: &[String],
        args: &[String],
    ) -> mlua::Result<Vec<i64>> {
        self.database.borrow_mut().server = server;
        self.lua.globals().set("KEYS", keys)?;
        self.lua.globals().set("ARGV", args)?;
        let reply: Vec<f64> = self.body.call(())?;
        #[allow(clippy::cast_possible_truncation, reason = "as Redis does with a script's numbers")]
        Ok(reply.into_iter().map(|number| number as i64).collect())
    }

    /// One command from outside.
    ///
    /// # Panics
    /// If the command is not known here, or the key holds something else.
    pub(crate) fn command(&self, args: &[&str]) {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        self.database.borrow_mut().run(&self.lua, &args).expect("the command should work");
    }

    /// A hash's fields.
    pub(crate) fn hash(&self, key: &str) -> BTreeMap<String, String> {
        match self.database.borrow().keys.get(key) {
            Some(Stored::Hash(fields)) => fields.clone(),
            _ => BTreeMap::new(),
        }
    }

    pub(crate) fn flush(&self) {
        self.database.borrow_mut().keys.clear();
    }
}

/// A command's argument, numbers written as Redis writes them.
fn argument(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_string_lossy(),
        other => format!("{other:?}"),
    }
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl Database {
    fn run(&mut self, lua: &Lua, args: &[String]) -> Result<Value, String> {
        let text = |text: &str| lua.create_string(text).map(Value::String);
        let list = |items: Vec<Value>| lua.create_sequence_from(items).map(Value::Table);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reply = match args.as_slice() {
            ["TIME"] => {
                let ms = self.server.now_ms;
                list(vec![
                    text(&(ms / 1000).to_string()).map_err(internal)?,
                    text(&(ms % 1000 * 1000).to_string()).map_err(internal)?,
                ])
            }
            ["INFO", section] => text(&self.info(section)),
            ["TYPE", key] => {
                let kind = lua.create_table().map_err(internal)?;
                let name = match self.keys.get(*key) {
                    None => "none",
                    Some(Stored::Text) => "string",
                    Some(Stored::Hash(_)) => "hash",
                    Some(Stored::SortedSet(_)) => "zset",
                };
                kind.set("ok", name).map_err(internal)?;
                Ok(Value::Table(kind))
            }
            ["DEL", key] => {
                self.keys.remove(*key);
                Ok(Value::Integer(1))
            }
            ["SET", key, _] => {
                self.keys.insert((*key).to_owned(), Stored::Text);
                Ok(Value::Integer(1))
            }
            ["PEXPIRE", _, ms] => {
                ms.parse::<u64>().map_err(|e| format!("{ms}: {e}"))?;
                Ok(Value::Integer(1))
            }
            ["HGET", key, field] => match self.hash(key)?.get(*field) {
                Some(value) => text(value),
                None => Ok(Value::Boolean(false)),
            },
            ["HMGET", key, fields @ ..] => {
                let hash = self.hash(key)?;
                let value = |field: &&str| match hash.get(*field) {
                    Some(value) => text(value),
                    None => Ok(Value::Boolean(false)),
                };
                list(fields.iter().map(value).collect::<Result<_, _>>().map_err(internal)?)
            }
            ["HGETALL", key] => {
                let pairs = self.hash(key)?.iter().flat_map(|(field, value)| [field, value]);
                list(pairs.map(|item| text(item)).collect::<Result<_, _>>().map_err(internal)?)
            }
            ["HSET", key, pairs @ ..] => {
                let hash = self.hash(key)?;
                for pair in pairs.chunks_exact(2) {
                    hash.insert(pair[0].to_owned(), pair[1].to_owned());
                }
                Ok(Value::Integer(1))
            }
            ["HDEL", key, field] => {
                self.hash(key)?.remove(*field);
                Ok(Value::Integer(1))
            }
            ["HLEN", key] => Ok(Value::Number(count(self.hash(key)?.len()))),
            ["HINCRBY", key, field, by] => {
                let value =
                    self.hash(key)?.entry((*field).to_owned()).or_insert_with(|| "0".into());
                let not_whole = "ERR hash value is not an integer".to_owned();
                let by: i64 = by.parse().map_err(|e| format!("{by}: {e}"))?;
                let sum = value.parse::<i64>().map_err(|_| not_whole)? + by;
                *value = sum.to_string();
                Ok(Value::Integer(sum))
            }
            ["ZADD", key, "NX", score, member] => {
                let set = self.sorted_set(key)?;
                if !set.scores.contains_key(*member) {
                    set.insert(member, score_of(score)?);
                }
                Ok(Value::Integer(1))
            }
            ["ZADD", key, score, member] => {
                self.sorted_set(key)?.insert(member, score_of(score)?);
                Ok(Value::Integer(1))
            }
            ["ZCARD", key] => Ok(Value::Number(count(self.sorted_set(key)?.scores.len()))),
            ["ZREM", key, member] => {
                self.sorted_set(key)?.remove(member);
                Ok(Value::Integer(1))
            }
            ["ZREMRANGEBYSCORE", key, low, "+inf"] => {
                let low = score_of(low.trim_start_matches('('))?;
                let set = self.sorted_set(key)?;
                let gone = set.order.split_off(&(low + 1, String::new()));
                for (_, member) in gone {
                    set.scores.remove(&member);
                }
                Ok(Value::Integer(1))
            }
            ["ZRANGEBYSCORE", key, "-inf", high, "LIMIT", "0", limit] => {
                let high = score_of(high)?;
                let limit: usize = limit.parse().map_err(|e| format!("{limit}: {e}"))?;
                let due =
                    self.sorted_set(key)?.order.iter().take_while(|(score, _)| *score <= high);
                let due = due.take(limit).map(|(_, member)| text(member));
                list(due.collect::<Result<_, _>>().map_err(internal)?)
            }
            other => return Err(format!("ERR this server does not know {other:?}")),
        };
        reply.map_err(internal)
    }

    fn info(&self, section: &str) -> String {
        match (section, self.server.maxclients) {
            ("clients", Some(maxclients)) => {
                let priority = self.server.priority_clients;
                let priority =
                    priority.map(|count| format!("connected_priority_clients:{count}\r\n"));
                format!(
                    "# Clients\r\nconnected_clients:{}\r\n{}cluster_connections:0\r\nmaxclients:{maxclients}\r\n",
                    self.server.connected_clients,
                    priority.unwrap_or_default()
                )
            }
            ("clients", None) => {
                format!("# Clients\r\nconnected_clients:{}\r\n", self.server.connected_clients)
            }
            _ => "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n".to_owned(),
        }
    }

    fn hash(&mut self, key: &str) -> Result<&mut BTreeMap<String, String>, String> {
        match self.keys.entry(key.to_owned()).or_insert_with(|| Stored::Hash(BTreeMap::new())) {
            Stored::Hash(fields) => Ok(fields),
            Stored::Text | Stored::SortedSet(_) => Err(WRONG_TYPE.to_owned()),
        }
    }

    fn sorted_set(&mut self, key: &str) -> Result<&mut SortedSet, String> {
        let key = self.keys.entry(key.to_owned());
        match key.or_insert_with(|| Stored::SortedSet(SortedSet::default())) {
            Stored::SortedSet(set) => Ok(set),
            Stored::Text | Stored::Hash(_) => Err(WRONG_TYPE.to_owned()),
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time in milliseconds"
)]
fn score_of(text: &str) -> Result<u64, String> {
    text.parse::<f64>().map(|score| score as u64).map_err(|error| format!("{text}: {error}"))
}

#[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 fields")]
fn count(len: usize) -> f64 {
    len as f64
}

fn internal(error: mlua::Error) -> String {
    error.to_string()
}
