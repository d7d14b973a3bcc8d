//! File systems that nothing was deleted from: ext4 makes files many times slower for a while after
//! much was removed, so whoever comes second would pay for the first.

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::folder::Folder;

use crate::figures::{quiet, run};

const SIZE: u64 = 8 << 30;

/// A new ext4 on a loop device, or a plain folder where that cannot be had.
pub(crate) struct Fresh {
    image: PathBuf,
    folder: Folder,
    mounted: bool,
}

impl Fresh {
    pub(crate) fn new(target: &Path) -> Self {
        let folder = Folder::new();
        let name = folder.path().file_name().unwrap().to_owned();
        let image = target.join(name).with_extension("ext4");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(SIZE)
            .unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(folder.path());
        let mounted = quiet(&mut mount).status().unwrap().success();
        if !mounted {
            println!("unpack: no loop device here, so figures are of a used file system");
        }
        Self {
            image,
            folder,
            mounted,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.mounted {
            let mut umount = Command::new("umount");
            // What is busy for a moment more goes then.
            let _ = quiet(umount.arg("--lazy").arg(self.folder.path())).status();
        }
        let _ = std::fs::remove_file(&self.image);
    }
}
