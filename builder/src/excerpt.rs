//! The lines of a Dockerfile around the instruction that failed.

use crate::error::BuildError;
use crate::source::Source;

/// Lines before and after.
const AROUND: usize = 2;
/// An instruction may have thousands of lines; its beginning says which it is.
const MOST: usize = 20;
/// Of one line.
const WIDTH: usize = 160;

/// Where the build of `source` failed, its lines marked; `None` where no line is to blame.
pub fn excerpt(source: &Source, error: &BuildError) -> Option<String> {
    let (line, instruction) = match error {
        BuildError::Syntax { source, .. } => (source.position.line, None),
        other => {
            let place = other.place()?;
            (place.position.line, Some(place.instruction.as_str()))
        }
    };
    let text = String::from_utf8_lossy(&source.text);
    let lines: Vec<&str> = text.lines().collect();
    let first = usize::try_from(line).ok()?.checked_sub(1)?;
    let found = lines.get(first)?;
    // An ONBUILD trigger is of no line.
    let word = |text: &str| text.split_whitespace().next().map(str::to_lowercase);
    if instruction.is_some_and(|instruction| word(found) != word(instruction)) {
        return None;
    }
    Some(marked(&source.name, &lines, first))
}

fn marked(name: &str, lines: &[&str], first: usize) -> String {
    let last = last_line(lines, first);
    let begin = first.saturating_sub(AROUND);
    let end = (last + AROUND + 1).min(lines.len());
    let mut text = format!("{name}:{}", first + 1);
    for (at, line) in lines.iter().enumerate().take(end).skip(begin) {
        let mark = match (first..=last).contains(&at) {
            true => ">>>",
            false => "   ",
        };
        let line: String = line.chars().take(WIDTH).collect();
        let row = format!("{:4} | {mark} {line}", at + 1);
        text.push('\n');
        text.push_str(row.trim_end());
    }
    text
}

/// Where an instruction ends that goes on behind escaped ends of lines.
fn last_line(lines: &[&str], first: usize) -> usize {
    let goes_on = |line: &&str| {
        let line = line.trim();
        line.ends_with('\\') || line.starts_with('#')
    };
    let more = lines[first..].iter().take(MOST - 1);
    let more = more.take_while(|line| goes_on(line)).count();
    (first + more).min(lines.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_instruction_is_marked() {
        let text = "FROM a\n\nRUN one \\\n# why\n  two\nRUN three\nRUN four\nRUN five";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            marked("Dockerfile", &lines, 2),
            "Dockerfile:3\n   1 |     FROM a\n   2 |\n   3 | >>> RUN one \\\n   4 | >>> # why\n   \
             5 | >>>   two\n   6 |     RUN three\n   7 |     RUN four"
        );
        assert!(marked("D", &lines, 7).ends_with("   8 | >>> RUN five"));
        let long = vec!["RUN x \\"; 1000];
        assert!(marked("D", &long, 0).lines().count() < 30);
    }
}
