//! The steps of a build as people watch them. Several may run at once: every line says whose it is.
//!
//! Without a terminal a step is its line, its output with its number and time, and its end. On a
//! terminal it is a bar with the last lines of its output below, until it has ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use unpacker::progress::{Step, StepState};

use crate::ui::style;

/// Lines of output that a running step shows on a terminal.
const WINDOW: usize = 6;
/// Output without a newline is shown in pieces of this many bytes.
const MAX_LINE: usize = 64 << 10;
/// Where the terminal does not say how wide it is.
const WIDTH: usize = 80;

/// The steps that run.
#[derive(Debug, Default)]
pub(super) struct Steps {
    running: BTreeMap<usize, Running>,
}

#[derive(Debug)]
struct Running {
    began: Instant,
    line: String,
    /// Output that has not ended its line yet.
    partial: String,
    /// `None` where stderr is no terminal.
    shown: Option<Shown>,
}

#[derive(Debug)]
struct Shown {
    bar: ProgressBar,
    window: VecDeque<String>,
}

impl Steps {
    /// Takes news of a step, and answers the lines that stay.
    pub(super) fn step(&mut self, news: &Step, bars: Option<&MultiProgress>) -> Vec<String> {
        match news.state {
            StepState::Began | StepState::Waiting | StepState::Cached => self.begin(news, bars),
            StepState::Done | StepState::Failed => self.end(news),
        }
    }

    fn begin(&mut self, news: &Step, bars: Option<&MultiProgress>) -> Vec<String> {
        let line = builder::report::line(news).unwrap_or_default();
        let line = style::harmless(&line);
        // It may have waited until now.
        let before = self.running.remove(&news.step);
        if let Some(shown) = before.and_then(|running| running.shown) {
            shown.bar.finish_and_clear();
        }
        if news.state == StepState::Cached {
            return match bars {
                Some(_) => vec![line],
                None => vec![line, format!("#{} CACHED", news.step)],
            };
        }
        let shown = bars.map(|bars| Shown {
            bar: new_bar(bars, &line),
            window: VecDeque::new(),
        });
        let stays = match shown {
            Some(_) => Vec::new(),
            None => vec![line.clone()],
        };
        let running = Running {
            began: Instant::now(),
            line,
            partial: String::new(),
            shown,
        };
        self.running.insert(news.step, running);
        stays
    }

    fn end(&mut self, news: &Step) -> Vec<String> {
        // Of one that was found in the cache all is said.
        let Some(mut running) = self.running.remove(&news.step) else {
            return Vec::new();
        };
        let took = Duration::from_millis(news.milliseconds.unwrap_or_default()).as_secs_f64();
        let failed = news.state == StepState::Failed;
        if let Some(shown) = &running.shown {
            shown.bar.finish_and_clear();
            let mark = match failed {
                true => style::error(" ERROR"),
                false => String::new(),
            };
            return vec![format!("{} {took:.1}s{mark}", running.line)];
        }
        let mut lines = running.rest(news.step);
        let word = if failed { "ERROR" } else { "DONE" };
        lines.push(format!("#{} {word} {took:.1}s", news.step));
        lines
    }

    /// Takes output of a step, and answers the lines that stay.
    pub(super) fn output(&mut self, step: usize, text: &str) -> Vec<String> {
        let Some(running) = self.running.get_mut(&step) else {
            return text.lines().map(style::tame).collect();
        };
        running.partial.push_str(text);
        if running.partial.len() > MAX_LINE {
            running.partial.push('\n');
        }
        let mut stays = Vec::new();
        while let Some(end) = running.partial.find('\n') {
            let rest = running.partial.split_off(end + 1);
            let line = std::mem::replace(&mut running.partial, rest);
            stays.extend(running.line(step, line.trim_end_matches('\n')));
        }
        stays
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (step, mut running) in std::mem::take(&mut self.running) {
            match &running.shown {
                Some(shown) => shown.bar.finish_and_clear(),
                None => lines.extend(running.rest(step)),
            }
        }
        lines
    }
}

impl Running {
    fn line(&mut self, step: usize, line: &str) -> Option<String> {
        let Some(shown) = &mut self.shown else {
            let since = self.began.elapsed().as_secs_f64();
            return Some(format!("#{step} {since:.3} {}", style::tame(line)));
        };
        if shown.window.len() == WINDOW {
            shown.window.pop_front();
        }
        shown.window.push_back(style::bare(line));
        shown.bar.set_message(message(&shown.window, width()));
        None
    }

