//! Who relies on a blob's file, by digest.
//!
//! Whoever makes a file or turns it into a row holds its digest shared; whoever unlinks it holds it
//! alone. Taking it alone never waits: a file that somebody relies on is no garbage. Taking it shared
//! waits for one unlink of that very digest at most.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;

#[derive(Debug, Clone, Copy)]
enum Held {
    /// By so many.
    Shared(usize),
    Alone,
}

/// The digests that anybody holds now.
#[derive(Debug, Default)]
pub(super) struct Guards {
    held: Mutex<HashMap<Digest, Held>>,
    freed: Condvar,
}

/// The digest's file is not unlinked while this lives.
#[derive(Debug)]
pub(super) struct Shared<'a>(&'a Guards, Digest);

/// Nobody makes the digest's file, or a row of it, while this lives.
#[derive(Debug)]
pub(super) struct Alone<'a>(&'a Guards, Digest);

impl Guards {
    pub(super) fn shared(&self, digest: &Digest) -> Shared<'_> {
        let mut held = self.lock();
        loop {
            match held.entry(digest.clone()) {
                Entry::Vacant(slot) => {
                    slot.insert(Held::Shared(1));
                    break;
                }
                Entry::Occupied(mut slot) => {
                    if let Held::Shared(count) = slot.get_mut() {
                        *count += 1;
                        break;
                    }
                }
            }
            held = self
                .freed
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Shared(self, digest.clone())
    }

    /// `None` while anybody holds it.
    pub(super) fn alone(&self, digest: &Digest) -> Option<Alone<'_>> {
        match self.lock().entry(digest.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(slot) => {
                slot.insert(Held::Alone);
                Some(Alone(self, digest.clone()))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut slot) = self.0.lock().entry(self.1.clone()) {
            match slot.get_mut() {
                Held::Shared(count) if *count > 1 => *count -= 1,
                _ => drop(slot.remove()),
            }
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Algorithm, digest_of};

    #[test]
    fn an_unlink_meets_nobody_and_holds_up_only_its_own() {
        let guards = Guards::default();
        let [one, other] = [b"1", b"2"].map(|text| digest_of(Algorithm::Sha256, text));
        let first = guards.shared(&one);
        let second = guards.shared(&one);
        assert!(guards.alone(&one).is_none());
        drop(first);
        assert!(guards.alone(&one).is_none());
        drop(second);
        let alone = guards.alone(&one).unwrap();
        assert!(guards.alone(&one).is_none());
        drop(guards.shared(&other));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| drop(guards.shared(&one)));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waits.is_finished());
            drop(alone);
            waits.join().unwrap();
        });
        assert!(guards.lock().is_empty());
    }
}
