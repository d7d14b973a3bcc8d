//! `devpod build`: the command line as a request, and what is done with the result.

mod attest;
mod context;
mod output;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use config::quantity::Seconds;
use serde_json::json;

use crate::api::build_inputs::Checks;
use crate::api::types::{BuildRequest, BuildResult};
use crate::cli::build_args::{Build, Steps};
use crate::cli::run_args::{Files, Limits, Security};
use crate::cli::{Session, archive, pairs, run_options};
use crate::error::{Failure, Kind, Outcome};
use crate::ui::progress::{Mode, Screen};
use crate::ui::{self, Format};

/// A build that was asked for in one way or another.
pub(super) struct Job {
    pub(super) build: Build,
    /// The Dockerfile, where no file has it.
    pub(super) text: Option<String>,
    /// Where images of docker.io are asked for first.
    pub(super) mirrors: Vec<String>,
}

pub(super) async fn run(session: &Session, build: Build) -> Outcome<u8> {
    let job = Job {
        build,
        text: None,
        mirrors: Vec::new(),
    };
    carry_out(session, job).await
}

pub(super) async fn carry_out(session: &Session, job: Job) -> Outcome<u8> {
    let build = job.build;
    check(&build)?;
    let outputs = output::outputs(&session.files)?;
    let stopped = || Failure::new(Kind::Cancelled, "the build was stopped");
    // What lies in folders of ours goes when this does: at the end.
    let given = tokio::select! {
        given = context::given(&build) => given?,
        () = archive::interrupted() => return Err(stopped()),
    };
    let mut request = request(&build)?;
    request.context.clone_from(&given.context);
    request.dockerfile.clone_from(&given.dockerfile);
    request.inputs.repository.clone_from(&given.repository);
    request.dockerfile_text = job.text.or_else(|| given.text.clone());
    request.registry_mirrors = job.mirrors;
    outputs.apply(&mut request);
    attest::apply(&build, &mut request)?;
    if build.check {
        return look_through(session, &request).await;
    }
    let mode = match build.told.quiet {
        true => Mode::Quiet,
        false => build.told.progress,
    };
    // From its first call on, a signal ends nothing by itself any more.
    let client = tokio::select! {
        client = session.daemon() => client?,
        () = archive::interrupted() => return Err(stopped()),
    };
    let mut screen = Screen::of(mode);
    let mut show = |event| screen.show(event);
    let outcome: Outcome<BuildResult> = tokio::select! {
        outcome = client.long("/v1/builds", &request, &mut show) => outcome,
        // The daemon stops when nobody listens; what lies in folders of ours must go, too.
        () = archive::interrupted() => Err(stopped()),
    };
    screen.finish();
    let result = match outcome {
        Ok(result) => result,
        Err(failure) => return failed(session, mode, failure),
    };
    let quiet = matches!(mode, Mode::Quiet | Mode::Json);
    outputs.write(&client, &request, &result, quiet).await?;
    finish(session, &build, &result, outputs.take_stdout())
}

/// Exit code 1 says that something was found, as a failure of a build would.
async fn look_through(session: &Session, request: &BuildRequest) -> Outcome<u8> {
    let ask = async {
        let client = session.daemon().await?;
        client.post("/v1/builds/check", request).await
    };
    let checks: Checks = tokio::select! {
        checks = ask => checks?,
        () = archive::interrupted() => {
            return Err(Failure::new(Kind::Cancelled, "the check was stopped"));
        }
    };
    match session.format {
        Format::Json => ui::json(&checks),
        Format::Text if checks.warnings.is_empty() => ui::line("No warnings."),
        Format::Text => {
            for warning in &checks.warnings {
                ui::line(&warning.shown(&checks.file));
            }
        }
    }
    Ok(u8::from(!checks.warnings.is_empty()))
}

/// Refuses what need not be tried.
fn check(build: &Build) -> Outcome<()> {
    if let Some((flag, why)) = build.refused.reason() {
        return Err(Failure::invalid(format!("{flag} is not supported: {why}")));
    }
    if build
        .platform
        .as_ref()
        .is_some_and(|text| text.contains(','))
    {
        return Err(
            Failure::invalid("one build makes an image for one platform")
                .hint("Build each by itself, with a name of its own."),
        );
    }
    let files = [&build.told.iidfile, &build.told.metadata_file];
    for path in files.into_iter().flatten() {
        output::check_folder(path)?;
    }
    Ok(())
}

