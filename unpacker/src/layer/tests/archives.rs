//! Archives that are no layers: what ADD unpacks.

use super::*;

fn owner_of(root: &Root, path: &str) -> (Owner, u32) {
    let path = Path::new(path);
    let found = root.metadata(path).unwrap();
    Ownership::Recorded.of(root, path, &found).unwrap()
}

#[test]
fn an_archive_hides_nothing_and_leaves_its_top_alone() {
    let items = [
        dir("./").mode(0o700).owner(5, 6),
        file("a", "of the archive").owner(7, 8),
        wh(".wh.kept"),
        wh("d/.wh..wh..opq"),
        hard("b", "a"),
    ];
    for owner in [None, Some(Owner { uid: 1, gid: 2 })] {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        for name in ["kept", "d/kept"] {
            std::fs::write(folder.path().join(name), "before").unwrap();
        }
        let root = open(folder.path());
        let before = owner_of(&root, ".");
        let form = Form::Archive { owner };
        apply_bytes(&tar_of(&items), &root, form, &options(Ownership::Recorded)).unwrap();
        for name in ["kept", "d/kept", ".wh.kept", "d/.wh..wh..opq", "b"] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        assert_eq!(owner_of(&root, "."), before);
        let given = owner.unwrap_or(Owner { uid: 7, gid: 8 });
        assert_eq!(owner_of(&root, "a").0, given);
    }
}
