//! The variables that an instruction sees: ENVs and ARGs, of one name the one that was set last.

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
    declared: Vec<Arg>,
}

#[derive(Debug, Clone)]
struct Arg {
    name: String,
    value: Option<String>,
    /// An ENV of that name came later.
    hidden: bool,
}

impl Args {
    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.declared.iter_mut().find(|arg| arg.name == name) {
            // A second ARG without any value takes neither an earlier one away nor an ENV.
            Some(_) if value.is_none() => {}
            Some(arg) => (arg.value, arg.hidden) = (value, false),
            None => self.declared.push(Arg {
                name: name.to_owned(),
                value,
                hidden: false,
            }),
        }
    }

    /// ENV sets a variable of this name.
    pub(crate) fn hide(&mut self, name: &str) {
        if let Some(arg) = self.declared.iter_mut().find(|arg| arg.name == name) {
            arg.hidden = true;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.declared.len()
    }

    /// Bytes of names and values.
    pub(super) fn weight(&self) -> usize {
        let of = |arg: &Arg| arg.name.len() + arg.value.as_ref().map_or(0, String::len);
        self.declared.iter().map(of).sum()
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.declared.iter().find(|arg| arg.name == name);
        found.filter(|arg| !arg.hidden)?.value.as_deref()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(|arg| arg.name.as_str())
    }

    /// Predefined proxies that were given and not declared. Some programs know them in capitals and
    /// some do not, so a command has both.
    pub(crate) fn proxies(&self, given: &Given, env: &Execution) -> Vec<String> {
        let free =
            |name: &str| !self.names().any(|known| known == name) && env.variable(name).is_none();
        let mut all = BTreeMap::new();
        let proxies = given.build_args.iter().filter(|(name, _)| is_proxy(name));
        for (name, value) in proxies {
            for name in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
                if free(&name) {
                    all.insert(name, value);
                }
            }
        }
        let pairs = all.into_iter();
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

impl Scope<'_> {
    /// `NAME=value` of all that a command sees.
    pub(crate) fn entries(&self) -> Vec<String> {
        let args = self.args.names().filter_map(|name| {
            let value = self.args.value(name)?;
            Some(format!("{name}={value}"))
        });
        let env = self.env.env.iter().filter(|entry| {
            let name = entry.split('=').next().unwrap_or_default();
            self.args.value(name).is_none()
        });
        args.chain(env.cloned()).collect()
    }

    /// `NAME=value` of the arguments that were declared, with the values that a command sees.
    pub(crate) fn declared(&self) -> Vec<String> {
        use expand::Env;
        let value = |name| self.get(name).unwrap_or_default();
        let names = self.args.names();
        names
            .map(|name| format!("{name}={}", value(name)))
            .collect()
    }
}

impl expand::Env for Scope<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.args.value(name).or_else(|| self.env.variable(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::expand::Env;

    #[test]
    fn the_last_of_env_and_arg_counts() {
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
        args.hide("A");
        args.declare("A", None);
        let scope = Scope {
            env: &env,
            args: &args,
        };
        assert_eq!(scope.get("A"), Some("env"));
        assert_eq!(scope.entries(), ["A=env"]);
        assert_eq!(scope.declared(), ["A=env", "B="]);
        args.declare("A", Some("again".into()));
        let scope = Scope {
            env: &env,
            args: &args,
        };
        assert_eq!(scope.get("A"), Some("again"));
        assert_eq!(scope.entries(), ["A=again"]);
    }

    #[test]
    fn undeclared_proxies_stay_apart() {
        let mut given = Given::default();
        given.build_args.insert("http_proxy".into(), "p".into());
        given.build_args.insert("OTHER".into(), "o".into());
        let mut args = Args::default();
        let env = Execution::default();
        let both = ["HTTP_PROXY=p", "http_proxy=p"];
        assert_eq!(args.proxies(&given, &env), both);
        args.declare("http_proxy", Some("p".into()));
        assert_eq!(args.proxies(&given, &env), ["HTTP_PROXY=p"]);
        let scope = Scope {
            env: &env,
            args: &args,
        };
        assert_eq!(scope.entries(), ["http_proxy=p"]);
    }
}
