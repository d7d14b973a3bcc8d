//! Images over a folder of a test's own, without a daemon.

use std::path::Path;
use std::sync::Arc;

use config::settings::{Flag, Settings, SourceFile, Sources};
use registry::service::{Policy, Registry};
use unpacker::container::launch::Launcher;
use unpacker::container::network::spec::Wiring;
use unpacker::snapshot::store::Snapshots;

use crate::daemon::folder::DataFolder;
use crate::images::locate::Here;
use crate::images::service::{Images, Processes};
use crate::options::Options;

/// Opens them with these settings; within a runtime.
pub(super) fn images(data: &Path, text: &str, store: registry::store::Options) -> Images {
    unpacker::remote::install_crypto();
    let folder = DataFolder::new(data.to_owned());
    folder.create().unwrap();
    let options = Options {
        data: data.to_owned(),
        user_folder: data.to_owned(),
        settings: settings(data, text),
    };
    Images::new(
        Here { port: 1 },
        Registry::open(store, Policy::default()).unwrap(),
        Arc::new(Snapshots::open(&folder.snapshots()).unwrap()),
        Processes {
            launcher: Launcher::this(),
            wiring: Wiring::default(),
        },
        folder,
        &options,
        tokio::runtime::Handle::current(),
    )
    .unwrap()
}

fn settings(data: &Path, text: &str) -> Settings {
    let data = data.display().to_string();
    let flags = [Flag {
        name: "--data",
        key: "data",
        value: &data,
    }];
    let system = Some(SourceFile {
        path: "config.toml",
        text,
    });
    Settings::load(&Sources {
        system,
        flags: &flags,
        ..Sources::default()
    })
    .unwrap()
}
