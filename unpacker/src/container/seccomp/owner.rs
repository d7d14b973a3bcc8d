//! The calls that change a file's owner, read from what the filter was asked.

use libc::seccomp_data;

use super::names::Machine;

/// What a process wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chown {
    /// Where a relative name begins: a descriptor of its own, or `AT_FDCWD`.
    pub(crate) folder: i32,
    /// Where the name stands in its memory.
    pub(crate) name: Option<u64>,
    /// Without a name the folder itself is meant.
    pub(crate) empty_name: bool,
    pub(crate) follows: bool,
    /// `None` leaves it as it is.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

const NAMES: [&str; 7] = [
    "chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32",
];

pub(super) fn is_change(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `None` for any other call.
pub(crate) fn chown_of(asked: &seccomp_data) -> Option<Chown> {
    let machine = *(Machine::all().iter()).find(|machine| machine.audit() == asked.arch)?;
    let mut calls = machine.calls().filter(|(name, _)| is_change(name));
    let (name, _) = calls.find(|(_, number)| i64::from(*number) == i64::from(asked.nr))?;
    // The first calls of 32-bit programs have ids of 16 bits.
    let short = machine == Machine::I386 && !name.ends_with("32") && name != "fchownat";
    let id = |argument: u64| match argument as u32 {
        u32::MAX => None,
        id if short && id as u16 == u16::MAX => None,
        id if short => Some(u32::from(id as u16)),
        id => Some(id),
    };
    let [first, second, third, fourth, fifth, _] = asked.args;
    let named = |follows| Chown {
        folder: libc::AT_FDCWD,
        name: Some(first),
        empty_name: false,
        follows,
        uid: id(second),
        gid: id(third),
    };
    Some(match name {
        "chown" | "chown32" => named(true),
        "lchown" | "lchown32" => named(false),
        "fchown" | "fchown32" => Chown {
            folder: first as i32,
            name: None,
            empty_name: true,
            ..named(true)
        },
        _ => Chown {
            folder: first as i32,
            name: Some(second),
            empty_name: fifth as i32 & libc::AT_EMPTY_PATH != 0,
            follows: fifth as i32 & libc::AT_SYMLINK_NOFOLLOW == 0,
            uid: id(third),
            gid: id(fourth),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(machine: Machine, name: &str, args: [u64; 6]) -> seccomp_data {
        let (_, number) = machine.calls().find(|(known, _)| *known == name).unwrap();
        seccomp_data {
            nr: number as i32,
            arch: machine.audit(),
            instruction_pointer: 0,
            args,
        }
    }

    #[test]
    fn arguments_are_found_in_their_places() {
        let minus_one = u64::from(u32::MAX);
        let fchownat = [7, 0x1000, 5, minus_one, libc::AT_SYMLINK_NOFOLLOW as u64, 0];
        let got = chown_of(&asked(Machine::NATIVE, "fchownat", fchownat)).unwrap();
        let want = Chown {
            folder: 7,
            name: Some(0x1000),
            empty_name: false,
            follows: false,
            uid: Some(5),
            gid: None,
        };
        assert_eq!(got, want);
        let got = chown_of(&asked(Machine::NATIVE, "fchown", [3, 70_000, 8, 0, 0, 0])).unwrap();
        assert_eq!((got.folder, got.name, got.empty_name), (3, None, true));
        assert_eq!((got.uid, got.gid), (Some(70_000), Some(8)));
        assert_eq!(chown_of(&asked(Machine::NATIVE, "fchmod", [0; 6])), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn old_calls_have_short_ids() {
        let got = chown_of(&asked(
            Machine::I386,
            "lchown",
            [1, 0xffff, 0x1_0007, 0, 0, 0],
        ))
        .unwrap();
        assert_eq!((got.follows, got.uid, got.gid), (false, None, Some(7)));
        let got = chown_of(&asked(Machine::I386, "chown32", [1, 0xffff, 9, 0, 0, 0])).unwrap();
        assert_eq!(
            (got.follows, got.uid, got.gid),
            (true, Some(0xffff), Some(9))
        );
    }
}
