//! What a sentinel says of a server: its address, and its fields.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use redis::{RedisResult, Value, from_redis_value};

use crate::vocabulary::words::{clean, host_and_port};

/// Of a name in the DNS, in bytes.
const LONGEST_HOST: usize = 255;

/// A server's address as a sentinel announces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Named {
    /// `None` for what cannot be dialed.
    pub(crate) fn new(host: &str, port: &str) -> Option<Self> {
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let odd = |c: char| c.is_whitespace() || c.is_control();
        let is_host = (1..=LONGEST_HOST).contains(&host.len()) && !host.contains(odd);
        is_host.then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&clean(&self.host), self.port))
    }
}

/// What a sentinel knows of a master, of a replica, or of another sentinel: fields and their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance(HashMap<String, String>);

impl Instance {
    pub(crate) fn parse(reply: Value) -> RedisResult<Self> {
        let fields: HashMap<Vec<u8>, Vec<u8>> = from_redis_value(reply)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self(fields.into_iter().map(|(name, value)| (text(name), text(value))).collect()))
    }

    pub(crate) fn field<T: FromStr>(&self, name: &str) -> Option<T> {
        self.0.get(name)?.parse().ok()
    }

    pub(crate) fn address(&self) -> Option<Named> {
        Named::new(self.0.get("ip")?, self.0.get("port")?)
    }

    pub(crate) fn flags(&self) -> impl Iterator<Item = &str> {
        self.0.get("flags").map_or("", String::as_str).split(',').filter(|flag| !flag.is_empty())
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags().any(|it| it == flag)
    }

    /// True where the sentinel does not reach it either.
    pub(crate) fn is_down(&self) -> bool {
        ["s_down", "o_down", "disconnected"].iter().any(|flag| self.has(flag))
    }

    /// Of a replica: its link to the master is up, as the sentinel last heard.
    pub(crate) fn link_up(&self) -> Option<bool> {
        self.field("master-link-status").map(|status: String| status == "ok")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_instance_is_read_in_both_protocols() {
        let words = ["ip", "::1", "port", "6379", "flags", "slave,s_down", "slave-priority", "0"];
        let flat = Value::Array(words.map(bulk).to_vec());
        let pairs = words.chunks(2).map(|pair| (bulk(pair[0]), bulk(pair[1])));
        for reply in [flat, Value::Map(pairs.collect())] {
            let instance = Instance::parse(reply).expect("an instance");
            assert_eq!(instance.address(), Named::new("::1", "6379"));
            assert!(instance.is_down() && instance.has("slave") && !instance.has("down"));
            assert_eq!(instance.field("slave-priority"), Some(0_u8));
        }
    }

    #[test]
    fn what_is_no_instance_is_an_error_and_what_has_no_address_has_none() {
        for reply in [Value::Okay, Value::Int(3), Value::Array(vec![Value::Int(1)])] {
            assert!(Instance::parse(reply).is_err());
        }
        let without = |words: [&str; 4]| Instance::parse(Value::Array(words.map(bulk).to_vec()));
        for words in [["ip", "", "port", "1"], ["ip", "a", "port", "0"], ["ip", "a", "port", "x"]] {
            assert_eq!(without(words).expect("an instance").address(), None, "{words:?}");
        }
    }
}
