//! Build arguments that exist without a declaration (Dockerfile reference, "Predefined ARGs" and
//! "Automatic platform ARGs in the global scope").

use std::collections::BTreeMap;

use unpacker::image::read::Platform;

/// Reach RUN undeclared, and stay out of keys and history then.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

pub(crate) fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name)
}

/// `os/architecture[/variant]`.
pub(crate) fn platform_text(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if let Some(variant) = &platform.variant {
        text.push('/');
        text.push_str(variant);
    }
    text
}

/// The eight platform arguments.
pub(crate) fn platforms(target: &Platform, build: &Platform) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", build)] {
        let variant = platform.variant.clone().unwrap_or_default();
        for (suffix, value) in [
            ("PLATFORM", platform_text(platform)),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", variant),
        ] {
            all.insert(format!("{prefix}{suffix}"), value);
        }
    }
    all
}
