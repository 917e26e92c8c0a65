//! A second reader of the file format, written from design.md alone: it uses no code of `src/`.
//!
//! The databases are made with the public API of the crate; what is read back, and how every unit and byte of the
//! files is accounted for, comes from the modules here. `blocks` chooses the slot, `tree` walks nodes and extents,
//! `types` decodes rows, `space` checks the bitmaps, `catalog` puts them together. They read the file into memory
//! whole, which a reader for large files would not do, and favour plainness over speed. The modules `examples`, `rows`
//! and `damage` are the tests.

mod independent_reader {
    mod blocks;
    mod bytes;
    mod catalog;
    #[cfg(test)]
    mod damage;
    #[cfg(test)]
    mod examples;
    #[cfg(test)]
    mod rows;
    mod space;
    mod tree;
    mod types;
}
