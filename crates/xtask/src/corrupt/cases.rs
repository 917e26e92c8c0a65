//! Everything that is done to the samples, numbered.
//!
//! Invariant: a case depends on its number and the options alone, so it can be run again by itself.

use super::anatomy::{self, Anatomy};
use super::judge::Use;
use super::mutate::mutate;
use super::sample::Sample;
use crate::random::Random;
use clap::ValueEnum;

/// How a byte is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Flips {
    /// One bit of each byte.
    One,
    /// Each bit, all bits clear, all set, one more, one less.
    All,
}

impl Flips {
    fn count(self) -> u64 {
        match self {
            Self::One => 1,
            Self::All => 12,
        }
    }

    fn apply(self, byte: u8, at: u64, flip: u64) -> u8 {
        match (self, flip) {
            (Self::One, _) => byte ^ 1 << (at % 8),
            (Self::All, 0..8) => byte ^ 1 << flip,
            (Self::All, 8) => 0,
            (Self::All, 9) => 0xFF,
            (Self::All, 10) => byte.wrapping_add(1),
            (Self::All, _) => byte.wrapping_sub(1),
        }
    }
}

/// One damaged file.
#[derive(Debug)]
pub(super) struct Case<'s> {
    pub(super) kind: &'static str,
    pub(super) sample: &'s Sample,
    pub(super) bytes: Vec<u8>,
    pub(super) how: Use,
}

/// The samples with all that is done to them.
#[derive(Debug)]
pub(super) struct Cases {
    samples: Vec<(Sample, Anatomy)>,
    flips: Flips,
    mutations: u64,
    seed: u64,
}

impl Cases {
    pub(super) fn new(samples: Vec<Sample>, flips: Flips, mutations: u64, seed: u64) -> Self {
        let found = |sample: &Sample| anatomy::seal(&mut sample.image.clone());
        let samples = samples.into_iter().map(|sample| (found(&sample), sample)).map(|(found, sample)| (sample, found));
        Self { samples: samples.collect(), flips, mutations, seed }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        let bytes: u64 = self.samples.iter().map(|(sample, _)| sample.image.len() as u64).sum();
        bytes * self.flips.count() + bytes + self.mutations
    }

    /// The damaged file of this number.
    pub(super) fn case(&self, number: u64) -> Case<'_> {
        let mut rest = number;
        for (kind, each) in [("flipped", self.flips.count()), ("cut", 1)] {
            for (sample, _) in &self.samples {
                let here = sample.image.len() as u64 * each;
                if rest < here {
                    let how = Use { resealed: false, write: number.is_multiple_of(17) };
                    let at = usize::try_from(rest / each).expect("the offset is inside a file in memory");
                    let mut bytes = sample.image.clone();
                    if kind == "cut" {
                        bytes.truncate(at);
                    } else {
                        bytes[at] = self.flips.apply(bytes[at], at as u64, rest % each);
                    }
                    return Case { kind, sample, bytes, how };
                }
                rest -= here;
            }
        }
        let mut random = Random::at(self.seed, rest);
        let (sample, found) = random.pick(&self.samples);
        let mut bytes = sample.image.clone();
        mutate(&mut bytes, found, &mut random);
        anatomy::seal(&mut bytes);
        Case { kind: "resealed", sample, bytes, how: Use { resealed: true, write: random.chance(200) } }
    }

    /// What is done to which sample.
    pub(super) fn describe(&self) -> String {
        let files: Vec<String> =
            self.samples.iter().map(|(sample, _)| format!("{} {} bytes", sample.name, sample.image.len())).collect();
        format!("files: {}; {} cases, seed {}", files.join(", "), self.count(), self.seed)
    }
}
