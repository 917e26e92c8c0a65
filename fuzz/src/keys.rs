//! Target `keys`: the encodings of keys and descriptors, on whatever bytes.
//!
//! The first byte of the input chooses the type, the second the form in which two keys are given, the third how many of
//! the bytes behind it are the first of them. Whatever decodes must encode to the same bytes, and two keys must sort by
//! their bytes as they do by their values.

use cowslip::{
    DecodeError, Desc, Key, Newtype, TypeDescriptor, parse_key, parse_prefix, parse_value, render_key, render_key_json,
    render_value, render_value_json,
};
use std::cmp::Ordering;

/// A newtype around a string.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label(String);

impl Newtype for Label {
    type Stored = String;
    const NAME: &'static str = "fuzz.Label";

    fn as_stored(&self) -> &String {
        &self.0
    }

    fn from_stored(stored: String) -> Result<Self, DecodeError> {
        if stored == "refused" { Err(DecodeError::new("refused")) } else { Ok(Self(stored)) }
    }
}

/// What one input did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The type, as text.
    pub descriptor: String,
    /// How many of the two keys decoded.
    pub decoded: usize,
}

type Check = fn(&[u8]) -> Outcome;
type Many =
    (u8, String, i8, bool, (), Vec<u8>, u16, [String; 2], [u8; 2], Option<i64>, Desc<u32>, (String, Desc<Vec<u8>>));

macro_rules! ordered {
    ($($key:ty),* $(,)?) => { [$((|data| check::<$key>(data, |a, b| a.cmp(b))) as Check),*] };
}

/// Every builtin type, alone and inside others.
const ORDERED: [Check; 46] = ordered![
    (),
    bool,
    u8,
    u16,
    u32,
    u64,
    u128,
    i8,
    i16,
    i32,
    i64,
    i128,
    char,
    &'static str,
    String,
    &'static [u8],
    Vec<u8>,
    [u8; 3],
    &'static [u8; 3],
    [u8; 0],
    [i16; 3],
    [&'static str; 2],
    [String; 0],
    Vec<i16>,
    Vec<String>,
    Vec<()>,
    Vec<Vec<u8>>,
    Vec<[u8; 2]>,
    Option<i16>,
    Option<String>,
    Option<Option<&'static str>>,
    Desc<i16>,
    Desc<&'static str>,
    Desc<Desc<Vec<u8>>>,
    Desc<Option<u8>>,
    Label,
    Vec<Label>,
    (u8,),
    (&'static str, i16),
    (i16, &'static str),
    (&'static str, &'static [u8], String),
    (Desc<String>, Option<char>, Vec<u8>),
    ((), ((u8, String), bool), [bool; 2]),
    Vec<(String, Vec<u16>)>,
    Desc<Vec<Option<Desc<String>>>>,
    Many,
];

/// Types whose order is not that of `Ord`.
const FLOATS: [Check; 3] = [
    |data| check::<f32>(data, |a, b| a.total_cmp(b)),
    |data| check::<f64>(data, |a, b| a.total_cmp(b)),
    |data| check::<(f32, bool)>(data, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))),
];

/// How many types there are, the one that is read from the input among them.
pub const TYPES: usize = ORDERED.len() + FLOATS.len() + 1;

/// Runs one input.
///
/// # Panics
/// Where an encoding breaks its contract.
pub fn run(data: &[u8]) -> Outcome {
    let Some((which, rest)) = data.split_first() else {
        return Outcome { descriptor: String::new(), decoded: 0 };
    };
    let which = usize::from(*which) % TYPES;
    match ORDERED.iter().chain(&FLOATS).nth(which) {
        Some(check) => check(rest),
        None => check_described(rest),
    }
}

/// The form of the keys and the bytes of both.
fn split(data: &[u8]) -> (u8, &[u8], &[u8]) {
    match data {
        [form, len, rest @ ..] => {
            let (left, right) = rest.split_at(usize::from(*len).min(rest.len()));
            (form % 3, left, right)
        }
        _ => (0, data, &[]),
    }
}

fn check<K: Key + 'static>(
    data: &[u8],
    order: impl for<'a> Fn(&K::SelfType<'a>, &K::SelfType<'a>) -> Ordering,
) -> Outcome {
    let (form, left, right) = split(data);
    let keys: Vec<Vec<u8>> = [left, right].into_iter().filter_map(|bytes| decode::<K>(form, bytes)).collect();
    if let [left, right] = &keys[..] {
        let (left, right) = (value::<K>(left), value::<K>(right));
        compare::<K>(&left, &right, order(&left, &right));
    }
    Outcome { descriptor: K::descriptor().to_string(), decoded: keys.len() }
}