    fn rest(&mut self, step: usize) -> Vec<String> {
        let rest = std::mem::take(&mut self.partial);
        match rest.is_empty() {
            true => Vec::new(),
            false => self.line(step, &rest).into_iter().collect(),
        }
    }
}

/// What stands below the bar: no line may be wider than the terminal, or redrawing tears it.
fn message(window: &VecDeque<String>, width: usize) -> String {
    let line = |line: &String| format!("\n  {}", cut(line, width.saturating_sub(3)));
    window.iter().map(line).collect()
}

/// So many characters at most.
fn cut(text: &str, most: usize) -> String {
    let flat = text.replace('\t', " ");
    match flat.chars().count() > most {
        true => flat
            .chars()
            .take(most.saturating_sub(1))
            .chain(['…'])
            .collect(),
        false => flat,
    }
}

fn new_bar(bars: &MultiProgress, line: &str) -> ProgressBar {
    // Hidden until it stands among the others: alone it would draw a line of its own.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template("{prefix} {elapsed}{msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(cut(line, width().saturating_sub(8)));
    let bar = bars.add(bar);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    match columns {
        0 => WIDTH,
        columns => columns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(step: usize, state: StepState) -> Step {
        Step {
            step,
            total: 3,
            stage: "0".to_owned(),
            text: format!("RUN {step}"),
            state,
            milliseconds: (state == StepState::Done).then_some(1234),
        }
    }

    #[test]
    fn lines_of_steps_that_run_at_once_are_told_apart() {
        let mut steps = Steps::default();
        let begun = |n| vec![format!("[Builder] Step {n}/3: RUN {n}")];
        assert_eq!(steps.step(&news(1, StepState::Began), None), begun(1));
        assert_eq!(steps.step(&news(2, StepState::Began), None), begun(2));
        assert!(steps.output(1, "half ").is_empty());
        let [line] = &steps.output(2, "whole\n")[..] else {
            panic!("one line");
        };
        assert!(
            line.starts_with("#2 ") && line.ends_with(" whole"),
            "{line}"
        );
        let lines = steps.step(&news(1, StepState::Done), None);
        assert!(lines[0].starts_with("#1 ") && lines[0].ends_with(" half "));
        assert_eq!(lines[1], "#1 DONE 1.2s");
        let cached = steps.step(&news(3, StepState::Cached), None);
        assert_eq!(cached, ["[Builder] Step 3/3: RUN 3 (cached)", "#3 CACHED"]);
        assert!(steps.step(&news(3, StepState::Done), None).is_empty());
        assert_eq!(
            steps.step(&news(2, StepState::Failed), None),
            ["#2 ERROR 0.0s"]
        );
    }

    #[test]
    fn a_step_may_wait_for_another_build() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        for bars in [None, Some(&bars)] {
            let mut steps = Steps::default();
            let waiting = steps.step(&news(1, StepState::Waiting), bars);
            let told = ["[Builder] Step 1/3: RUN 1 (waiting: it runs already)"];
            assert_eq!(waiting, bars.map_or(&told[..], |_| &[]));
            let cached = steps.step(&news(1, StepState::Cached), bars);
            assert_eq!(cached[0], "[Builder] Step 1/3: RUN 1 (cached)");
            assert!(steps.running.is_empty());
        }
    }

    #[test]
    fn a_terminal_shows_the_last_lines_only() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut steps = Steps::default();
        assert!(
            steps
                .step(&news(1, StepState::Began), Some(&bars))
                .is_empty()
        );
        let text: String = (0..50)
            .map(|n| format!("\x1b[31mline\x1b[0m {n}\n"))
            .collect();
        assert!(steps.output(1, &text).is_empty());
        let window = &steps.running[&1].shown.as_ref().unwrap().window;
        assert_eq!(window.len(), WINDOW);
        assert_eq!(window.back().unwrap(), "line 49");
        let lines = steps.step(&news(1, StepState::Done), Some(&bars));
        assert_eq!(lines, ["[Builder] Step 1/3: RUN 1 1.2s"]);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let window: VecDeque<String> = ["x".repeat(500), "short".to_owned()].into();
        let shown = message(&window, 40);
        assert!(
            shown.lines().all(|line| line.chars().count() < 40),
            "{shown}"
        );
        assert!(shown.contains('…') && shown.ends_with("\n  short"));
    }
}
