//! The image that is unpacked: about 1 GB, 50,000 entries, six gzip layers, the same on every run.
//!
//! | layer | what |
//! |---|---|
//! | 1 | Debian, minimal, by mmdebstrap |
//! | 2 | what python3, gcc and git add to it |
//! | 3 | 22,000 small files, as node_modules has them |
//! | 4 | 10,000 files of middle size, as site-packages has them |
//! | 5 | 200 whiteouts, 100 opaque folders, 1,500 hard links, capabilities |
//! | 6 | four files of 78 MB, partly zeros |

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::figures::run;

const TIME: u64 = 1_700_000_000;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

type Tar = Builder<BufWriter<File>>;

/// The layout's folder, with one image tagged `latest`; made once per target folder.
pub(crate) fn layout(target: &Path) -> PathBuf {
    let ready = target.join("bench-image");
    if !ready.exists() {
        let work = tempfile::tempdir_in(target).unwrap();
        let made = work.path().join("layout");
        make(work.path(), &made);
        std::fs::rename(made, &ready).unwrap();
    }
    ready
}

fn make(work: &Path, layout: &Path) {
    let layers = [1, 2, 3, 4, 5, 6].map(|number| work.join(format!("{number}.tar")));
    debian(&layers[0], &[]);
    let full = work.join("full.tar");
    debian(&full, &["--include=python3,python3-pip,gcc,git"]);
    difference(&layers[0], &full, &layers[1]);
    many(&layers[2], "app/node_modules", 1100, 20, 100..20_000);
    many(
        &layers[3],
        "usr/lib/python3/site-packages",
        500,
        20,
        500..60_000,
    );
    changes(&layers[4]);
    large(&layers[5]);
    store(layout, &layers);
}

fn debian(tar: &Path, options: &[&str]) {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]).args(options);
    run(command.arg("bookworm").arg(tar));
}

// The layers.

/// Entries of `full` that `base` has not, or otherwise; folders all.
fn difference(base: &Path, full: &Path, out: &Path) {
    let mut known = HashSet::new();
    each(base, |header, name, link, data| {
        known.insert(said(header, name, link, data));
    });
    let mut tar = create(out);
    each(full, |header, name, link, data| {
        let kind = header.entry_type();
        let old = !kind.is_dir() && known.contains(&said(header, name, link, data));
        if old || name == Path::new("./") || kind.is_character_special() {
            return;
        }
        let mut header = header.clone();
        match link {
            Some(link) => tar.append_link(&mut header, name, link).unwrap(),
            None => tar.append_data(&mut header, name, data).unwrap(),
        }
    });
    tar.finish().unwrap();
}

