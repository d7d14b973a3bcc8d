//! Which lifecycle commands are due, and running them.
//!
//! `onCreateCommand`, `updateContentCommand` and `postCreateCommand` run once in a sandbox's life,
//! `postStartCommand` at each start, `postAttachCommand` at each `up` (specification, "Lifecycle
//! scripts"). What succeeded is remembered, so that an interrupted `up` goes on with the first command
//! that did not. A command that fails keeps the later ones from running.

use std::sync::{Mutex, PoisonError};

use config::devcontainer::{Command, Lifecycle};
use serde::{Deserialize, Serialize};
use unpacker::progress::{Cancel, Event};

use super::backend::Backend;
use super::failure::{Class, Fault, Stage};
use super::session::Session;
use crate::progress::Reporter;

/// Lines of a failed command's output that its fault carries.
const KEPT_LINES: usize = 20;

/// The moments, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    #[serde(rename = "onCreateCommand")]
    OnCreate,
    #[serde(rename = "updateContentCommand")]
    UpdateContent,
    #[serde(rename = "postCreateCommand")]
    PostCreate,
    #[serde(rename = "postStartCommand")]
    PostStart,
    #[serde(rename = "postAttachCommand")]
    PostAttach,
}

impl Hook {
    pub const ALL: [Self; 5] = [
        Self::OnCreate,
        Self::UpdateContent,
        Self::PostCreate,
        Self::PostStart,
        Self::PostAttach,
    ];

    /// The key in `devcontainer.json`.
    pub fn key(self) -> &'static str {
        match self {
            Self::OnCreate => "onCreateCommand",
            Self::UpdateContent => "updateContentCommand",
            Self::PostCreate => "postCreateCommand",
            Self::PostStart => "postStartCommand",
            Self::PostAttach => "postAttachCommand",
        }
    }

    fn command(self, lifecycle: &Lifecycle) -> Option<&Command> {
        match self {
            Self::OnCreate => lifecycle.on_create.as_ref(),
            Self::UpdateContent => lifecycle.update_content.as_ref(),
            Self::PostCreate => lifecycle.post_create.as_ref(),
            Self::PostStart => lifecycle.post_start.as_ref(),
            Self::PostAttach => lifecycle.post_attach.as_ref(),
        }
    }

    /// Whether its success is remembered. `postStartCommand`'s is until the next start.
    pub fn is_remembered(self) -> bool {
        self != Self::PostAttach
    }
}

/// What a new start makes due again.
pub fn forget_start(completed: &mut Vec<Hook>) {
    completed.retain(|hook| *hook != Hook::PostStart);
}

/// The commands that are due, in order.
pub fn due<'a>(lifecycle: &'a Lifecycle, completed: &[Hook]) -> Vec<(Hook, &'a Command)> {
    Hook::ALL
        .into_iter()
        .filter(|hook| !completed.contains(hook))
        .filter_map(|hook| Some((hook, hook.command(lifecycle)?)))
        .collect()
}

/// Where commands run.
pub struct Place<'a> {
    pub backend: &'a dyn Backend,
    pub sandbox: &'a str,
    pub session: &'a Session,
    pub progress: &'a Reporter,
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

/// Runs one hook; the commands of an object run at the same time.
pub fn run(place: &Place<'_>, hook: Hook, command: &Command) -> Result<(), Fault> {
    place.progress.event(Event::Line {
        text: format!("[Workspace] Running {}...", hook.key()),
    });
    let argvs = command.argvs();
    let results: Vec<Result<(), Fault>> = std::thread::scope(|scope| {
        let threads: Vec<_> = argvs
            .into_iter()
            .map(|(name, argv)| scope.spawn(move || one(place, hook, name, argv)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                let died = || Fault::new(Class::Internal, "the thread of a command died");
                thread.join().unwrap_or_else(|_| Err(died()))
            })
            .collect()
    });
    results.into_iter().collect()
}

fn one(place: &Place<'_>, hook: Hook, name: Option<&str>, argv: Vec<String>) -> Result<(), Fault> {
    let label = match name {
        Some(name) => format!("{} ({name})", hook.key()),
        None => hook.key().to_owned(),
    };
    let tail = Mutex::new(Tail::default());
    let process = place.session.process(argv, false, &[], None);
    let mut output = |stderr: bool, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        tail.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(&text);
        place.progress.event(Event::Output {
            stderr,
            text,
            step: None,
        });
    };
    let code = place
        .backend
        .exec(place.sandbox, &process, &mut output, place.cancel)
        .map_err(|fault| fault.at(Stage::Lifecycle))?;
    if code == 0 {
        return Ok(());
    }
    let logs = tail
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .lines();
    Err(Fault::new(
        Class::Invalid,
        format!("{label} ended with exit code {code}"),
    )
    .at(Stage::Lifecycle)
    .with_logs(logs)
    .suggest(
        "The workspace is running: look with `devpod ssh`, correct the command, and run \
             `devpod up` again.",
    ))
}

/// The last lines of an output.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: std::collections::VecDeque<String>,
    open: String,
}

impl Tail {
    pub(super) fn push(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            // A line without an end is cut rather than kept whole.
            if self.open.len() < 4096 {
                self.open.push_str(piece.trim_end_matches(['\n', '\r']));
            }
            if piece.ends_with('\n') {
                self.lines.push_back(std::mem::take(&mut self.open));
            }
            if self.lines.len() > KEPT_LINES {
                self.lines.pop_front();
            }
        }
    }

    pub(super) fn lines(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.lines.push_back(self.open);
        }
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifecycle() -> Lifecycle {
        let shell = |text: &str| Some(Command::Shell(text.into()));
        Lifecycle {
            on_create: shell("a"),
            post_create: shell("b"),
            post_start: shell("c"),
            post_attach: shell("d"),
            ..Lifecycle::default()
        }
    }

    #[test]
    fn what_is_due() {
        use Hook::{OnCreate, PostAttach, PostCreate, PostStart};
        for (completed, expected) in [
            (vec![], vec![OnCreate, PostCreate, PostStart, PostAttach]),
            (vec![OnCreate], vec![PostCreate, PostStart, PostAttach]),
            (vec![OnCreate, PostCreate, PostStart], vec![PostAttach]),
        ] {
            let lifecycle = lifecycle();
            let hooks: Vec<_> = due(&lifecycle, &completed)
                .iter()
                .map(|(hook, _)| *hook)
                .collect();
            assert_eq!(hooks, expected);
        }
        let mut completed = vec![OnCreate, PostStart];
        forget_start(&mut completed);
        assert_eq!(completed, [OnCreate]);
    }

    #[test]
    fn keeps_the_end_of_an_output() {
        let mut tail = Tail::default();
        for line in 0..30 {
            tail.push("li");
            tail.push(&format!("ne {line}\r\n"));
        }
        tail.push("open");
        let lines = tail.lines();
        assert_eq!(lines.len(), KEPT_LINES + 1);
        assert_eq!(
            (lines[0].as_str(), lines[KEPT_LINES].as_str()),
            ("line 10", "open")
        );
    }
}
