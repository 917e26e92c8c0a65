//! `cargo xtask keys`: byte order against value order, and round trips, for many pairs of each key type.
//!
//! Values are drawn from small alphabets and from edges, so that pairs agree in front and differ late. The oracle is the
//! order of the Rust type; what is stored is read back through both forms.

use crate::Result;
use crate::random::Random;
use cowslip::{DecodeError, Desc, Key, Newtype};
use std::cmp::Ordering;
use std::fmt::Debug;
use std::time::Instant;

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pairs to compare of each key type.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pairs: u64,
    /// Where all chance comes from.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// A newtype around a string.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label(String);

impl Newtype for Label {
    type Stored = String;
    const NAME: &'static str = "xtask.Label";

    fn as_stored(&self) -> &String {
        &self.0
    }

    fn from_stored(stored: String) -> std::result::Result<Self, DecodeError> {
        Ok(Self(stored))
    }
}

/// The bytes of one key in each form.
struct Forms {
    value: Vec<u8>,
    standalone: Vec<u8>,
    part: Vec<u8>,
}

fn forms<K: Key + 'static>(key: &K::SelfType<'_>) -> Forms {
    let (mut standalone, mut part) = (Vec::new(), Vec::new());
    K::encode_key(key, &mut standalone);
    K::encode_key_part(key, &mut part);
    Forms { value: K::as_bytes(key).as_ref().to_vec(), standalone, part }
}

/// What is wrong with one pair, if anything is.
fn judge<K: Key + 'static>(left: &K::SelfType<'_>, right: &K::SelfType<'_>, order: Ordering) -> Option<&'static str> {
    let (left, right) = (forms::<K>(left), forms::<K>(right));
    if left.standalone.cmp(&right.standalone) != order {
        return Some("standalone keys sort in another order");
    }
    if left.part.cmp(&right.part) != order {
        return Some("key parts sort in another order");
    }
    if order.is_ne() && (left.part.starts_with(&right.part) || right.part.starts_with(&left.part)) {
        return Some("a key part is a prefix of another");
    }
    if (left.value == right.value) != order.is_eq() {
        return Some("equal values have different bytes, or different values equal ones");
    }
    let mut decoded = Vec::new();
    if K::decode_key(&left.standalone, &mut decoded).is_err() || decoded != left.value {
        return Some("a standalone key does not decode to its value bytes");
    }
    let part_and_more = [&left.part[..], &right.standalone].concat();
    decoded.clear();
    let rest = K::decode_key_part(&part_and_more, &mut decoded);
    if rest != Ok(&right.standalone[..]) || decoded != left.value {
        return Some("a key part does not decode to its value bytes");
    }
    match K::try_from_bytes(&left.value) {
        Ok(again) if K::as_bytes(&again).as_ref() == left.value => None,
        _ => Some("value bytes do not decode to the value"),
    }
}

/// How a run of all types goes.
struct Run<'o> {
    options: &'o Options,
    wrong: u64,
    types: u64,
}

impl Run<'_> {
    /// Compares pairs of one type: how a value is drawn, how two compare, and how a drawn value is lent as a key.
    fn check<K: Key + 'static, O: Debug>(
        &mut self,
        draw: fn(&mut Random) -> O,
        order: fn(&O, &O) -> Ordering,
        lend: for<'a> fn(&'a O) -> K::SelfType<'a>,
    ) {
        let mut random = Random::at(self.options.seed, self.types);
        self.types += 1;
        let mut counts = [0_u64; 3];
        for pair in 0..self.options.pairs {
            let (left, right) = (draw(&mut random), draw(&mut random));
            let expected = order(&left, &right);
            counts[usize::from(expected.is_ne()) + usize::from(expected.is_gt())] += 1;
            if let Some(reason) = judge::<K>(&lend(&left), &lend(&right), expected) {
                self.wrong += 1;
                eprintln!("{}: pair {pair}: {reason}: {left:?} and {right:?}", K::descriptor());
                break;
            }
        }
        let [equal, less, greater] = counts;
        println!("{:<44} {less:>9} less {equal:>9} equal {greater:>9} greater", K::descriptor().to_string());
    }
}

