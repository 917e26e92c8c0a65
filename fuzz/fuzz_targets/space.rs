//! Fuzz target: damaged bitmaps and region tables.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _outcome = cowslip_fuzz::space::run(data);
});
