//! Work on images goes on side by side; collecting garbage goes on alone.
//!
//! Between the moment that a blob or a snapshot is made and the moment that something names it, only
//! whoever made it knows that it is needed. So work holds a [`Pass`] from its beginning until its
//! result is named, and the collector enters only when there is none.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use unpacker::progress::Cancel;

/// How often who waits looks whether it is still to wait.
const LOOK: Duration = Duration::from_millis(50);

/// Where work and the collector meet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    passes: usize,
    alone: bool,
}

/// Work goes on while this lives. Whoever holds one may take another without waiting.
#[derive(Debug)]
pub struct Pass(Gate);

/// No work goes on while this lives.
#[derive(Debug)]
pub(crate) struct Alone(Gate);

impl Gate {
    /// Waits for the collector to end, never for other work.
    pub(crate) fn pass(&self) -> Pass {
        let mut inside = self.inside();
        while inside.alone {
            inside = self
                .0
                .changed
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inside.passes += 1;
        Pass(self.clone())
    }

    /// As [`Gate::pass`]; nothing where the work is stopped before the collector has ended.
    pub(crate) fn pass_unless(&self, cancel: &Cancel) -> Option<Pass> {
        let mut inside = self.inside();
        while inside.alone {
            cancel.check().ok()?;
            let waited = self.0.changed.wait_timeout(inside, LOOK);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inside.passes += 1;
        Some(Pass(self.clone()))
    }

    /// Waits so long at most for all work to end. Work that begins meanwhile is not held up.
    pub(crate) fn alone(&self, patience: Duration) -> Option<Alone> {
        let begun = Instant::now();
        let mut inside = self.inside();
        while inside.alone || inside.passes > 0 {
            let left = patience.checked_sub(begun.elapsed())?;
            let waited = self.0.changed.wait_timeout(inside, left);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inside.alone = true;
        Some(Alone(self.clone()))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Pass {
    /// The collector is not inside while `self` lives, so this does not wait.
    fn clone(&self) -> Self {
        self.0.pass()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside().passes -= 1;
        self.0.0.changed.notify_all();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.inside().alone = false;
        self.0.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_collector_is_alone_or_not_inside() {
        let gate = Gate::default();
        let first = gate.pass();
        let second = first.clone();
        drop(first);
        assert!(gate.alone(Duration::ZERO).is_none());
        assert!(gate.alone(MOMENT).is_none());
        drop(second);
        let alone = gate.alone(Duration::ZERO).unwrap();
        assert!(gate.alone(MOMENT).is_none());
        let stopped = Cancel::default();
        stopped.cancel();
        assert!(gate.pass_unless(&stopped).is_none());
        let other = gate.clone();
        let work = std::thread::spawn(move || drop(other.pass()));
        std::thread::sleep(MOMENT);
        assert!(!work.is_finished());
        drop(alone);
        work.join().unwrap();
        assert!(gate.alone(Duration::ZERO).is_some());
    }

    #[test]
    fn the_collector_waits_for_work_to_end() {
        let gate = Gate::default();
        let pass = gate.pass();
        let work = std::thread::spawn(move || {
            std::thread::sleep(MOMENT);
            drop(pass);
        });
        assert!(gate.alone(LONG).is_some());
        work.join().unwrap();
    }
}
