//! What a small development system consists of, as plain lists. Names only, no logic.

/// Where programs are looked for, in order. The host's own come before locally installed ones.
pub(super) const SEARCH: [&str; 8] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
];

/// Without these an image is of no use; one that is missing is an error.
pub(super) const ESSENTIAL: [&str; 12] = [
    "sh", "ls", "cat", "cp", "mv", "rm", "mkdir", "chmod", "ln", "env", "grep", "sed",
];

/// The shell that people meet, best first.
pub(super) const SHELLS: [&str; 5] = ["bash", "zsh", "ash", "dash", "sh"];

/// Put in where the host has them.
pub(super) const PROGRAMS: &[&str] = &[
    // Shells: scripts ask for bash by name.
    "bash",
    "dash",
    // coreutils
    "[",
    "arch",
    "b2sum",
    "base32",
    "base64",
    "basename",
    "basenc",
    "chcon",
    "chgrp",
    "chown",
    "chroot",
    "cksum",
    "comm",
    "csplit",
    "cut",
    "date",
    "dd",
    "df",
    "dir",
    "dircolors",
    "dirname",
    "du",
    "echo",
    "expand",
    "expr",
    "factor",
    "false",
    "fmt",
    "fold",
    "groups",
    "head",
    "hostid",
    "id",
    "install",
    "join",
    "link",
    "logname",
    "md5sum",
    "mkfifo",
    "mknod",
    "mktemp",
    "nice",
    "nl",
    "nohup",
    "nproc",
    "numfmt",
    "od",
    "paste",
    "pathchk",
    "pinky",
    "pr",
    "printenv",
    "printf",
    "ptx",
    "pwd",
    "readlink",
    "realpath",
    "rmdir",
    "seq",
    "sha1sum",
    "sha224sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "shred",
    "shuf",
    "sleep",
    "sort",
    "split",
    "stat",
    "stdbuf",
    "stty",
    "sum",
    "sync",
    "tac",
    "tail",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "tsort",
    "tty",
    "uname",
    "unexpand",
    "uniq",
    "unlink",
    "users",
    "vdir",
    "wc",
    "who",
    "whoami",
    "yes",
    // grep, sed, findutils, awk, diffutils, patch
    "egrep",
    "fgrep",
    "find",
    "xargs",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "cmp",
    "diff",
    "diff3",
    "sdiff",
    "patch",
    // archives
    "tar",
    "gzip",
    "gunzip",
    "zcat",
    "zgrep",
    "bzip2",
    "bunzip2",
    "bzcat",
    "xz",
    "unxz",
    "xzcat",
    "zstd",
    "unzstd",
    "unzip",
    "zip",
    // reading
    "less",
    "more",
    "which",
    "hexdump",
    "tput",
    "tset",
    "reset",
    "clear",
    "infocmp",
    "vi",
    // processes and the system
    "ps",
    "pgrep",
    "pkill",
    "pidof",
    "kill",
    "free",
    "top",
    "uptime",
    "w",
    "watch",
    "getent",
    "hostname",
    "getconf",
    "ldd",
    "locale",
    "flock",
    "setsid",
    "mount",
    "umount",
    "findmnt",
    "lsblk",
    "nsenter",
    "unshare",
    "setpriv",
    "su",
    "ip",
    "ss",
    // network clients
    "curl",
    "wget",
    "ssh",
    "ssh-add",
    "ssh-agent",
    "ssh-keygen",
    "ssh-keyscan",
    "scp",
    "sftp",
    // a busybox host has its programs as links to this
    "busybox",
];

/// git, apart from what stands in its own program folder.
pub(super) const GIT_PROGRAMS: [&str; 4] = [
    "git",
    "git-receive-pack",
    "git-upload-pack",
    "git-upload-archive",
];

/// Where git keeps its own programs.
pub(super) const GIT_EXEC: [&str; 4] = [
    "/usr/lib/git-core",
    "/usr/libexec/git-core",
    "/usr/local/libexec/git-core",
    "/usr/local/lib/git-core",
];

/// Servers, mail and graphical parts of git, which a workspace's clone, commit and push never start.
pub(super) const GIT_LEFT_OUT: [&str; 14] = [
    "git-citool",
    "git-credential-libsecret",
    "git-cvsserver",
    "git-daemon",
    "git-gui",
    "git-gui--askpass",
    "git-http-backend",
    "git-http-push",
    "git-imap-send",
    "git-instaweb",
    "git-p4",
    "git-send-email",
    "git-svn",
    "scalar",
];

/// Folders of git's that are data.
pub(super) const GIT_DATA: [&str; 2] = [
    "/usr/share/git-core/templates",
    "/usr/local/share/git-core/templates",
];

/// Interpreters that scripts of the lists above may have. A script of another one (perl, python) is
/// left out: its interpreter is useless without a library that nobody asked for.
pub(super) const SCRIPT_SHELLS: [&str; 5] = ["sh", "bash", "dash", "ash", "busybox"];

/// Single files, put in where the host has them: certificates, time zone, TLS defaults, protocols.
pub(super) const FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/certs",
    "/usr/lib/ssl/openssl.cnf",
    "/etc/crypto-policies/back-ends/openssl.config",
    "/usr/share/zoneinfo/UTC",
    "/usr/share/zoneinfo/Etc/UTC",
    "/etc/protocols",
    "/etc/services",
    "/etc/debian_version",
    "/etc/alpine-release",
    "/etc/redhat-release",
];

/// Whole folders, put in where the host has them.
pub(super) const TREES: [&str; 3] = [
    "/usr/lib/locale/C.utf8",
    "/usr/lib/locale/C.UTF-8",
    "/usr/share/crypto-policies/DEFAULT",
];

/// Libraries that glibc opens by itself when names are looked up or threads end.
pub(super) const OPENED_LATER: [&str; 5] = [
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libresolv.so.2",
    "libgcc_s.so.1",
    "libnss_compat.so.2",
];

/// Terminals whose description comes along, and where descriptions are.
pub(super) const TERMINALS: [&str; 10] = [
    "ansi",
    "dumb",
    "linux",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "xterm",
    "xterm-256color",
];
pub(super) const TERMINFO: [&str; 3] = ["/lib/terminfo", "/usr/share/terminfo", "/etc/terminfo"];

/// Top-level names that are links on a merged-usr host and folders otherwise.
pub(super) const TOP_LEVEL: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Folders that every system has, with their modes.
pub(super) const DIRECTORIES: &[(&str, u32)] = &[
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/etc/profile.d", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/run/lock", 0o1777),
    ("/srv", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),
    ("/usr/local/bin", 0o755),
    ("/usr/local/lib", 0o755),
    ("/var/cache", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
    ("/workspaces", 0o755),
];
