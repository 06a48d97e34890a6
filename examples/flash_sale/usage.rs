//! CPU time of a process.

use std::fs;
use std::time::Duration;

/// Of all its threads so far, to the nanosecond; `/proc/<pid>/stat` counts in hundredths of a
/// second. `None` where there is no such thing.
pub(crate) fn cpu_time(pid: &str) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let on_cpu = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.map(|task| on_cpu(task.ok()?)).sum()
}
