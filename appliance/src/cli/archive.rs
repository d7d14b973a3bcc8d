//! `save` and `load`: files, folders and pipes on this side, the daemon's streams on the other.
//!
//! Files are opened here, by whoever runs the command, and not by the daemon: it may be of another
//! user namespace, and knows no working folder. A file appears whole, or not at all.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, MediaType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use unpacker::content::Content;
use unpacker::image::archive::read::{ReadError, ReadOptions, read};
use unpacker::image::archive::write::Plan;
use unpacker::image::archive::{Name, NamedImage, oci};
use unpacker::image::layout::{Layout, LayoutError};
use unpacker::image::read::Platform;
use unpacker::layer::Ownership;
use unpacker::layer::apply::{ApplyError, ApplyOptions, Form, apply};
use unpacker::layer::archive::ArchiveError;
use unpacker::layer::root::Root;
use unpacker::progress::{Cancel, Event, Silent};

use crate::api::types::{ArchiveFormat, LoadRequest, Moved, SaveRequest, Saved};
use crate::cli::Session;
use crate::cli::image_args::{Load, Save, SaveFormat};
use crate::client::Client;
use crate::client::streams::{Outgoing, Upload, upload};
use crate::error::{Failure, Kind, Outcome};
use crate::pipe::{self, pipe};
use crate::ui::{self, Format, table};

const CHUNK: usize = 256 * 1024;
const STOPPED: &str = "saving was stopped";

/// Where an archive goes.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Stdout,
    File(PathBuf),
    /// An image layout.
    Folder(PathBuf),
    /// A folder that the tar is unpacked into.
    Files(PathBuf),
}

pub(super) async fn save(session: &Session, save: Save) -> Outcome<u8> {
    let path = save.to.or_else(|| session.files.first().cloned());
    let target = target(path, save.format)?;
    let request = SaveRequest {
        images: save.images,
        format: match save.format {
            SaveFormat::DockerArchive => ArchiveFormat::Docker,
            SaveFormat::OciArchive | SaveFormat::OciDir => ArchiveFormat::Oci,
        },
        platform: save.platform,
        all_platforms: save.all_platforms,
    };
    let client = session.daemon().await?;
    let saved: Saved = fetch(&client, "/v1/images/save", &request, &target).await?;
    tell_saved(session, &saved, &target);
    Ok(0)
}

/// Has the daemon write, and takes the bytes to where they go.
pub(super) async fn fetch<B: Serialize, T: DeserializeOwned>(
    client: &Client,
    path: &str,
    request: &B,
    target: &Target,
) -> Outcome<T> {
    let (sender, reader) = pipe();
    let taken = target.clone();
    let taking = spawn_blocking(move || take(reader, &taken));
    let received = tokio::select! {
        received = client.receive_bytes::<_, T>(path, request, sender) => received,
        // Whoever takes the bytes cleans up when no more come.
        () = interrupted() => Err(Failure::new(Kind::Cancelled, STOPPED)),
    };
    let taken = match (&received, target) {
        // A reader that does not read would hold us up, and there is nothing to tidy.
        (Err(said), Target::Stdout) if said.message == STOPPED => Ok(()),
        _ => taking
            .await
            .unwrap_or_else(|error| Err(Failure::internal(error.to_string()))),
    };
    match (received, taken) {
        (Ok(saved), Ok(())) => Ok(saved),
        // The daemon's side ended because this one could not write: that is the reason.
        (Err(said), Err(here)) if said.kind == Kind::Cancelled && here.kind != Kind::Cancelled => {
            Err(here)
        }
        (Err(said), _) => Err(said),
        (Ok(_), Err(here)) => Err(here),
    }
}

/// Ctrl-C, or the like.
pub(super) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

pub(super) fn target(path: Option<PathBuf>, format: SaveFormat) -> Outcome<Target> {
    let path = path.filter(|path| path.as_os_str() != "-");
    match (path, format) {
        (Some(path), SaveFormat::OciDir) => Ok(Target::Folder(path)),
        (None, SaveFormat::OciDir) => {
            Err(Failure::invalid("a folder cannot go to standard output")
                .hint("Name one: `devpod save --format oci-dir -o FOLDER IMAGE`."))
        }
        (Some(path), _) if path.is_dir() => {
            Err(Failure::invalid(format!("{} is a folder", path.display()))
                .hint("Write a file, or a folder with --format oci-dir."))
        }
        (Some(path), _) => Ok(Target::File(path)),
        (None, _) if io::stdout().is_terminal() => Err(Failure::invalid(
            "an archive is nothing to be read on a terminal",
        )
        .hint("Name a file with -o, or send it elsewhere with `|` or `>`.")),
        (None, _) => Ok(Target::Stdout),
    }
}

