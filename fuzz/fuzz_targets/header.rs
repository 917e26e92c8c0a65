//! Fuzz target: a damaged block 0 or slot.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _outcome = cowslip_fuzz::header::run(data);
});
