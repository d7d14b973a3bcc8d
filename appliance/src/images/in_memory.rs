//! What to do when the memory is full that layers are held in, where the data folder takes none.

use config::quantity::ByteSize;
use unpacker::container::memory;

use crate::error::{Failure, Kind};
use crate::images::service::Images;

/// As a command of a build says it, whose error is only text to us (`strerror` of ENOSPC).
const FULL: &str = "No space left on device";

impl Images {
    /// A failure, with what bounds layers in memory where that may be what there was too little of.
    pub(crate) fn in_memory(&self, failure: Failure) -> Failure {
        if !tells_of_a_full_disk(&failure) {
            return failure;
        }
        let (snapshots, data) = (self.folder.snapshots(), self.folder.root());
        match memory::covered(&snapshots, data) {
            Ok(Some(bytes)) => failure.hint(hint(bytes)),
            // On disk it is said already what to do; what cannot be looked at is not the matter.
            Ok(None) | Err(_) => failure,
        }
    }
}

fn tells_of_a_full_disk(failure: &Failure) -> bool {
    failure.kind == Kind::Exhausted || failure.causes.iter().any(|cause| cause.contains(FULL))
}

fn hint(bytes: u64) -> String {
    let bytes = ByteSize(bytes);
    format!(
        "Layers and build steps are held in memory here, {bytes} at most (layers.memory): give them more \
         with `devpod config set layers.memory SIZE` and start the daemon again, or put the data \
         folder on a volume."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_is_told_by_its_kind_or_in_words() {
        let told = |failure: &Failure| tells_of_a_full_disk(failure);
        let mut failure = Failure::new(Kind::Internal, "the build failed");
        assert!(!told(&failure));
        failure
            .causes
            .push("its last output was:\ndd: /big: No space left on device".to_owned());
        assert!(told(&failure));
        assert!(told(&Failure::new(Kind::Exhausted, "cannot unpack")));
        assert!(hint(3 << 30).contains("3Gi at most (layers.memory)"));
    }
}
