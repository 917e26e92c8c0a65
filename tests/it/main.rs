//! Integration tests: what the public API promises, row by row of the reliability study and rule by rule of the
//! protocol. Names carry the id of what they show.

#[cfg(test)]
mod api;
#[cfg(test)]
mod behind;
#[cfg(test)]
mod beside;
#[cfg(test)]
mod beside_threads;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod compact;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod frozen;
#[cfg(test)]
mod gated;
#[cfg(test)]
mod input;
#[cfg(test)]
mod laid_over;
#[cfg(test)]
mod lifetimes;
#[cfg(test)]
mod limit;
#[cfg(test)]
mod log;
#[cfg(test)]
mod log_limits;
#[cfg(test)]
mod log_recovery;
#[cfg(test)]
mod log_rows;
#[cfg(test)]
mod merges;
#[cfg(test)]
mod observer;
#[cfg(test)]
mod overlay;
#[cfg(test)]
mod overlay_crashes;
#[cfg(test)]
mod overlay_room;
#[cfg(test)]
mod overlay_sweeps;
#[cfg(test)]
mod overlay_threads;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod queue_async;
#[cfg(test)]
mod queue_failures;
#[cfg(test)]
mod queue_rounds;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod space;
#[cfg(test)]
mod stats;
#[cfg(test)]
mod submit;
#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod untyped;
