//! Fuzz target: operations against a model.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cowslip_fuzz::operations::run(data);
});
