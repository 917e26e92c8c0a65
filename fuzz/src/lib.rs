//! What the fuzz targets do with their input, as plain functions: libFuzzer calls them, and so does the ordinary test
//! that replays `fuzz/regressions` and `fuzz/seeds`.

pub mod canary;
pub mod header;
pub mod image;
pub mod keys;
pub mod names;
pub mod node;
pub mod operations;
pub mod probe;
pub mod sample;
pub mod seal;
pub mod space;
pub mod trouble;
