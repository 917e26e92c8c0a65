//! Fuzz target: operations and faults against a model.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _outcome = cowslip_fuzz::operations::run(data);
});
