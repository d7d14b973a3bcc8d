//! Capabilities by name, and the set that docker gives a container.

use std::fmt;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// By number, as <linux/capability.h> has them.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set: <https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities>.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, a bit each. What a container's root can have; nobody in it has more.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(u64);

/// A name that no kernel knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no capability {name:?}")]
pub struct UnknownCapability {
    pub name: String,
}

impl Capabilities {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// Docker's rule: from the default set, `drop` is taken away and `add` put in; `ALL` is
    /// everything, and what is dropped by name stays dropped beside `add ALL`.
    pub fn adjusted(add: &[String], drop: &[String]) -> Result<Self, UnknownCapability> {
        let is_all = |text: &String| text.eq_ignore_ascii_case("all");
        let bits = |texts: &[String]| {
            let named = texts.iter().filter(|text| !is_all(text));
            named
                .map(|text| bit(text))
                .try_fold(0, |all, bit| Ok(all | bit?))
        };
        let (added, dropped) = (bits(add)?, bits(drop)?);
        let all = (add.iter().any(is_all), drop.iter().any(is_all));
        Ok(Self(match all {
            (true, _) => Self::ALL.0 & !dropped,
            (false, true) => added,
            (false, false) => (Self::default().0 & !dropped) | added,
        }))
    }

    /// Whether one of them is in the set, by its name.
    pub fn has(self, name: &str) -> bool {
        bit(name).is_ok_and(|bit| self.0 & bit != 0)
    }

    pub(crate) fn with(self, name: &str) -> Self {
        Self(self.0 | bit(name).unwrap_or(0))
    }

    pub(crate) fn set(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }

    /// `CAP_CHOWN`, in the order of their numbers.
    pub fn names(self) -> Vec<String> {
        let numbered = NAMES.iter().enumerate();
        let held = numbered.filter(|(number, _)| self.0 & (1 << number) != 0);
        held.map(|(_, name)| format!("CAP_{name}")).collect()
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        DEFAULT.iter().fold(Self::NONE, |all, name| all.with(name))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.names())
    }
}

/// `CAP_SYS_PTRACE`, `SYS_PTRACE` and `sys_ptrace` are the same.
fn bit(text: &str) -> Result<u64, UnknownCapability> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = NAMES.iter().position(|known| *known == name);
    let number = number.ok_or_else(|| UnknownCapability {
        name: text.to_owned(),
    })?;
    Ok(1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjusted(add: &[&str], drop: &[&str]) -> Capabilities {
        let own = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        Capabilities::adjusted(&own(add), &own(drop)).unwrap()
    }

    #[test]
    fn the_default_is_docker_s() {
        // As /proc/self/status of a container of docker shows it.
        assert_eq!(Capabilities::default().0, 0xa804_25fb);
        assert_eq!(Capabilities::default().names().len(), DEFAULT.len());
    }

    #[test]
    fn names_agree_with_the_kernel_s_numbers() {
        for (name, set) in [
            ("CHOWN", CapabilitySet::CHOWN),
            ("sys_admin", CapabilitySet::SYS_ADMIN),
            ("CAP_MKNOD", CapabilitySet::MKNOD),
            ("cap_checkpoint_restore", CapabilitySet::CHECKPOINT_RESTORE),
        ] {
            assert_eq!(Capabilities::NONE.with(name).set(), set, "{name}");
        }
    }

    #[test]
    fn sets_are_adjusted_as_docker_does() {
        assert!(adjusted(&["sys_ptrace"], &[]).has("SYS_PTRACE"));
        assert!(!adjusted(&[], &["CAP_CHOWN"]).has("CHOWN"));
        assert_eq!(adjusted(&[], &["all"]), Capabilities::NONE);
        assert_eq!(adjusted(&["KILL"], &["ALL"]).names(), ["CAP_KILL"]);
        assert_eq!(adjusted(&["ALL"], &[]), Capabilities::ALL);
        assert!(!adjusted(&["ALL"], &["SYS_ADMIN"]).has("SYS_ADMIN"));
        assert!(Capabilities::adjusted(&["ROOT".to_owned()], &[]).is_err());
    }
}
