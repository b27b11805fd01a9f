//! One piece of work that several threads do, and how they come and go.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{GLANCES, TURNS};

/// What is done for a range of items, while the region is open.
type Work = &'static (dyn Fn(Range<usize>) + Sync);
/// What a thread panicked with.
type Panic = Box<dyn Any + Send>;

/// In the state of a region: helpers may come in.
const OPEN: u32 = 1 << 31;
/// In the state of a region: its opener sleeps until the last helper has left.
const AWAITED: u32 = 1 << 30;
/// The rest of the state: how many helpers are inside.
const HELPERS: u32 = AWAITED - 1;

/// A place for a region, used for one after the other. On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Region {
    /// Whether a thread has this place.
    taken: AtomicBool,
    /// [`OPEN`], [`AWAITED`] and the number of helpers inside.
    state: AtomicU32,
    /// The first item that no thread has claimed.
    next: AtomicUsize,
    /// Items.
    count: AtomicUsize,
    /// What is done. The opener writes it while the region is closed; helpers read it while they are inside.
    work: UnsafeCell<Option<Work>>,
    /// What the first thread that panicked did so with.
    panic: Mutex<Option<Panic>>,
    /// Held while the opener decides to sleep, and while it is woken.
    bed: Mutex<()>,
    /// Wakes the opener.
    left: Condvar,
}

// SAFETY: `work` alone is not `Sync` by itself; it is written and read at the times that its comment says, which
// `state` puts in order.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("taken", &self.taken)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// Takes the place, if it is free.
    pub(super) fn take(&self) -> bool {
        !self.taken.load(Ordering::Relaxed) && !self.taken.swap(true, Ordering::Acquire)
    }

    /// Opens the region, which this thread has taken, tells of it by `announce`, takes part, and gives the place back when
    /// all items are done and all helpers have left. Gives what the first thread that panicked did so with.
    pub(super) fn run(
        &self,
        count: usize,
        threads: usize,
        work: &(dyn Fn(Range<usize>) + Sync),
        announce: impl FnOnce(),
    ) -> Result<(), Panic> {
        // SAFETY: only the lifetimes differ. No one has the reference when this function ends: helpers have left then, and
        // none comes in while the region is closed.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(Range<usize>) + Sync), Work>(work) };
        // SAFETY: this thread has the place and the region is closed.
        unsafe { *self.work.get() = Some(work) };
        self.count.store(count, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.state.fetch_or(OPEN, Ordering::Release);
        announce();
        self.work_through(work, threads);
        self.close();
        let panic = lock(&self.panic).take();
        self.taken.store(false, Ordering::Release);
        panic.map_or(Ok(()), Err)
    }

    /// Helps with what is left to do, if there is something.
    pub(super) fn join(&self, threads: usize) {
        let open = self.state.load(Ordering::Relaxed) & OPEN != 0;
        if !open || self.next.load(Ordering::Relaxed) >= self.count.load(Ordering::Relaxed) {
            return;
        }
        if self.state.fetch_add(1, Ordering::Acquire) & OPEN != 0 {
            // SAFETY: the region was open when this thread came in, so the opener leaves `work` alone until it has left.
            if let Some(work) = unsafe { *self.work.get() } {
                self.work_through(work, threads);
            }
        }
        if self.state.fetch_sub(1, Ordering::Release) == AWAITED | 1 {
            let _bed = lock(&self.bed);
            self.left.notify_one();
        }
    }

    /// Does items until none is left. After a panic no more are begun.
    fn work_through(&self, work: Work, threads: usize) {
        while let Some(range) = self.claim(threads) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(range))) {
                lock(&self.panic).get_or_insert(panic);
                self.next.store(self.count.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// The next items for a thread: half of its even share in those that are left.
    fn claim(&self, threads: usize) -> Option<Range<usize>> {
        let count = self.count.load(Ordering::Relaxed);
        let mut first = self.next.load(Ordering::Relaxed);
        while first < count {
            let end = first + ((count - first) / (2 * threads)).max(1);
            match self.next.compare_exchange_weak(first, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(first..end),
                Err(now) => first = now,
            }
        }
        None
    }

    /// Lets no helper in any more, and waits until those inside have left.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::AcqRel);
        for glance in 0..GLANCES + TURNS {
            if state & HELPERS == 0 {
                return;
            }
            if glance < GLANCES {
                hint::spin_loop()
            } else {
                thread::yield_now()
            }
            state = self.state.load(Ordering::Acquire);
        }
        let mut bed = lock(&self.bed);
        state = self.state.fetch_or(AWAITED, Ordering::AcqRel);
        while state & HELPERS != 0 {
            bed = self.left.wait(bed).unwrap_or_else(PoisonError::into_inner);
            state = self.state.load(Ordering::Acquire);
        }
        self.state.fetch_and(!AWAITED, Ordering::Relaxed);
    }
}

/// No code that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Chunks of a slice that threads change at the same time.
pub(super) struct Chunks<'a, T> {
    /// The first element.
    start: *mut T,
    /// Elements.
    length: usize,
    /// Elements of a chunk, but of the last, which may be shorter.
    size: usize,
    /// The chunks borrow the slice.
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: each chunk is taken by one thread alone, as `take` demands.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    /// Cuts a slice up.
    pub(super) fn new(values: &'a mut [T], size: usize) -> Self {
        Self { start: values.as_mut_ptr(), length: values.len(), size: size.max(1), values: PhantomData }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.length.div_ceil(self.size)
    }

    /// A chunk.
    ///
    /// # Safety
    ///
    /// The index must be below the count, and no chunk may be taken twice.
    pub(super) unsafe fn take(&self, index: usize) -> &'a mut [T] {
        let first = index * self.size;
        // SAFETY: this function's condition: the range lies in the slice, and no one else has it.
        unsafe { slice::from_raw_parts_mut(self.start.add(first), self.size.min(self.length - first)) }
    }
}
