//! The script of the fleet's registry: the very text, in the Lua that Redis embeds, and on a real server.

mod grants;
mod overwritten;
mod pace;
mod record;
mod redis;
mod reserved;

#[path = "../support/script.rs"]
mod script;
#[path = "../support/server.rs"]
mod server;

use redis_guard::internal::registry::registry_keys;
use redis_guard::internal::sim::SCRIPT;
use script::Script;

fn keys() -> [String; 3] {
    registry_keys("test")
}

fn load() -> Script {
    Script::load(SCRIPT)
}

/// A beat's arguments.
struct Member {
    id: usize,
    seq: u64,
    live: usize,
    base: usize,
    peak: usize,
    hungry: bool,
    max: usize,
}

impl Member {
    fn args(&self) -> Vec<String> {
        let Self { id, seq, live, base, peak, hungry, max } = self;
        let numbers = [*live, 0, *base, *peak, usize::from(*hungry), *max, 0];
        let args = ["beat".to_owned(), format!("member-{id}"), seq.to_string()];
        args.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    }
}
