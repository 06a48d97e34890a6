#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| redis_guard::fuzz::registry::run(data));
