//! A checkpoint: everything that a frozen segment vouches for goes to where it belongs.

use std::io;

use super::contents::Latest;
use super::medium::{Medium, Part};
use super::overlay::{Layer, PAGE};
use super::record::Record;
use super::{Core, Segment, segment};
use crate::store::step::Step;

impl Core {
    /// Brings the frozen segment home, if there is one.
    pub(super) fn checkpoint(&self) -> io::Result<()> {
        let Some((segment, limit)) = self.turns().frozen.clone() else {
            return Ok(());
        };
        let result = self.bring_home(&segment, limit);
        if result.is_ok() {
            self.contents.forget(&segment.kept);
        }
        let mut turns = self.turns();
        match &result {
            Ok(()) => {
                self.overlay_mut().thaw();
                turns.frozen = None;
                turns.failure = None;
            }
            Err(error) => turns.failure = Some(error.kind()),
        }
        self.turned.notify_all();
        result
    }

    fn bring_home(&self, segment: &Segment, limit: u64) -> io::Result<()> {
        self.steps.at(Step::Checkpointing)?;
        let medium = self.medium.as_ref();
        if !segment.home {
            self.bring_contents_home(segment, limit)?;
            let (layer, length) = self.overlay().frozen();
            write_layer(medium, &layer, length)?;
            medium.sync(Part::Index)?;
            self.note_frozen(|frozen| frozen.home = true);
        }
        if medium.is_short() {
            // The newest segment alone says as much as both.
            let part = Part::Segment(segment.head.generation);
            medium.set_len(part, 0)?;
            medium.sync(part)?;
            medium.reserve();
        }
        self.steps.at(Step::Checkpointed)
    }

    fn bring_contents_home(&self, segment: &Segment, limit: u64) -> io::Result<()> {
        if segment.suspect {
            let mut latest = Latest::default();
            let mut take = |record: Record| {
                latest.take(record.entries);
                Ok(())
            };
            let medium = self.medium.as_ref();
            let end = segment::replay(medium, &segment.head, limit, &mut take)?;
            if end.sequence != limit {
                let damaged = "a segment of the journal does not read as it was written";
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
            latest.restore(self.contents.as_ref())?;
        }
        let settled = self.contents.settle(&segment.kept);
        if settled.is_err() {
            // The kernel may hold for clean what it could not write.
            self.note_frozen(|frozen| frozen.suspect = true);
        }
        settled
    }

    fn note_frozen(&self, note: impl FnOnce(&mut Segment)) {
        if let Some((segment, _)) = &mut self.turns().frozen {
            note(segment);
        }
    }
}

/// Writes pages into the index file, page 0 last and behind a sync: where it says what it said after
/// a batch, everything of that batch is there. Page 0 itself is not synced.
pub(super) fn write_layer(medium: &dyn Medium, layer: &Layer, length: u64) -> io::Result<()> {
    let now = medium.len(Part::Index)?;
    let cut = layer.cut.map_or(now, |cut| now.min(cut * PAGE as u64));
    if cut != now {
        medium.set_len(Part::Index, cut)?;
    }
    if length != cut {
        medium.set_len(Part::Index, length)?;
    }
    for (number, bytes) in layer.pages.iter().filter(|(number, _)| **number > 0) {
        medium.write(Part::Index, number * PAGE as u64, bytes)?;
    }
    let Some(bytes) = layer.pages.get(&0) else {
        return Ok(());
    };
    medium.sync(Part::Index)?;
    medium.write(Part::Index, 0, bytes)
}
