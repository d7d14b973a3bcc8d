//! What this host offers to containers, as data and in sentences.

/// The settings of the host that commonly forbid user namespaces, and their values here.
const SWITCHES: &[(&str, &str, &str)] = &[
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "sysctl user.max_user_namespaces=15000",
    ),
];

/// The commands that would allow user namespaces, as far as settings forbid them.
pub fn userns_remedies() -> Vec<&'static str> {
    let forbids = |file: &str, value: &str| {
        std::fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|text| text.trim() == value)
    };
    (SWITCHES.iter())
        .filter(|(file, value, _)| forbids(file, value))
        .map(|(_, _, remedy)| *remedy)
        .collect()
}

/// A sentence on what to do when user namespaces are refused.
pub(crate) fn userns_hint() -> String {
    let remedies = userns_remedies();
    if remedies.is_empty() {
        "no kernel setting forbids user namespaces; inside another container its seccomp profile \
         does: run that with --security-opt seccomp=unconfined"
            .to_owned()
    } else {
        format!("as root of the host run: {}", remedies.join("; "))
    }
}
