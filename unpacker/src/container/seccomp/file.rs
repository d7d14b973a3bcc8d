//! Profiles of users, in the JSON that docker and podman take (`--security-opt seccomp=FILE`).
//!
//! What a profile says of machines is read as of this one; actions that need a supervising process
//! (TRACE, NOTIFY) are refused when the file is read.

use serde::{Deserialize, Serialize};

use crate::container::capability::Capabilities;

use super::verdict::{Comparison, Condition, Decision, Rule, Verdict};

/// A profile as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: Action,
    #[serde(default)]
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
#[error("it is no seccomp profile of docker's form")]
pub struct BadProfile(#[from] serde_json::Error);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(
        rename = "SCMP_ACT_KILL",
        alias = "SCMP_ACT_KILL_PROCESS",
        alias = "SCMP_ACT_KILL_THREAD"
    )]
    Kill,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    /// Older profiles have one.
    #[serde(default)]
    name: Option<String>,
    action: Action,
    #[serde(default)]
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Circumstances>,
    #[serde(default)]
    excludes: Option<Circumstances>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: Index,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

/// A system call has six arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8")]
struct Index(u8);

impl TryFrom<u8> for Index {
    type Error = String;

    fn try_from(index: u8) -> Result<Self, String> {
        match index {
            0..=5 => Ok(Self(index)),
            _ => Err(format!("no system call has an argument {index}")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    AtMost,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    AtLeast,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Circumstances {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads a profile's text.
    pub fn parse(text: &str) -> Result<Self, BadProfile> {
        Ok(serde_json::from_str(text)?)
    }

    /// What becomes of a call without a word on it.
    pub(super) fn otherwise(&self) -> Verdict {
        verdict(self.default_action, self.default_errno_ret)
    }

    pub(super) fn mentioned(&self) -> impl Iterator<Item = &str> {
        self.syscalls.iter().flat_map(Entry::names)
    }

    /// An entry without conditions decides before all that have some, as in libseccomp.
    pub(super) fn decide(&self, name: &str, capabilities: Capabilities) -> Decision {
        let mut rules = Vec::new();
        for entry in &self.syscalls {
            if !entry.names().any(|known| known == name) || !entry.applies(capabilities) {
                continue;
            }
            let verdict = verdict(entry.action, entry.errno_ret.or(self.default_errno_ret));
            match entry.args.as_deref() {
                None | Some([]) => return Decision::always(verdict),
                Some(arguments) => rules.extend(rules_of(arguments, verdict)),
            }
        }
        Decision {
            rules,
            otherwise: self.otherwise(),
        }
    }
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().chain(&self.name).map(String::as_str)
    }

    fn applies(&self, capabilities: Capabilities) -> bool {
        let includes = self.includes.clone().unwrap_or_default();
        let excludes = self.excludes.clone().unwrap_or_default();
        let held = |name: &String| capabilities.has(name);
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let here = |list: &[String]| list.iter().any(|arch| ARCHITECTURES.contains(&&**arch));
        let arches = list(&includes.arches);
        list(&includes.caps).iter().all(held)
            && (arches.is_empty() || here(&arches))
            && includes
                .min_kernel
                .as_deref()
                .is_none_or(is_kernel_at_least)
            && !list(&excludes.caps).iter().any(held)
            && !here(&list(&excludes.arches))
            && !excludes
                .min_kernel
                .as_deref()
                .is_some_and(is_kernel_at_least)
    }
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 3] = ["amd64", "x86", "x32"];
#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURES: [&str; 2] = ["arm64", "arm"];

/// `4.8`
fn is_kernel_at_least(wanted: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split(|c: char| !c.is_ascii_digit());
        let mut next = || {
            parts
                .next()
                .and_then(|part| part.parse::<u32>().ok())
                .unwrap_or(0)
        };
        (next(), next())
    };
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    numbers(&release) >= numbers(wanted)
}

fn verdict(action: Action, errno: Option<u16>) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Errno => Verdict::Errno(errno.map_or(libc::EPERM, i32::from)),
        Action::Kill => Verdict::Kill,
        Action::Trap => Verdict::Trap,
        Action::Log => Verdict::Log,
    }
}

/// All conditions hold together; two on the same argument are alternatives, as runc has it.
fn rules_of(arguments: &[Argument], then: Verdict) -> Vec<Rule> {
    let repeated = (arguments.iter().enumerate())
        .any(|(at, one)| arguments[..at].iter().any(|other| other.index == one.index));
    let mut alternatives = vec![Vec::new()];
    if repeated {
        alternatives = arguments.iter().flat_map(conditions).collect();
    } else {
        for argument in arguments {
            let further = conditions(argument);
            let with = |known: &Vec<Condition>| {
                let known = known.clone();
                (further.clone().into_iter()).map(move |more| [known.clone(), more].concat())
            };
            alternatives = alternatives.iter().flat_map(with).collect();
        }
    }
    let rule = |conditions| Rule { conditions, then };
    alternatives.into_iter().map(rule).collect()
}

/// A comparison of 64 bits as comparisons of halves: alternatives, of each of which all hold.
fn conditions(argument: &Argument) -> Vec<Vec<Condition>> {
    let index = argument.index.0;
    let (high, low) = halves(argument.value);
    let (upper, lower) = (Condition::high(index), Condition::low(index));
    let not = |condition: Condition| Condition {
        negated: true,
        ..condition
    };
    let compared = |condition: Condition, comparison, value| Condition {
        comparison,
        value,
        ..condition
    };
    let same = upper.is(high);
    let greater = compared(upper, Comparison::Above, high);
    let less = not(compared(upper, Comparison::AtLeast, high));
    let low_above = compared(lower, Comparison::Above, low);
    let low_at_least = compared(lower, Comparison::AtLeast, low);
    match argument.op {
        Operator::Equal => vec![vec![same, lower.is(low)]],
        Operator::NotEqual => vec![vec![not(same)], vec![not(lower.is(low))]],
        Operator::Greater => vec![vec![greater], vec![same, low_above]],
        Operator::AtLeast => vec![vec![greater], vec![same, low_at_least]],
        Operator::Less => vec![vec![less], vec![same, not(low_at_least)]],
        Operator::AtMost => vec![vec![less], vec![same, not(low_above)]],
        Operator::MaskedEqual => {
            let (wanted_high, wanted_low) = halves(argument.value_two);
            vec![vec![
                upper.masked(high).is(wanted_high),
                lower.masked(low).is(wanted_low),
            ]]
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}
