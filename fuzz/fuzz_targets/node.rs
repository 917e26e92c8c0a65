//! Fuzz target: a damaged leaf or branch.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _outcome = cowslip_fuzz::node::run(data);
});
