//! How one is inside a workspace: as whom, where, with which environment. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unpacker::container::spec::{Confinement, Process, User};

use super::users::Identity;

/// What docker gives a process whose image sets no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Worked out once, when the sandbox first runs; every lifecycle command and every `ssh` uses it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub user: String,
    pub home: String,
    pub shell: String,
    /// `NAME=value`, complete.
    pub env: Vec<String>,
    pub cwd: String,
}

impl std::fmt::Debug for Session {
    /// Without the environment, which may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("uid", &self.uid)
            .field("user", &self.user)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub fn new(identity: &Identity, env: Vec<String>, cwd: String) -> Self {
        Self {
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups.clone(),
            user: identity.name.clone(),
            home: identity.home.clone(),
            shell: identity.shell.clone(),
            env,
            cwd,
        }
    }

    /// A process of the workspace; `extra` is set over its environment.
    pub fn process(
        &self,
        argv: Vec<String>,
        terminal: bool,
        extra: &[String],
        cwd: Option<String>,
    ) -> Process {
        let mut env = Variables::of(&self.env);
        env.extend(extra);
        if terminal {
            env.set_missing("TERM", "xterm");
        }
        Process {
            args: argv,
            env: env.list(),
            cwd: cwd.unwrap_or_else(|| self.cwd.clone()),
            user: User {
                uid: self.uid,
                gid: self.gid,
                groups: self.groups.clone(),
            },
            terminal,
            // Taken from the sandbox.
            confinement: Confinement::default(),
        }
    }

    /// What `ssh` without a command opens.
    pub fn login_shell(&self) -> Vec<String> {
        vec![self.shell.clone(), "-l".to_owned()]
    }
}

/// What processes of the container itself see: the image's variables and `containerEnv`.
pub fn container_environment(
    image: &[String],
    container_env: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut env = Variables::of(image);
    env.set_missing("PATH", DEFAULT_PATH);
    for (name, value) in container_env {
        env.set(name, value);
    }
    env.list()
}

/// The same for the person's processes: HOME and USER are theirs, `remoteEnv` is over all.
pub fn remote_environment(
    container: &[String],
    remote_env: &BTreeMap<String, Option<String>>,
    identity: &Identity,
) -> Vec<String> {
    let mut env = Variables::of(container);
    for (name, value) in [
        ("HOME", &identity.home),
        ("USER", &identity.name),
        ("LOGNAME", &identity.name),
        ("SHELL", &identity.shell),
    ] {
        env.set(name, value);
    }
    for (name, value) in remote_env {
        match value {
            Some(value) => env.set(name, value),
            None => env.remove(name),
        }
    }
    env.list()
}

/// The value of a variable in a list of `NAME=value`.
pub fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .filter_map(|entry| entry.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Variables in the order in which they were first set.
#[derive(Debug)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn of(env: &[String]) -> Self {
        let mut variables = Self(Vec::new());
        variables.extend(env);
        variables
    }

    fn extend(&mut self, env: &[String]) {
        for (name, value) in env.iter().filter_map(|entry| entry.split_once('=')) {
            self.set(name, value);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn set_missing(&mut self, name: &str, value: &str) {
        if !self.0.iter().any(|(key, _)| key == name) {
            self.set(name, value);
        }
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key != name);
    }

    fn list(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            uid: 1000,
            gid: 100,
            groups: vec![27],
            name: "dev".into(),
            home: "/home/dev".into(),
            shell: "/bin/bash".into(),
        }
    }

    #[test]
    fn environments_lie_over_each_other() {
        let image = [
            "PATH=/bin".to_owned(),
            "A=image".into(),
            "HOME=/root".into(),
            "B=1".into(),
        ];
        let container_env = BTreeMap::from([("A".to_owned(), "container".to_owned())]);
        let container = container_environment(&image, &container_env);
        assert_eq!(variable(&container, "A"), Some("container"));
        let remote = BTreeMap::from([
            ("A".to_owned(), Some("remote".to_owned())),
            ("B".to_owned(), None),
        ]);
        let env = remote_environment(&container, &remote, &identity());
        for (name, value) in [
            ("A", Some("remote")),
            ("B", None),
            ("HOME", Some("/home/dev")),
            ("USER", Some("dev")),
            ("PATH", Some("/bin")),
        ] {
            assert_eq!(variable(&env, name), value, "{name}");
        }
        assert_eq!(
            variable(&container_environment(&[], &container_env), "PATH"),
            Some(DEFAULT_PATH)
        );
    }

    #[test]
    fn a_process_is_the_persons() {
        let session = Session::new(&identity(), vec!["A=1".into()], "/workspaces/app".into());
        let process = session.process(session.login_shell(), true, &["A=2".into()], None);
        assert_eq!(process.args, ["/bin/bash", "-l"]);
        assert_eq!(process.env, ["A=2", "TERM=xterm"]);
        assert_eq!((process.user.uid, process.user.gid), (1000, 100));
        assert_eq!(process.cwd, "/workspaces/app");
        assert!(!format!("{session:?}").contains("A=1"));
    }
}
