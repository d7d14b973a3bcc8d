//! Token buckets: how often one caller may come. The time is handed in; nothing waits here.
//!
//! The table is bounded without a walk: it has two halves, and when the younger one is full it
//! becomes the older one, whose buckets are forgotten unless their callers come again. A forgotten
//! caller begins with a full bucket.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Callers in each half of the table; a bucket is some 100 bytes.
const HALF: usize = 8192;

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Per second.
    pub refill: f64,
    pub burst: f64,
}

/// The buckets of all callers.
#[derive(Debug)]
pub(super) struct Limiter<K> {
    rate: Rate,
    halves: Mutex<Halves<K>>,
}

#[derive(Debug)]
struct Halves<K> {
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: SystemTime,
}

impl<K: Eq + Hash> Limiter<K> {
    pub(super) fn new(rate: Rate) -> Self {
        let halves = Halves {
            young: HashMap::new(),
            old: HashMap::new(),
        };
        Self {
            rate,
            halves: Mutex::new(halves),
        }
    }

    /// Takes one from the caller's bucket, or says how long until there is one.
    pub(super) fn take(&self, caller: K, now: SystemTime) -> Result<(), Duration> {
        let rate = self.rate;
        self.with(caller, now, |bucket| {
            if bucket.level >= 1.0 {
                bucket.level -= 1.0;
                return Ok(());
            }
            let missing = (1.0 - bucket.level) / rate.refill;
            Err(Duration::from_secs_f64(missing.clamp(0.0, 3600.0)))
        })
    }

    /// Gives back what was taken: it did not count after all.
    pub(super) fn give_back(&self, caller: K, now: SystemTime) {
        let burst = self.rate.burst;
        self.with(caller, now, |bucket| {
            bucket.level = (bucket.level + 1.0).min(burst);
        });
    }

    fn with<T>(&self, caller: K, now: SystemTime, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let Halves { young, old } = &mut *halves;
        if young.len() >= HALF && !young.contains_key(&caller) {
            *old = std::mem::take(young);
        }
        let known = old.remove(&caller);
        let fresh = Bucket {
            level: self.rate.burst,
            at: now,
        };
        let bucket = young
            .entry(caller)
            .or_insert_with(|| known.unwrap_or(fresh));
        // A clock that was set back refills nothing.
        let since = now.duration_since(bucket.at).unwrap_or_default();
        bucket.level = (bucket.level + since.as_secs_f64() * self.rate.refill).min(self.rate.burst);
        bucket.at = now;
        act(bucket)
    }
}

/// Whose bucket an address is: a whole /64 counts as one caller, because one host has all of it.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + milliseconds)
    }

    const RATE: Rate = Rate {
        refill: 2.0,
        burst: 3.0,
    };

    #[test]
    fn a_bucket_empties_and_fills() {
        let limiter = Limiter::new(RATE);
        for _ in 0..3 {
            assert_eq!(limiter.take("a", at(0)), Ok(()));
        }
        assert_eq!(limiter.take("a", at(0)), Err(Duration::from_millis(500)));
        assert_eq!(limiter.take("b", at(0)), Ok(()), "others have their own");
        assert_eq!(limiter.take("a", at(250)), Err(Duration::from_millis(250)));
        assert_eq!(limiter.take("a", at(500)), Ok(()));
        assert!(limiter.take("a", at(500)).is_err());
        limiter.give_back("a", at(500));
        assert_eq!(limiter.take("a", at(500)), Ok(()));
        // However long it rests, it holds no more than its burst.
        for _ in 0..3 {
            assert_eq!(limiter.take("a", at(1_000_000)), Ok(()));
        }
        assert!(limiter.take("a", at(1_000_000)).is_err());
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_and_breaks_nothing() {
        let limiter = Limiter::new(RATE);
        for _ in 0..3 {
            limiter.take("a", at(10_000)).unwrap();
        }
        assert!(limiter.take("a", at(0)).is_err());
        assert_eq!(limiter.take("a", at(500)), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_comes_often() {
        let limiter = Limiter::new(Rate {
            refill: 0.001,
            burst: 1.0,
        });
        limiter.take(0, at(0)).unwrap();
        for caller in 1..40_000_u32 {
            let _ = limiter.take(caller, at(0));
            if caller % 1000 == 0 {
                assert!(limiter.take(0, at(0)).is_err(), "caller 0 was forgotten");
            }
        }
        let halves = limiter.halves.lock().unwrap();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF);
    }

    #[test]
    fn an_ipv6_host_is_one_caller() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8:1:2::5"), parse("2001:db8:1:2:ffff::1"));
        assert_ne!(parse("2001:db8:1:2::5"), parse("2001:db8:1:3::5"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
    }
}
