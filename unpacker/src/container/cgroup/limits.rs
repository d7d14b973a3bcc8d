//! Limits as files of control groups. Pure.

use crate::container::resources::{Resources, Swap};

use super::places::Version;

/// The period over which processor time is counted, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;
/// The kernel takes no quota below a millisecond.
const LEAST_QUOTA: u64 = 1000;

/// What the kernel calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// A value for a file of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Kernels without swap accounting do not have the file.
    pub(super) optional: bool,
}

/// One limit that a group can hold a container to.
pub(super) struct Wish {
    pub(super) limit: &'static str,
    pub(super) asked: String,
    pub(super) controller: Controller,
    pub(super) settings: Box<dyn Fn(Version) -> Vec<Setting>>,
}

/// What of these limits is the business of groups. `company` is how many tasks of ours will be in
/// them beside the container's: its limit of tasks is for its own.
pub(super) fn wishes(resources: &Resources, company: u64) -> Vec<Wish> {
    let Resources {
        cpus,
        cpu_shares,
        memory,
        memory_swap,
        pids,
        ..
    } = *resources;
    let cpus = cpus.map(|cpus| Wish {
        limit: "cpus",
        asked: (f64::from(cpus) / 1000.0).to_string(),
        controller: Controller::Cpu,
        settings: Box::new(move |version| quota(version, cpus)),
    });
    let shares = cpu_shares.map(|shares| Wish {
        limit: "cpu-shares",
        asked: shares.to_string(),
        controller: Controller::Cpu,
        settings: Box::new(move |version| weight(version, shares)),
    });
    let memory = memory.map(|memory| Wish {
        limit: "memory",
        asked: config::quantity::ByteSize(memory).to_string(),
        controller: Controller::Memory,
        settings: Box::new(move |version| memory_of(version, memory, memory_swap)),
    });
    let pids = pids.map(|pids| Wish {
        limit: "pids",
        asked: pids.to_string(),
        controller: Controller::Pids,
        settings: Box::new(move |_| vec![plain("pids.max", pids.saturating_add(company))]),
    });
    [cpus, shares, memory, pids].into_iter().flatten().collect()
}

fn plain(file: &'static str, value: impl ToString) -> Setting {
    Setting {
        file,
        value: value.to_string(),
        optional: false,
    }
}

fn optional(file: &'static str, value: impl ToString) -> Setting {
    Setting {
        optional: true,
        ..plain(file, value)
    }
}

fn quota(version: Version, cpus: u32) -> Vec<Setting> {
    let quota = (u64::from(cpus) * PERIOD / 1000).max(LEAST_QUOTA);
    match version {
        Version::One => vec![
            plain("cpu.cfs_period_us", PERIOD),
            plain("cpu.cfs_quota_us", quota),
        ],
        Version::Two => vec![plain("cpu.max", format!("{quota} {PERIOD}"))],
    }
}

fn weight(version: Version, shares: u64) -> Vec<Setting> {
    match version {
        Version::One => vec![plain("cpu.shares", shares)],
        // Docker's scale of 2 to 262144 on the kernel's newer one of 1 to 10000, as runc does it.
        Version::Two => {
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
            vec![plain("cpu.weight", weight)]
        }
    }
}

fn memory_of(version: Version, memory: u64, swap: Option<Swap>) -> Vec<Setting> {
    let swap = swap.unwrap_or(Swap::Total(memory.saturating_mul(2)));
    match version {
        Version::One => {
            let both = match swap {
                Swap::Unlimited => "-1".to_owned(),
                Swap::Total(both) => both.to_string(),
            };
            vec![
                plain("memory.limit_in_bytes", memory),
                optional("memory.memsw.limit_in_bytes", both),
            ]
        }
        Version::Two => {
            let swap = match swap {
                Swap::Unlimited => "max".to_owned(),
                Swap::Total(both) => both.saturating_sub(memory).to_string(),
            };
            vec![
                plain("memory.max", memory),
                optional("memory.swap.max", swap),
            ]
        }
    }
}

/// A value of a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(resources: &Resources, version: Version) -> Vec<String> {
        (wishes(resources, 0).iter())
            .flat_map(|wish| (wish.settings)(version))
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect()
    }

    #[test]
    fn limits_become_files_of_both_versions() {
        let resources = Resources {
            cpus: Some(1500),
            cpu_shares: Some(512),
            memory: Some(64 << 20),
            memory_swap: None,
            pids: Some(100),
            ..Resources::default()
        };
        assert_eq!(
            written(&resources, Version::One),
            [
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000",
                "cpu.shares=512",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=134217728",
                "pids.max=100",
            ]
        );
        assert_eq!(
            written(&resources, Version::Two),
            [
                "cpu.max=150000 100000",
                "cpu.weight=20",
                "memory.max=67108864",
                "memory.swap.max=67108864",
                "pids.max=100",
            ]
        );
    }

    #[test]
    fn what_is_ours_does_not_count_as_the_container_s() {
        let resources = Resources {
            pids: Some(8),
            ..Resources::default()
        };
        let wishes = wishes(&resources, 2);
        assert_eq!(wishes[0].asked, "8");
        assert_eq!((wishes[0].settings)(Version::Two), [plain("pids.max", 10)]);
    }

    #[test]
    fn swap_is_docker_s_sum() {
        let with = |swap| Resources {
            memory: Some(1 << 20),
            memory_swap: Some(swap),
            ..Resources::default()
        };
        let total = with(Swap::Total(3 << 20));
        assert_eq!(written(&total, Version::Two)[1], "memory.swap.max=2097152");
        assert_eq!(
            written(&total, Version::One)[1],
            "memory.memsw.limit_in_bytes=3145728"
        );
        let unlimited = with(Swap::Unlimited);
        assert_eq!(written(&unlimited, Version::Two)[1], "memory.swap.max=max");
        assert_eq!(
            written(&unlimited, Version::One)[1],
            "memory.memsw.limit_in_bytes=-1"
        );
    }

    #[test]
    fn weights_span_both_scales() {
        for (shares, weight) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            let resources = Resources {
                cpu_shares: Some(shares),
                ..Resources::default()
            };
            let expected = [format!("cpu.weight={weight}")];
            assert_eq!(written(&resources, Version::Two), expected);
        }
    }

    #[test]
    fn keyed_files_are_read() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
    }
}
