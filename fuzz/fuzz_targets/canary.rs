//! Fuzz target: the one that must fail.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cowslip_fuzz::canary::run(data);
});
