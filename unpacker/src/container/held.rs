//! A container held to its limits: by control groups where they can be made, by something weaker
//! where not, and with the truth about both.
//!
//! Without a group, memory is limited for each process (RLIMIT_DATA), the number of processes for
//! each user (RLIMIT_NPROC), and processor time by the number of processors. A group or a weaker
//! limit that cannot be had never keeps a container from starting, unless that was asked for.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::cgroup::{Groups, Visit};
use super::launch::{Refusal, Refuse, Stage};
use super::network::RELAY_TASKS;
use super::resources::{How, Resources, Standing, Ulimit, UlimitKind};
use super::spec::{Confinement, ContainerSpec, Network};

/// What holds a container, for as long as it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Held {
    groups: Groups,
    oom_score_adj: Option<i32>,
    /// Of every process in it.
    pub(crate) confinement: Confinement,
    /// What became of each limit.
    pub(crate) standings: Vec<Standing>,
}

impl Held {
    /// Makes what `spec` asks for. To be called by whoever will wait for the container.
    pub(crate) fn prepare(spec: &ContainerSpec) -> Result<Self, Refusal> {
        let resources = &spec.resources;
        let mut standings = Vec::new();
        let company = match spec.network {
            Network::Private | Network::Bridge => RELAY_TASKS,
            Network::Host | Network::None => 0,
        };
        let groups = Groups::make(resources, company, &mut standings);
        let mut held = Self {
            groups,
            oom_score_adj: None,
            confinement: spec.process.confinement.clone(),
            standings,
        };
        held.fall_back(resources);
        for ulimit in &resources.ulimits {
            held.clamp(*ulimit);
        }
        held.score(resources.oom_score_adj);
        match held.unheld() {
            Some(text) if resources.strict => {
                held.end();
                Err(Refusal::new(Stage::Limits, text))
            }
            _ => Ok(held),
        }
    }

    fn unheld(&self) -> Option<String> {
        let warnings: Vec<_> = self
            .standings
            .iter()
            .filter_map(Standing::warning)
            .collect();
        (!warnings.is_empty()).then(|| warnings.join("; "))
    }

    /// The specification with what its processes really get.
    pub(crate) fn applied_to(&self, spec: &ContainerSpec) -> ContainerSpec {
        let mut spec = spec.clone();
        spec.process.confinement = self.confinement.clone();
        spec
    }

    /// Puts a container's first process into its groups, before it has done anything.
    pub(crate) fn admit(&self, pid: i32) -> Result<(), Refusal> {
        let what = || "put the container into its control groups".to_owned();
        self.groups.admit(pid).refuse(Stage::Limits, what)?;
        if let Some(score) = self.oom_score_adj {
            let path = format!("/proc/{pid}/oom_score_adj");
            std::fs::write(path, score.to_string())
                .refuse(Stage::Limits, || format!("set its OOM score to {score}"))?;
        }
        Ok(())
    }

    /// Puts a process of ours that works for the container into its groups: what it takes counts
    /// as the container's.
    pub(crate) fn admit_helper(&self, pid: i32) -> Result<(), Refusal> {
        let what = || "put the network's relay into the container's control groups".to_owned();
        self.groups.admit(pid).refuse(Stage::Limits, what)
    }

    /// Takes it out again: in [`Self::end`] it would end with them.
    pub(crate) fn release_helper(&self, pid: i32) -> io::Result<()> {
        self.groups.release(pid)
    }

    /// Makes the calling process one of the container's for a while: see [`Groups::visit`].
    pub(crate) fn visit(&self) -> io::Result<Visit> {
        if let Some(score) = self.oom_score_adj {
            std::fs::write("/proc/self/oom_score_adj", score.to_string())?;
        }
        self.groups.visit()
    }

    /// Takes the groups away; answers how many processes were killed for want of memory.
    pub(crate) fn end(&self) -> u64 {
        let killed = self.groups.out_of_memory();
        self.groups.remove();
        killed
    }

    /// What no group holds is held by what is left.
    fn fall_back(&mut self, resources: &Resources) {
        for index in 0..self.standings.len() {
            if self.standings[index].how != How::Missing {
                continue;
            }
            let weaker = match self.standings[index].limit.as_str() {
                "memory" => self.limit_each(UlimitKind::Data, resources.memory, "process"),
                "pids" => self.limit_each(UlimitKind::Nproc, resources.pids, "user"),
                "cpus" => self.keep_on_processors(resources.cpus),
                _ => None,
            };
            if let Some(weaker) = weaker {
                let standing = &mut self.standings[index];
                standing.how = How::Reduced;
                standing.why = format!("{weaker} ({})", standing.why);
            }
        }
    }

