//! Numbers and texts as people read them. For this crate's own binary; not part of its API.

use std::time::Duration;

/// `12,000`.
#[must_use]
pub fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 connection`, `12,000 connections`.
#[must_use]
pub fn counted(number: impl TryInto<u64> + Copy, one: &str) -> String {
    let plural = if number.try_into().ok() == Some(1) { "" } else { "s" };
    format!("{} {one}{plural}", count(number))
}

/// `10.0.0.7:6379`, `[fe80::1]:6379`.
#[must_use]
pub fn host_and_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// `94.1 %`.
#[must_use]
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// `1.5 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let mut unit = 0;
    let (mut whole, mut rest) = (bytes, 0);
    while whole >= 1024 && unit < 4 {
        (whole, rest) = (whole / 1024, whole % 1024);
        unit += 1;
    }
    match ["B", "KiB", "MiB", "GiB", "TiB"][unit] {
        "B" => format!("{whole} B"),
        name => format!("{whole}.{} {name}", rest * 10 / 1024),
    }
}

/// `0.3 ms`, `12 s`, `3 d 4 h`: two units at most.
#[must_use]
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0 if time.as_millis() >= 10 => format!("{} ms", time.as_millis()),
        0 => format!("{:.2} ms", time.as_secs_f64() * 1e3),
        1..10 if time.subsec_millis() > 0 => format!("{:.1} s", time.as_secs_f64()),
        1..60 => format!("{seconds} s"),
        60..3600 if seconds.is_multiple_of(60) => format!("{minutes} min"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{} d {hours} h", count(days)),
    }
}

/// The same, of seconds that the server told.
#[must_use]
pub fn seconds(seconds: u64) -> String {
    if seconds == 0 { "0 s".to_owned() } else { span(Duration::from_secs(seconds)) }
}

/// Text of the server, or of its clients, fit for a terminal, and not too long.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).take(256).collect()
}

/// What a server says may come from anybody who can write to it: false for a character that a
/// terminal could take for a command, that turns the direction of the text, or whose width is a
/// guess.
#[must_use]
pub fn is_harmless(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let all = [0_u64, 999, 1_000, 12_000, 1_234_567].map(count);
        assert_eq!(all, ["0", "999", "1,000", "12,000", "1,234,567"]);
        assert_eq!(counted(1_u64, "slot"), "1 slot");
        assert_eq!(counted(2_000_usize, "slot"), "2,000 slots");
    }

    #[test]
    fn an_ipv6_address_before_a_port_is_in_brackets() {
        let all = ["redis-1", "10.0.0.7", "fe80::1", "[::1]"].map(|host| host_and_port(host, 6379));
        assert_eq!(all, ["redis-1:6379", "10.0.0.7:6379", "[fe80::1]:6379", "[::1]:6379"]);
    }

    #[test]
    fn bytes_and_times_have_their_units() {
        let all = [0, 1023, 1024, 1536, 5 << 30].map(bytes);
        assert_eq!(all, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([3 << 40, 2048 << 40].map(bytes), ["3.0 TiB", "2048.0 TiB"]);
        let all = [0.0003, 0.25, 2.5, 42.0, 61.0, 300.0, 7_260.0, 273_600.0];
        let all = all.map(|time| span(Duration::from_secs_f64(time)));
        let expected =
            ["0.30 ms", "250 ms", "2.5 s", "42 s", "1 min 1 s", "5 min", "2 h 1 min", "3 d 4 h"];
        assert_eq!(all, expected);
        let all = [0.009_99, 0.010, 1.0, 9.9, 10.5, 60.0, 3_600.0, 86_400.0];
        let all = all.map(|time| span(Duration::from_secs_f64(time)));
        let expected =
            ["9.99 ms", "10 ms", "1 s", "9.9 s", "10 s", "1 min", "1 h 0 min", "1 d 0 h"];
        assert_eq!(all, expected);
        assert_eq!([0, 1, 90].map(seconds), ["0 s", "1 s", "1 min 30 s"]);
    }

    #[test]
    fn a_share_is_told_to_a_tenth_of_a_percent() {
        assert_eq!([0.0, 0.9414, 1.2].map(percent), ["0.0 %", "94.1 %", "120.0 %"]);
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(clean("evil\u{1b}[2Jname\n"), "evil\u{fffd}[2Jname\u{fffd}");
        assert_eq!(clean("Zoë's \u{202e}cart…"), "Zoë's \u{fffd}cart\u{fffd}");
    }
}