fn integer(random: &mut Random) -> u128 {
    let wide = u128::from(random.next()) << 64 | u128::from(random.next());
    match random.below(4) {
        0 => wide,
        1 => wide >> random.below(128),
        2 => u128::from(random.next() % 3),
        _ => !u128::from(random.next() % 3),
    }
}

fn text(random: &mut Random) -> String {
    let letters = ['\0', '\0', '\u{1}', 'a', 'b', '\u{7F}', '\u{E9}', '\u{FFFF}', '\u{10FFFF}'];
    (0..random.below(6)).map(|_| *random.pick(&letters)).collect()
}

fn blob(random: &mut Random) -> Vec<u8> {
    (0..random.below(6)).map(|_| *random.pick(&[0, 0, 1, 0xFE, 0xFF, b'a'])).collect()
}

fn letter(random: &mut Random) -> char {
    let any = u32::try_from(random.next() % 0x11_0000).ok().and_then(char::from_u32);
    if random.chance(500) { any.unwrap_or('\0') } else { *random.pick(&['\0', 'a', '\u{D7FF}', '\u{E000}']) }
}

fn double(random: &mut Random) -> f64 {
    let edges = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, f64::MIN_POSITIVE];
    if random.chance(500) { f64::from_bits(random.next()) } else { *random.pick(&edges) }
}

fn single(random: &mut Random) -> f32 {
    let edges = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MIN_POSITIVE];
    let bits = u32::try_from(random.next() >> 32).unwrap_or(0);
    if random.chance(500) { f32::from_bits(bits) } else { *random.pick(&edges) }
}

fn small(random: &mut Random) -> i16 {
    *random.pick(&[i16::MIN, -1, 0, 1, 256, i16::MAX])
}

fn list<T>(random: &mut Random, draw: fn(&mut Random) -> T) -> Vec<T> {
    (0..random.below(4)).map(|_| draw(random)).collect()
}

fn maybe<T>(random: &mut Random, draw: fn(&mut Random) -> T) -> Option<T> {
    random.chance(600).then(|| draw(random))
}

macro_rules! integers {
    ($run:expr, $($type:ident),*) => {$(
        $run.check::<$type, $type>(
            |random| $type::from_le_bytes(*integer(random).to_le_bytes().first_chunk().expect("16 bytes are enough")),
            Ord::cmp,
            |key| *key,
        );
    )*};
}

fn check_simple(run: &mut Run<'_>) {
    integers!(run, u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);
    run.check::<(), ()>(|_| (), Ord::cmp, |()| ());
    run.check::<bool, bool>(|random| random.chance(500), Ord::cmp, |key| *key);
    run.check::<char, char>(letter, Ord::cmp, |key| *key);
    run.check::<f32, f32>(single, f32::total_cmp, |key| *key);
    run.check::<f64, f64>(double, f64::total_cmp, |key| *key);
    run.check::<&str, String>(text, Ord::cmp, |key| key);
    run.check::<String, String>(text, Ord::cmp, Clone::clone);
    run.check::<&[u8], Vec<u8>>(blob, Ord::cmp, |key| key);
    run.check::<Vec<u8>, Vec<u8>>(blob, Ord::cmp, Clone::clone);
    run.check::<[u8; 3], [u8; 3]>(|random| [(); 3].map(|()| *random.pick(&[0, 1, 0xFF])), Ord::cmp, |key| *key);
    run.check::<&[u8; 3], [u8; 3]>(|random| [(); 3].map(|()| *random.pick(&[0, 1, 0xFF])), Ord::cmp, |key| key);
}

