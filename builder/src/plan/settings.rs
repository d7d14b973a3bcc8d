//! Instructions that only change the configuration (Dockerfile reference; docker's extension fields
//! as moby's `api/types/container.Config` spells them).

use std::time::Duration;

use serde_json::{Value, json};
use unpacker::image::config::{Execution, ImageConfig};
use unpacker::image::read::Platform;

use crate::dockerfile::instruction::{CommandLine, Healthcheck};

/// `PATH` of an image that sets none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration that `FROM scratch` begins with.
pub(crate) fn scratch(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config.set_variable("PATH", DEFAULT_PATH);
    config.config.working_dir = "/".to_owned();
    config
}

/// The shell of shell forms.
pub(crate) fn shell(config: &Execution) -> Vec<String> {
    match &config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
    }
}

/// A command as the configuration keeps it; nothing at all clears it.
pub(crate) fn command(line: &CommandLine, config: &Execution) -> Option<Vec<String>> {
    match line {
        line if line.is_empty() => None,
        CommandLine::Exec(words) => Some(words.clone()),
        CommandLine::Shell(text) => {
            let mut words = shell(config);
            words.push(text.clone());
            Some(words)
        }
    }
}

/// A HEALTHCHECK; what it leaves out the base image does not say either.
pub(crate) fn healthcheck(config: &mut Execution, check: &Healthcheck) {
    let fields = HealthFields::of(check);
    let mut value = json!({"Test": fields.test});
    for (name, given) in fields.durations {
        if let Some(given) = nanoseconds(given) {
            value[name] = given;
        }
    }
    if let Some(retries) = fields.retries {
        value["Retries"] = Value::from(retries);
    }
    config.other.insert("Healthcheck".to_owned(), value);
}

/// A HEALTHCHECK as the configuration's fields, which the history shows as well.
pub(super) struct HealthFields {
    pub(super) test: Vec<String>,
    /// By the names of their fields.
    pub(super) durations: [(&'static str, Option<Duration>); 4],
    pub(super) retries: Option<u32>,
}

impl HealthFields {
    pub(super) fn of(check: &Healthcheck) -> Self {
        let named = |[interval, timeout, period, start]: [Option<Duration>; 4]| {
            [
                ("Interval", interval),
                ("Timeout", timeout),
                ("StartPeriod", period),
                ("StartInterval", start),
            ]
        };
        match check {
            Healthcheck::None => Self {
                test: vec!["NONE".to_owned()],
                durations: named([None; 4]),
                retries: None,
            },
            Healthcheck::Check {
                test,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => Self {
                test: health_test(test),
                durations: named([*interval, *timeout, *start_period, *start_interval]),
                retries: *retries,
            },
        }
    }
}

fn health_test(line: &CommandLine) -> Vec<String> {
    let (kind, words) = match line {
        CommandLine::Shell(text) => ("CMD-SHELL", vec![text.clone()]),
        CommandLine::Exec(words) => ("CMD", words.clone()),
    };
    let mut test = vec![kind.to_owned()];
    test.extend(words);
    test
}

fn nanoseconds(duration: Option<Duration>) -> Option<Value> {
    let nanos = u64::try_from(duration?.as_nanos()).ok()?;
    Some(Value::from(nanos))
}

/// ONBUILD: remembered for images that are built on this one.
pub(crate) fn trigger(config: &mut Execution, expression: &str) {
    let list = config
        .other
        .entry("OnBuild")
        .or_insert_with(|| Value::Array(Vec::new()));
    match list {
        Value::Array(list) => list.push(Value::from(expression)),
        other => *other = json!([expression]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthcheck_replaces_the_bases() {
        let mut config = Execution::default();
        let check = |test: &str, retries, interval| Healthcheck::Check {
            test: CommandLine::Shell(test.to_owned()),
            interval,
            timeout: None,
            start_period: None,
            start_interval: None,
            retries,
        };
        healthcheck(
            &mut config,
            &check("a", Some(3), Some(Duration::from_secs(1))),
        );
        healthcheck(&mut config, &check("b", None, None));
        let value = &config.other["Healthcheck"];
        assert_eq!(value, &json!({"Test": ["CMD-SHELL", "b"]}));
        healthcheck(&mut config, &Healthcheck::None);
        assert_eq!(config.other["Healthcheck"], json!({"Test": ["NONE"]}));
    }

    #[test]
    fn an_empty_command_clears() {
        let config = Execution::default();
        assert_eq!(command(&CommandLine::Exec(vec![]), &config), None);
        let words = command(&CommandLine::Shell("x".to_owned()), &config);
        assert_eq!(words.unwrap(), ["/bin/sh", "-c", "x"]);
    }
}