    fn limit_each(&mut self, kind: UlimitKind, most: Option<u64>, whom: &str) -> Option<String> {
        let now = getrlimit(kind.resource()).maximum;
        let most = most?.min(now.unwrap_or(u64::MAX));
        self.confinement.ulimits.push(Ulimit {
            kind,
            soft: Some(most),
            hard: Some(most),
        });
        Some(format!("each {whom} in it is limited alone"))
    }

    fn keep_on_processors(&mut self, cpus: Option<u32>) -> Option<String> {
        let wanted = cpus?.div_ceil(1000);
        let there = std::thread::available_parallelism().map_or(1, usize::from);
        if wanted as usize >= there {
            return None;
        }
        self.confinement.processors = Some(wanted);
        let plural = if wanted == 1 { "" } else { "s" };
        Some(format!("it is kept on {wanted} processor{plural}"))
    }

    /// A hard limit above ours needs a privilege of the host; what is lower always works.
    fn clamp(&mut self, asked: Ulimit) {
        let limit = format!("ulimit {}", asked.kind.name());
        let value = asked.to_string();
        let value = value.split_once('=').map_or("", |(_, value)| value);
        let most = raise(asked.kind.resource(), asked.hard);
        let clamp = |wanted: Option<u64>| match (wanted, most) {
            (wanted, None) => wanted,
            (None, Some(most)) => Some(most),
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
        };
        let got = Ulimit {
            kind: asked.kind,
            soft: clamp(asked.soft),
            hard: clamp(asked.hard),
        };
        let standing = if got == asked {
            Standing::new(limit, value, How::Enforced, "setrlimit")
        } else {
            let most = most.map_or_else(String::new, |most| most.to_string());
            let why = format!("this host allows {most} at most");
            Standing::new(limit, value, How::Reduced, why)
        };
        self.confinement.ulimits.push(got);
        self.standings.push(standing);
    }

    fn score(&mut self, asked: Option<i32>) {
        let Some(asked) = asked else { return };
        let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let own = text.trim().parse().unwrap_or(0);
        let standing = |how, why: &str| Standing::new("oom-score-adj", asked, how, why);
        self.standings.push(if asked >= own || may_lower_score() {
            self.oom_score_adj = Some(asked);
            standing(How::Enforced, "oom_score_adj")
        } else {
            self.oom_score_adj = Some(own);
            standing(How::Reduced, &format!("only root can go below {own}"))
        });
    }
}

/// Asks for a higher hard limit for this process and its children; answers what it is then.
fn raise(resource: Resource, wanted: Option<u64>) -> Option<u64> {
    let now = getrlimit(resource);
    let above = match (wanted, now.maximum) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(most)) => wanted > most,
    };
    let higher = Rlimit {
        current: now.current,
        maximum: wanted,
    };
    if above && setrlimit(resource, higher).is_ok() {
        return wanted;
    }
    now.maximum
}

/// Lowering the score needs CAP_SYS_RESOURCE outside of every user namespace.
fn may_lower_score() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let whole = super::idmap::IdMap::current().is_ok_and(|ids| ids.is_whole());
    whole
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(limit: &str) -> Standing {
        Standing::new(limit, "x", How::Missing, "no groups here")
    }

    #[test]
    fn what_no_group_holds_is_held_by_less() {
        let resources = Resources {
            memory: Some(1 << 20),
            pids: Some(7),
            cpus: Some(1),
            cpu_shares: Some(2),
            ..Resources::default()
        };
        let mut held = Held {
            standings: ["memory", "pids", "cpu-shares"].map(missing).to_vec(),
            ..Held::default()
        };
        held.fall_back(&resources);
        let hows: Vec<_> = held.standings.iter().map(|standing| standing.how).collect();
        assert_eq!(hows, [How::Reduced, How::Reduced, How::Missing]);
        let limits: Vec<_> = held
            .confinement
            .ulimits
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(limits, ["data=1048576:1048576", "nproc=7:7"]);
        assert!(held.unheld().unwrap().contains("no groups here"));
    }

    #[test]
    fn a_limit_above_the_host_s_is_clamped_and_told() {
        let most = getrlimit(Resource::Core).maximum;
        let mut held = Held::default();
        held.clamp("core=0".parse().unwrap());
        assert_eq!(held.standings[0].how, How::Enforced);
        // Nobody may open 2^40 files: the kernel's own ceiling is below.
        held.clamp("nofile=5:1099511627776".parse().unwrap());
        assert_eq!(held.standings[1].how, How::Reduced);
        let got = held.confinement.ulimits[1];
        assert_eq!(got.soft, Some(5));
        assert!(got.hard < Some(1 << 40));
        assert_eq!(getrlimit(Resource::Core).maximum, most);
    }
}
