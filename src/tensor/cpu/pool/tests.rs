//! Every item once, whoever works on what at the same time, and an end to everything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{Pool, REGIONS};

/// How often each item was done.
fn times_done(pool: &Pool, count: usize) -> Vec<u32> {
    let done: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
    pool.divide(count, |range| {
        assert!(!range.is_empty());
        for item in range {
            done[item].fetch_add(1, Ordering::Relaxed);
        }
    });
    done.into_iter().map(AtomicU32::into_inner).collect()
}

#[test]
fn every_item_is_done_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for count in [0, 1, 2, 3, 17, 1000] {
            for _ in 0..50 {
                assert_eq!(times_done(&pool, count), vec![1; count], "{threads} threads, {count} items");
            }
        }
    }
}

#[test]
fn helpers_that_sleep_are_woken() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(20));
        // Goes on only when all three threads have come.
        let (arrived, deadline) = (AtomicUsize::new(0), std::time::Instant::now() + Duration::from_secs(30));
        pool.divide(3, |_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 3 {
                assert!(std::time::Instant::now() < deadline, "a helper never came");
                thread::yield_now();
            }
        });
    }
}

#[test]
fn more_threads_than_there_is_room_for_divide_work_at_once() {
    let pool = Pool::new(4).unwrap();
    thread::scope(|scope| {
        for count in 0..REGIONS + 8 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..200 {
                    assert_eq!(times_done(pool, count), vec![1; count]);
                }
            });
        }
    });
}

#[test]
fn work_that_divides_work_does_its_parts_itself() {
    let pool = Pool::new(3).unwrap();
    let done = AtomicUsize::new(0);
    pool.divide(8, |outer| {
        for _ in outer {
            let thread = thread::current().id();
            pool.divide(5, |inner| {
                assert_eq!(thread::current().id(), thread);
                done.fetch_add(inner.len(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(done.into_inner(), 40);
}

#[test]
fn a_panic_reaches_the_opener_and_the_pool_works_on() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..100 {
        for culprit in [0, 50, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.divide(100, |range| assert!(!range.contains(&culprit), "item {culprit}"));
            }));
            let message = outcome.unwrap_err();
            assert_eq!(message.downcast_ref::<String>(), Some(&format!("item {culprit}")));
        }
        assert_eq!(times_done(&pool, 100), vec![1; 100]);
    }
}

#[test]
fn chunks_are_the_slice_in_order() {
    let pool = Pool::new(3).unwrap();
    let (mut values, mut others) = (vec![0; 103], vec![0; 103]);
    pool.chunks(&mut values, 10, |index, chunk| chunk.fill(index));
    assert!(values.iter().enumerate().all(|(at, value)| *value == at / 10));
    pool.chunk_pairs((&mut values, &mut others), 7, |index, chunk, other| {
        other.copy_from_slice(chunk);
        chunk.fill(index);
    });
    assert!(others.iter().enumerate().all(|(at, value)| *value == at / 10));
    assert!(values.iter().enumerate().all(|(at, value)| *value == at / 7));
    pool.chunks(&mut [0; 0], 10, |_, _: &mut [i32]| unreachable!());
}
