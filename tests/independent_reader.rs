//! A second reader of the file format, written from design.md alone: it uses no code of `src/`.
//!
//! The databases are made with the public API of the crate; what is read back, and how every unit and byte of the
//! files is accounted for, comes from the modules here. `blocks` chooses the slot, `tree` walks nodes and extents,
//! `types` decodes rows, `log` tells what was committed since the slot, `space` checks the bitmaps, `catalog` puts them
//! together. They read the file into memory whole, which a reader for large files would not do, and favour plainness over
//! speed. The modules `examples`, `rows`, `replay`, `sessions`, `damage` and
//! `log_damage` are the tests.

mod independent_reader {
    mod blocks;
    mod bytes;
    mod catalog;
    #[cfg(test)]
    mod damage;
    #[cfg(test)]
    mod examples;
    mod log;
    #[cfg(test)]
    mod log_damage;
    #[cfg(test)]
    mod replay;
    #[cfg(test)]
    mod rows;
    #[cfg(test)]
    mod sessions;
    mod space;
    mod tree;
    mod types;
}
