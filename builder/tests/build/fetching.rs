//! ADD of addresses: what is fetched, when again, and what becomes of it.

use libtest_mimic::Trial;
use unpacker::digest::sha256;

use super::copying::tar;
use super::fixture::{Room, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("fetched_files_are_roots", fetched),
        trial("nothing_is_fetched_twice", once),
        trial("checksums_decide", checksums),
        trial("fetched_archives_are_unpacked_when_told", unpacked),
    ]
}

const AT: &str = "https://files.example.org/dir/f%20g.txt?token=x";

fn serve(room: &Room, address: &str, body: &[u8], date: Option<&str>) {
    let entry = (body.to_vec(), date.map(str::to_owned));
    room.served
        .lock()
        .unwrap()
        .insert(address.to_owned(), entry);
}

/// How often each body was sent since the last call.
fn sent(room: &Room) -> Vec<bool> {
    room.asked
        .lock()
        .unwrap()
        .drain(..)
        .map(|(_, sent)| sent)
        .collect()
}

fn fetched() {
    let room = Room::new(&[("local", "l")]);
    serve(&room, AT, b"fetched", Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    serve(&room, "http://e.org", b"nameless", None);
    let tree = room.tree(&format!(
        "FROM busybox\nARG U={AT}\nADD $U /d/\nADD --chown=app --chmod=640 $U /to\nADD http://e.org local /n/\n"
    ));
    assert_eq!(tree.read("d/f g.txt"), "fetched");
    assert_eq!(tree.access("d/f g.txt"), "600 0:0");
    assert_eq!(tree.access("to"), "640 1000:1001");
    assert_eq!(tree.list("n"), ["__unnamed__", "local"]);
    let modified = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        tree.path(name).metadata().unwrap().mtime()
    };
    assert_eq!(
        (modified("to"), modified("n/__unnamed__")),
        (784_111_777, 0)
    );
    let error = room
        .build("FROM scratch\nADD https://e.org/none /\n")
        .unwrap_err();
    let text = error.record().error;
    assert!(
        text.contains("cannot fetch https://e.org/none: no such file there"),
        "{text}"
    );
    let mut request = room.request("FROM scratch\nARG U\nADD $U /\n");
    let address = "https://user:hush1@e.org/none?token=hush2".to_owned();
    request.build_args.insert("U".to_owned(), address);
    let error = room.run(&request).unwrap_err();
    let text = format!("{:?} {error:?} {:?}", error.record(), room.lines());
    assert!(text.contains("cannot fetch https://e.org/none"), "{text}");
    assert!(!text.contains("hush"), "{text}");
}

fn once() {
    let room = Room::new(&[]);
    serve(&room, AT, b"one", None);
    let file = format!("FROM scratch\nADD {AT} /f\n");
    let first = room.build(&file).unwrap();
    assert_eq!((first.cached, sent(&room)), (0, vec![true]));
    let again = room.build(&file).unwrap();
    assert_eq!((again.cached, sent(&room)), (1, vec![false]));
    assert_eq!(again.digest, first.digest);
    serve(&room, AT, b"another", None);
    assert_eq!(room.tree(&file).read("f"), "another");
    assert_eq!(sent(&room), [true]);
    // A download that was spoiled is fetched anew.
    let kept = room.dir.path().join("cache/downloads");
    for entry in std::fs::read_dir(kept).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none() {
            std::fs::write(path, "anothex").unwrap();
        }
    }
    assert_eq!(
        room.tree(&format!("{file}# again\nADD {AT} /g\n"))
            .read("g"),
        "another"
    );
    assert_eq!(sent(&room), [true, false]);
}

fn checksums() {
    let room = Room::new(&[]);
    serve(&room, AT, b"right", None);
    let file = |body: &[u8]| format!("FROM scratch\nADD --checksum={} {AT} /f\n", sha256(body));
    assert_eq!(room.tree(&file(b"right")).read("f"), "right");
    assert_eq!(sent(&room), [true]);
    // What is here has the checksum, so nobody is asked.
    serve(&room, AT, b"wrong", None);
    assert_eq!(room.tree(&file(b"right")).read("f"), "right");
    assert!(sent(&room).is_empty());
    let error = room.build(&file(b"other")).unwrap_err().record().error;
    assert!(error.contains("its checksum is sha256:"), "{error}");
    assert_eq!(room.staged(), 0);
}

fn unpacked() {
    let room = Room::new(&[]);
    let archive = tar(&[("in", "side", None)]);
    serve(&room, "https://e.org/a.tar", &archive, None);
    let tree = room.tree(
        "FROM scratch\nADD https://e.org/a.tar /kept/\nADD --unpack=true https://e.org/a.tar /un/\n",
    );
    assert_eq!(tree.list("kept"), ["a.tar"]);
    assert_eq!(tree.list("un"), ["in"]);
    assert_eq!(tree.read("un/in"), "side");
}
