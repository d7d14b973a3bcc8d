//! Decisions as a program of the kernel's packet filter, which decides for every system call.
//!
//! ```text
//! architecture?  native -> tree of its numbers | 32 bit -> tree of its numbers | killed
//! tree           number >= middle ? upper half : lower half, down to runs of equal decisions
//! leaf           a verdict, or rules that look at arguments
//! ```
//!
//! A tree needs a handful of steps for any call; a list as libseccomp makes it needs hundreds.

use libc::sock_filter;

use super::verdict::{Comparison, Condition, Decision, Rule, Verdict};

/// Offsets in `struct seccomp_data`, see seccomp(2).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

/// What the kernel takes at most.
pub(super) const MAX_STEPS: usize = 4096;

/// The decisions of one architecture: the first run begins at number 0, each ends where the next
/// begins.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// `AUDIT_ARCH_*`
    pub(super) architecture: u32,
    pub(super) runs: Vec<(u32, Decision)>,
}

/// The whole program. Calls of an architecture without a section end the process.
pub(super) fn assemble(sections: &[Section]) -> Vec<sock_filter> {
    let mut program = Vec::new();
    for section in sections {
        let mut body = vec![step(LOAD, NUMBER)];
        body.extend(tree(&section.runs));
        program.push(step(LOAD, ARCHITECTURE));
        program.push(test(EQUAL, section.architecture, 1, 0));
        program.push(step(JUMP, body.len() as u32));
        program.extend(body);
    }
    program.push(answer(Verdict::Kill));
    program
}

fn step(code: u16, k: u32) -> sock_filter {
    test(code, k, 0, 0)
}

fn test(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn answer(verdict: Verdict) -> sock_filter {
    step(RETURN, verdict.to_return_value())
}

/// The number is in the accumulator; every path ends with an answer.
fn tree(runs: &[(u32, Decision)]) -> Vec<sock_filter> {
    match runs {
        [] => vec![answer(Verdict::Kill)],
        [(_, decision)] => leaf(decision),
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            let below = tree(lower);
            // Distances of tests are bytes; those of plain jumps are not.
            let mut program = match u8::try_from(below.len()) {
                Ok(distance) => vec![test(AT_LEAST, upper[0].0, distance, 0)],
                Err(_) => vec![
                    test(AT_LEAST, upper[0].0, 0, 1),
                    step(JUMP, below.len() as u32),
                ],
            };
            program.extend(below);
            program.extend(tree(upper));
            program
        }
    }
}

fn leaf(decision: &Decision) -> Vec<sock_filter> {
    let mut program: Vec<_> = decision.rules.iter().flat_map(rule).collect();
    program.push(answer(decision.otherwise));
    program
}

/// Answers when all conditions hold, and goes on behind itself when one does not.
fn rule(rule: &Rule) -> Vec<sock_filter> {
    let mut program = vec![answer(rule.then)];
    for condition in rule.conditions.iter().rev() {
        let mut tested = condition_steps(condition, program.len());
        tested.extend(program);
        program = tested;
    }
    program
}

/// Goes on when the condition holds, and skips `rest` steps when it does not.
fn condition_steps(condition: &Condition, rest: usize) -> Vec<sock_filter> {
    // Both supported machines are little-endian.
    let half = if condition.is_high { 4 } else { 0 };
    let mut program = vec![step(
        LOAD,
        ARGUMENTS + 8 * u32::from(condition.argument) + half,
    )];
    if condition.mask != u32::MAX {
        program.push(step(AND, condition.mask));
    }
    let code = match condition.comparison {
        Comparison::Equal => EQUAL,
        Comparison::Above => ABOVE,
        Comparison::AtLeast => AT_LEAST,
    };
    // A rule has at most six conditions of at most three steps, so this is a byte.
    let skip = rest.min(255) as u8;
    program.push(match condition.negated {
        false => test(code, condition.value, 0, skip),
        true => test(code, condition.value, skip, 0),
    });
    program
}
