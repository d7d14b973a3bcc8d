//! The system calls that a container does not have.
//!
//! Docker's default profile ([`profile`]): what is not on its list answers EPERM, and what is newer
//! than everything on it ENOSYS, so that programs fall back to what they did before. What needs a
//! capability is there for containers that have it. 32-bit programs of x86-64 have the same
//! profile; x32 ones get ENOSYS for everything, and those of any other machine are killed.
//!
//! With one id only, the calls that change owners and identities succeed without doing anything:
//! packages install, everything belongs to that id.

pub mod file;
mod names;
mod owner;
mod profile;
mod program;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use libc::sock_filter;

use super::capability::Capabilities;
use super::launch::{Refusal, Stage};
use super::spec::Seccomp;
use names::Machine;
use program::Section;
use verdict::{Condition, Decision, Rule, Verdict};

pub(crate) use owner::{Chown, chown_of};

/// Numbers of x32 programs, which are of the same architecture, begin here.
const FIRST_X32: u32 = 0x4000_0000;

/// Succeed without effect where only one id exists.
const PRETENDED: &str = "capset chown chown32 fchown fchown32 fchownat lchown lchown32 setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32";

/// What becomes of calls that change owners and identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// The kernel carries them out.
    Real,
    /// They succeed without effect.
    Pretended,
    /// So do they, but changes of a file's owner are told to a process of ours.
    Recorded,
}

/// The program to be installed, if there is one.
pub(crate) fn program(
    seccomp: &Seccomp,
    capabilities: Capabilities,
    changes: Changes,
) -> Result<Option<Vec<sock_filter>>, Refusal> {
    if matches!(seccomp, Seccomp::Unconfined) && changes == Changes::Real {
        return Ok(None);
    }
    let sections: Vec<_> = (Machine::all().iter())
        .map(|machine| section(*machine, seccomp, capabilities, changes))
        .collect();
    let program = program::assemble(&sections);
    if program.len() > program::MAX_STEPS {
        let text = format!(
            "the system call filter has {} steps, too many",
            program.len()
        );
        return Err(Refusal::new(Stage::Confine, text));
    }
    Ok(Some(program))
}

fn section(
    machine: Machine,
    seccomp: &Seccomp,
    capabilities: Capabilities,
    changes: Changes,
) -> Section {
    let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
    for (name, number) in machine.calls() {
        let mut decision = match seccomp {
            Seccomp::Default => profile::decide(name, capabilities),
            Seccomp::Unconfined => Decision::always(Verdict::Allow),
            Seccomp::Profile(profile) => profile.decide(name, capabilities),
        };
        if changes == Changes::Recorded && owner::is_change(name) {
            decision = Decision::always(Verdict::Ask);
        } else if changes != Changes::Real
            && let Some(pretended) = pretend(name)
        {
            decision = pretended;
        }
        decisions.insert(number, decision);
    }
    Section {
        architecture: machine.audit(),
        runs: runs(machine, seccomp, &decisions),
    }
}

/// Equal neighbours become one. What no table names is refused, or newer than the profile.
fn runs(
    machine: Machine,
    seccomp: &Seccomp,
    decisions: &BTreeMap<u32, Decision>,
) -> Vec<(u32, Decision)> {
    let newest = match seccomp {
        Seccomp::Profile(profile) => newest(machine, profile.mentioned()),
        _ => newest(machine, profile::mentioned()),
    };
    let otherwise = match seccomp {
        Seccomp::Default => Verdict::Errno(libc::EPERM),
        Seccomp::Unconfined => Verdict::Allow,
        Seccomp::Profile(profile) => profile.otherwise(),
    };
    // As runc completes a profile: a program that meets a call which nobody thought of falls back
    // on ENOSYS, and not on EPERM.
    let unknown = |number: u32| match otherwise {
        Verdict::Allow | Verdict::Log => Decision::always(otherwise),
        _ if number > newest => Decision::always(Verdict::Errno(libc::ENOSYS)),
        _ => Decision::always(otherwise),
    };
    let mut runs: Vec<(u32, Decision)> = Vec::new();
    let mut add = |number, decision: Decision| {
        if runs.last().is_none_or(|(_, last)| *last != decision) {
            runs.push((number, decision));
        }
    };
    for number in 0..=newest {
        let decision = decisions.get(&number).cloned();
        add(number, decision.unwrap_or_else(|| unknown(number)));
    }
    add(newest + 1, unknown(newest + 1));
    if machine == Machine::X86_64 {
        add(FIRST_X32, Decision::always(Verdict::Errno(libc::ENOSYS)));
    }
    runs
}

/// The highest number that a profile has a word on.
fn newest<'a>(machine: Machine, mentioned: impl Iterator<Item = &'a str>) -> u32 {
    let mentioned: std::collections::HashSet<_> = mentioned.collect();
    let named = machine.calls().filter(|(name, _)| mentioned.contains(name));
    named.map(|(_, number)| number).max().unwrap_or(0)
}

/// Changes of owners and identities, and nodes of devices.
fn pretend(name: &str) -> Option<Decision> {
    let mode = match name {
        "mknod" => 1,
        "mknodat" => 2,
        _ => {
            let found = PRETENDED.split_whitespace().any(|known| known == name);
            return found.then(|| Decision::always(Verdict::Errno(0)));
        }
    };
    let of = |kind: libc::mode_t| Rule {
        conditions: vec![Condition::low(mode).masked(libc::S_IFMT).is(kind)],
        then: Verdict::Errno(0),
    };
    Some(Decision {
        rules: vec![of(libc::S_IFCHR), of(libc::S_IFBLK)],
        otherwise: Verdict::Allow,
    })
}
