//! As whom one works in a workspace, so that the source is writable and its files stay the person's.
//! Pure.
//!
//! | source | owner as the daemon sees it | one works as |
//! |---|---|---|
//! | volume | whoever we give it to | `remoteUser`, and the volume is given to them |
//! | volume, no other id mapped | 0 | 0, with the home and name of `remoteUser` |
//! | folder | the id of `remoteUser` | `remoteUser` |
//! | folder | 0: the person who runs the daemon | 0, with the home and name of `remoteUser` |
//! | folder | another mapped id | that id, and the home is given to it (`updateRemoteUserUID`) |
//! | folder | an id that is not mapped | `remoteUser`, and it is said that files may not be writable |
//!
//! As an ordinary person's daemon, id 0 inside is that person outside: so a folder's files keep their
//! owner, which is what `updateRemoteUserUID` is for.

use super::backend::Person;

/// The ids 0..count exist in the daemon's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub count: u32,
}

impl Ids {
    /// The initial user namespace.
    pub const ALL: Self = Self { count: u32::MAX };
    /// No range in /etc/subuid.
    pub const SINGLE: Self = Self { count: 1 };

    fn has(self, id: u32) -> bool {
        id < self.count
    }
}

/// What the kernel shows for an owner that the namespace does not know (/proc/sys/fs/overflowuid).
const OVERFLOW: u32 = 65534;

/// Where the source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    Volume,
    Folder { uid: u32, gid: u32 },
}

/// As whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
    pub shell: String,
}

/// The identity, and what must be done for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub identity: Identity,
    /// The volume must belong to them.
    pub own_volume: bool,
    /// The home inside the sandbox must belong to them.
    pub own_home: bool,
    /// To be said; a whole sentence.
    pub note: Option<String>,
}

pub fn decide(person: &Person, ground: Ground, ids: Ids, update_uid: bool) -> Decision {
    let known = ids.has(person.uid) && ids.has(person.gid);
    match ground {
        _ if person.uid == 0 => plain(person, false),
        // The one id is called as the person is, and everything belongs to it.
        _ if ids == Ids::SINGLE => plain(person, false),
        _ if !known => as_root(person, "this host maps no further ids for you"),
        Ground::Volume => plain(person, true),
        Ground::Folder { uid, .. } if uid == person.uid => plain(person, false),
        Ground::Folder { uid: 0, .. } => as_root(person, "the folder is owned by you"),
        Ground::Folder { uid, gid } if update_uid && uid != OVERFLOW && ids.has(uid) => {
            adopted(person, uid, gid)
        }
        Ground::Folder { uid, .. } => Decision {
            note: Some(format!(
                "The folder belongs to id {uid}, so {:?} (id {}) may not be able to write to it.",
                person.name, person.uid
            )),
            ..plain(person, false)
        },
    }
}

fn plain(person: &Person, own_volume: bool) -> Decision {
    Decision {
        identity: identity(person, person.uid, person.gid),
        own_volume,
        own_home: false,
        note: None,
    }
}

fn as_root(person: &Person, why: &str) -> Decision {
    let mut identity = identity(person, 0, 0);
    identity.groups.clear();
    Decision {
        identity,
        own_volume: false,
        own_home: false,
        note: Some(format!(
            "Working as id 0 with the home of {:?}, because {why}; id 0 in here has no rights \
             outside.",
            person.name
        )),
    }
}

fn adopted(person: &Person, uid: u32, gid: u32) -> Decision {
    Decision {
        identity: identity(person, uid, gid),
        own_volume: false,
        own_home: true,
        note: Some(format!(
            "{:?} works with id {uid}, the owner of the folder (updateRemoteUserUID).",
            person.name
        )),
    }
}

fn identity(person: &Person, uid: u32, gid: u32) -> Identity {
    Identity {
        uid,
        gid,
        groups: person.groups.clone(),
        name: person.name.clone(),
        home: person.home.clone(),
        shell: person.shell.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(uid: u32) -> Person {
        Person {
            uid,
            gid: uid,
            groups: vec![27],
            name: "dev".into(),
            home: "/home/dev".into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn the_table() {
        let folder = |uid| Ground::Folder { uid, gid: uid };
        let range = Ids { count: 65537 };
        for (uid, ground, ids, update, expected, own_volume, own_home, noted) in [
            (
                1000,
                Ground::Volume,
                Ids::ALL,
                true,
                1000,
                true,
                false,
                false,
            ),
            (1000, Ground::Volume, range, true, 1000, true, false, false),
            (
                1000,
                Ground::Volume,
                Ids::SINGLE,
                true,
                1000,
                false,
                false,
                false,
            ),
            (70000, Ground::Volume, range, true, 0, false, false, true),
            (0, Ground::Volume, Ids::SINGLE, true, 0, false, false, false),
            (
                1000,
                folder(1000),
                Ids::ALL,
                true,
                1000,
                false,
                false,
                false,
            ),
            (1000, folder(0), range, true, 0, false, false, true),
            (
                1000,
                folder(0),
                Ids::SINGLE,
                true,
                1000,
                false,
                false,
                false,
            ),
            (1000, folder(1234), Ids::ALL, true, 1234, false, true, true),
            (
                1000,
                folder(1234),
                Ids::ALL,
                false,
                1000,
                false,
                false,
                true,
            ),
            (
                1000,
                folder(OVERFLOW),
                range,
                true,
                1000,
                false,
                false,
                true,
            ),
            (0, folder(1234), Ids::ALL, true, 0, false, false, false),
        ] {
            let decision = decide(&person(uid), ground, ids, update);
            assert_eq!(
                (
                    decision.identity.uid,
                    decision.own_volume,
                    decision.own_home,
                    decision.note.is_some()
                ),
                (expected, own_volume, own_home, noted),
                "{uid} {ground:?} {ids:?}"
            );
            assert_eq!(decision.identity.home, "/home/dev");
        }
    }
}
