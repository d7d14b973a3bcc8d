//! The same work on many files, by several threads. A file costs a dozen system calls and little else, and
//! the kernel has as many processors for them as there are.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};

/// Neighbours, which are in one folder for the most part, stay together.
const RUN: usize = 64;
/// With more the file system's own locks are what is waited for.
const MAX_THREADS: usize = 4;

/// Calls `work` with each of the items, in any order, and with what its thread began with. After a failure
/// nothing new is begun; of several failures the one that comes first in the list is told.
pub(crate) fn each<T, S, E>(
    items: &[T],
    begin: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&S, &T) -> Result<(), E> + Sync,
) -> Result<(), E>
where
    T: Sync,
    E: Send,
{
    let runs: Vec<&[T]> = items.chunks(RUN).collect();
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
    let fail = |number: usize, error: E| {
        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|(first, _)| number < *first) {
            *failed = Some((number, error));
        }
        next.store(runs.len(), Ordering::Relaxed);
    };
    let all = || {
        let own = match begin() {
            Ok(own) => own,
            Err(error) => return fail(0, error),
        };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(run) = runs.get(number) else { return };
            if let Err(error) = run.iter().try_for_each(|item| work(&own, item)) {
                return fail(number, error);
            }
        }
    };
    scope(|threads| {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        for _ in 1..processors.min(MAX_THREADS).min(runs.len()) {
            threads.spawn(all);
        }
        all();
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        for count in [0, 1, RUN, RUN + 1, 10 * RUN + 3] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let numbers: Vec<usize> = (0..count).collect();
            let work = |(): &(), number: &usize| {
                done[*number].fetch_add(1, Ordering::Relaxed);
                Ok::<(), ()>(())
            };
            each(&numbers, || Ok(()), work).unwrap();
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_failure_is_told_and_ends_it() {
        let numbers: Vec<usize> = (0..100 * RUN).collect();
        let seen = AtomicUsize::new(0);
        let work = |(): &(), number: &usize| {
            seen.fetch_add(1, Ordering::Relaxed);
            if *number == 5 { Err(*number) } else { Ok(()) }
        };
        assert_eq!(each(&numbers, || Ok(()), work), Err(5));
        assert!(seen.load(Ordering::Relaxed) < numbers.len());
        let none = |(): &(), _: &usize| Ok(());
        assert_eq!(each(&numbers, || Err(7), none), Err(7));
    }
}
