//! What the index file will hold once everything is checkpointed: its pages in layers.
//!
//! ```text
//! pending   written since the last seal; lost with the power, and dropped when a seal fails
//! sealing   being appended to the journal right now
//! active    in the segment that is being appended to
//! frozen    in the other segment; a checkpoint is writing it into the file
//! file      registry.redb
//! ```
//!
//! A read takes the topmost layer that has the page. A file that was cut and grew again reads as
//! zeros where nothing was written since.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page. redb's pages are multiples of this.
pub(crate) const PAGE: usize = 4096;

pub(crate) type Pages = BTreeMap<u64, Arc<[u8]>>;

/// Pages by number, above a file that was first cut to `cut` pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) pages: Pages,
    /// The smallest length in pages that the file had in this layer's time, if it shrank.
    pub(crate) cut: Option<u64>,
}

impl Layer {
    /// What this layer says about a page: its bytes, that it is zeros, or nothing.
    fn get(&self, page: u64) -> Option<Option<&Arc<[u8]>>> {
        match self.pages.get(&page) {
            Some(bytes) => Some(Some(bytes)),
            None if self.cut.is_some_and(|cut| page >= cut) => Some(None),
            None => None,
        }
    }

    /// Cuts everything from page `cut` on.
    fn shrink(&mut self, cut: u64) {
        self.pages.split_off(&cut);
        self.cut = Some(self.cut.map_or(cut, |before| before.min(cut)));
    }

    /// Puts a later layer on top.
    fn cover(&mut self, later: Self) {
        if let Some(cut) = later.cut {
            self.shrink(cut);
        }
        self.pages.extend(later.pages);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.cut.is_none()
    }
}

/// What the overlay knows of a page.
#[derive(Debug)]
pub(crate) enum Found {
    Bytes(Arc<[u8]>),
    Zeros,
    /// Only the file has it.
    Below,
}

/// All layers and the length of the file on top of them, in bytes.
#[derive(Debug)]
pub(crate) struct Overlay {
    pending: Layer,
    sealing: Layer,
    active: Layer,
    pub(crate) frozen: Layer,
    pub(crate) length: u64,
    sealed_length: u64,
    frozen_length: u64,
    /// Raised when pending writes are dropped: a database opened before may write no more.
    pub(crate) epoch: u64,
    /// Databases of earlier epochs than this one may read no more either.
    pub(crate) readable: u64,
}

impl Overlay {
    pub(crate) fn new(length: u64) -> Self {
        Self {
            pending: Layer::default(),
            sealing: Layer::default(),
            active: Layer::default(),
            frozen: Layer::default(),
            length,
            sealed_length: length,
            frozen_length: length,
            epoch: 0,
            readable: 0,
        }
    }

    pub(crate) fn find(&self, page: u64) -> Found {
        for layer in [&self.pending, &self.sealing, &self.active, &self.frozen] {
            match layer.get(page) {
                Some(Some(bytes)) => return Found::Bytes(Arc::clone(bytes)),
                Some(None) => return Found::Zeros,
                None => {}
            }
        }
        Found::Below
    }

    pub(crate) fn put(&mut self, page: u64, bytes: Arc<[u8]>) {
        self.pending.pages.insert(page, bytes);
    }

    pub(crate) fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.pending.shrink(length.div_ceil(PAGE as u64));
        }
        self.length = length;
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.length != self.sealed_length
    }

    /// Takes what is pending for a record. [`Overlay::sealed`] or [`Overlay::discard`] must follow.
    pub(crate) fn start_seal(&mut self) -> (Layer, u64) {
        let pending = std::mem::take(&mut self.pending);
        self.sealing = pending.clone();
        (pending, self.length)
    }

    /// The record with `length` is durable.
    pub(crate) fn sealed(&mut self, length: u64) {
        let sealing = std::mem::take(&mut self.sealing);
        self.active.cover(sealing);
        self.sealed_length = length;
    }

    /// Goes back to what is sealed.
    pub(crate) fn discard(&mut self) {
        self.pending = Layer::default();
        self.sealing = Layer::default();
        self.length = self.sealed_length;
        self.epoch += 1;
    }

    /// Databases of earlier epochs are about to be closed.
    pub(crate) fn retire(&mut self) {
        self.readable = self.epoch;
    }

    /// The active layer becomes the frozen one, which must be empty.
    pub(crate) fn freeze(&mut self) {
        debug_assert!(self.frozen.is_empty());
        self.frozen = std::mem::take(&mut self.active);
        self.frozen_length = self.sealed_length;
    }

    /// What a checkpoint has to write, and the file's length then.
    pub(crate) fn frozen(&self) -> (Layer, u64) {
        (self.frozen.clone(), self.frozen_length)
    }

    /// The file holds the frozen layer.
    pub(crate) fn thaw(&mut self) {
        self.frozen = Layer::default();
    }

    /// Page 0 as of the last seal, where a layer has it.
    pub(crate) fn sealed_head(&self) -> Option<Arc<[u8]>> {
        [&self.active, &self.frozen]
            .into_iter()
            .find_map(|layer| layer.pages.get(&0).cloned())
    }

    /// Bytes of pages in memory.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let layers = [&self.pending, &self.sealing, &self.active, &self.frozen];
        layers.iter().map(|layer| layer.pages.len() * PAGE).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: u8) -> Arc<[u8]> {
        vec![byte; PAGE].into()
    }

    fn byte(overlay: &Overlay, number: u64) -> Option<u8> {
        match overlay.find(number) {
            Found::Bytes(bytes) => bytes.first().copied(),
            Found::Zeros => Some(0),
            Found::Below => None,
        }
    }

    #[test]
    fn later_layers_hide_earlier_ones_and_a_cut_reads_as_zeros() {
        let mut overlay = Overlay::new(10 * PAGE as u64);
        overlay.put(3, page(1));
        overlay.put(8, page(1));
        let (_, length) = overlay.start_seal();
        overlay.sealed(length);
        overlay.freeze();
        overlay.put(3, page(2));
        assert_eq!(
            (byte(&overlay, 3), byte(&overlay, 8), byte(&overlay, 9)),
            (Some(2), Some(1), None)
        );
        overlay.set_length(5 * PAGE as u64);
        overlay.set_length(10 * PAGE as u64);
        assert_eq!((byte(&overlay, 8), byte(&overlay, 9)), (Some(0), Some(0)));
        overlay.discard();
        assert_eq!(
            (byte(&overlay, 3), byte(&overlay, 8), byte(&overlay, 9)),
            (Some(1), Some(1), None)
        );
        overlay.thaw();
        assert_eq!(byte(&overlay, 3), None);
    }
}
