//! Random choices that can be made again: the seed is told, and `DEVPOD_TEST_SEED` sets it.

/// Splitmix64, which needs no care with its seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// With the seed of the environment, or another one each time; prints it.
    pub(crate) fn told(test: &str) -> Self {
        let set = std::env::var("DEVPOD_TEST_SEED").ok();
        let seed = match set.and_then(|text| text.parse().ok()) {
            Some(seed) => seed,
            None => {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                u64::from(now.subsec_nanos()) ^ u64::from(std::process::id())
            }
        };
        println!("{test}: DEVPOD_TEST_SEED={seed}");
        Self(seed)
    }

    /// Other dice, which this one decides about.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `most`, which is not zero.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).unwrap()
    }

    /// One of some things.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        match items.len() {
            0 => None,
            length => items.get(self.below(length)),
        }
    }
}