fn check_composite(run: &mut Run<'_>) {
    run.check::<[i16; 3], [i16; 3]>(|random| [(); 3].map(|()| small(random)), Ord::cmp, |key| *key);
    run.check::<[&str; 2], [String; 2]>(|random| [(); 2].map(|()| text(random)), Ord::cmp, |[a, b]| [a, b]);
    run.check::<Vec<i16>, Vec<i16>>(|random| list(random, small), Ord::cmp, Clone::clone);
    run.check::<Vec<String>, Vec<String>>(|random| list(random, text), Ord::cmp, Clone::clone);
    run.check::<Vec<()>, Vec<()>>(|random| list(random, |_| ()), Ord::cmp, Clone::clone);
    run.check::<Vec<Vec<u8>>, Vec<Vec<u8>>>(|random| list(random, blob), Ord::cmp, Clone::clone);
    run.check::<Option<i16>, Option<i16>>(|random| maybe(random, small), Ord::cmp, |key| *key);
    run.check::<Option<String>, Option<String>>(|random| maybe(random, text), Ord::cmp, Clone::clone);
    run.check::<Desc<i16>, Desc<i16>>(|random| Desc(small(random)), Ord::cmp, |key| *key);
    run.check::<Desc<&str>, Desc<String>>(|random| Desc(text(random)), Ord::cmp, |key| Desc(&key.0));
    run.check::<Desc<Desc<Vec<u8>>>, Desc<Desc<Vec<u8>>>>(|random| Desc(Desc(blob(random))), Ord::cmp, Clone::clone);
    run.check::<Label, Label>(|random| Label(text(random)), Ord::cmp, |key| Label(key.0.clone()));
    run.check::<(&str, i16), (String, i16)>(|random| (text(random), small(random)), Ord::cmp, |key| (&key.0, key.1));
    run.check::<(i16, &str), (i16, String)>(|random| (small(random), text(random)), Ord::cmp, |key| (key.0, &key.1));
    run.check::<(Desc<String>, Option<char>, Vec<u8>), (Desc<String>, Option<char>, Vec<u8>)>(
        |random| (Desc(text(random)), maybe(random, letter), blob(random)),
        Ord::cmp,
        Clone::clone,
    );
    run.check::<Desc<Vec<Option<Desc<String>>>>, Desc<Vec<Option<Desc<String>>>>>(
        |random| Desc(list(random, |random| maybe(random, |random| Desc(text(random))))),
        Ord::cmp,
        Clone::clone,
    );
    run.check::<Twelve, Twelve>(draw_twelve, Ord::cmp, Clone::clone);
}

type Twelve =
    (u8, String, i8, bool, (), Vec<u8>, u16, [String; 2], [u8; 2], Option<i64>, Desc<u32>, (String, Desc<Vec<u8>>));

fn draw_twelve(random: &mut Random) -> Twelve {
    let few = random.chance(900);
    let first = if few { String::new() } else { text(random) };
    let second = if few { Vec::new() } else { blob(random) };
    let array = if few { [String::new(), String::new()] } else { [text(random), text(random)] };
    let (maybe, falling) = (maybe(random, |random| i64::from(small(random))), Desc(u32::from(random.chance(500))));
    (7, first, -7, true, (), second, 9, array, [0, 1], maybe, falling, (text(random), Desc(blob(random))))
}

/// Runs the task; true when every pair held.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let mut run = Run { options, wrong: 0, types: 0 };
    check_simple(&mut run);
    check_composite(&mut run);
    let Run { types, wrong, .. } = run;
    println!("{types} key types, {} pairs each, seed {}: {wrong} wrong", options.pairs, options.seed);
    println!("{:.1} s", began.elapsed().as_secs_f64());
    Ok(wrong == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_type_sorts_as_its_values_do() {
        assert!(run(&Options { pairs: 1000, seed: 2 }).unwrap());
    }

    #[test]
    fn a_wrong_order_is_noticed() {
        assert!(judge::<u64>(&1, &2, Ordering::Greater).is_some());
        assert!(judge::<&str>(&"a", &"b", Ordering::Equal).is_some());
        assert!(judge::<Desc<&str>>(&Desc("a"), &Desc("ab"), Ordering::Less).is_some());
    }
}
