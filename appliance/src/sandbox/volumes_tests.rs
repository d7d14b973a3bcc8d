//! Volumes over folders that stand for images.

use std::os::fd::AsFd;

use super::*;

struct Room {
    dir: tempfile::TempDir,
    volumes: Volumes,
    image: File,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::create_dir_all(image.join("srv")).unwrap();
        fs::write(image.join("srv/first"), "1").unwrap();
        Self {
            volumes: Volumes::open(&dir.path().join("volumes")).unwrap(),
            image: File::open(&image).unwrap(),
            dir,
        }
    }

    fn beginning(&self) -> Option<Beginning<'_>> {
        Some(Beginning {
            image: self.image.as_fd(),
            place: Path::new("/srv"),
        })
    }

    fn provide(&self, name: Option<&str>) -> PathBuf {
        let provided = (self.volumes).provide(name, self.beginning(), &Cancel::default());
        provided.unwrap().data
    }

    /// Everything below the folder of volumes, hidden or not.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("volumes/.named")).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(name)
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_new_volume_begins_as_the_image_and_stays_what_it_became() {
    let room = Room::new();
    let data = room.provide(Some("v"));
    assert_eq!(fs::read(data.join("first")).unwrap(), b"1");
    fs::remove_file(data.join("first")).unwrap();
    // Empty again, and no more filled.
    room.provide(Some("v"));
    assert!(!data.join("first").exists());
    let unnamed = room.provide(None);
    assert!(unnamed.join("first").exists());
    assert_eq!(room.volumes.list().unwrap().len(), 2);
    room.volumes.withdraw("v").unwrap().delete().unwrap();
    assert_eq!(room.volumes.find("v").unwrap_err().kind, Kind::NotFound);
    assert_eq!(room.entries().len(), 1);
}

#[test]
fn a_volume_in_use_is_not_filled_under_its_user() {
    let room = Room::new();
    let taken = room.volumes.provide(Some("v"), None, &Cancel::default());
    let data = taken.unwrap().data;
    room.volumes.create("w", BTreeMap::new()).unwrap();
    let before = fs::metadata(&data).unwrap();
    let again = fs::metadata(room.provide(Some("v"))).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(inode(&before), inode(&again));
    // Made by hand, and nobody had it: filled.
    assert!(room.provide(Some("w")).join("first").exists());
}

#[test]
fn what_breaks_off_leaves_nothing() {
    let room = Room::new();
    let cancelled = Cancel::default();
    cancelled.cancel();
    let create = |name| room.volumes.create(name, BTreeMap::new()).unwrap();
    create("known");
    for name in ["new", "known"] {
        let failure = room
            .volumes
            .provide(Some(name), room.beginning(), &cancelled);
        assert_eq!(failure.unwrap_err().kind, Kind::Cancelled, "{name}");
    }
    assert_eq!(room.entries(), ["known"]);
    let known = room.dir.path().join("volumes/.named/known");
    assert_eq!(fs::read_dir(known).unwrap().count(), 2);
    // Nobody has them any more, and the next one gets all.
    assert!(room.provide(Some("known")).join("first").exists());
    room.volumes.withdraw("known").unwrap().delete().unwrap();
}

#[test]
fn a_volume_that_is_being_given_away_stays() {
    let room = Room::new();
    let provided = room.volumes.provide(Some("v"), None, &Cancel::default());
    let refused = room.volumes.withdraw("v").unwrap_err();
    assert_eq!(refused.kind, Kind::Conflict);
    drop(provided);
    room.volumes.withdraw("v").unwrap().delete().unwrap();
}

#[test]
fn who_waits_for_a_volume_can_give_up() {
    let room = Room::new();
    let filler = room.volumes.take("v");
    let alone = filler.alone(&Cancel::default()).unwrap();
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let provided = room.volumes.provide(Some("v"), None, &cancel);
            provided.map(|provided| provided.data)
        });
        // Others go on meanwhile.
        assert!(room.provide(Some("other")).join("first").exists());
        assert!(!waiting.is_finished());
        cancel.cancel();
        let failure = waiting.join().unwrap().unwrap_err();
        assert_eq!(failure.kind, Kind::Cancelled);
    });
    drop(alone);
}

#[test]
fn a_crash_leaves_nothing_half() {
    let room = Room::new();
    room.volumes.create("v", BTreeMap::new()).unwrap();
    let root = room.dir.path().join("volumes/.named");
    for half in ["v/filling", "half-made", ".new-1/data", ".gone-1/data"] {
        fs::create_dir_all(root.join(half)).unwrap();
        fs::write(root.join(half).join("half"), "").unwrap();
    }
    let room = Room {
        volumes: Volumes::open(&room.dir.path().join("volumes")).unwrap(),
        ..room
    };
    assert_eq!(room.entries(), ["v"]);
    assert!(!root.join("v/filling").exists());
    let data = room.provide(Some("v"));
    assert!(data.join("first").exists() && !data.join("half").exists());
}

#[test]
fn names_stay_in_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).unwrap();
    for bad in ["../x", "", ".named", "a/b"] {
        assert!(volumes.create(bad, BTreeMap::new()).is_err(), "{bad}");
        assert!(volumes.withdraw(bad).is_err(), "{bad}");
    }
}

#[test]
fn who_goes_at_once_leaves_nothing_taken() {
    let room = Room::new();
    room.provide(Some("v"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    drop(room.volumes.take("v"));
                }
            });
        }
    });
    assert!(room.volumes.taken().is_empty());
    room.volumes.withdraw("v").unwrap().delete().unwrap();
}
