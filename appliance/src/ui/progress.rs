//! News of long work: bars per transfer on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use unpacker::progress::{Event, Phase};

use crate::ui::steps::Steps;
use crate::ui::style;
use crate::ui::table::size;

/// Output without a newline is shown in pieces of this many bytes.
const MAX_LINE: usize = 64 << 10;

/// How news are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// `tty` on a terminal, else `plain`
    #[default]
    Auto,
    /// Redrawn in place, the last lines of each step that runs; `plain` where there is no terminal
    Tty,
    /// Lines that stay
    Plain,
    /// One JSON object a line, on standard error
    #[value(alias = "rawjson")]
    Json,
    /// Warnings and failures only
    #[value(alias = "none")]
    Quiet,
}

/// Renders the events of one command.
#[derive(Debug)]
pub struct Screen {
    mode: Mode,
    steps: Steps,
    /// `None` where stderr is no terminal.
    bars: Option<MultiProgress>,
    transfers: HashMap<(String, Phase), ProgressBar>,
    /// Output that has not ended its line yet, kept apart so that bars do not tear it.
    partial: String,
}

impl Screen {
    /// A screen for this process's stderr.
    pub fn new() -> Self {
        Self::of(Mode::Auto)
    }

    pub fn of(mode: Mode) -> Self {
        // A terminal that cannot be drawn on is told by TERM.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let drawn = matches!(mode, Mode::Auto | Mode::Tty) && !dumb;
        let bars = (drawn && std::io::stderr().is_terminal())
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self {
            mode,
            steps: Steps::default(),
            bars,
            transfers: HashMap::new(),
            partial: String::new(),
        }
    }

    pub fn show(&mut self, event: Event) {
        match self.mode {
            Mode::Json => return crate::ui::news_json(&event),
            Mode::Quiet if !matches!(event, Event::Warning { .. }) => return,
            _ => {}
        }
        match event {
            Event::Transfer {
                id,
                phase,
                done,
                total,
            } => self.transfer(id, phase, done, total),
            Event::Finished { id, phase, note } => self.finished(id, phase, note),
            Event::Line { text } => self.print(&style::harmless(&text)),
            Event::Warning { text } => {
                let text = style::harmless(&text);
                self.print(&format!("{} {text}", style::warning("warning:")));
            }
            Event::Output {
                text,
                step: Some(step),
                ..
            } => {
                let lines = self.steps.output(step, &text);
                self.print_all(lines);
            }
            Event::Output { text, .. } => self.output(&text),
            Event::Step(news) => {
                let lines = self.steps.step(&news, self.bars.as_ref());
                self.print_all(lines);
            }
        }
    }

    /// Removes the bars and flushes what is left.
    pub fn finish(&mut self) {
        for (_, bar) in self.transfers.drain() {
            bar.finish_and_clear();
        }
        if !self.partial.is_empty() {
            let rest = std::mem::take(&mut self.partial);
            self.print(&style::tame(&rest));
        }
        let lines = self.steps.finish();
        self.print_all(lines);
    }

    fn print_all(&self, lines: Vec<String>) {
        for line in lines {
            self.print(&line);
        }
    }

    fn transfer(&mut self, id: String, phase: Phase, done: u64, total: Option<u64>) {
        let Some(bars) = &self.bars else { return };
        let bar = self
            .transfers
            .entry((id.clone(), phase))
            .or_insert_with(|| {
                let bar = bars.add(new_bar(&id, phase, total));
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    fn finished(&mut self, id: String, phase: Phase, note: Option<String>) {
        // Finding a layer unpacked already is the rule, not news.
        if phase == Phase::Unpack && note.is_some() {
            return;
        }
        let bar = self.transfers.remove(&(id.clone(), phase));
        // The last position that was told may lie before the end: news of transfers are thinned out.
        let bytes = bar
            .as_ref()
            .map(|bar| bar.length().unwrap_or(bar.position()))
            .filter(|bytes| *bytes > 0);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let how = note
            .or(bytes.map(size))
            .map(|text| format!(" ({text})"))
            .unwrap_or_default();
        self.print(&format!("{} {id}{how}", done_word(phase)));
    }

    /// Output of commands is shown as it came, line by line.
    fn output(&mut self, text: &str) {
        self.partial.push_str(text);
        if self.partial.len() > MAX_LINE {
            self.partial.push('\n');
        }
        while let Some(end) = self.partial.find('\n') {
            let rest = self.partial.split_off(end + 1);
            let line = std::mem::replace(&mut self.partial, rest);
            self.print(&style::tame(line.trim_end_matches('\n')));
        }
    }

    fn print(&self, text: &str) {
        match &self.bars {
            // The bars are redrawn below the line; nobody can be told that the terminal is gone.
            Some(bars) => bars.suspend(|| {
                let _ = writeln!(std::io::stderr().lock(), "{text}");
            }),
            None => crate::ui::news(text),
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

fn new_bar(id: &str, phase: Phase, total: Option<u64>) -> ProgressBar {
    // Hidden until it stands among the others: alone it would draw a line of its own.
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let template = match total {
        Some(_) => "{prefix:22} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
        None => "{prefix:22} {spinner} {bytes} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(format!("{:9} {id}", busy_word(phase)));
    bar
}

fn busy_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Download => "pulling",
        Phase::Upload => "pushing",
        Phase::Unpack => "unpacking",
        Phase::Pack => "packing",
        Phase::Load => "loading",
        Phase::Save => "saving",
        Phase::Check => "checking",
    }
}

fn done_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Download => "pulled",
        Phase::Upload => "pushed",
        Phase::Unpack => "unpacked",
        Phase::Pack => "packed",
        Phase::Load => "loaded",
        Phase::Save => "saved",
        Phase::Check => "checked",
    }
}
