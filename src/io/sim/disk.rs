//! The simulated disk as storage.
//!
//! Invariant: an operation is logged before it returns, whether it succeeds or not; once power is off nothing is.
//! Layer 1 (io).

use super::content::{Content, split};
use super::crash::{CrashPlan, Purpose, plans, replay};
use super::fault::{Fault, FaultRates, Faults, WriteFate, simulated};
use super::log::{Data, Event, Log, Operation, OperationKind};
use crate::base::sync::{Mutex, MutexGuard};
use crate::io::storage::{LockMode, Storage, SyncKind, WriteMode};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::sync::Arc;

/// What a simulated disk was asked for since its statistics were last reset. Failed attempts count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Calls that read.
    pub reads: u64,
    /// Bytes asked for by them.
    pub bytes_read: u64,
    /// Calls that wrote.
    pub writes: u64,
    /// Bytes that got in.
    pub bytes_written: u64,
    /// Syncs.
    pub syncs: u64,
}

/// A handle to a simulated disk.
///
/// Clones are further handles to the same disk, as other processes that open the same file would have them: a lock
/// belongs to one handle and is released when that handle is dropped.
///
/// Operations (writes, length changes, syncs, decayed bits) are numbered from 1; reads and syncs also have counts of
/// their own for planned faults.
///
/// ```
/// use cowslip::sim::{CrashPlan, SimDisk};
/// use cowslip::{Storage, SyncKind, WriteMode};
/// use std::io::IoSlice;
///
/// let disk = SimDisk::new();
/// disk.write_at(0, &[IoSlice::new(&[1; 4096])], WriteMode::Plain)?;
/// disk.sync(SyncKind::Data)?;
/// disk.write_at(0, &[IoSlice::new(&[2; 4096])], WriteMode::Plain)?;
/// let found = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
/// assert_eq!(found.image(), [1; 4096]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SimDisk {
    /// Leaf lock: nothing else is taken under it.
    state: Arc<Mutex<State>>,
    handle: u64,
    /// Handles of an earlier process are dead.
    process: u64,
}

#[derive(Debug)]
struct State {
    cache: Content,
    log: Log,
    faults: Faults,
    stats: DiskStats,
    syncs: u64,
    reads: u64,
    capacity_bytes: u64,
    crash_at: Option<u64>,
    powered: bool,
    process: u64,
    handles: u64,
    locks: Vec<(u64, LockMode)>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for SimDisk {
    fn clone(&self) -> Self {
        let mut state = self.state.lock();
        state.handles += 1;
        Self { state: Arc::clone(&self.state), handle: state.handles, process: self.process }
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        self.state.lock().release(self.handle);
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::with_content(Content::default())
    }

    /// A disk that holds these bytes, all of them durable.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::with_content(Content::from_bytes(bytes))
    }

