//! The variables that an instruction sees: ENV of the image over ARGs that were declared so far.

use std::collections::BTreeMap;

use unpacker::image::config::Execution;
use unpacker::image::read::Platform;

use crate::dockerfile::expand;

use super::arguments::{is_proxy, platforms};

/// What `ARG name` may take its value from, the same for the whole build.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// ARGs before the first FROM that have a value.
    pub globals: BTreeMap<String, String>,
    pub platforms: BTreeMap<String, String>,
}

impl Given {
    /// What a build is given from outside; the file's own arguments are added as they are read.
    pub(crate) fn new(build_args: BTreeMap<String, String>, target: &Platform) -> Self {
        Self {
            build_args,
            globals: BTreeMap::new(),
            platforms: platforms(target, &Platform::host()),
        }
    }

    /// The value of an argument of a stage, declared with or without a default.
    pub(crate) fn of_stage(&self, name: &str, default: Option<String>) -> Option<String> {
        let given = self.build_args.get(name).cloned();
        let outside = || self.globals.get(name).or_else(|| self.platforms.get(name));
        given.or(default).or_else(|| outside().cloned())
    }

    /// The value of a global argument.
    pub(crate) fn of_file(&self, name: &str, default: Option<String>) -> Option<String> {
        let given = self.build_args.get(name).cloned();
        given.or(default)
    }
}

/// What FROM and the global ARGs see.
impl expand::Env for Given {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.globals.get(name).or_else(|| self.platforms.get(name));
        found.map(String::as_str)
    }
}

/// Arguments of one stage, in the order of their declaration.
#[derive(Debug, Clone, Default)]
pub struct Args {
    declared: Vec<(String, Option<String>)>,
}

impl Args {
    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.declared.iter_mut().find(|(known, _)| known == name) {
            // A second ARG without any value does not take an earlier one away.
            Some(place) => place.1 = value.or(place.1.take()),
            None => self.declared.push((name.to_owned(), value)),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.declared.iter().find(|(known, _)| known == name);
        found.and_then(|(_, value)| value.as_deref())
    }

    /// `NAME=value` of those that have a value and that ENV does not override.
    pub(crate) fn entries(&self, env: &Execution) -> Vec<String> {
        let visible = |(name, value): &(String, Option<String>)| match value {
            Some(value) if env.variable(name).is_none() => Some(format!("{name}={value}")),
            _ => None,
        };
        self.declared.iter().filter_map(visible).collect()
    }

    /// Predefined proxies that were given and not declared.
    pub(crate) fn proxies(&self, given: &Given, env: &Execution) -> Vec<String> {
        let hidden = |name: &str| {
            is_proxy(name)
                && !self.declared.iter().any(|(known, _)| known == name)
                && env.variable(name).is_none()
        };
        let pairs = given.build_args.iter().filter(|(name, _)| hidden(name));
        pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// Both together.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub env: &'a Execution,
    pub args: &'a Args,
}

impl expand::Env for Scope<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.env.variable(name).or_else(|| self.args.value(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::expand::Env;

    #[test]
    fn env_wins_over_args_and_given_over_defaults() {
        let mut given = Given::default();
        given.build_args.insert("A".into(), "given".into());
        given.globals.insert("G".into(), "global".into());
        assert_eq!(
            given.of_stage("A", Some("d".into())).as_deref(),
            Some("given")
        );
        assert_eq!(given.of_stage("G", Some("d".into())).as_deref(), Some("d"));
        assert_eq!(given.of_stage("G", None).as_deref(), Some("global"));
        let mut args = Args::default();
        args.declare("A", Some("arg".into()));
        args.declare("B", None);
        let mut env = Execution::default();
        let scope = Scope {
            env: &env,
            args: &args,
        };
        assert_eq!(scope.get("A"), Some("arg"));
        assert_eq!(scope.get("B"), None);
        env.set_variable("A", "env");
        let scope = Scope {
            env: &env,
            args: &args,
        };
        assert_eq!(scope.get("A"), Some("env"));
        assert!(args.entries(&env).is_empty());
    }

    #[test]
    fn undeclared_proxies_stay_apart() {
        let mut given = Given::default();
        given.build_args.insert("http_proxy".into(), "p".into());
        given.build_args.insert("OTHER".into(), "o".into());
        let mut args = Args::default();
        let env = Execution::default();
        assert_eq!(args.proxies(&given, &env), ["http_proxy=p"]);
        args.declare("http_proxy", Some("p".into()));
        assert!(args.proxies(&given, &env).is_empty());
        assert_eq!(args.entries(&env), ["http_proxy=p"]);
    }
}
