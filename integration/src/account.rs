//! Users of this machine that exist for one test.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::process::{Ran, run};

/// useradd gives up at once when another one holds the lock of the password file.
const ATTEMPTS: u32 = 50;

/// An ordinary user without a password, deleted when dropped.
#[derive(Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// A user with 65536 subordinate ids of its own.
    pub fn with_range() -> Self {
        let account = Self::without_range();
        let n = SERIAL.fetch_add(1, Ordering::SeqCst);
        let pid = std::process::id() % 4096;
        let first = 0x4000_0000 + (pid * 4 + n % 4) * 65536;
        let range = format!("{first}-{}", first + 65535);
        let options = ["--add-subuids", &range, "--add-subgids", &range];
        retried(
            "usermod",
            &[
                options[0],
                options[1],
                options[2],
                options[3],
                &account.name,
            ],
        );
        account
    }

    /// A user with no line in /etc/subuid.
    pub fn without_range() -> Self {
        let n = SERIAL.fetch_add(1, Ordering::SeqCst);
        let mut name = String::from("dpt");
        // Writing to a String cannot fail.
        let _ = write!(name, "{}x{n}", std::process::id());
        // System users get no subordinate ids by themselves.
        let options = [
            "--system",
            "--user-group",
            "--no-create-home",
            "--shell",
            "/bin/sh",
        ];
        retried("useradd", &[&options[..], &[&name]].concat());
        let id = |flag: &str| {
            let ran = run(Command::new("id").args([flag, name.as_str()])).ok();
            ran.text().parse().expect("a number")
        };
        let (uid, gid) = (id("-u"), id("-g"));
        Self { name, uid, gid }
    }
}

impl Account {
    /// The first of the subordinate ids, of users and of groups.
    #[track_caller]
    pub fn first_subordinate(&self) -> u32 {
        let text = std::fs::read_to_string("/etc/subuid").expect("/etc/subuid");
        let prefix = format!("{}:", self.name);
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        let first = line.and_then(|line| line.split(':').next());
        first.expect("a range").parse().expect("a number")
    }
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Drop for Account {
    fn drop(&mut self) {
        // Its processes were ended by whoever started them; a line that stays in /etc/passwd of a
        // test machine harms nobody.
        let _ = Command::new("userdel")
            .arg("--force")
            .arg(&self.name)
            .output();
    }
}

fn retried(program: &str, arguments: &[&str]) -> Ran {
    let path = crate::probe::find(program).unwrap_or_else(|| program.into());
    let mut ran = run(Command::new(&path).args(arguments));
    for _ in 0..ATTEMPTS {
        if ran.code == 0 || !ran.stderr.contains("lock") {
            break;
        }
        thread::sleep(Duration::from_millis(200));
        ran = run(Command::new(&path).args(arguments));
    }
    ran.ok()
}