    fn with_content(content: Content) -> Self {
        let state = State {
            cache: content.clone(),
            log: Log::new(content),
            faults: Faults::default(),
            stats: DiskStats::default(),
            syncs: 0,
            reads: 0,
            capacity_bytes: u64::MAX,
            crash_at: None,
            powered: true,
            process: 0,
            handles: 0,
            locks: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), handle: 0, process: 0 }
    }

    /// The bytes that reads see, all of them. Not counted as a read.
    ///
    /// # Panics
    /// If they do not fit in memory.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut bytes = vec![0; usize::try_from(state.cache.len()).expect("the image fits in memory")];
        state.cache.read(0, &mut bytes);
        bytes
    }

    /// The disk that is found after a power cut: unlocked, without faults, and with a log of its own.
    ///
    /// # Panics
    /// If the history up to that operation was not kept.
    #[must_use]
    pub fn crash_image(&self, plan: &CrashPlan) -> SimDisk {
        Self::with_content(replay(&self.state.lock().log, plan.operation(), Purpose::Crash(plan)))
    }

    /// Plans for a power cut during this operation: every subset of the writes that could be lost where they are at
    /// most 10, else a sample of subsets; and torn writes and lost or partial growth.
    ///
    /// # Panics
    /// If the history up to that operation was not kept.
    pub fn crash_plans(&self, operation: u64) -> impl Iterator<Item = CrashPlan> + use<> {
        plans(&self.state.lock().log, operation)
    }

    /// Cuts the power at this operation: it is logged as issued, and it and everything after it fails, reads
    /// included. What is on the platter then is for [`SimDisk::crash_image`] to say.
    pub fn crash_at(&self, operation: u64) {
        self.state.lock().crash_at = Some(operation);
    }

    /// Cuts the power now; all locks are released.
    pub fn power_off(&self) {
        self.state.lock().power_off();
    }

    /// Whether power is on.
    #[must_use]
    pub fn is_powered(&self) -> bool {
        self.state.lock().powered
    }

    /// Ends the process that uses the disk, but not the machine: the cache stays, locks are released, and every
    /// handle but the one returned fails from now on.
    #[must_use]
    pub fn restart_process(&self) -> SimDisk {
        let mut state = self.state.lock();
        state.process += 1;
        state.handles += 1;
        state.locks.clear();
        Self { state: Arc::clone(&self.state), handle: state.handles, process: state.process }
    }

    /// Drops the clean part of the cache: bytes that a failed sync gave up, or that never landed where they should,
    /// turn back into what the medium holds. Writes that no sync has covered yet stay.
    pub fn evict(&self) {
        self.state.lock().evict();
    }

    /// Inverts one bit of the medium and of the cache, as decay does. Counts as an operation.
    ///
    /// # Errors
    /// `InvalidInput` where there is no such bit.
    pub fn flip_bit(&self, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        if offset >= state.cache.len() || bit > 7 {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("no bit {bit} in byte {offset}")));
        }
        state.cache.flip_bit(offset, bit);
        let operation = state.operation(OperationKind::FlipBit { offset, bit }, true);
        state.log.push(Event { operation, data: None, new_len: None, settled: None }, &[]);
        Ok(())
    }

    /// Plans one fault.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.plan(fault);
    }

    /// Lets faults come by chance, the same ones for the same seed.
    pub fn set_fault_rates(&self, seed: u64, rates: FaultRates) {
        self.state.lock().faults.set_rates(seed, rates);
    }

    /// Takes back all planned faults and rates.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Bytes from here on cannot be written (`StorageFull`) or reserved. The length alone may still be set past it,
    /// as in a sparse file.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.state.lock().capacity_bytes = capacity_bytes;
    }

    /// Whether operations before the last sync can still be crashed at; they can unless this is turned off, which
    /// keeps the memory of long runs bounded.
    pub fn keep_history(&self, keep: bool) {
        self.state.lock().log.keeps_history = keep;
    }

    /// The logged operations, oldest first.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.state.lock().log.operations().collect()
    }

    /// Number that the next operation gets.
    #[must_use]
    pub fn next_operation(&self) -> u64 {
        self.state.lock().log.next_number()
    }

    /// Number that the next read gets.
    #[must_use]
    pub fn next_read(&self) -> u64 {
        self.state.lock().reads + 1
    }

    /// Number that the next sync gets among all syncs.
    #[must_use]
    pub fn next_sync(&self) -> u64 {
        self.state.lock().syncs + 1
    }

    /// A hash over all operations so far, their bytes and their outcomes.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state.lock().log.trace()
    }

    /// Counts since the last reset.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        self.state.lock().stats
    }

    /// Starts counting again.
    pub fn reset_stats(&self) {
        self.state.lock().stats = DiskStats::default();
    }

    /// The state, where this handle may still use it.
    fn running(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if !state.powered {
            return Err(power_cut());
        }
        if self.process != state.process {
            return Err(io::Error::other("simulated end of the process that owned this handle"));
        }
        Ok(state)
    }
}

fn power_cut() -> io::Error {
    io::Error::other("simulated power cut")
}

fn end_of(offset: u64, len: usize) -> io::Result<u64> {
    offset.checked_add(len as u64).ok_or_else(|| ErrorKind::FileTooLarge.into())
}

impl State {
    fn operation(&self, kind: OperationKind, succeeded: bool) -> Operation {
        Operation { number: self.log.next_number(), kind, succeeded }
    }

    fn power_off(&mut self) {
        self.powered = false;
        self.locks.clear();
    }

    fn release(&mut self, handle: u64) {
        self.locks.retain(|(holder, _)| *holder != handle);
    }

    fn evict(&mut self) {
        self.cache = replay(&self.log, self.log.next_number(), Purpose::Evict);
    }

    /// Whether the next operation is the one that power is cut at.
    fn cut_now(&mut self) -> bool {
        let cut = self.crash_at.is_some_and(|operation| self.log.next_number() >= operation);
        if cut {
            self.power_off();
        }
        cut
    }

