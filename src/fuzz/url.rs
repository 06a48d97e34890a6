//! A server's URL, as somebody wrote it into a configuration.

use crate::GuardedPool;

const PASSWORD: &str = "hush-hush-7";

/// A pool, or an error in plain words that tells no password.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Of a Unix socket's URL everything before the question mark is its path, and so no secret.
    let with_password = match text.contains("unix:") {
        true => format!("{text}?pass={PASSWORD}"),
        false => text.replace('@', &format!(":{PASSWORD}@")),
    };
    for url in [text.to_string(), with_password] {
        let seeds = url.split(' ').map(str::to_owned);
        for built in [
            GuardedPool::builder(&*url).build(),
            GuardedPool::cluster(seeds.clone().collect::<Vec<_>>()).build(),
            GuardedPool::sentinel(seeds.collect::<Vec<_>>(), &*text).build(),
        ] {
            let said = match built {
                Ok(pool) => format!("{pool:?} {:?}", pool.status()),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!said.contains(PASSWORD) || text.contains(PASSWORD), "{said}");
        }
    }
}
