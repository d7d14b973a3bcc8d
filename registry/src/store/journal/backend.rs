//! redb's door to the index: reads through the overlay, writes into it.
//!
//! redb's syncs order nothing here: a crash leaves the index exactly as one of the seals left it,
//! so every write before a seal is there and none after it. That is stricter than any disk.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use super::Core;
use super::medium::Part;
use super::overlay::{Found, PAGE};

/// One opening of the database over the journal.
#[derive(Debug)]
pub(crate) struct Backend {
    core: Arc<Core>,
    epoch: u64,
}

impl Backend {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let epoch = core.overlay().epoch;
        Self { core, epoch }
    }

    fn page(&self, number: u64) -> io::Result<Arc<[u8]>> {
        let mut bytes = vec![0; PAGE];
        self.fill(number, 0, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Copies a part of one page.
    fn fill(&self, number: u64, from: usize, out: &mut [u8]) -> io::Result<()> {
        let found = self.core.reading(self.epoch)?.find(number);
        match found {
            Found::Bytes(page) => {
                let part = page.get(from..from + out.len());
                out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Found::Zeros => {
                out.fill(0);
                Ok(())
            }
            Found::Below => {
                let offset = number * PAGE as u64 + from as u64;
                self.core.medium.read(Part::Index, offset, out)
            }
        }
    }
}

/// The parts of `offset..offset + length` by page: number, offset within the page, range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let from = (at % PAGE as u64) as usize;
        let count = (PAGE - from).min(length - done);
        let range = done..done + count;
        done += count;
        Some((at / PAGE as u64, from, range))
    })
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.core.reading(self.epoch)?.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, from, range) in parts(offset, out.len()) {
            self.fill(number, from, out.get_mut(range).unwrap_or_default())?;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.core.changing(self.epoch)?.set_length(length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.core.changing(self.epoch).map(drop)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        for (number, from, range) in parts(offset, data.len()) {
            let data = data.get(range).unwrap_or_default();
            let page = if data.len() == PAGE {
                Arc::from(data)
            } else {
                // Only the header is shorter than a page, and only the writer writes it.
                let mut page = self.page(number)?.to_vec();
                if let Some(part) = page.get_mut(from..from + data.len()) {
                    part.copy_from_slice(data);
                }
                page.into()
            };
            self.core.changing(self.epoch)?.put(number, page);
        }
        Ok(())
    }
}
