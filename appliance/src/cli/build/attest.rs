//! `--provenance`, `--sbom` and `--attest`: buildx's words for what is said of an image.

use crate::api::types::BuildRequest;
use crate::cli::build_args::Build;
use crate::error::{Failure, Outcome};

/// Later words count: `--attest`, then the flags of their own.
pub(super) fn apply(build: &Build, request: &mut BuildRequest) -> Outcome<()> {
    for text in &build.attest {
        let fields: Vec<&str> = text.split(',').collect();
        let (kinds, rest): (Vec<&str>, Vec<&str>) = fields
            .into_iter()
            .partition(|field| field.starts_with("type="));
        match &kinds[..] {
            ["type=provenance"] => provenance(&rest.join(","), request)?,
            ["type=sbom"] => sbom(&rest.join(","), request)?,
            _ => {
                return Err(Failure::invalid(format!("--attest {text:?} is not known"))
                    .hint("The types are provenance and sbom."));
            }
        }
    }
    if let Some(text) = &build.provenance {
        provenance(text, request)?;
    }
    if let Some(text) = &build.sbom {
        sbom(text, request)?;
    }
    Ok(())
}

fn provenance(text: &str, request: &mut BuildRequest) -> Outcome<()> {
    let mut mode = Some("min");
    for field in text.split(',').filter(|field| !field.is_empty()) {
        match field {
            "true" | "disabled=false" | "mode=min" | "version=v1" => {}
            "mode=max" => mode = mode.map(|_| "max"),
            "false" | "disabled=true" => mode = None,
            other => {
                return Err(
                    Failure::invalid(format!("provenance {other:?} is not supported"))
                        .hint("Write true, false, mode=min or mode=max; it is SLSA's version 1."),
                );
            }
        }
    }
    request.provenance = mode.map(str::to_owned);
    Ok(())
}

fn sbom(text: &str, request: &mut BuildRequest) -> Outcome<()> {
    request.sbom = match text {
        "" | "true" | "disabled=false" => true,
        "false" | "disabled=true" => false,
        other => {
            return Err(Failure::invalid(format!("sbom {other:?} is not supported"))
                .hint("Write true or false: packages are read by this builder itself."));
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(change: impl FnOnce(&mut Build)) -> Outcome<(Option<String>, bool)> {
        let mut build = Build::default();
        change(&mut build);
        let mut request = BuildRequest::default();
        apply(&build, &mut request)?;
        Ok((request.provenance, request.sbom))
    }

    #[test]
    fn attestations_are_buildx_s() {
        let min = Some("min".to_owned());
        let max = Some("max".to_owned());
        assert_eq!(told(|_| {}).unwrap(), (None, false));
        let flag = |text: &'static str| told(move |b| b.provenance = Some(text.to_owned()));
        assert_eq!(flag("true").unwrap(), (min.clone(), false));
        assert_eq!(flag("mode=max,version=v1").unwrap(), (max.clone(), false));
        assert_eq!(flag("false").unwrap(), (None, false));
        assert!(flag("mode=all").is_err() && flag("version=v0.2").is_err());
        let attest = |texts: &'static [&str]| {
            told(move |b| b.attest = texts.iter().map(|text| (*text).to_owned()).collect())
        };
        let both = attest(&["type=sbom", "mode=max,type=provenance"]);
        assert_eq!(both.unwrap(), (max, true));
        let generator = attest(&["type=sbom,generator=some/image"]);
        assert!(generator.is_err() && attest(&["mode=max"]).is_err());
    }
}
