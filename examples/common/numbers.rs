//! Numbers as they are reported.
#![allow(dead_code, reason = "each example uses a part of it")]

use std::time::Duration;

/// How times are spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Spread {
    pub(crate) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let rank = |percent: usize| {
            times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)))
        };
        Some(Self { p50: *rank(50)?, p99: *rank(99)?, max: *times.last()? })
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    micros(time) / 1e3
}

/// To three decimals, which is all the clock gives.
pub(crate) fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e9).round() / 1e3
}

/// A duration in three figures or so, in the unit that fits.
pub(crate) fn pretty(time: Duration) -> String {
    let us = micros(time);
    let (value, unit) = match us {
        ..1e3 => (us, "µs"),
        ..1e6 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let decimals = if value < 10.0 { 1 } else { 0 };
    let decimals = if unit == "s" { 2 } else { decimals };
    format!("{value:.decimals$} {unit}")
}

pub(crate) fn thousands(n: impl ToString) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(crate) fn fraction(part: usize, whole: usize) -> f64 {
    let float = |n| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    float(part) / float(whole)
}

pub(crate) fn float(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
