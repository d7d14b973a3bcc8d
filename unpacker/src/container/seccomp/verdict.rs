//! What becomes of a system call, as data.

/// The end of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Allow,
    /// It answers this error without being made; 0 pretends that it was.
    Errno(i32),
    /// The process ends.
    Kill,
    /// It gets SIGSYS.
    Trap,
    /// Allowed, and told in the host's log.
    Log,
    /// A process of ours outside is asked.
    Ask,
}

impl Verdict {
    pub(super) fn to_return_value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno as u32 & 0xffff),
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Ask => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// How one half of an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Above,
    AtLeast,
}

/// A question to one 32-bit half of an argument: `(half & mask) OP value`, or its opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) is_high: bool,
    pub(super) mask: u32,
    pub(super) comparison: Comparison,
    pub(super) value: u32,
    pub(super) negated: bool,
}

impl Condition {
    fn new(argument: u8, is_high: bool) -> Self {
        Self {
            argument,
            is_high,
            mask: u32::MAX,
            comparison: Comparison::Equal,
            value: 0,
            negated: false,
        }
    }

    pub(super) fn low(argument: u8) -> Self {
        Self::new(argument, false)
    }

    pub(super) fn high(argument: u8) -> Self {
        Self::new(argument, true)
    }

    pub(super) fn masked(self, mask: u32) -> Self {
        Self { mask, ..self }
    }

    pub(super) fn is(self, value: u32) -> Self {
        Self { value, ..self }
    }
}

/// Holds when all of its conditions do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) then: Verdict,
}

impl Rule {
    pub(super) fn allow(conditions: Vec<Condition>) -> Self {
        Self {
            conditions,
            then: Verdict::Allow,
        }
    }
}

/// What becomes of one call: the first rule that holds says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: Verdict,
}

impl Decision {
    pub(super) fn always(verdict: Verdict) -> Self {
        Self {
            rules: Vec::new(),
            otherwise: verdict,
        }
    }
}