fn tell_saved(session: &Session, saved: &Saved, target: &Target) {
    if session.format == Format::Json && !matches!(target, Target::Stdout) {
        ui::json(saved);
        return;
    }
    let place = match target {
        Target::Stdout => "standard output".to_owned(),
        Target::File(path) | Target::Folder(path) | Target::Files(path) => {
            path.display().to_string()
        }
    };
    let names: Vec<&str> = saved.images.iter().map(|i| i.reference.as_str()).collect();
    // Standard output may be the archive.
    ui::news(&format!(
        "Saved {} to {place} ({}).",
        names.join(", "),
        table::size(saved.bytes)
    ));
}

/// The thread that takes what the daemon sends.
fn take(mut archive: pipe::Reader, target: &Target) -> Outcome<()> {
    match target {
        Target::Stdout => copy(&mut archive, &mut io::stdout().lock()),
        Target::Folder(folder) => take_folder(archive, folder),
        Target::Files(folder) => take_files(archive, folder),
        // A pipe or a device is written to, not replaced.
        Target::File(path) if fs::metadata(path).is_ok_and(|found| !found.is_file()) => {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(|error| unwritable(path, &error))?;
            copy(&mut archive, &mut file)
        }
        Target::File(path) => take_file(archive, path),
    }
}

fn take_file(mut archive: pipe::Reader, path: &Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: &io::Error| unwritable(path, error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".devpod-save-")
        // The umask takes its part of it, as of every new file.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|error| failed(&error))?;
    copy(&mut archive, file.as_file_mut()).map_err(|mut failure| {
        if failure.kind != Kind::Cancelled {
            failure.message = format!("cannot write {}", path.display());
        }
        failure
    })?;
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    Ok(())
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::because(
        Kind::Internal,
        format!("cannot write {}", path.display()),
        error,
    )
}

fn copy(archive: &mut pipe::Reader, to: &mut dyn Write) -> Outcome<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = archive.read(&mut chunk).map_err(|_| broken())?;
        if read == 0 {
            return to.flush().map_err(|error| not_written(&error));
        }
        to.write_all(&chunk[..read])
            .map_err(|error| not_written(&error))?;
    }
}

fn not_written(error: &io::Error) -> Failure {
    Failure::because(Kind::Internal, "cannot write the archive", error)
}

/// The daemon's side says why.
fn broken() -> Failure {
    Failure::new(Kind::Cancelled, "the archive was not sent whole")
}

/// Unpacks a tar of files beneath a folder. They belong to whoever runs the command, and what is there
/// and not in the tar stays.
fn take_files(mut archive: pipe::Reader, folder: &Path) -> Outcome<()> {
    let unusable = |error: &(dyn std::error::Error + 'static)| {
        let message = format!("cannot write to {}", folder.display());
        Failure::because(Kind::Internal, message, error)
    };
    fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let root = Root::open(folder).map_err(|error| unusable(&error))?;
    let options = ApplyOptions {
        ownership: Ownership::Mine,
        ..ApplyOptions::default()
    };
    let warn = |event: Event| {
        if let Event::Warning { text } = event {
            ui::news(&text);
        }
    };
    let done = apply(
        &mut archive,
        &root,
        Form::Flat,
        &options,
        &warn,
        &Cancel::default(),
    );
    done.map(drop).map_err(|error| match error {
        ApplyError::Archive(ArchiveError::Read(_) | ArchiveError::Truncated) => broken(),
        error => unusable(&error),
    })
}

/// Adds the images to a layout.
fn take_folder(archive: pipe::Reader, folder: &Path) -> Outcome<()> {
    let unusable = |error: LayoutError| {
        let message = format!("cannot use {}", folder.display());
        Failure::because(Kind::Invalid, message, &error)
    };
    let layout = open_or_make(folder)?;
    let _hold = layout.hold().map_err(unusable)?;
    let options = ReadOptions::default();
    let images = read(archive, &layout, &options, &Silent, &Cancel::default()).map_err(
        |error| match error {
            ReadError::Input(_) => broken(),
            error => Failure::because(
                Kind::Internal,
                format!("cannot write to {}", folder.display()),
                &error,
            ),
        },
    )?;
    let alone = matches!(&images[..], [only] if only.names.len() == 1);
    for image in &images {
        let kind = MediaType::from(image.media_type.as_str());
        let row = Descriptor::new(kind, image.bytes.len() as u64, image.digest.clone());
        for name in &image.names {
            // Of one image the tag is what other tools ask for: `oci:FOLDER:TAG`.
            let (short, full) = (short_name(name, alone), name.to_string());
            layout
                .tag_fully(&short, Some(&full), &row)
                .map_err(unusable)?;
        }
        if image.names.is_empty() {
            layout.list_unnamed(&row).map_err(unusable)?;
        }
    }
    Ok(())
}