fn value<K: Key + 'static>(bytes: &[u8]) -> K::SelfType<'_> {
    K::try_from_bytes(bytes).expect("decoded a moment ago")
}

/// The value bytes of a key that is given in one form; what decodes must encode to the same bytes.
fn decode<K: Key + 'static>(form: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let rest: &[u8] = match form {
        0 => {
            decoded.extend_from_slice(bytes);
            &[]
        }
        1 => K::decode_key(bytes, &mut decoded).ok().map(|()| &[][..])?,
        _ => K::decode_key_part(bytes, &mut decoded).ok()?,
    };
    let key = K::try_from_bytes(&decoded).ok();
    show(&K::descriptor(), form, bytes, key.is_some());
    let key = key?;
    let [value, standalone, part] = forms::<K>(&key);
    assert_eq!(value, decoded, "value bytes are read back as others");
    match form {
        0 => {}
        1 => assert_eq!(standalone, bytes, "a key is read back as another"),
        _ => assert_eq!([&part, rest].concat(), bytes, "a part is read back as another"),
    }
    if let Some(width) = K::fixed_width() {
        assert_eq!([decoded.len(), standalone.len(), part.len()], [width; 3], "a fixed width is kept");
    }
    assert!(!K::KEY_BYTES_ARE_VALUE_BYTES || standalone == decoded);
    for (bytes, is_part) in [(&standalone, false), (&part, true)] {
        let mut again = Vec::new();
        let rest = if is_part {
            K::decode_key_part(bytes, &mut again)
        } else {
            K::decode_key(bytes, &mut again).map(|()| &[][..])
        };
        assert_eq!((rest, &again), (Ok(&[][..]), &decoded), "an encoded key does not decode");
    }
    drop(key);
    Some(decoded)
}

/// Value bytes, standalone form and part form.
fn forms<K: Key + 'static>(key: &K::SelfType<'_>) -> [Vec<u8>; 3] {
    let (mut standalone, mut part) = (Vec::new(), Vec::new());
    K::encode_key(key, &mut standalone);
    K::encode_key_part(key, &mut part);
    [K::as_bytes(key).as_ref().to_vec(), standalone, part]
}

fn compare<K: Key + 'static>(left: &K::SelfType<'_>, right: &K::SelfType<'_>, order: Ordering) {
    let [left, left_key, left_part] = forms::<K>(left);
    let [right, right_key, right_part] = forms::<K>(right);
    assert_eq!(left_key.cmp(&right_key), order, "keys sort in another order than their values");
    assert_eq!(left_part.cmp(&right_part), order, "parts sort in another order than their values");
    assert_eq!(left == right, order.is_eq(), "equal keys have other bytes, or different keys the same");
    let prefix = left_part.starts_with(&right_part) || right_part.starts_with(&left_part);
    assert!(order.is_eq() || !prefix, "a part is a prefix of another");
}

/// Renders bytes by their descriptor alone; what the type accepts can be shown, and read back from what was shown.
fn show(descriptor: &TypeDescriptor, form: u8, bytes: &[u8], is_valid: bool) {
    let (shown, json) = match form {
        0 => (render_value(descriptor, bytes), render_value_json(descriptor, bytes)),
        1 => (render_key(descriptor, bytes), render_key_json(descriptor, bytes)),
        _ => return,
    };
    assert!(!is_valid || (shown.is_ok() && json.is_ok()), "a valid key cannot be shown: {shown:?} {json:?}");
    if let Ok(text) = shown {
        let parsed = if form == 0 { parse_value(descriptor, &text) } else { parse_key(descriptor, &text) };
        assert_eq!(parsed.as_deref(), Ok(bytes), "{text} is read back as something else");
    }
}

/// The type itself comes from the input too.
fn check_described(data: &[u8]) -> Outcome {
    let (form, left, right) = split(data);
    let Ok(descriptor) = TypeDescriptor::decode(left) else {
        return Outcome { descriptor: String::new(), decoded: 0 };
    };
    assert_eq!(descriptor.encode(), left, "a descriptor is read back as another");
    assert_eq!(descriptor.check(), Ok(()));
    show(&descriptor, form, right, false);
    let mut decoded = 1;
    if let Ok(text) = std::str::from_utf8(right) {
        let key = parse_key(&descriptor, text);
        if let Ok(key) = &key {
            assert!(render_key(&descriptor, key).is_ok(), "a key that was parsed cannot be shown");
            decoded += 1;
        }
        if let Ok(value) = parse_value(&descriptor, text) {
            assert!(render_value(&descriptor, &value).is_ok(), "a value that was parsed cannot be shown");
        }
        drop(parse_prefix(&descriptor, text));
    }
    Outcome { descriptor: descriptor.to_string(), decoded }
}
