//! `devpod images --filter`: docker's keys, decided over the rows that came. Pure.

use crate::api::types::ImageRow;
use crate::cli::image_args::Images;
use crate::error::{Failure, Outcome};

/// What a row must be to be shown.
#[derive(Debug, Default)]
pub(super) struct Filter {
    dangling: Option<bool>,
    references: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    before: Option<String>,
    since: Option<String>,
}

impl Filter {
    pub(super) fn parse(wanted: &Images) -> Outcome<Self> {
        let mut filter = Self::default();
        filter.references.extend(wanted.name.clone());
        for text in &wanted.filter {
            let bad = || {
                Failure::invalid(format!("{text:?} is no filter")).hint(
                    "There are dangling=true, reference=PATTERN, before=IMAGE, since=IMAGE, \
                     label=KEY[=VALUE].",
                )
            };
            let (key, value) = text.split_once('=').ok_or_else(bad)?;
            let value = value.to_owned();
            match key {
                "dangling" => filter.dangling = Some(value.parse().map_err(|_| bad())?),
                "reference" => filter.references.push(value),
                "before" => filter.before = Some(value),
                "since" => filter.since = Some(value),
                "label" => filter.labels.push(match value.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (value, None),
                }),
                _ => return Err(bad()),
            }
        }
        Ok(filter)
    }

    /// Whether images without a tag may be wanted.
    pub(super) fn needs_all(&self) -> bool {
        self.dangling == Some(true)
    }

    pub(super) fn apply(&self, rows: Vec<ImageRow>) -> Outcome<Vec<ImageRow>> {
        let time = |text: &Option<String>| match text {
            Some(text) => created(&rows, text).map(Some),
            None => Ok(None),
        };
        let (before, since) = (time(&self.before)?, time(&self.since)?);
        let fits = |row: &ImageRow| {
            let dangling = row.tag == "<none>" && row.part_of.is_none();
            let references = &self.references;
            self.dangling.is_none_or(|wanted| wanted == dangling)
                && (references.is_empty() || references.iter().any(|text| is_called(row, text)))
                && self.labels.iter().all(|(key, value)| {
                    let found = row.labels.get(key);
                    found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
                })
                && before.as_ref().is_none_or(|then| row.created < *then)
                && since.as_ref().is_none_or(|then| row.created > *then)
        };
        Ok(rows.iter().filter(|row| fits(row)).cloned().collect())
    }
}

/// When an image was made; times of one form, and so ordered as texts.
fn created(rows: &[ImageRow], text: &str) -> Outcome<Option<String>> {
    let is_it = |row: &&ImageRow| {
        is_called(row, text)
            || [&row.id, &row.digest].iter().any(|digest| {
                let hex = digest
                    .split_once(':')
                    .map_or(digest.as_str(), |(_, hex)| hex);
                text.len() >= 4 && (hex.starts_with(text) || digest.starts_with(text))
            })
    };
    match rows.iter().find(is_it) {
        Some(row) => Ok(row.created.clone()),
        None => Err(Failure::not_found(format!(
            "there is no image {text:?} here"
        ))),
    }
}

/// Whether a name or pattern means the row: a repository, also without its host and `library/`, and
/// perhaps a tag.
fn is_called(row: &ImageRow, text: &str) -> bool {
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    };
    let whole = row.repository.as_str();
    let rest = whole.split_once('/').map_or(whole, |(_, rest)| rest);
    let short = rest.strip_prefix("library/").unwrap_or(rest);
    let named = [whole, rest, short].iter().any(|name| matches(path, name));
    named && tag.is_none_or(|tag| matches(tag, &row.tag))
}

/// `*` is any text without a slash, `?` any character but that: docker's `path.Match`, without its
/// classes.
fn matches(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return text.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => text
            .char_indices()
            .map(|(at, c)| (at, Some(c)))
            .chain([(text.len(), None)])
            .take_while({
                let mut open = true;
                move |(_, c)| {
                    let now = open;
                    open = open && *c != Some('/');
                    now
                }
            })
            .any(|(at, _)| matches(rest, &text[at..])),
        '?' => text
            .chars()
            .next()
            .is_some_and(|c| c != '/' && matches(rest, &text[c.len_utf8()..])),
        c => text.strip_prefix(c).is_some_and(|text| matches(rest, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(repository: &str, tag: &str, created: &str) -> ImageRow {
        serde_json::from_value(serde_json::json!({
            "repository": repository, "tag": tag, "digest": format!("sha256:{created}ab"),
            "platforms": [], "size": 1, "created": created, "labels": {"k": tag},
        }))
        .unwrap()
    }

    fn shown(filters: &[&str]) -> Outcome<Vec<String>> {
        let rows = vec![
            row("localhost:5000/demo", "1", "2024"),
            row("docker.io/library/busybox", "latest", "2025"),
            row("ghcr.io/o/app", "<none>", "2026"),
        ];
        let wanted = Images {
            filter: filters.iter().map(|text| (*text).to_owned()).collect(),
            ..Images::default()
        };
        let rows = Filter::parse(&wanted)?.apply(rows)?;
        Ok(rows.into_iter().map(|row| row.repository).collect())
    }

    #[test]
    fn filters_choose_as_docker_does() {
        let (demo, busybox, app) = (
            "localhost:5000/demo",
            "docker.io/library/busybox",
            "ghcr.io/o/app",
        );
        for (filters, expected) in [
            (&[][..], &[demo, busybox, app][..]),
            (&["dangling=true"], &[app]),
            (&["dangling=false"], &[demo, busybox]),
            (&["reference=busybox"], &[busybox]),
            (&["reference=busy*:l?test"], &[busybox]),
            (&["reference=library/busybox"], &[busybox]),
            (&["reference=*/*/busybox"], &[busybox]),
            (&["reference=demo", "reference=o/app"], &[demo, app]),
            (&["reference=demo:2"], &[]),
            (&["label=k"], &[demo, busybox, app]),
            (&["label=k=1"], &[demo]),
            (&["before=busybox"], &[demo]),
            (&["since=2024ab"], &[busybox, app]),
            (&["since=demo", "before=o/app"], &[busybox]),
        ] {
            assert_eq!(shown(filters).unwrap(), expected, "{filters:?}");
        }
        for bad in ["x", "x=y", "dangling=maybe", "before=nothing"] {
            assert!(shown(&[bad]).is_err(), "{bad}");
        }
    }
}
