//! The values of one table: each is asked for by its key, and what was never asked for is unknown.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::IntoConnectionInfo;
use serde_json::{Map, Value};

/// Whether a value of this key may hold a password.
pub(super) fn is_secret(key: &str) -> bool {
    ["url", "sentinels", "nodes", "connect_as"].contains(&key) || key.ends_with("password")
}

/// What may be shown of such a value: the addresses.
pub(super) fn shown(value: &Value) -> Vec<String> {
    let List(urls) = List::read(value).unwrap_or_default();
    let address = |url: String| url.into_connection_info().map(|info| info.addr().to_string());
    urls.into_iter().map(|url| address(url).unwrap_or_else(|_| "<redacted>".to_owned())).collect()
}

/// A kind of value, read from its own form or from text.
pub(super) trait Read: Sized {
    /// What is said where it is something else: "a number".
    const KIND: &'static str;

    fn read(value: &Value) -> Option<Self>;
}

impl Read for String {
    const KIND: &'static str = "text";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text.clone()),
            // What looks like a number in the environment was one to whoever read that.
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

impl Read for bool {
    const KIND: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool().or_else(|| value.as_str()?.trim().parse().ok())
    }
}

impl Read for u64 {
    const KIND: &'static str = "a whole number, 0 or more";

    fn read(value: &Value) -> Option<Self> {
        value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
    }
}

impl Read for u32 {
    const KIND: &'static str = u64::KIND;

    fn read(value: &Value) -> Option<Self> {
        u64::read(value)?.try_into().ok()
    }
}

impl Read for usize {
    const KIND: &'static str = u64::KIND;

    fn read(value: &Value) -> Option<Self> {
        u64::read(value)?.try_into().ok()
    }
}

impl Read for Duration {
    const KIND: &'static str = "a time with its unit, such as \"250ms\"";

    fn read(value: &Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?.trim()).ok()
    }
}

/// A list of texts, or one text with commas.
#[derive(Default)]
pub(super) struct List(pub(super) Vec<String>);

impl Read for List {
    const KIND: &'static str = "a list of texts";

    fn read(value: &Value) -> Option<Self> {
        let texts: Option<Vec<String>> = match value {
            Value::Array(values) => {
                values.iter().map(|value| Some(value.as_str()?.to_owned())).collect()
            }
            Value::String(text) => {
                Some(text.split(',').map(|part| part.trim().to_owned()).collect())
            }
            _ => None,
        };
        texts.map(Self)
    }
}

/// The values of one table.
pub(super) struct Fields<'a> {
    /// What stands before a key in a message: `endpoints.checkout.`.
    path: String,
    values: &'a Map<String, Value>,
    known: BTreeSet<&'a str>,
    mistakes: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(values: &'a Map<String, Value>) -> Self {
        Self { path: String::new(), values, known: BTreeSet::new(), mistakes: Vec::new() }
    }

    pub(super) fn mistake(&mut self, mistake: impl Into<String>) {
        let (path, mistake) = (self.path.trim_end_matches('.'), mistake.into());
        self.mistakes.push(if path.is_empty() { mistake } else { format!("{path}: {mistake}") });
    }

    /// The value of `key`, where there is one.
    fn value(&mut self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.values.get_key_value(key)?;
        self.known.insert(key);
        Some(value).filter(|value| !value.is_null())
    }

    pub(super) fn get<T: Read>(&mut self, key: &str) -> Option<T> {
        let value = self.value(key)?;
        let read = T::read(value);
        if read.is_none() {
            // The value is not told: it may be a password in a wrong place.
            self.mistakes.push(format!("{}{key} is to be {}", self.path, T::KIND));
        }
        read
    }

    /// One that has to be there.
    pub(super) fn needed<T: Read>(&mut self, key: &str) -> Option<T> {
        if self.value(key).is_none() {
            self.mistakes.push(format!("{}{key} is missing", self.path));
        }
        self.get(key)
    }

    pub(super) fn one_of<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.value(key)?;
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.mistakes.push(format!("{}{key} is to be one of {}", self.path, words.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// Hands a value that is there to a setter.
    pub(super) fn set<B, T: Read>(&mut self, builder: B, key: &str, set: fn(B, T) -> B) -> B {
        match self.get(key) {
            Some(value) => set(builder, value),
            None => builder,
        }
    }

    pub(super) fn set_one_of<B, T: Copy>(
        &mut self,
        builder: B,
        key: &str,
        words: &[(&str, T)],
        set: fn(B, T) -> B,
    ) -> B {
        match self.one_of(key, words) {
            Some(value) => set(builder, value),
            None => builder,
        }
    }

    pub(super) fn is_table(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_object)
    }

    /// What `read` makes of the table under `key`.
    pub(super) fn table<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let value = self.value(key)?;
        let Some(values) = value.as_object() else {
            self.mistakes.push(format!("{}{key} is to be a table", self.path));
            return None;
        };
        let mut inner = Fields { path: format!("{}{key}.", self.path), ..Fields::new(values) };
        let made = read(&mut inner);
        self.mistakes.extend(inner.finish());
        Some(made)
    }

    pub(super) fn keys(&self) -> Vec<&'a str> {
        self.values.keys().map(String::as_str).collect()
    }

    /// The contents of the file whose path is the value of `key`.
    #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
    pub(super) fn file(&mut self, key: &str) -> Option<Vec<u8>> {
        let path = self.get::<String>(key)?;
        match std::fs::read(&path) {
            Ok(contents) => Some(contents),
            Err(error) => {
                self.mistakes.push(format!("{}{key}: {path}: {error}", self.path));
                None
            }
        }
    }

    /// Everything that was wrong.
    pub(super) fn finish(mut self) -> Vec<String> {
        let unknown = self.values.keys().filter(|key| !self.known.contains(key.as_str()));
        self.mistakes.extend(unknown.map(|key| format!("{}{key} is unknown", self.path)));
        self.mistakes
    }
}
