//! `.devpod.json`: what a repository says about its own workspaces (requirement D5).

use crate::jsonc::{Cursor, Document, Located};
use crate::quantity::{ByteSize, Cpu, Seconds};
use crate::repository::{Branch, RepoUrl};
use crate::suggest;
use crate::workspace::WorkspaceName;

/// The name of the file, in the root of a repository.
pub const FILE_NAME: &str = ".devpod.json";

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Project {
    pub name: Option<WorkspaceName>,
    pub git: Option<Git>,
    pub devcontainer: Devcontainer,
    pub builder: Limits,
    pub sandbox: Limits,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Git {
    pub url: RepoUrl,
    pub branch: Option<Branch>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Devcontainer {
    /// Relative to the root of the repository.
    pub path: Option<String>,
    /// Merged over those of `devcontainer.json`; for editors.
    pub customizations: Option<serde_json::Value>,
}

/// `None` leaves the setting of the same name in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub cpu: Option<Cpu>,
    pub memory: Option<ByteSize>,
    pub timeout: Option<Seconds>,
}

impl Project {
    pub fn parse(text: &str) -> Result<Self, Located> {
        let document = Document::parse(text)?;
        let root = document.cursor()?;
        only(
            &root,
            &[
                "$schema",
                "name",
                "git",
                "devcontainer",
                "builder",
                "sandbox",
            ],
        )?;
        Ok(Self {
            name: root.get("name").map(|c| c.parse()).transpose()?,
            git: root.get("git").map(|c| git(&c)).transpose()?,
            devcontainer: match root.get("devcontainer") {
                Some(cursor) => devcontainer(&cursor)?,
                None => Devcontainer::default(),
            },
            builder: limits(root.get("builder"))?,
            sandbox: limits(root.get("sandbox"))?,
        })
    }
}

fn only(cursor: &Cursor<'_>, known: &[&str]) -> Result<(), Located> {
    for member in cursor.members()? {
        if !known.contains(&member.key.as_str()) {
            let hint = suggest::hint(&member.key, known.iter().copied());
            let reason = format!("{:?} is not a key of {FILE_NAME}{hint}", member.key);
            return Err(cursor.error_at(member.at, reason));
        }
    }
    Ok(())
}

fn git(cursor: &Cursor<'_>) -> Result<Git, Located> {
    only(cursor, &["url", "branch"])?;
    let url = cursor
        .get("url")
        .ok_or_else(|| cursor.error("\"git\" needs a \"url\""))?;
    Ok(Git {
        url: url.parse()?,
        branch: cursor.get("branch").map(|c| c.parse()).transpose()?,
    })
}

fn devcontainer(cursor: &Cursor<'_>) -> Result<Devcontainer, Located> {
    only(cursor, &["path", "customizations"])?;
    let path = match cursor.get("path") {
        Some(path) => Some(
            crate::devcontainer::paths::within("", &path.text()?)
                .ok_or_else(|| path.expected("a path inside the repository"))?,
        ),
        None => None,
    };
    Ok(Devcontainer {
        path,
        customizations: cursor.get("customizations").map(|c| c.node.to_json()),
    })
}

fn limits(cursor: Option<Cursor<'_>>) -> Result<Limits, Located> {
    let Some(cursor) = cursor else {
        return Ok(Limits::default());
    };
    only(&cursor, &["cpu", "memory", "timeout"])?;
    Ok(Limits {
        cpu: cursor.get("cpu").map(|c| c.parse()).transpose()?,
        memory: cursor.get("memory").map(|c| c.parse()).transpose()?,
        timeout: cursor.get("timeout").map(|c| c.parse()).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_key() {
        let project = Project::parse(
            r#"{
              "$schema": "https://x", "name": "app",
              "git": {"url": "https://h/a.git", "branch": "main"},
              "devcontainer": {"path": ".devcontainer/devcontainer.json", "customizations": {"vscode": {}}},
              "builder": {"cpu": 4, "memory": "8Gi", "timeout": 1800},
              "sandbox": {"cpu": 0.5}, // less
            }"#,
        )
        .unwrap();
        assert_eq!(project.name.unwrap().as_str(), "app");
        let git = project.git.unwrap();
        assert_eq!(
            (git.url.address(), git.branch.unwrap().as_str()),
            ("https://h/a.git", "main")
        );
        assert_eq!(
            project.devcontainer.path.as_deref(),
            Some(".devcontainer/devcontainer.json")
        );
        assert_eq!(project.builder.memory, Some(ByteSize(8 << 30)));
        assert_eq!(project.builder.timeout, Some(Seconds(1800)));
        assert_eq!(project.sandbox.cpu, Some(Cpu(500)));
        assert_eq!(Project::parse("{}"), Ok(Project::default()));
    }

    #[test]
    fn complaints_name_the_place() {
        for (text, line, column, word) in [
            ("{\n \"nam\": \"a\"}", 2, 2, "did you mean \"name\""),
            ("{\"name\": \"a/b\"}", 1, 10, "not a workspace name"),
            ("{\"git\": {}}", 1, 9, "url"),
            ("{\"git\": {\"url\": \"ext::sh\"}}", 1, 17, "ext"),
            (
                "{\"git\": {\"url\": \"https://h/a\", \"branch\": \"-x\"}}",
                1,
                42,
                "branch",
            ),
            ("{\"devcontainer\": {\"path\": \"../x\"}}", 1, 27, "inside"),
            ("{\"builder\": {\"memory\": \"8 apples\"}}", 1, 24, "size"),
            ("{\"builder\": 3}", 1, 13, "object"),
            ("{", 1, 1, "unterminated"),
        ] {
            let error = Project::parse(text).unwrap_err();
            assert_eq!(
                (error.line, error.column),
                (line, column),
                "{text}: {error}"
            );
            assert!(error.reason.contains(word), "{text}: {}", error.reason);
        }
    }
}
