//! What is not the same in two images, in words.

use std::fmt::Write;

use super::built::{Built, Step};

/// BuildKit signs the entries of commands and copies.
const SIGNATURE: &str = " # buildkit";

/// A line for each difference and one for each side; nothing where there is none.
pub(super) fn difference(theirs: &Built, ours: &Built, times: &[String], trees: bool) -> String {
    let mut told = String::new();
    if trees {
        let (left, right) = (theirs.tree(times), ours.tree(times));
        for path in left
            .keys()
            .chain(right.keys().filter(|path| !left.contains_key(*path)))
        {
            tell(&mut told, path, left.get(path), right.get(path));
        }
    }
    let (left, right) = (theirs.settings(), ours.settings());
    for name in left
        .keys()
        .chain(right.keys().filter(|name| !left.contains_key(*name)))
    {
        tell(&mut told, name, left.get(name), right.get(name));
    }
    let (left, right) = (theirs.history(), ours.history());
    for number in 0..left.len().max(right.len()) {
        let show = |step: &Step| (step.made_by.clone(), step.changed_files());
        let left = left.get(number).map(|step| {
            let (text, changed) = show(step);
            (
                text.strip_suffix(SIGNATURE).unwrap_or(&text).to_owned(),
                changed,
            )
        });
        let right = right.get(number).map(show);
        tell(
            &mut told,
            &format!("history {number}"),
            left.as_ref(),
            right.as_ref(),
        );
    }
    told
}

fn tell<T: PartialEq + std::fmt::Debug>(
    told: &mut String,
    what: &str,
    left: Option<&T>,
    right: Option<&T>,
) {
    if left != right {
        let show = |side: Option<&T>| side.map_or("nothing".to_owned(), |side| format!("{side:?}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            told,
            "{what}\n  theirs {}\n  ours   {}",
            show(left),
            show(right)
        );
    }
}
