//! The system calls by name, with their numbers on the machines that we run on.
//!
//! `names.txt` has a line for each: name, x86-64, i386, aarch64; `-` where there is none. From the
//! kernel's own tables up to Linux 6.17.

const TABLE: &str = include_str!("names.txt");

/// Numbers of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    I386,
    Aarch64,
}

impl Machine {
    /// What this binary is made for.
    #[cfg(target_arch = "x86_64")]
    pub(super) const NATIVE: Self = Self::X86_64;
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) const NATIVE: Self = Self::Aarch64;

    /// Those whose programs the kernel runs here.
    pub(super) fn all() -> &'static [Self] {
        match Self::NATIVE {
            Self::X86_64 => &[Self::X86_64, Self::I386],
            _ => &[Self::Aarch64],
        }
    }

    /// `AUDIT_ARCH_*` of <linux/audit.h>.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// Its calls and their numbers.
    pub(super) fn calls(self) -> impl Iterator<Item = (&'static str, u32)> {
        let column = match self {
            Self::X86_64 => 0,
            Self::I386 => 1,
            Self::Aarch64 => 2,
        };
        TABLE.lines().filter_map(move |line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            Some((name, words.nth(column)?.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_libc_s() {
        for (name, number) in [
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("socket", libc::SYS_socket),
            ("mseal", libc::SYS_mseal),
            ("unshare", libc::SYS_unshare),
        ] {
            let found = Machine::NATIVE.calls().find(|(known, _)| *known == name);
            assert_eq!(
                found.map(|(_, number)| i64::from(number)),
                Some(number),
                "{name}"
            );
        }
    }
}
