//! What is in an image: SPDX 2.3 of the packages that its databases list.

use std::io;

use serde_json::{Value, json};
use unpacker::layer::root::Root;

use super::packages::{Distribution, Package, distribution, installed};
use super::{Predicate, Subject, escaped};

const KIND: &str = "https://spdx.dev/Document";
const UNKNOWN: &str = "NOASSERTION";

/// Reads the databases below a root; `created` is RFC 3339.
pub fn sbom(root: &Root, subject: &Subject<'_>, created: &str) -> io::Result<Predicate> {
    let distribution = distribution(root)?;
    let packages = installed(root)?;
    let rows = packages.iter().enumerate();
    let packages: Vec<Value> = rows.map(|(at, p)| row(at, p, &distribution)).collect();
    let describes: Vec<Value> = packages.iter().map(relationship).collect();
    let name = subject.names.first().map_or("image", String::as_str);
    let body = json!({
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "name": name,
        // Unique to the content, and nothing that could be fetched.
        "documentNamespace": format!("urn:devpod:sbom:{}", subject.digest),
        "creationInfo": {
            "created": created,
            "creators": [concat!("Tool: devpod-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": describes,
    });
    Ok(Predicate { kind: KIND, body })
}

fn row(at: usize, package: &Package, distribution: &Distribution) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-Package-{}-{at}", package.kind),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        // What a package says is no valid expression always, so it is quoted and not asserted.
        "licenseDeclared": UNKNOWN,
        "licenseComments": package.license.clone().unwrap_or_default(),
        "copyrightText": UNKNOWN,
        "sourceInfo": format!("listed in {}", package.database),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": url(package, distribution),
        }],
    })
}

fn relationship(package: &Value) -> Value {
    json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": package["SPDXID"],
    })
}

/// `pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12`
fn url(package: &Package, distribution: &Distribution) -> String {
    let vendor = distribution.id.as_deref().unwrap_or(match package.kind {
        "apk" => "alpine",
        _ => "debian",
    });
    let mut qualifiers = Vec::new();
    if let Some(architecture) = &package.architecture {
        qualifiers.push(format!("arch={}", escaped(architecture)));
    }
    if let (Some(id), Some(version)) = (&distribution.id, &distribution.version) {
        qualifiers.push(format!("distro={}", escaped(&format!("{id}-{version}"))));
    }
    let mark = if qualifiers.is_empty() { "" } else { "?" };
    format!(
        "pkg:{}/{}/{}@{}{mark}{}",
        package.kind,
        escaped(vendor),
        escaped(&package.name),
        escaped(&package.version),
        qualifiers.join("&")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_urls() {
        let package = Package {
            kind: "deb",
            name: "libstdc++6".to_owned(),
            version: "1:2.3+b1".to_owned(),
            architecture: Some("amd64".to_owned()),
            license: None,
            database: "/x".to_owned(),
        };
        let debian = Distribution {
            id: Some("debian".to_owned()),
            version: Some("12".to_owned()),
        };
        assert_eq!(
            url(&package, &debian),
            "pkg:deb/debian/libstdc%2B%2B6@1:2.3%2Bb1?arch=amd64&distro=debian-12"
        );
    }
}
