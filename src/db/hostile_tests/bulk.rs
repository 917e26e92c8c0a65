//! Bulk verbs and compaction on damaged files.
//!
//! Invariant: as in `hostile_tests`.
//! Layer 8 (db).

use super::*;

type Verb = fn(&Database) -> Result<(), Error>;

const VERBS: [Verb; 9] = [compact, remove_range, retain, retain_names, put_many, pop, extract, churn_and_compact, edit];
const EXTRACT: usize = 6;

fn compact(db: &Database) -> Result<(), Error> {
    db.compact()?;
    Ok(())
}

fn remove_range(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        tx.open_table(ROWS)?.remove_range(10..70)?;
        Ok::<_, Error>(())
    })
}

fn retain(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        tx.open_table(ROWS)?.retain(|key, _| key % 3 != 0)?;
        Ok::<_, Error>(())
    })
}

fn retain_names(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        let mut names = tx.open_table(NAMES)?;
        names.retain(|key, _| key.len() % 3 != 0)?;
        names.retain(|_, _| false)?;
        Ok(())
    })
}

fn put_many(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        rows.put_many((0..120).step_by(2).map(|key| (key, &[9; 30][..])))?;
        (0..120).step_by(5).try_for_each(|key| rows.delete(key))?;
        let mut names = tx.open_table(NAMES)?;
        for key in 0..60 {
            names.put(&*format!("{}{key}", "long ".repeat(usize::from(key % 2 == 0) * 30)), key)?;
        }
        Ok(())
    })
}

fn pop(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        let (mut rows, mut names) = (tx.open_table(ROWS)?, tx.open_table(NAMES)?);
        for _ in 0..30 {
            rows.pop_first()?;
            rows.pop_last()?;
        }
        for _ in 0..10 {
            names.pop_first()?;
            names.pop_last()?;
        }
        Ok(())
    })
}

fn extract(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        let (mut rows, mut names) = (tx.open_table(ROWS)?, tx.open_table(NAMES)?);
        let mut picked = rows.extract_if(|key, _| key % 2 == 0)?;
        (0..20).try_for_each(|_| picked.next().transpose().map(drop))?;
        (0..10).try_for_each(|_| picked.next_back().transpose().map(drop))?;
        drop(picked);
        names.extract_if(|_, _| true)?.take(17).try_for_each(|row| row.map(drop))?;
        Ok(())
    })
}

fn churn_and_compact(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        tx.open_table(ROWS)?.remove_range(0..80)?;
        Ok::<_, Error>(())
    })?;
    db.compact()?;
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        rows.put_many((0..100).map(|key| (key, &[1; 50][..])))?;
        Ok::<_, Error>(())
    })?;
    compact(db)
}

/// Single rows of the same lengths, which are edited where they stand.
fn edit(db: &Database) -> Result<(), Error> {
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        for key in (0..90).filter(|key| key % 9 != 4) {
            rows.insert(key, &[0xff; 30][..])?;
        }
        for key in 0..20 {
            rows.remove(key)?;
            rows.insert(key, &[0xff; 30][..])?;
        }
        Ok::<_, Error>(())
    })?;
    read_all(db)
}

#[test]
fn no_resealed_damage_makes_a_bulk_verb_panic_or_go_on_for_ever() {
    let sound = Image::sample();
    for verb in VERBS {
        verb(&sound.open().unwrap()).unwrap();
    }
    let (mut refused, mut harmless, mut random) = (0, 0, Random(23));
    for _ in 0..250 {
        let mut image = sound.clone();
        for _ in 0..=random.below(3) {
            damage(&mut image, &mut random);
        }
        image.reseal();
        for verb in VERBS {
            match image.open().and_then(|db| verb(&db)) {
                Ok(()) => harmless += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 500 && harmless > 500, "{refused} refused, {harmless} harmless");
}

#[test]
fn rows_out_of_order_do_not_keep_an_extraction_from_ending() {
    let sound = Image::sample();
    let mut random = Random(23);
    // In this round of damage the keys of a leaf are out of order.
    for round in 0..900 {
        let mut image = sound.clone();
        for _ in 0..=random.below(3) {
            damage(&mut image, &mut random);
        }
        if round > 820 {
            image.reseal();
            drop(image.open().and_then(|db| VERBS[EXTRACT](&db)));
        }
    }
}

#[test]
fn row_counts_that_no_sum_holds_are_no_panic() {
    let mut image = Image::sample();
    let page = image.slot.data.page;
    let mut bytes = image.node(page).to_vec();
    assert_eq!(node::level(&bytes), 1);
    for index in 0..node::count(&bytes) {
        let ValueCell::Inline(value) = leaf::row(&bytes, index).value else { panic!("inline") };
        let mut record = TableRecord::decode(value).unwrap();
        record.root.rows = u64::MAX;
        let (at, new) = (leaf::value_offset(&bytes, index), record.encode());
        bytes[at..at + new.len()].copy_from_slice(&new);
    }
    image.set_node(page, &bytes);
    image.reseal();
    let db = image.open().unwrap();
    db.check_quick().unwrap();
    assert!(db.compact().is_ok() || read_all(&db).is_err());
}