fn request(build: &Build) -> Outcome<BuildRequest> {
    let steps = &build.steps;
    let network = steps.network.as_deref();
    let timeout = steps.timeout.as_deref().map(str::parse::<Seconds>);
    let timeout = timeout.transpose();
    let timeout = timeout.map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    Ok(BuildRequest {
        tags: build.tags.clone(),
        build_args: pairs(&build.build_args),
        labels: labels(&build.labels)?,
        annotations: annotations(&build.annotations)?,
        target: build.target.clone(),
        platform: build.platform.clone(),
        base_image: build.base_image.clone(),
        no_cache: build.no_cache,
        no_cache_filter: build.no_cache_filter.clone(),
        inputs: build.inputs.read()?,
        pull: build.pull,
        push: build.push,
        compression: build.compression.clone(),
        compression_level: build.compression_level,
        network: network.map(network_name).map(str::to_owned),
        resources: run_options::resources(&limits(steps))?,
        surroundings: run_options::surroundings(
            &Files {
                shm_size: steps.shm_size.clone(),
                add_host: steps.add_host.clone(),
                ..Files::default()
            },
            &Security::default(),
            network.unwrap_or("host"),
        )?,
        timeout: timeout.map(|Seconds(seconds)| seconds),
        source_date_epoch: epoch(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?,
        ..BuildRequest::default()
    })
}

/// Docker's `default` is a network of its own.
fn network_name(text: &str) -> &str {
    match text {
        "default" | "bridge" => "private",
        other => other,
    }
}

fn limits(steps: &Steps) -> Limits {
    Limits {
        cpus: steps.cpus.clone(),
        cpu_shares: steps.cpu_shares,
        memory: steps.memory.clone(),
        memory_swap: steps.memory_swap.clone(),
        pids_limit: steps.pids_limit,
        ulimit: steps.ulimit.clone(),
        ..Limits::default()
    }
}

/// `SOURCE_DATE_EPOCH` of the environment; an empty one says nothing.
fn epoch(text: Option<&str>) -> Outcome<Option<i64>> {
    let bad = |text: &str| {
        Failure::invalid(format!(
            "SOURCE_DATE_EPOCH {text:?} is not a number of seconds"
        ))
    };
    text.filter(|text| !text.is_empty())
        .map(|text| text.parse().map_err(|_| bad(text)))
        .transpose()
}

/// `KEY=VALUE`, both as written.
fn labels(written: &[String]) -> Outcome<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::invalid(format!("{text:?} is not a label")).hint("Write KEY=VALUE.")),
    };
    written.iter().map(pair).collect()
}

/// `[TYPE[,TYPE]:]KEY=VALUE`: of the manifest; an index has only what its attestations need.
fn annotations(written: &[String]) -> Outcome<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let bad = |why: &str| Failure::invalid(format!("annotation {text:?}: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| bad("write KEY=VALUE"))?;
        let key = match key.split_once(':') {
            None => key,
            Some(("manifest", key)) => key,
            Some((types, _)) => {
                return Err(bad(&format!("it is of the manifest, and not of {types}")));
            }
        };
        match key.is_empty() {
            true => Err(bad("write KEY=VALUE")),
            false => Ok((key.to_owned(), value.to_owned())),
        }
    };
    written.iter().map(pair).collect()
}

fn finish(
    session: &Session,
    build: &Build,
    result: &BuildResult,
    stdout_is_taken: bool,
) -> Outcome<u8> {
    if let Some(path) = &build.told.iidfile {
        write(path, &result.config_digest)?;
    }
    if let Some(path) = &build.told.metadata_file {
        write(path, &metadata(result)?)?;
    }
    match (session.format, build.told.quiet) {
        _ if stdout_is_taken => {}
        (Format::Json, _) => ui::json(result),
        (Format::Text, true) => ui::line(&result.config_digest),
        (Format::Text, false) => ui::line(&result.digest),
    }
    Ok(0)
}

/// BuildKit's keys, so that what reads its file reads ours.
fn metadata(result: &BuildResult) -> Outcome<String> {
    let value = json!({
        "containerimage.config.digest": result.config_digest,
        "containerimage.descriptor": {
            "mediaType": result.media_type,
            "digest": result.digest,
            "size": result.size,
        },
        "containerimage.digest": result.digest,
        "image.name": result.names.join(","),
    });
    let text = serde_json::to_string_pretty(&value);
    text.map_err(|error| Failure::from_error(Kind::Internal, &error))
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(|error| {
        let message = format!("cannot write {}", path.display());
        Failure::because(Kind::Internal, message, &error)
    })
}

/// For programs the record of requirement D12 is the result; people read the failure itself.
fn failed(session: &Session, mode: Mode, failure: Failure) -> Outcome<u8> {
    if session.format == Format::Json
        && let Some(record) = &failure.build
    {
        ui::json(record);
    }
    if mode == Mode::Json {
        let told = match &failure.build {
            Some(record) => json!(record),
            None => json!(failure),
        };
        ui::news_json(&json!({ "event": "failure", "failure": told }));
        return Ok(failure.exit_code());
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_of_the_manifest() {
        let read = |text: &str| annotations(&[text.to_owned()]);
        for (text, key) in [
            ("a.b=c", Some("a.b")),
            ("manifest:a=c", Some("a")),
            ("index:a=c", None),
            ("manifest,index:a=c", None),
            ("=c", None),
            ("a", None),
        ] {
            let found = read(text).ok().and_then(|map| map.into_keys().next());
            assert_eq!(found.as_deref(), key, "{text}");
        }
        // A colon of the value is the value's.
        assert_eq!(read("a=b:c").unwrap()["a"], "b:c");
    }

    #[test]
    fn an_epoch_is_a_number() {
        assert_eq!(epoch(None).unwrap(), None);
        assert_eq!(epoch(Some("")).unwrap(), None);
        assert_eq!(epoch(Some("17")).unwrap(), Some(17));
        assert!(epoch(Some("now")).is_err());
    }
}
