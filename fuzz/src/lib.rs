//! What the fuzz targets do with their input, as plain functions: libFuzzer calls them, and so does the ordinary test
//! that replays `fuzz/regressions`.

pub mod image;
pub mod operations;
pub mod sample;