    fn write(&mut self, offset: u64, bytes: &[u8], mode: WriteMode) -> io::Result<()> {
        let number = self.log.next_number();
        let room = usize::try_from(self.capacity_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (mut accepted, mut error) = (bytes.len(), None);
        let mut landing = WriteFate::Normal;
        if self.cut_now() {
            error = Some(power_cut());
        } else {
            landing = self.faults.write(number);
            match landing {
                WriteFate::Fail(kind) => (accepted, error) = (0, Some(simulated(kind))),
                WriteFate::Short => (accepted, error) = (bytes.len() / 2, Some(simulated(ErrorKind::Other))),
                WriteFate::Normal | WriteFate::Lost | WriteFate::Misdirected(_) => {}
            }
            if accepted > room {
                (accepted, error) = (room, Some(simulated(ErrorKind::StorageFull)));
            }
        }
        let kept = &bytes[..accepted];
        let end = end_of(offset, accepted)?;
        let new_len = (accepted > 0 && end > self.cache.len()).then_some(end);
        let data = Data {
            cache: split(offset, kept),
            platter: match landing {
                WriteFate::Lost => Some(Vec::new()),
                WriteFate::Misdirected(place) => Some(split(place, kept)),
                _ => None,
            },
            end,
            mode,
        };
        // After a power cut nobody reads the cache any more.
        if self.powered {
            if let Some(len) = new_len {
                self.cache.set_len(len);
            }
            data.cache.iter().for_each(|piece| self.cache.put(piece));
            self.stats.writes += 1;
            self.stats.bytes_written += accepted as u64;
        }
        let operation = self.operation(OperationKind::Write { offset, len: bytes.len() as u64, mode }, error.is_none());
        let data = (accepted > 0).then_some(data);
        self.log.push(Event { operation, data, new_len, settled: None }, kept);
        if self.log.epoch_is_due() {
            self.begin_epoch();
        }
        error.map_or(Ok(()), Err)
    }

    fn change_len(&mut self, kind: OperationKind, len: u64) -> io::Result<()> {
        let number = self.log.next_number();
        let mut error = None;
        let mut new_len = (len != self.cache.len()).then_some(len);
        if self.cut_now() {
            error = Some(power_cut());
        } else if let Some(kind) = self.faults.length_change(number) {
            error = Some(simulated(kind));
            new_len = None;
        } else if matches!(kind, OperationKind::Preallocate { .. }) && len > self.capacity_bytes {
            error = Some(simulated(ErrorKind::StorageFull));
            new_len = None;
        }
        if let Some(len) = new_len
            && self.powered
        {
            self.cache.set_len(len);
        }
        let operation = self.operation(kind, error.is_none());
        self.log.push(Event { operation, data: None, new_len, settled: None }, &[]);
        error.map_or(Ok(()), Err)
    }

    fn sync(&mut self, kind: SyncKind) -> io::Result<()> {
        let number = self.log.next_number();
        self.syncs += 1;
        self.stats.syncs += 1;
        let cut = self.cut_now();
        let fate = if cut { None } else { self.faults.sync(number, self.syncs) };
        let error = if cut { Some(power_cut()) } else { fate.map(|fate| simulated(fate.kind)) };
        let operation = self.operation(OperationKind::Sync(kind), error.is_none());
        self.log.push(Event { operation, data: None, new_len: None, settled: None }, &[]);
        match error {
            None => {
                self.begin_epoch();
                Ok(())
            }
            Some(error) => {
                if let Some(fate) = fate {
                    self.log.fail_unsynced(number, |write| fate.reaches_medium(write));
                }
                Err(error)
            }
        }
    }

    /// Everything logged so far is on the medium, or never will be.
    fn begin_epoch(&mut self) {
        let base = replay(&self.log, self.log.next_number(), Purpose::Sync);
        self.log.begin_epoch(base);
    }
}

impl Storage for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.running()?.cache.len())
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let mut state = self.running()?;
        let total = buffers.iter().map(|buffer| buffer.len()).sum::<usize>();
        state.reads += 1;
        state.stats.reads += 1;
        state.stats.bytes_read += total as u64;
        if state.faults.read(state.reads) {
            return Err(simulated(ErrorKind::Other));
        }
        let (end, len) = (end_of(offset, total)?, state.cache.len());
        if end > len {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("the storage ends at byte {len}, before {end}"),
            ));
        }
        let mut position = offset;
        for buffer in buffers {
            state.cache.read(position, buffer);
            position += buffer.len() as u64;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        let mut state = self.running()?;
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect::<Vec<u8>>();
        end_of(offset, bytes.len())?;
        if bytes.is_empty() { Ok(()) } else { state.write(offset, &bytes, mode) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.running()?.change_len(OperationKind::SetLen { len }, len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.running()?;
        let wanted = len.max(state.cache.len());
        if wanted > len { Ok(()) } else { state.change_len(OperationKind::Preallocate { len }, wanted) }
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.running()?.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        let mut state = self.running()?;
        let conflict = |held: &(u64, LockMode)| {
            held.0 != self.handle && (held.1 == LockMode::Exclusive || mode == LockMode::Exclusive)
        };
        if let Some((holder, _)) = state.locks.iter().copied().find(conflict) {
            let message = format!("the simulated disk is locked by handle {holder}");
            return Err(io::Error::new(ErrorKind::WouldBlock, message));
        }
        state.release(self.handle);
        state.locks.push((self.handle, mode));
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        self.running()?.release(self.handle);
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.running()?.evict();
        Ok(())
    }
}