fn short_name(name: &Name, alone: bool) -> String {
    match name.tag().filter(|_| alone) {
        Some(tag) => tag.to_string(),
        None => name.to_string(),
    }
}

/// A folder of other things is nobody's layout.
fn open_or_make(folder: &Path) -> Outcome<Layout> {
    let entries = fs::read_dir(folder).map(|mut entries| entries.next().is_some());
    let opened = match entries {
        Ok(true) => Layout::open(folder),
        _ => Layout::create(folder),
    };
    opened.map_err(|error| {
        let message = format!("cannot use {} as an image layout", folder.display());
        Failure::because(Kind::Invalid, message, &error)
            .hint("Choose a folder that is empty, does not exist, or is a layout already.")
    })
}

pub(super) async fn load(session: &Session, load: Load) -> Outcome<u8> {
    let source = source(load.input)?;
    let wanted = LoadRequest {
        name: load.name,
        platform: load.platform,
    };
    let path = format!("/v1/images/load{}", query(&wanted));
    let client = session.daemon().await?;
    let loaded: Vec<Moved> = client.send_bytes(&path, source).await?;
    if session.format == Format::Json {
        ui::json(&loaded);
        return Ok(0);
    }
    for image in &loaded {
        match load.quiet {
            true => ui::line(&image.reference),
            false if image.reference.contains('@') => {
                ui::line(&format!("Loaded {}", image.reference));
            }
            false => ui::line(&format!("Loaded {}@{}", image.reference, image.digest)),
        }
    }
    Ok(0)
}

fn query(wanted: &LoadRequest) -> String {
    let parts: Vec<String> = [("name", &wanted.name), ("platform", &wanted.platform)]
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_deref()?))))
        .collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("?{}", parts.join("&")),
    }
}

/// Percent-encoded but for what no query needs encoded (RFC 3986, 2.3).
fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| match keep(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// Opens what is to be sent, and sends it from a thread of its own.
fn source(input: Option<PathBuf>) -> Outcome<Outgoing> {
    let (upload, outgoing) = upload();
    let input = input.filter(|path| path.as_os_str() != "-");
    let Some(path) = input else {
        if io::stdin().is_terminal() {
            return Err(Failure::invalid("there is no archive on standard input")
                .hint("Name a file with -i, or pipe one in: `devpod load < FILE`."));
        }
        std::thread::spawn(move || send(&mut io::stdin().lock(), upload));
        return Ok(outgoing);
    };
    let unreadable = |error: &io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Invalid,
        };
        Failure::because(kind, format!("cannot read {}", path.display()), error)
    };
    if path.is_dir() {
        let layout = Layout::open(&path).map_err(|error| {
            let message = format!("{} is no image layout", path.display());
            Failure::because(Kind::Invalid, message, &error)
        })?;
        let plan = plan(&layout)?;
        std::thread::spawn(move || send_plan(&layout, &plan, upload));
        return Ok(outgoing);
    }
    let mut file = File::open(&path).map_err(|error| unreadable(&error))?;
    std::thread::spawn(move || send(&mut file, upload));
    Ok(outgoing)
}

/// The images of a layout as the archive that they are sent in.
fn plan(layout: &Layout) -> Outcome<Plan> {
    let message = || format!("cannot use the layout {}", layout.dir().display());
    let index = layout
        .index()
        .map_err(|error| Failure::because(Kind::Invalid, message(), &error))?;
    let warn = |event: Event| {
        if let Event::Warning { text } = event {
            ui::news(&text);
        }
    };
    let content: &dyn Content = layout;
    let images: Vec<NamedImage> = oci::images(
        &index,
        content,
        &Platform::host(),
        &warn,
        &Cancel::default(),
    )
    .map_err(|error| Failure::because(Kind::Invalid, message(), &error))?;
    if images.is_empty() {
        return Err(Failure::invalid(message()).hint("Its index.json lists no image."));
    }
    Plan::oci(&images, content).map_err(|error| Failure::because(Kind::Invalid, message(), &error))
}

fn send(from: &mut dyn Read, mut upload: Upload) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => {
                // The daemon has answered already.
                if upload.write_all(&chunk[..read]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return upload.fail(error),
        }
    }
}

fn send_plan(layout: &Layout, plan: &Plan, mut upload: Upload) {
    let sent = plan.write(layout, &mut upload, &Silent, &Cancel::default());
    if let Err(error) = sent {
        upload.fail(io::Error::other(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_was_written() {
        let wanted = |name: &str| LoadRequest {
            name: Some(name.to_owned()),
            platform: None,
        };
        assert_eq!(query(&LoadRequest::default()), "");
        assert_eq!(query(&wanted("a/b:1")), "?name=a/b%3A1");
        assert_eq!(query(&wanted("a&b=c d")), "?name=a%26b%3Dc%20d");
    }
}
