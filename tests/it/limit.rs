//! A limit for the length of the file: what it refuses, and what goes on beside it.
//!
//! Invariant: the file is never longer than its limit, no acknowledged row is lost, and removing rows always works.

use crate::fixture::{Model, ROWS, Random, assert_sound, rows, tiny, value};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{Database, Error};

fn limited(limit: u64) -> cowslip::Builder {
    tiny().file_bytes_max(limit)
}

fn change(db: &Database, by_slot: bool, insert: &[(u64, Vec<u8>)], remove: &[u64]) -> Result<(), Error> {
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(by_slot);
    let mut table = tx.open_table(ROWS)?;
    for (key, value) in insert {
        table.insert(*key, &value[..])?;
    }
    for key in remove {
        table.remove(*key)?;
    }
    drop(table);
    tx.commit()?;
    Ok(())
}

#[test]
fn experiment() {
    let lag = std::env::var("LAG").ok().map(|l| l.parse::<u32>().unwrap());
    let seeds: u64 = std::env::var("SEEDS").map(|l| l.parse().unwrap()).unwrap_or(3);
    for len in [20, 300, 1500] {
        let (mut stats, mut worst) = ([0_u64; 6], (0, 0));
        for units in 24..400_u64 {
            for seed in 0..seeds {
                let disk = SimDisk::new();
                disk.keep_history(false);
                let mut builder = limited(units * 512).cache_bytes_max(64 << 10);
                if let Some(lag) = lag {
                    builder = builder.test_checkpoint_lag(lag);
                }
                let db = builder.create_with_storage(disk.clone()).unwrap();
                let mut model = Model::new();
                let mut random = Random::new(units * 1000 + seed);
                let mut failed = 0;
                for round in 0..300 {
                    let by_slot = random.below(5) == 0;
                    if random.below(3) > 0 && failed < 3 {
                        let count = 1 << random.below(5);
                        let ins: Vec<_> = (0..count).map(|_| { let k = random.below(2000); (k, value(k, round, len)) }).collect();
                        match change(&db, by_slot, &ins, &[]) {
                            Ok(()) => { model.extend(ins); stats[0] += 1 }
                            Err(e) => { assert!(e.is_out_of_space(), "{e}"); failed += 1; stats[1] += 1 }
                        }
                    } else if !model.is_empty() {
                        failed = 0;
                        for _ in 0..10 {
                            if model.is_empty() { break }
                            let key = *model.keys().nth(random.index(model.len())).unwrap();
                            match change(&db, by_slot, &[], &[key]) {
                                Ok(()) => { model.remove(&key); stats[2] += 1 }
                                Err(e) => { assert!(e.is_out_of_space(), "{e}"); stats[3] += 1; if worst.0 == 0 { worst = (units, seed) } }
                            }
                        }
                    }
                    assert!(disk.image().len() as u64 <= units * 512);
                    if round % 10 == 0 {
                        assert_sound(&db);
                        assert!(rows(&db).unwrap() == model);
                        let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
                        match builder.open_with_storage(crashed) {
                            Ok(db) => { stats[4] += 1; assert!(rows(&db).unwrap() == model) }
                            Err(e) => { stats[5] += 1; assert!(e.is_out_of_space()); }
                        }
                    }
                }
                assert!(rows(&db).unwrap() == model);
                assert_sound(&db);
            }
        }
        println!("len {len}: ins ok/fail {} {} rem ok/fail {} {} open {} {} first {worst:?}", stats[0], stats[1], stats[2], stats[3], stats[4], stats[5]);
    }
}