fn each(tar: &Path, mut see: impl FnMut(&Header, &Path, Option<&Path>, &[u8])) {
    let mut archive = tar::Archive::new(BufReader::new(File::open(tar).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        let (name, link) = (entry.path().unwrap(), entry.link_name().unwrap());
        see(entry.header(), &name, link.as_deref(), &data);
    }
}

/// All of an entry, as one number.
fn said(header: &Header, name: &Path, link: Option<&Path>, data: &[u8]) -> Vec<u8> {
    let mut hash = Context::new(&SHA256);
    hash.update(header.as_bytes());
    hash.update(format!("{name:?} {link:?}").as_bytes());
    hash.update(data);
    hash.finish().as_ref().to_vec()
}

/// Packages of some files each, and a link.
fn many(out: &Path, top: &str, packages: usize, files: usize, sizes: std::ops::Range<usize>) {
    let mut tar = create(out);
    let mut noise = Noise(top.len() as u64);
    for parent in Path::new(top)
        .ancestors()
        .collect::<Vec<_>>()
        .iter()
        .rev()
        .skip(1)
    {
        folder(&mut tar, &parent.display().to_string());
    }
    for package in 0..packages {
        let place = format!("{top}/package-{package}");
        folder(&mut tar, &place);
        folder(&mut tar, &format!("{place}/lib"));
        for number in 0..files {
            let within = if number % 2 == 0 { "" } else { "lib/" };
            let size = noise.size(&sizes);
            file(
                &mut tar,
                &format!("{place}/{within}module{number}.js"),
                &noise.text(size),
            );
        }
        let mut header = header(EntryType::Symlink, 0);
        tar.append_link(&mut header, format!("{place}/link"), "lib")
            .unwrap();
    }
    tar.finish().unwrap();
}

fn changes(out: &Path) {
    let mut tar = create(out);
    for name in [
        "usr",
        "usr/share",
        "app",
        "app/node_modules",
        "opt",
        "opt/tool",
    ] {
        folder(&mut tar, name);
    }
    file(&mut tar, "usr/share/.wh.doc", b"");
    for package in 0..200 {
        file(
            &mut tar,
            &format!("app/node_modules/.wh.package-{package}"),
            b"",
        );
    }
    for package in 200..300 {
        let place = format!("app/node_modules/package-{package}");
        folder(&mut tar, &place);
        file(&mut tar, &format!("{place}/.wh..wh..opq"), b"");
        file(
            &mut tar,
            &format!("{place}/new.js"),
            &Noise(package).text(500),
        );
    }
    for number in 0..1500 {
        let name = format!("opt/tool/f{number}");
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        if number % 100 == 0 {
            let records = [("SCHILY.xattr.security.capability", &capability[..])];
            tar.append_pax_extensions(records).unwrap();
        }
        file(&mut tar, &name, &Noise(number).text(3000));
        let mut header = header(EntryType::Link, 0);
        tar.append_link(&mut header, format!("opt/tool/h{number}"), &name)
            .unwrap();
    }
    tar.finish().unwrap();
}

fn large(out: &Path) {
    let mut tar = create(out);
    let mut noise = Noise(6);
    folder(&mut tar, "data");
    let mut blocks: Vec<Vec<u8>> = (0..64).map(|_| noise.text(1 << 16)).collect();
    blocks[7].fill(0);
    for number in 0..4 {
        let order = (0..1200).map(|n| &blocks[(n * 7 + n / 64 + number) % 64][..]);
        let data: Vec<u8> = order.flatten().copied().collect();
        file(&mut tar, &format!("data/model{number}.bin"), &data);
    }
    tar.finish().unwrap();
}

// Entries.

fn create(out: &Path) -> Tar {
    Builder::new(BufWriter::new(File::create(out).unwrap()))
}

fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_mtime(TIME);
    header.set_size(size as u64);
    header
}

fn folder(tar: &mut Tar, name: &str) {
    let mut header = header(EntryType::Directory, 0);
    tar.append_data(&mut header, format!("{name}/"), io::empty())
        .unwrap();
}

fn file(tar: &mut Tar, name: &str, data: &[u8]) {
    let mut header = header(EntryType::Regular, data.len());
    tar.append_data(&mut header, name, data).unwrap();
}

/// Numbers that are the same on every run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Small ones are frequent.
    fn size(&mut self, range: &std::ops::Range<usize>) -> usize {
        let width = (range.end - range.start) as u64;
        let third = (self.next() % width).min(self.next() % width);
        range.start + usize::try_from(third.min(self.next() % width)).unwrap()
    }

    /// Words of which few are frequent: it compresses as programs do.
    fn text(&mut self, size: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(size + 16);
        while text.len() < size {
            let rank = self.next() % 64 * (self.next() % 64);
            let word = Noise(rank).next();
            write!(text, "{:x} ", word >> 36).unwrap();
        }
        text.truncate(size);
        text
    }
}

// The layout.

fn store(layout: &Path, layers: &[PathBuf]) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let packed = layer.with_extension("gz");
        let mut from = File::open(layer).unwrap();
        let mut gzip = GzEncoder::new(File::create(&packed).unwrap(), Compression::new(6));
        io::copy(&mut from, &mut gzip).unwrap();
        gzip.finish().unwrap();
        diff_ids.push(digest(layer));
        descriptors.push(keep(&blobs, LAYER, &packed));
    }
    let json = |name: &str, media: &str, value: Value| {
        let path = layout.join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        keep(&blobs, media, &path)
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = json("config", "application/vnd.oci.image.config.v1+json", config);
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media, "config": config,
        "layers": descriptors});
    let mut entry = json("manifest", media, manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

/// Moves a file to its name by digest.
fn keep(blobs: &Path, media: &str, file: &Path) -> Value {
    let (digest, size) = (digest(file), file.metadata().unwrap().len());
    let name = digest.strip_prefix("sha256:").unwrap();
    std::fs::rename(file, blobs.join(name)).unwrap();
    json!({"mediaType": media, "digest": digest, "size": size})
}

fn digest(file: &Path) -> String {
    let mut hash = Context::new(&SHA256);
    let mut file = File::open(file).unwrap();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut chunk).unwrap();
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
    }
    let hex: Vec<String> = (hash.finish().as_ref().iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{}", hex.concat())
}
