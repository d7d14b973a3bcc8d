//! A command's output on its way to whoever watches, with its last lines kept for the error.

use std::collections::VecDeque;

use unpacker::container::run::Stream;
use unpacker::progress::{Event, Progress};

/// Lines of both outputs that an error repeats.
const TAIL_LINES: usize = 20;
/// A line that never ends is kept up to this length.
const MAX_LINE: usize = 4096;

/// Passes output on as text. A character that is cut in two by the pipe waits for its rest.
pub(crate) struct Relay<'a> {
    progress: &'a dyn Progress,
    step: usize,
    pending: [Vec<u8>; 2],
    line: String,
    tail: VecDeque<String>,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, step: usize) -> Self {
        Self {
            progress,
            step,
            pending: [Vec::new(), Vec::new()],
            line: String::new(),
            tail: VecDeque::new(),
        }
    }

    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let stderr = stream == Stream::Stderr;
        let pending = &mut self.pending[usize::from(stderr)];
        pending.extend_from_slice(bytes);
        let whole = whole_characters(pending);
        let rest = pending.split_off(whole);
        let text = String::from_utf8_lossy(&std::mem::replace(pending, rest)).into_owned();
        self.pass_on(stderr, text);
    }

    /// The last lines.
    pub(crate) fn finish(mut self) -> Vec<String> {
        for stderr in [false, true] {
            let rest = std::mem::take(&mut self.pending[usize::from(stderr)]);
            let text = String::from_utf8_lossy(&rest).into_owned();
            self.pass_on(stderr, text);
        }
        if !self.line.is_empty() {
            self.end_line();
        }
        self.tail.into()
    }

    fn pass_on(&mut self, stderr: bool, text: String) {
        if text.is_empty() {
            return;
        }
        for c in text.chars() {
            if c == '\n' {
                self.end_line();
            } else if self.line.len() < MAX_LINE {
                self.line.push(c);
            }
        }
        let step = Some(self.step);
        self.progress.event(Event::Output { stderr, text, step });
    }

    fn end_line(&mut self) {
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(std::mem::take(&mut self.line));
    }
}

/// How many bytes end with a whole character; bytes that can never become one count as whole.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(e) if e.error_len().is_some() => bytes.len(),
        Err(e) => e.valid_up_to(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn characters_stay_whole_and_the_tail_is_bounded() {
        let seen = Mutex::new(String::new());
        let progress = |event| {
            if let Event::Output { text, .. } = event {
                seen.lock().unwrap().push_str(&text);
            }
        };
        let mut relay = Relay::new(&progress, 1);
        let euro = "€".as_bytes();
        relay.take(Stream::Stdout, &euro[..1]);
        relay.take(Stream::Stdout, &euro[1..]);
        relay.take(Stream::Stderr, b"\xff\n");
        for n in 0..30 {
            relay.take(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        relay.take(Stream::Stdout, b"end");
        let tail = relay.finish();
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail.last().unwrap(), "end");
        assert!(seen.lock().unwrap().starts_with("€\u{fffd}\nline 0\n"));
    }
}
