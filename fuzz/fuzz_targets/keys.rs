//! Fuzz target: the encodings of keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _outcome = cowslip_fuzz::keys::run(data);
});
