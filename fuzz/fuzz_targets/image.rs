//! Fuzz target: a damaged database file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _outcome = cowslip_fuzz::image::run(data);
});
