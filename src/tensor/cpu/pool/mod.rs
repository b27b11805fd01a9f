//! The process's compute threads: a fork and a join, hundreds of times a decode step.
//!
//! Work that is divided into items is a *region*. The thread that has it opens it, takes part, and goes on when all items
//! are done. Every thread with a region works on its own, so a long one of one stage does not keep another stage waiting;
//! the pool's threads help with whatever is open, each with one region at a time. They wait a moment for the next region, giving way
//! to any other thread that could run, and then sleep: a short moment spans the gaps within a step, and no processor is
//! kept from anyone between steps.
//!
//! Opening a region allocates nothing, and makes a system call only where a thread sleeps.

#![allow(unsafe_code)]

mod region;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::hint;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use region::{Chunks, Region};

use crate::tensor::DeviceError;

/// Regions that can be open at a time. A thread that finds none free does its work alone.
const REGIONS: usize = 16;
/// How often a thread that has nothing to do looks again at once.
const GLANCES: u32 = 200;
/// How often it looks again after giving way to others, before it sleeps.
const TURNS: u32 = 100;

/// The pool, once someone has needed it.
static POOL: Mutex<Option<Arc<Pool>>> = Mutex::new(None);

/// The one pool of the process. The first caller decides how many threads it has; `None` means one for every
/// processor that the process may use.
pub(in crate::tensor) fn shared(threads: Option<usize>) -> Result<Arc<Pool>, DeviceError> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pool.as_ref() {
        return Ok(pool.clone());
    }
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    Ok(pool.insert(Arc::new(Pool::new(threads)?)).clone())
}

/// [`Pool::chunks`] with the threads of the process, or by this one alone where there can be no others.
pub(in crate::tensor) fn divide_chunks<T: Send>(
    values: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    match shared(None) {
        Ok(pool) => pool.chunks(values, size, work),
        Err(_) => values.chunks_mut(size.max(1)).enumerate().for_each(|(index, chunk)| work(index, chunk)),
    }
}

thread_local! {
    /// Whether this thread is in a region; what it divides then, it does by itself.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that work on regions together with those that open them.
#[derive(Debug)]
pub(in crate::tensor) struct Pool {
    /// What the threads share.
    shared: Arc<Shared>,
    /// The pool's own threads: one fewer than compute, for whoever opens a region takes part.
    helpers: Vec<JoinHandle<()>>,
}

/// What the threads of a pool share.
#[derive(Debug)]
struct Shared {
    /// Threads that compute.
    threads: usize,
    /// Places for regions.
    regions: [Region; REGIONS],
    /// Counts the regions that were opened; helpers watch it.
    opened: AtomicU32,
    /// Helpers that sleep, or are about to.
    sleepers: AtomicUsize,
    /// Held while a helper decides to sleep, and while one is woken.
    bed: Mutex<()>,
    /// Wakes helpers.
    wake: Condvar,
    /// Whether helpers are to end.
    closing: AtomicBool,
}

impl Pool {
    /// A pool with which `threads` threads compute, at least one: the one that has the work.
    pub(super) fn new(threads: usize) -> Result<Self, DeviceError> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            threads,
            regions: std::array::from_fn(|_| Region::default()),
            opened: AtomicU32::new(0),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        // Helpers that were started end with the pool, also where one could not be.
        let mut pool = Self { shared, helpers: Vec::new() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let helper = thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || shared.help(index))
                .map_err(|error| DeviceError::Threads(error.to_string()))?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// Threads that compute.
    pub(in crate::tensor) fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Does `work` for every item below `count`, on all threads that are free. Each call of it gets items of its own that
    /// follow one another: many at first, few towards the end. Where one panics, this does with the same message when
    /// no other is at work any more; some items are left out then.
    pub(in crate::tensor) fn divide(&self, count: usize, work: impl Fn(Range<usize>) + Sync) {
        if count == 0 {
            return;
        }
        let alone = count == 1 || self.helpers.is_empty() || INSIDE.get();
        let region = if alone { None } else { self.shared.regions.iter().find(|region| region.take()) };
        let Some(region) = region else { return work(0..count) };
        INSIDE.set(true);
        let outcome = region.run(count, self.shared.threads, &work, || self.shared.announce(count - 1));
        INSIDE.set(false);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    /// [`divide`](Self::divide) over chunks of `size` elements, the last of which may be shorter; `work` gets the index
    /// of each and the chunk.
    pub(in crate::tensor) fn chunks<T: Send>(
        &self,
        values: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let chunks = Chunks::new(values, size);
        self.divide(chunks.count(), |range| {
            for index in range {
                // SAFETY: items are below the count, and each is done once.
                work(index, unsafe { chunks.take(index) });
            }
        });
    }

    /// [`chunks`](Self::chunks) of two slices of equal length side by side.
    pub(in crate::tensor) fn chunk_pairs<T: Send, U: Send>(
        &self,
        (values, others): (&mut [T], &mut [U]),
        size: usize,
        work: impl Fn(usize, &mut [T], &mut [U]) + Sync,
    ) {
        let (chunks, other_chunks) = (Chunks::new(values, size), Chunks::new(others, size));
        self.divide(chunks.count().min(other_chunks.count()), |range| {
            for index in range {
                // SAFETY: as in `chunks`.
                work(index, unsafe { chunks.take(index) }, unsafe { other_chunks.take(index) });
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.announce(self.helpers.len());
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of the work that it does.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Tells helpers that there is something new, and wakes up to `wanted` of them.
    fn announce(&self, wanted: usize) {
        // Whoever goes to sleep says so before it looks at `opened` for the last time.
        self.opened.fetch_add(1, Ordering::SeqCst);
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers > 0 {
            let _bed = self.bed();
            for _ in 0..sleepers.min(wanted) {
                self.wake.notify_one();
            }
        }
    }

    /// The life of a helper.
    fn help(&self, index: usize) {
        INSIDE.set(true);
        let mut seen = 0;
        while !self.closing.load(Ordering::SeqCst) {
            // Helpers begin at different places, and each goes on behind the region it was in: no region waits for ever.
            for region in self.regions.iter().cycle().skip(index % REGIONS).take(REGIONS) {
                region.join(self.threads);
            }
            seen = self.wait(seen);
        }
    }

    /// Waits until something was opened after `seen`, and gives what to wait for next.
    fn wait(&self, seen: u32) -> u32 {
        for glance in 0..GLANCES + TURNS {
            let opened = self.opened.load(Ordering::SeqCst);
            if opened != seen {
                return opened;
            }
            if glance < GLANCES { hint::spin_loop() } else { thread::yield_now() }
        }
        let mut bed = self.bed();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let opened = loop {
            let opened = self.opened.load(Ordering::SeqCst);
            if opened != seen {
                break opened;
            }
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        opened
    }

    fn bed(&self) -> MutexGuard<'_, ()> {
        self.bed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
